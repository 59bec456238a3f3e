//! The Linux banger needs, safely: the only crate with `unsafe` code, and the gate every effect passes through.
//!
//! | module | what |
//! |---|---|
//! | [`clock`] | the time |
//! | [`fs`] | changing files: atomically, privately, sparsely |
//! | [`process`] | starting processes, and knowing them again after a restart |
//! | [`rand`] | random bytes |
//! | [`spawn`] | starting one program fast, from a process of one thread |

pub mod clock;
pub mod fs;
pub mod process;
pub mod rand;
pub mod spawn;
