//! `bangerd`: decides, remembers and drives. Needs no privilege.
//!
//! One folder per kind of thing; the arrows are checked by `cargo xtask tidy`:
//!
//! | module | what | may use |
//! |---|---|---|
//! | [`model`] | nouns and state machines: pure | the plain types of `wire` |
//! | [`saga`] | the step engine and its journal; knows none of our nouns | nothing of ours |
//! | [`store`] | the only SQL; append-only migrations | `model`, `saga::journal`, `sys::fs` |
//! | [`vmm`] [`storage`] [`network`] [`image`] [`template`] [`guest`] [`privileged`] | drivers and clients | `model`, `sys`, `wire`; never each other, never `store` |
//! | [`workspace`] | a repository of the host's on its way into a guest | `model`, `sys`, `wire`, `tree` |
//! | [`exchange`] | host and guest about a workspace: how they compare, and how the work comes back | `guest`, `workspace` |
//! | [`supervise`] | one owner task per live VM, and who is at work | `model`, `store`, driver traits |
//! | [`ops`] | verbs: one file per operation, each opening with its list of steps | `model`, `saga`, `store`, `supervise`, driver traits |
//! | [`reconcile`] | the sweep, and the loops of VMs' policies: take no input, safe at any moment | `model`, `store`, `supervise`, driver traits, `ops` |
//! | [`api`] | handlers: validate, record, begin; never long | `model`, `store`, `ops`, `supervise`, `guest` |
//! | [`workshop`] | what operations have made for them: images, kernels, initramfs | `image`, `ops` |
//! | [`courier`] | the same for workspaces | `workspace`, `exchange`, `ops` |
//! | [`config`] [`doctor`] | what the owner decided; what this host can do | `model`, `wire` |
//! | `main.rs` with `lock`, `setup`, `serve` | reads everything once, chooses drivers, wires, runs | everything |

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests arrange and inspect the real world"))]

pub mod api;
pub mod config;
pub mod courier;
pub mod doctor;
pub mod exchange;
pub mod guest;
pub mod image;
pub mod model;
pub mod network;
pub mod ops;
pub mod privileged;
pub mod reconcile;
pub mod saga;
pub mod snapshot;
pub mod storage;
pub mod store;
pub mod supervise;
pub mod template;
pub mod vmm;
pub mod workshop;
pub mod workspace;
