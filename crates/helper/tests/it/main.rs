//! `banger-helper` as a whole program: what it does as root, what it refuses, and what a VMM that was taken over can do.
//!
//! Everything here needs root, and returns at once without it. The VMM is `probe.c`, under the real jailer.

#![allow(clippy::disallowed_methods, reason = "tests arrange and inspect the real world")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

mod callers;
mod escape;
mod files;
mod ground;
mod host;
mod jails;
mod lives;
mod saved;
mod taps;
