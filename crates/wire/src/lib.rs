//! Every byte that crosses a process boundary of banger, and nothing else.
//!
//! | boundary | module | who may be older |
//! |---|---|---|
//! | `banger` ↔ `bangerd` | [`api`] (JSON over HTTP), [`attach`] (the stream of an `exec`) | same minor version; the daemon says so |
//! | `bangerd` ↔ `banger-agent` | [`agent`] (frames over one byte stream) | the agent: the host adapts to its generation |
//! | `bangerd` ↔ `banger-helper` | [`helper`] (packets of JSON with descriptors) | neither: the same build, or refused |
//!
//! [`id`] and [`naming`] are the words both sides spell alike: ids, VM names, and the names of host
//! resources, which follow from ids alone. [`layout`] is where an installed tree keeps its parts.
//!
//! Everything here is pure: no I/O, no clock, no randomness.

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests arrange and inspect the real world"))]

pub mod agent;
pub mod api;
pub mod attach;
pub mod duration;
pub mod helper;
pub mod id;
pub mod layout;
pub mod naming;
pub mod size;
