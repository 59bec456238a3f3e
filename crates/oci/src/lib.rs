//! What an image is and where it comes from.

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests arrange and inspect the real world"))]

pub mod blobs;
pub mod config;
pub mod credentials;
pub mod digest;
pub mod manifest;
pub mod options;
pub mod progress;
pub mod reference;
pub mod registry;
pub mod source;
