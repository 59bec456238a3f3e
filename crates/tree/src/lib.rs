//! File trees as tar streams, out and in, with everything Linux keeps about a file: for the agent in a guest, and for the
//! host that takes a tree from a guest.
//!
//! | module | what |
//! |---|---|
//! | [`pack`] | a tree into a stream |
//! | [`writer`] | a stream, entry by entry, by somebody who decides what is in it |
//! | [`reader`] | a stream, entry by entry; whoever wrote it is hostile |
//! | [`unpack`] | a stream into a tree, by a [`unpack::Policy`]: what is believed of it |
//! | [`sparse`] | holes |
//! | `arrival` | a file that has its name when it is whole |
//! | `hollow` | directories without files |
//! | `dress` | owner, mode, attributes and time of what was unpacked |
//!
//! The format: GNU headers, what does not fit there in PAX records before them (`path`, `linkpath`, `mtime` with its
//! fraction, `SCHILY.xattr.*`), sparse files as GNU's type `S`. Read are GNU's and PAX's sparse forms alike. A socket is no
//! entry; a global record (`BANGER.socket`) names it, so that the other end can tell. Entries are walked one by one and every
//! path is resolved beneath its directory by the kernel; nothing is unpacked by name.

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests arrange and inspect the real world"))]

mod arrival;
mod dress;
mod hollow;
pub mod pack;
mod pax;
pub mod reader;
pub mod sparse;
pub mod unpack;
pub mod writer;

use std::io;

/// A tree that could not be transferred.
#[derive(Debug, thiserror::Error)]
#[error("cannot {act}")]
pub struct TreeError {
    /// What was being done to what; names are escaped.
    pub act: String,
    /// Why it failed.
    #[source]
    pub source: io::Error,
}

impl TreeError {
    /// For `map_err`: what was being done to which path.
    pub fn during<E: Into<io::Error>>(verb: &str, path: &[u8]) -> impl FnOnce(E) -> TreeError + use<E> {
        let act = format!("{verb} {}", shown(path));
        move |source| TreeError { act, source: source.into() }
    }
}

/// What was not transferred: all of it is counted, and the first of it named.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LeftOut {
    /// How many.
    pub count: u64,
    /// Where they are in the stream, escaped.
    pub names: Vec<String>,
}

impl LeftOut {
    /// More names than this help nobody.
    const NAMES_MAX: usize = 10;

    pub(crate) fn add(&mut self, path: &[u8]) {
        self.count += 1;
        if self.names.len() < LeftOut::NAMES_MAX {
            self.names.push(shown(path));
        }
    }
}

/// A path for people, whatever bytes it has: bounded, and nothing in it drives a terminal.
#[must_use]
pub fn shown(path: &[u8]) -> String {
    let mut shown = String::new();
    for letter in String::from_utf8_lossy(path).chars().take(400) {
        match letter {
            '\'' | '"' => shown.push(letter),
            _ => shown.extend(letter.escape_debug()),
        }
    }
    shown
}

/// Directory and last component.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

/// A stream that is over before it should be.
fn broken_off(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, what.to_owned())
}

/// Fills `buffer`, as far as there is something to fill it with: how many bytes.
fn fill(from: &mut impl io::Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match from.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests;
