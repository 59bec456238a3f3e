//! The highest serial number that was ever accepted from one catalog, in a file: an older list is not taken again, also by
//! the next daemon and when the copy of the list is gone.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use oci::Digest;
use serde::{Deserialize, Serialize};
use wire::api::ErrorCode;

use crate::ops::failure::refused;
use crate::saga::Cause;

/// An address and a number.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// The number of one catalog.
pub(super) struct Serial {
    path: PathBuf,
    source: String,
    /// Held while the file is replaced.
    writing: Mutex<()>,
}

/// The file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Accepted {
    source: String,
    serial: u64,
}

impl Serial {
    /// That of the catalog at `source`, below `directory`.
    pub(super) fn of(directory: &Path, source: &str) -> Serial {
        let name = format!("serial-{}.json", &Digest::of(source.as_bytes()).hex()[..16]);
        Serial { path: directory.join(name), source: source.to_owned(), writing: Mutex::default() }
    }

    /// 0 before the first.
    ///
    /// # Errors
    /// When it was written down and cannot be read: nobody could tell a list that is too old then.
    pub(super) fn read(&self) -> Result<u64, Cause> {
        let mut bytes = Vec::new();
        let read = std::fs::File::open(&self.path).and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut bytes));
        let damaged = |why: String| {
            let message = format!("cannot tell which catalog came last from {}: {why}", self.path.display());
            let hint = "if the catalog may begin anew, delete that file";
            refused(ErrorCode::OperationFailed, message).with_hint(hint)
        };
        match read {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(0),
            Err(error) => return Err(damaged(error.to_string())),
        }
        match serde_json::from_slice::<Accepted>(&bytes) {
            Ok(accepted) if accepted.source == self.source => Ok(accepted.serial),
            Ok(_) => Err(damaged("it is about another catalog".to_owned())),
            Err(error) => Err(damaged(error.to_string())),
        }
    }

    /// Writes down that a list of this number was accepted.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn remember(&self, serial: u64) -> Result<(), Cause> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        if serial <= self.read()? {
            return Ok(());
        }
        if let Some(directory) = self.path.parent() {
            sys::fs::create_private_dir(directory)?;
        }
        let text = serde_json::to_vec(&Accepted { source: self.source.clone(), serial }).expect("it is JSON");
        Ok(sys::fs::write_atomic(&self.path, &text, 0o600)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_only_grows_and_is_never_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("catalogs");
        let serial = Serial::of(&state, "/srv/a/");
        assert_eq!(serial.read().unwrap(), 0);
        serial.remember(7).unwrap();
        serial.remember(3).unwrap();
        assert_eq!(Serial::of(&state, "/srv/a/").read().unwrap(), 7);
        assert_eq!(Serial::of(&state, "/srv/b/").read().unwrap(), 0);
        let file = std::fs::read_dir(&state).unwrap().next().unwrap().unwrap().path();
        for damaged in ["", "{}", "{\"source\":\"/srv/b/\",\"serial\":9}"] {
            std::fs::write(&file, damaged).unwrap();
            assert!(serial.read().unwrap_err().hint.is_some(), "{damaged}");
            assert!(serial.remember(8).is_err());
        }
    }
}
