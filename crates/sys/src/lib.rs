//! The Linux banger needs, safely: the only crate with `unsafe` code, and the gate every effect passes through.
//!
//! | module | what |
//! |---|---|
//! | [`clock`] | the time |
//! | [`confine`] | taking the world away from a process |
//! | [`fs`] | changing files: atomically, privately, sparsely |
//! | [`holes`] | files with holes |
//! | [`kernel`] | requests to the kernel without a safe form elsewhere |
//! | [`kvm`] | whether the host can run guests in hardware |
//! | [`memory`] | what the host has left |
//! | [`netlink`] | a guest's addresses and routes; being told of devices |
//! | `open_files` | whether a process has a file open that has a new name, or none, by now |
//! | [`packet`] | packets with descriptors beside them |
//! | [`process`] | starting processes, and knowing them again after a restart |
//! | [`rand`] | random bytes |
//! | [`signals`] | waiting for signals |
//! | [`socket`] | what a socket has not delivered |
//! | [`spawn`] | starting one program fast, from a process of one thread |
//! | [`tap`] | the host's side of a VM's NIC |
//! | [`tsc`] | the frequency of the processor's time stamp counter |
//! | [`vsock`] | connections from a guest to its host |

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests arrange and inspect the real world"))]

pub mod clock;
pub mod confine;
pub mod fs;
pub mod holes;
pub mod kernel;
pub mod kvm;
pub mod memory;
pub mod netlink;
mod open_files;
pub mod packet;
pub mod process;
pub mod rand;
pub mod signals;
pub mod socket;
pub mod spawn;
pub mod tap;
pub mod tsc;
pub mod vsock;
