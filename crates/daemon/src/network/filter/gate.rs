//! Whether frames pass yet. A NIC that QEMU has is plugged in and out by QEMU; a tap cannot be, so its frames are dropped here
//! until a file says otherwise: a guest that goes on from a saved machine is heard by nobody before it is itself.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use super::Handover;

/// One NIC's.
#[derive(Debug)]
pub(super) struct Gate {
    file: PathBuf,
    is_open: AtomicBool,
}

/// The file that opens the gate of the filter with this socket. It is looked for as long as it is not there.
pub(in crate::network) fn file(socket: &Path) -> PathBuf {
    socket.with_extension("plugged")
}

impl Gate {
    pub(super) fn of(socket: &Path, handover: Handover) -> Gate {
        Gate { file: file(socket), is_open: AtomicBool::new(handover == Handover::Stream) }
    }

    /// Once it is open it stays open.
    pub(super) fn is_open(&self) -> bool {
        // Both directions look; which of them sees it first does not matter.
        let is_open = self.is_open.load(Ordering::Relaxed) || self.file.exists();
        self.is_open.store(is_open, Ordering::Relaxed);
        is_open
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tap_is_silent_until_it_is_plugged_in() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("net.sock");
        assert!(Gate::of(&socket, Handover::Stream).is_open());
        let gate = Gate::of(&socket, Handover::Tap);
        assert!(!gate.is_open());
        std::fs::write(file(&socket), "").unwrap();
        assert!(gate.is_open());
        std::fs::remove_file(file(&socket)).unwrap();
        assert!(gate.is_open());
    }
}
