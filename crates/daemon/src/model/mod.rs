//! Nouns and state machines: pure, no I/O, no clock.
//!
//! | file | what |
//! |---|---|
//! | [`machine`] | what a VMM is asked to run: one boot, every path and number fixed |

pub mod machine;
