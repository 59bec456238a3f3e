//! The daemon's drivers against real processes, and its operations, store and loops against a small host in memory.

#![allow(clippy::disallowed_methods, reason = "tests arrange and inspect the real world")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

mod again;
mod agent;
mod artifacts;
mod catalog;
mod channel;
mod crash;
mod exchange;
mod fake;
mod files;
mod full;
mod gone;
mod jail;
mod layers;
mod lives;
mod network;
mod ops;
mod policies;
mod power;
mod privileged;
mod process;
mod reconcile;
mod reset;
mod saved;
mod sessions;
mod slate;
mod store;
mod store_rows;
mod templates;
mod together;
mod unexported;
mod verbs;
mod vmm;
