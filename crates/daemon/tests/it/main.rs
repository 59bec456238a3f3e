//! The daemon's drivers against real processes, and its operations, store and loops against a small host in memory.

#![allow(clippy::disallowed_methods, reason = "tests arrange and inspect the real world")]

mod agent;
mod crash;
mod fake;
mod network;
mod ops;
mod reconcile;
mod slate;
mod store;
mod vmm;
