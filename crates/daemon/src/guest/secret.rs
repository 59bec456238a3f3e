//! What a guest's agent is told from other programs of the guest by, where each of them can connect to the host.
//!
//! The host hands it out when it configures the guest or makes it another machine, and every later hello says it. It is kept
//! beside the boot's sockets once the agent has it, so that a daemon that starts again knows it; a guest of which none is kept
//! is believed.

use std::io;
use std::path::{Path, PathBuf};

use sys::fs::FsError;
use wire::agent::message::Hello;

/// The file's name in the boot's directory.
const FILE: &str = "agent.secret";

/// One boot's.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

impl Secret {
    /// One that nobody knows yet.
    #[must_use]
    pub fn fresh() -> Secret {
        Secret(sys::rand::bytes::<32>().iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// As the agent is told.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.0
    }

    /// Where that of a boot is kept.
    #[must_use]
    pub fn path(boot_dir: &Path) -> PathBuf {
        boot_dir.join(FILE)
    }

    /// Keeps it: from now on no hello of this boot is believed that does not say it.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn keep(&self, boot_dir: &Path) -> Result<(), FsError> {
        sys::fs::write_atomic(&Secret::path(boot_dir), self.0.as_bytes(), 0o600)
    }

    /// Keeps none any more: another machine begins in the boot's place.
    ///
    /// # Errors
    /// When the file cannot be removed.
    pub fn forget(boot_dir: &Path) -> Result<(), FsError> {
        sys::fs::remove_file(&Secret::path(boot_dir))
    }

    /// The one that is kept of a boot, if there is one.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn kept(boot_dir: &Path) -> io::Result<Option<Secret>> {
        match std::fs::read_to_string(Secret::path(boot_dir)) {
            Ok(text) => Ok(Some(Secret(text))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether this hello is the agent's.
    #[must_use]
    pub fn is_said_by(&self, hello: &Hello) -> bool {
        let said = hello.secret.as_deref().unwrap_or_default().as_bytes();
        // Every byte is looked at: how long it takes tells nothing of how many are right.
        said.len() == self.0.len() && said.iter().zip(self.0.as_bytes()).fold(0, |all, (a, b)| all | (a ^ b)) == 0
    }
}
