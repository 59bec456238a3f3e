//! Drivers for guest networks: what every one of them can do.
//!
//! Closed unless asked: without `nat` a guest reaches nothing, and nothing reaches it but its published ports on the
//! host's 127.0.0.1. With `nat` it reaches the outside and still no listener on the host's loopback.

pub mod filter;
pub mod user;

use std::path::Path;

use async_trait::async_trait;
use wire::agent::message::GuestNetwork;

use crate::model::machine::{NicAttachment, NicSpec};

/// Attaches NICs.
#[async_trait]
pub trait NetworkDriver: Send + Sync {
    /// As in `show`.
    fn name(&self) -> &'static str;

    /// Decides how a NIC is attached. Pure.
    ///
    /// # Errors
    /// Every refusal: a missing program with the package that brings it, a port that cannot be published.
    fn plan(&self, nic: &NicSpec, boot_dir: &Path) -> Result<NicAttachment, NetworkError>;

    /// What the guest is told about its NIC. Pure.
    fn guest(&self, nic: &NicSpec) -> GuestNetwork;

    /// Makes the attachment ready for the VMM. A tap carries nothing until [`NetworkDriver::ensure_plugged`]. Idempotent.
    ///
    /// # Errors
    /// When a process it needs cannot be started or a port is taken.
    async fn ensure_attached(
        &self,
        nic: &NicSpec,
        attachment: &NicAttachment,
        boot_dir: &Path,
    ) -> Result<(), NetworkError>;

    /// Lets the NIC carry frames, where it is this driver that keeps it from doing so. Idempotent.
    ///
    /// # Errors
    /// When a file cannot be written.
    async fn ensure_plugged(&self, attachment: &NicAttachment, boot_dir: &Path) -> Result<(), NetworkError>;

    /// Takes it away. Idempotent; works from the plan alone.
    ///
    /// # Errors
    /// When something is left.
    async fn ensure_detached(&self, attachment: &NicAttachment, boot_dir: &Path) -> Result<(), NetworkError>;

    /// What may be attached for a boot of which nothing is known but its directory: for the sweep. Pure.
    fn possible_attachments(&self, boot_dir: &Path) -> Vec<NicAttachment>;
}

/// What went wrong with a network.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// `--nat` needs a program that is not installed.
    #[error("cannot open the guest to the outside: {program} is not installed (Debian package {package})")]
    Missing {
        /// The program.
        program: &'static str,
        /// Who brings it.
        package: &'static str,
    },
    /// This driver cannot do what was asked.
    #[error("the network cannot do that: {why}")]
    Refused {
        /// Why.
        why: String,
    },
    /// A host port is taken.
    #[error("cannot publish host port {port} on 127.0.0.1")]
    Port {
        /// The port.
        port: u16,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A helper process.
    #[error("cannot run {program} for the guest's network: {why}")]
    Process {
        /// The program.
        program: String,
        /// Why, with what it printed.
        why: String,
    },
    /// Its files.
    #[error("cannot keep track of the guest's network")]
    File(#[from] sys::fs::FsError),
}
