//! Bundles: what an entry of a catalog stands for, in one `.tar.zst`.
//!
//! | image | kernel | |
//! |---|---|---|
//! | `rootfs.ext4` | `vmlinux` | must be there |
//! | `manifest.json` | | must be there |
//! | | `manifest.json`, `initrd.img`, `config`, `modules/` | may be there |
//!
//! Nothing else may be there, and nothing twice; all of it are files, and directories below `modules/`. Whoever made a bundle
//! is hostile: [`read`] bounds what comes out of it and names the entry that it refuses. [`write`] makes the same bytes of the
//! same content: times, owners and order are fixed.

mod error;
mod layout;
mod manifest;
pub mod read;
pub mod write;

pub use error::BundleError;
pub use manifest::{Exec, ImageManifest, KernelManifest, MANIFEST_BYTES_MAX};
pub use read::{ImageBundle, Inspected, KernelBundle, Limits, extract_image, extract_kernel, inspect};
pub use write::{Made, make_image, make_kernel, write_image};

/// The root filesystem of an image.
pub const ROOTFS: &str = "rootfs.ext4";
/// What a bundle says of itself.
pub const MANIFEST: &str = "manifest.json";
/// A kernel, unpacked.
pub const VMLINUX: &str = "vmlinux";
/// What a kernel boots from.
pub const INITRD: &str = "initrd.img";
/// How a kernel was configured.
pub const CONFIG: &str = "config";
/// A kernel's modules.
pub const MODULES: &str = "modules";

/// zstd's window: the largest that its own program takes without being asked for more.
pub const WINDOW_LOG: u32 = 27;
/// Bytes that are read, hashed and written at once; whole blocks of any filesystem.
const CHUNK_BYTES: usize = 256 << 10;

/// Is told how many bytes were gone through, and ends the work with an error.
pub type Watch<'a> = dyn FnMut(u64) -> std::io::Result<()> + 'a;

#[cfg(test)]
pub(crate) mod tests;
