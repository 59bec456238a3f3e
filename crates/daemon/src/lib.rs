#![doc = "The daemon's library: what `bangerd` is made of, one folder per kind of thing."]
//!
//! `model/` holds the nouns (pure), `image/` makes what a VM boots from. `main.rs` chooses and wires.

pub mod image;
pub mod model;
