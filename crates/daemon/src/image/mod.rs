//! What a VM boots from: kernels, images and the initramfs, made in-process.
//!
//! ```text
//! .deb, .rpm, vmlinuz, directory ──kernel::import──► vmlinux  modules.ext4  needed-modules/  manifest.json
//! recipe ──build::build──► tar ──rootfs::write──► rootfs.ext4  manifest.json
//! layers ──layers::flatten──► rootfs.ext4
//! agent + needed-modules ──initramfs::ensure──► <cache>/initramfs-<digest>.cpio
//! ```
//!
//! Everything here is synchronous and writes only beneath a directory its caller names; publishing that directory
//! under its final name is the caller's act. All inputs are bounded, and none is trusted: not a package, not a tar,
//! not a kernel file.

pub mod build;
pub(crate) mod codec;
pub(crate) mod ext4;
pub mod fuzz;
pub mod initramfs;
pub mod kernel;
pub mod layers;
pub(crate) mod newc;
pub mod recipe;
pub mod rootfs;
pub(crate) mod stream;
