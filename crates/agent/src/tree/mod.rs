//! File trees as tar streams, out and in, with everything Linux keeps about a file.
//!
//! | module | what |
//! |---|---|
//! | [`pack`] | a tree of the guest into a stream |
//! | [`unpack`] | a stream into a tree of the guest |
//! | [`seed`] | both at once: the first use of a directory that the VM's disk keeps |
//!
//! The format: GNU headers, what does not fit there in PAX records before them (`path`, `linkpath`, `mtime` with its
//! fraction, `SCHILY.xattr.*`), sparse files as GNU's type `S`. Read are GNU's and PAX's sparse forms alike. Entries are
//! walked one by one and every path is resolved beneath its directory by the kernel; nothing is unpacked by name.

pub mod pack;
pub mod seed;
pub mod sparse;
pub mod unpack;

use std::io;

use wire::agent::message::Failure;

/// A tree that could not be transferred.
#[derive(Debug, thiserror::Error)]
#[error("cannot {act}")]
pub struct TreeError {
    /// What was being done to what.
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

    /// As the host is told.
    #[must_use]
    pub fn failure(&self) -> Failure {
        Failure::Os { act: format!("cannot {}", self.act), why: crate::boot::plain(&self.source) }
    }
}

/// A path for people, whatever bytes it has.
fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).chars().take(400).collect::<String>().escape_debug().to_string()
}

/// Directory and last component.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

#[cfg(test)]
mod tests;
