//! A workspace in a guest: what was sent of it, and what became of that.

use bytes::{Bytes, BytesMut};
use wire::agent::frame::{Channel, DATA_MAX};
use wire::agent::message::{Reply, Request};
use wire::agent::workspace::{Added, RECORD_BYTES_MAX, Settled, Surveyable, Surveyed};

use super::link::Opening;
use super::stream::Stream;
use super::tree::{TreeStream, moved};
use super::{Guest, GuestError};

/// Most differing files of one workspace: more than a work tree has with all it was built from and into.
const RECORDS_MAX: usize = 1_000_000;
/// Bytes of all their records: as many with ordinary paths. All of them are held at once.
const BYTES_MAX: usize = 128 << 20;
const _: () = assert!(BYTES_MAX >= RECORDS_MAX * 128, "a record has 67 bytes and a path");

impl Guest {
    /// Removes the files and links `names` below `path`, and the directories that are empty then; how many files and links
    /// there were.
    ///
    /// # Errors
    /// When one cannot be removed, or the guest is gone, or its agent is older than this request.
    pub async fn remove(&self, path: &str, names: &[Vec<u8>]) -> Result<u64, GuestError> {
        let stream = self.open(Opening::Call, &Request::Remove { path: path.to_owned() }).await?;
        // In this order the guest opens each directory once.
        let mut names: Vec<&[u8]> = names.iter().map(Vec::as_slice).collect();
        names.sort_unstable();
        send(&stream, names.into_iter(), write_name).await?;
        moved(stream.ended().await?)
    }

    /// Has the guest take down what was sent to the workspace at `path`: all its files.
    ///
    /// # Errors
    /// When the guest cannot, or is gone, or its agent is older than this request.
    pub async fn settle(&self, path: &str, records: &[Settled]) -> Result<(), GuestError> {
        let stream = self.open(Opening::Call, &Request::Settle { path: path.to_owned() }).await?;
        let all = records.iter().map(Some).chain([None]);
        let write = |record: Option<&Settled>, to: &mut Vec<u8>| match record {
            Some(record) => record.write(to),
            // There are no more.
            None => to.push(0),
        };
        send(&stream, all, write).await?;
        moved(stream.ended().await?).map(|_filled| ())
    }

    /// Asks how the workspace at `path` differs from what was sent; `added`: what is told of those
    /// that were not sent.
    ///
    /// # Errors
    /// When the guest cannot tell, tells more than fits, is gone, or its agent is older than this request.
    pub async fn survey(&self, path: &str, added: Added) -> Result<(Surveyed, Vec<Surveyable>), GuestError> {
        let stream = self.open(Opening::Tree, &Request::Survey { path: path.to_owned(), added }).await?;
        let mut parser = Parser::default();
        while let Some(bytes) = stream.read(Channel::Output).await? {
            parser.take(&bytes).map_err(|what| GuestError::Unexpected { what })?;
        }
        match stream.ended().await? {
            Reply::Surveyed(surveyed) if parser.rest.is_empty() => Ok((surveyed, parser.records)),
            Reply::Surveyed(_) => Err(GuestError::Unexpected { what: NONSENSE }),
            other => Err(GuestError::unexpected(&other)),
        }
    }

    /// Packs the files and links `names` below `path` as a tar stream; those that are not there are left out of it.
    ///
    /// # Errors
    /// When the connection is gone; what the guest cannot read ends the stream with an error.
    pub async fn get_files(&self, path: &str, names: &[Vec<u8>]) -> Result<TreeStream, GuestError> {
        let stream = self.open(Opening::Tree, &Request::GetFiles { path: path.to_owned() }).await?;
        // The guest packs nothing before it has all names, so nothing has to be read meanwhile.
        send(&stream, names.iter().map(Vec::as_slice), write_name).await?;
        Ok(TreeStream::new(stream))
    }
}

fn write_name(name: &[u8], to: &mut Vec<u8>) {
    to.extend_from_slice(name);
    to.push(0);
}

/// Sends a list to its end, or until the guest takes no more: its reply says why.
async fn send<T>(
    stream: &Stream,
    list: impl Iterator<Item = T>,
    write: impl Fn(T, &mut Vec<u8>),
) -> Result<(), GuestError> {
    let mut waiting = Vec::with_capacity(DATA_MAX);
    for record in list {
        if waiting.len() + RECORD_BYTES_MAX > DATA_MAX
            && !stream.write(Bytes::from(std::mem::take(&mut waiting))).await?
        {
            return Ok(());
        }
        write(record, &mut waiting);
    }
    if stream.write(Bytes::from(waiting)).await? {
        stream.close_input();
    }
    Ok(())
}

const NONSENSE: &str = "no list of files that differ";
const TOO_MUCH: &str = "that more files differ than a workspace can have";

/// Cuts bytes into records. Pure.
#[derive(Debug, Default)]
pub(super) struct Parser {
    rest: BytesMut,
    records: Vec<Surveyable>,
    bytes: usize,
}

impl Parser {
    /// Takes the records that end in `bytes`.
    ///
    /// # Errors
    /// What the guest told: malformed records, or too many of them.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<(), &'static str> {
        self.rest.extend_from_slice(bytes);
        while let Some(end) = self.rest.iter().position(|byte| *byte == 0) {
            let record = self.rest.split_to(end + 1);
            self.bytes += record.len();
            if self.records.len() >= RECORDS_MAX || self.bytes > BYTES_MAX {
                return Err(TOO_MUCH);
            }
            self.records.push(Surveyable::parse(&record[..end]).map_err(|_| NONSENSE)?);
        }
        if self.rest.len() >= RECORD_BYTES_MAX { Err(NONSENSE) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use wire::agent::workspace::{Difference, FileMode};

    use super::*;

    fn record(path: &[u8]) -> Vec<u8> {
        let path = path.to_vec();
        let told = Surveyable { path, difference: Difference::Added, mode: FileMode::Plain, hash: [7; 32] };
        let mut bytes = Vec::new();
        told.write(&mut bytes);
        bytes
    }

    #[test]
    fn records_may_come_in_pieces() {
        let bytes = [record(b"a"), record(b"b/\xff\n")].concat();
        for step in 1..bytes.len() {
            let mut parser = Parser::default();
            for piece in bytes.chunks(step) {
                parser.take(piece).unwrap();
            }
            let paths: Vec<&[u8]> = parser.records.iter().map(|record| record.path.as_slice()).collect();
            assert_eq!(paths, [&b"a"[..], b"b/\xff\n"]);
        }
    }

    #[test]
    fn what_is_no_record_or_too_much_is_refused() {
        for bad in [record(b"../a"), record(b"/a"), b"\0".to_vec(), vec![b'A'; RECORD_BYTES_MAX]] {
            assert_eq!(Parser::default().take(&bad), Err(NONSENSE), "{bad:?}");
        }
        let longest = record(&[b'a'; RECORD_BYTES_MAX - 67]);
        assert_eq!(longest.len(), RECORD_BYTES_MAX);
        assert_eq!(Parser::default().take(&longest), Ok(()));
        let mut parser = Parser { bytes: BYTES_MAX - 70, ..Parser::default() };
        assert_eq!((parser.take(&record(b"a")), parser.take(&record(b"b"))), (Ok(()), Err(TOO_MUCH)));
    }

    proptest! {
        #[test]
        fn little_is_kept(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..600), 0..40)) {
            let mut parser = Parser::default();
            for piece in pieces {
                if parser.take(&piece).is_err() {
                    break;
                }
                prop_assert!(parser.rest.len() < RECORD_BYTES_MAX);
            }
        }
    }
}
