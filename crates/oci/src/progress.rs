//! How far it is, for whoever shows it.

use std::time::Duration;

use crate::digest::Digest;
use crate::manifest::Descriptor;

/// Is told how far a pull is. Called from the pulling task: whoever takes long here holds it up.
pub trait Progress: Send + Sync {
    /// These layers the image has, the lowest first. Told once, before the first of them comes.
    fn layers(&self, layers: &[Descriptor]) {
        let _ = layers;
    }

    /// A layer is in another state, or further in the same.
    fn layer(&self, layer: &Digest, state: LayerState<'_>) {
        let _ = (layer, state);
    }

    /// So much of an archive was read, of so much if that is known.
    fn archive(&self, done_bytes: u64, total_bytes: Option<u64>) {
        let _ = (done_bytes, total_bytes);
    }
}

/// How it stands with a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerState<'a> {
    /// Another pull is fetching it.
    Elsewhere,
    /// It comes.
    Coming {
        /// Bytes that are here.
        done_bytes: u64,
        /// Bytes it has.
        total_bytes: u64,
    },
    /// It broke off, and is tried again.
    Retrying {
        /// What happened.
        cause: &'a str,
        /// How long until then.
        pause: Duration,
    },
    /// It was here before.
    Cached,
    /// It is here.
    Done,
}

/// Nobody looks.
impl Progress for () {}
