//! What a guest changed of its image, as it says: a stream of records, bounded one by one and in number.

use std::collections::VecDeque;

use bytes::BytesMut;
use wire::agent::frame::Channel;
use wire::agent::message::{Reply, Request};
use wire::api::{Change, ChangeKind};

use super::link::Opening;
use super::stream::Stream;
use super::{Guest, GuestError};

/// Bytes of a record: a path of `PATH_MAX` and its kind.
const RECORD_BYTES_MAX: usize = 4096 + 2;
/// More than a disk of ordinary size has files.
const CHANGES_MAX: u64 = 4_000_000;
/// Of all records together: as many with ordinary paths. Whoever wants one document of them holds them all.
const BYTES_MAX: u64 = 256 << 20;

impl Guest {
    /// Asks for every change of the system layer.
    ///
    /// # Errors
    /// When the connection is gone; what the guest cannot read ends the stream with an error.
    pub async fn changes(&self) -> Result<ChangeStream, GuestError> {
        let stream = self.open(Opening::Tree, &Request::Changes).await?;
        Ok(ChangeStream { stream, parser: Parser::default() })
    }
}

/// Changes out of a guest. Dropping it before its end tells the guest to give it up.
#[derive(Debug)]
pub struct ChangeStream {
    stream: Stream,
    parser: Parser,
}

impl ChangeStream {
    /// The next changes; none at the end, when all were told.
    ///
    /// # Errors
    /// When the connection ended, the guest failed, or what it says are no changes.
    pub async fn read(&mut self) -> Result<Option<Vec<Change>>, GuestError> {
        let nonsense = || GuestError::Unexpected { what: "no list of changes" };
        loop {
            let Some(bytes) = self.stream.read(Channel::Output).await? else {
                return match self.stream.ended().await? {
                    Reply::Done { .. } if self.parser.rest.is_empty() => Ok(None),
                    Reply::Done { .. } => Err(nonsense()),
                    other => Err(GuestError::unexpected(&other)),
                };
            };
            let changes = self.parser.take(&bytes).ok_or_else(nonsense)?;
            if !changes.is_empty() {
                return Ok(Some(changes.into()));
            }
        }
    }
}

/// Cuts bytes into records. Pure.
#[derive(Debug, Default)]
pub(super) struct Parser {
    rest: BytesMut,
    count: u64,
    bytes: u64,
}

impl Parser {
    /// The records that end in `bytes`; none when they are malformed, too long or too many.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Option<VecDeque<Change>> {
        self.rest.extend_from_slice(bytes);
        let mut changes = VecDeque::new();
        while let Some(end) = self.rest.iter().position(|byte| *byte == 0) {
            let record = self.rest.split_to(end + 1);
            let (kind, path) = record.get(..end)?.split_first()?;
            let change = match kind {
                b'A' => ChangeKind::Added,
                b'M' => ChangeKind::Modified,
                b'D' => ChangeKind::Deleted,
                _ => return None,
            };
            self.count += 1;
            self.bytes += record.len() as u64;
            let is_little = self.count <= CHANGES_MAX && self.bytes <= BYTES_MAX;
            if !path.starts_with(b"/") || record.len() > RECORD_BYTES_MAX || !is_little {
                return None;
            }
            changes.push_back(Change { change, path: String::from_utf8_lossy(path).into_owned() });
        }
        (self.rest.len() <= RECORD_BYTES_MAX).then_some(changes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn records_may_come_in_pieces() {
        let mut parser = Parser::default();
        let mut told = Vec::new();
        for piece in [&b"A/a"[..], b"b\0M/x\xff\n\0D", b"/gone\0"] {
            told.extend(parser.take(piece).unwrap());
        }
        let change = |change, path: &str| Change { change, path: path.to_owned() };
        let expected = [
            change(ChangeKind::Added, "/ab"),
            change(ChangeKind::Modified, "/x\u{fffd}\n"),
            change(ChangeKind::Deleted, "/gone"),
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn what_is_no_record_is_refused() {
        for bad in [&b"\0"[..], b"A\0", b"Aa\0", b"X/a\0", &[b'A'; 5000]] {
            assert!(Parser::default().take(bad).is_none(), "{bad:?}");
        }
        let mut parser = Parser { count: CHANGES_MAX, ..Parser::default() };
        assert!(parser.take(b"A/one more\0").is_none());
        let mut parser = Parser { bytes: BYTES_MAX - 4, ..Parser::default() };
        assert!(parser.take(b"A/x\0").is_some() && parser.take(b"A/x\0").is_none());
    }

    proptest! {
        #[test]
        fn little_is_kept(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..600), 0..40)) {
            let mut parser = Parser::default();
            for piece in pieces {
                if parser.take(&piece).is_none() {
                    break;
                }
                prop_assert!(parser.rest.len() <= RECORD_BYTES_MAX);
            }
        }
    }
}
