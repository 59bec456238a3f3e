//! Trees of files.
pub mod seed;
