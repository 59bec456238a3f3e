//! Nouns and state machines: pure, no I/O, no clock.
//!
//! | file | what |
//! |---|---|
//! | [`digest`] | the name of some content |
//! | [`image`] [`kernel`] | what is recorded about the two things a VM boots from |
//! | [`machine`] | what a VMM is asked to run: one boot, every path and number fixed |
//! | [`vm`] | what a VM is doing: the state machine |
//! | [`limits`], [`nickname`] | how big a VM may be; names for VMs whose owner gave none |
//! | [`idle`], [`restart`], [`autostart`] | what is done to VMs unasked: when, and where it can be |
//! | [`translation`] | whether an emulator may translate for several processors at once |
//! | [`progress`] | how a long act reports, and how it is told to stop |

#![warn(clippy::wildcard_enum_match_arm)]

pub mod autostart;
pub mod digest;
pub mod idle;
pub mod image;
pub mod kernel;
pub mod limits;
pub mod machine;
pub mod nickname;
pub mod progress;
pub mod restart;
pub mod translation;
pub mod vm;
