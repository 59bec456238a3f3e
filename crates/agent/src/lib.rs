//! `banger-agent`: the one program banger puts into a guest, static and alone in its initramfs.
//!
//! | module | what |
//! |---|---|
//! | [`boot`] | process 1: from the kernel's first program to the image's init |
//! | [`diff`] | changes against the image |
//! | [`ending`] | the end: everything unmounted, the host told, the machine reset |
//! | [`process_one`] | staying process 1, alone or around an init other than systemd |
//! | [`renew`] | a guest restored from memory becomes another machine |
//! | [`serve`] | answers the host: commands, trees, readiness, shutdown |
//! | [`workspace`] | files that the host sent, and what became of them |
//! | [`seed`] | the first use of a directory that the VM's disk keeps |
//! | [`root_dir`], [`mounts`] | a root whose content is hostile; what is mounted |
//!
//! The guest is hostile: nothing here trusts the image's content, and whatever the agent says is bounded and checked again
//! by the host. No code of ours resolves names or users through the C library, which would load modules of the image.

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests arrange and inspect the real world"))]

pub mod boot;
pub mod diff;
pub mod ending;
pub mod mounts;
pub mod process_one;
pub mod renew;
pub mod root_dir;
pub mod seed;
pub mod serve;
pub mod workspace;
