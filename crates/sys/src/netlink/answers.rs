//! Reading what the kernel lists: messages behind each other in one datagram, attributes behind each other in a message.
//!
//! The kernel is trusted to mean well, not to be understood: whatever the bytes are, reading them ends.

use std::io;

use super::{HEADER_BYTES, NLMSG_ERROR, malformed};

const NLMSG_NOOP: u16 = 1;
const NLMSG_DONE: u16 = 3;
/// Bytes of `struct nlattr`.
const ATTRIBUTE_BYTES: usize = 4;

/// One message of a list.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer<'a> {
    /// An entry.
    Entry {
        /// Of what kind.
        kind: u16,
        /// What follows its header.
        body: &'a [u8],
    },
    /// The list ends here.
    Done,
}

/// The messages of one datagram.
#[derive(Debug)]
pub struct Answers<'a>(&'a [u8]);

impl<'a> Answers<'a> {
    /// Those of `datagram`.
    #[must_use]
    pub fn of(datagram: &'a [u8]) -> Answers<'a> {
        Answers(datagram)
    }

    fn step(&mut self) -> io::Result<Answer<'a>> {
        loop {
            let header: &[u8; HEADER_BYTES] = self.0.first_chunk().ok_or_else(malformed)?;
            let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]);
            let length = usize::try_from(length).map_err(|_| malformed())?;
            let kind = u16::from_ne_bytes([header[4], header[5]]);
            let body = self.0.get(HEADER_BYTES..length).ok_or_else(malformed)?;
            self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
            match kind {
                NLMSG_NOOP => {}
                NLMSG_DONE => return Ok(Answer::Done),
                NLMSG_ERROR => {
                    let code = body.first_chunk().map(|code| i32::from_ne_bytes(*code)).ok_or_else(malformed)?;
                    return Err(io::Error::from_raw_os_error(code.saturating_neg()));
                }
                kind => return Ok(Answer::Entry { kind, body }),
            }
        }
    }
}

impl<'a> Iterator for Answers<'a> {
    type Item = io::Result<Answer<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let step = self.step();
        if step.is_err() {
            self.0 = &[];
        }
        Some(step)
    }
}

/// The attributes in `bytes`: kind and value, up to the first that is cut short.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let header: &[u8; ATTRIBUTE_BYTES] = bytes.first_chunk()?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]);
        let value = bytes.get(ATTRIBUTE_BYTES..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(HEADER_BYTES + body.len()).unwrap();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&[0; 10]);
        bytes.extend_from_slice(body);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    proptest! {
        #[test]
        fn lists_are_read_as_they_were_written(bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..9)) {
            let mut bytes: Vec<u8> = bodies.iter().flat_map(|body| message(20, body)).collect();
            bytes.extend(message(NLMSG_NOOP, &[]));
            bytes.extend(message(NLMSG_DONE, &[0; 4]));
            let read: Vec<_> = Answers::of(&bytes).map(Result::unwrap).collect();
            let mut wanted: Vec<_> = bodies.iter().map(|body| Answer::Entry { kind: 20, body }).collect();
            wanted.push(Answer::Done);
            prop_assert_eq!(read, wanted);
        }

        #[test]
        fn any_bytes_end(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(Answers::of(&bytes).count() <= 1 + bytes.len() / HEADER_BYTES);
            prop_assert!(attributes(&bytes).count() <= bytes.len() / ATTRIBUTE_BYTES);
        }
    }

    #[test]
    fn refusals_are_told() {
        let refused = message(NLMSG_ERROR, &(-2_i32).to_ne_bytes());
        let told = Answers::of(&refused).next().unwrap().unwrap_err();
        assert_eq!(told.kind(), io::ErrorKind::NotFound);
        assert!(Answers::of(&message(NLMSG_ERROR, &[])).next().unwrap().is_err());
    }
}
