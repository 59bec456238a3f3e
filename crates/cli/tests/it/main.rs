//! `banger` as a whole program, against a daemon that is a script: what it prints, what it asks for, how it ends.

#![allow(clippy::disallowed_methods, reason = "tests arrange and inspect the real world")]
#![allow(clippy::unwrap_used, reason = "clippy allows it in test functions by itself, not in what they share")]

mod completion;
mod containerfile;
mod cp;
mod death;
mod diff;
mod exec;
mod export;
mod fake;
mod guest;
mod help;
mod interrupt;
mod kernels;
mod lifecycle;
mod listing;
mod lives;
mod policies;
mod records;
mod register;
mod run;
mod sessions;
mod sim;
mod start;
mod terminal;
mod tooling;
mod unread;
mod workspace;
