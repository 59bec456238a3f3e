//! What the host remembers of what it sent.

use std::collections::HashMap;
use std::path::PathBuf;

use wire::agent::workspace::FileMode;

use super::ExchangeError;
use super::thread::blocking;
use crate::model::digest::Digest;
use crate::workspace::Notes;

/// What was sent to a guest.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sent {
    /// The workspace's own repository first, then its submodules, those within others after them.
    pub repositories: Vec<SentRepository>,
}

/// What was sent of one repository.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SentRepository {
    /// Where it is, relative to the workspace; empty for the workspace's own.
    pub path: String,
    /// The commit it was put at.
    pub head: Option<String>,
    /// Its files, relative to it.
    pub files: HashMap<Vec<u8>, SentFile>,
}

/// What was sent of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SentFile {
    /// What it was.
    pub mode: FileMode,
    /// Of its content, or of the link's target.
    pub digest: Digest,
}

impl From<&Notes> for Sent {
    /// A submodule whose path is no text is one that the guest cannot be asked about.
    fn from(notes: &Notes) -> Sent {
        let repository = |(path, head): (Vec<u8>, Option<String>)| {
            let files = notes.files(&path).map(|(name, mode, digest)| (name.to_vec(), SentFile { mode, digest }));
            SentRepository { files: files.collect(), path: String::from_utf8_lossy(&path).into_owned(), head }
        };
        Sent { repositories: notes.repositories().into_iter().map(repository).collect() }
    }
}

impl Sent {
    /// Reads the notes at `path`; nothing was sent where there are none.
    ///
    /// # Errors
    /// When they cannot be read.
    pub async fn load(path: PathBuf) -> Result<Sent, ExchangeError> {
        blocking(move || Notes::load(&path).map(|notes| notes.as_ref().map(Sent::from).unwrap_or_default())).await
    }

    /// The workspace's own repository.
    #[must_use]
    pub fn top(&self) -> Option<&SentRepository> {
        self.repositories.iter().find(|repository| repository.path.is_empty())
    }

    /// Whether a submodule that was sent is there.
    pub(super) fn is_nested(&self, path: &[u8]) -> bool {
        self.nested().any(|nested| nested.path.as_bytes() == path)
    }

    /// The submodules.
    pub(super) fn nested(&self) -> impl Iterator<Item = &SentRepository> {
        self.repositories.iter().filter(|repository| !repository.path.is_empty())
    }
}
