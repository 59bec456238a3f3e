//! File trees as tar streams, out and in, with everything Linux keeps about a file: for the agent in a guest, and for the
//! host that takes a tree from a guest.
//!
//! | module | what |
//! |---|---|
//! | [`pack`] | a tree into a stream |
//! | [`reader`] | a stream, entry by entry; whoever wrote it is hostile |
//! | [`unpack`] | a stream into a tree, by a [`unpack::Policy`]: what is believed of it |
//! | [`sparse`] | holes |
//!
//! The format: GNU headers, what does not fit there in PAX records before them (`path`, `linkpath`, `mtime` with its
//! fraction, `SCHILY.xattr.*`), sparse files as GNU's type `S`. Read are GNU's and PAX's sparse forms alike. Entries are
//! walked one by one and every path is resolved beneath its directory by the kernel; nothing is unpacked by name.

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests arrange and inspect the real world"))]

pub mod pack;
mod pax;
pub mod reader;
pub mod sparse;
pub mod unpack;

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

/// A path for people, whatever bytes it has: bounded, and nothing in it drives a terminal.
#[must_use]
pub fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).chars().take(400).collect::<String>().escape_debug().to_string()
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

#[cfg(test)]
mod tests;
