//! The Linux banger needs, safely: the only crate with `unsafe` code, and the gate every effect passes through.
//!
//! | module | what |
//! |---|---|
//! | [`clock`] | the time |
//! | [`fs`] | changing files: atomically, privately, sparsely |
//! | [`kernel`] | requests to the kernel without a safe form elsewhere |
//! | [`netlink`] | a guest's addresses and routes; being told of devices |
//! | [`process`] | starting processes, and knowing them again after a restart |
//! | [`rand`] | random bytes |
//! | [`signals`] | waiting for signals |
//! | [`spawn`] | starting one program fast, from a process of one thread |

pub mod clock;
pub mod fs;
pub mod kernel;
pub mod netlink;
pub mod process;
pub mod rand;
pub mod signals;
pub mod spawn;
