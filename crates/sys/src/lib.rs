//! The Linux banger needs, safely: the only crate with `unsafe` code, and the gate every effect passes through.
//!
//! | module | what |
//! |---|---|
//! | [`clock`] | the time |
//! | [`fs`] | changing files: atomically, privately, sparsely |
//! | [`process`] | starting processes, and knowing them again after a restart |
//! | [`rand`] | random bytes |
//! | [`socket`] | what a socket has not delivered |

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests arrange and inspect the real world"))]

pub mod clock;
pub mod fs;
pub mod process;
pub mod rand;
pub mod socket;
