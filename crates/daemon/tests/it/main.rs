//! The daemon's drivers against real processes.

#![allow(clippy::disallowed_methods, reason = "tests arrange and inspect the real world")]

mod agent;
mod network;
mod vmm;
