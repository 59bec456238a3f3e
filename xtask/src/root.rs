//! Where the repository is: found from this crate's own place, so that every command works from any directory.

use std::path::{Path, PathBuf};

/// The repository's root: the directory above `xtask/`.
///
/// `cargo run` sets `CARGO_MANIFEST_DIR` at run time; the compile-time value serves when the binary is started by hand.
pub(crate) fn repository() -> PathBuf {
    let manifest =
        std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    manifest.parent().map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}

/// Where cargo puts what it builds.
pub(crate) fn target() -> PathBuf {
    repository().join(std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()))
}
