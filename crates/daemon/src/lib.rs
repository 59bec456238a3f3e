//! `bangerd`: decides, remembers and drives. Needs no privilege.
//!
//! One folder per kind of thing; the arrows are checked by `cargo xtask tidy`:
//!
//! | module | what | may use |
//! |---|---|---|
//! | [`model`] | nouns and state machines: pure | `wire::{id, naming}` |
//! | `saga` | the step engine and its journal; knows none of our nouns | nothing of ours |
//! | `store` | the only SQL; append-only migrations | `model`, `saga::journal` |
//! | [`vmm`] [`storage`] [`network`] [`image`] [`guest`] | drivers and clients | `model`, `sys`, `wire`; never each other, never `store` |
//! | `ops` | verbs: one file per operation, each opening with its list of steps | `model`, `saga`, `store`, driver traits |
//! | `reconcile` `supervise` | loops that take no input; one owner task per live VM | `model`, `store`, driver traits, `ops` |
//! | `api` | handlers: validate, record, begin; never long | `model`, `store`, `ops` |
//! | `main.rs` | reads config once, chooses drivers, wires, runs | everything |

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests arrange and inspect the real world"))]

pub mod api;
pub mod config;
pub mod doctor;
pub mod guest;
pub mod image;
pub mod model;
pub mod network;
pub mod ops;
pub mod reconcile;
pub mod saga;
pub mod storage;
pub mod store;
pub mod supervise;
pub mod vmm;
pub mod workshop;
