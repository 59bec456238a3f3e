//! Nouns and state machines: pure data, without input, output or a clock.
//!
//! - [`digest`]: the name of some content.
//! - [`image`], [`kernel`]: what is recorded about the two things a VM boots from.
//! - [`progress`]: how a long act reports, and how it is told to stop.

pub mod digest;
pub mod image;
pub mod kernel;
pub mod progress;
