//! What an image is and where it comes from: registries, archives, layouts. Everything is verified on its way into a cache of
//! blobs; nothing is flattened here.
//!
//! ```text
//! text ──source──► registry  ──manifest, config──► layers, some at once ─┐
//!                  archive   ──one pass──────────────────────────────────┼─► blobs ──► Pulled
//!                  layout    ──copied────────────────────────────────────┘
//! ```
//!
//! | module | what |
//! |---|---|
//! | [`reference`] | names of images in registries |
//! | [`source`] | where an image comes from, as people type it |
//! | [`digest`] | names of content |
//! | [`manifest`], [`config`] | what an image is made of, and what it says of itself |
//! | [`blobs`] | the cache: content by its digest, shared by images and processes |
//! | [`registry`] | registries, as hostile and as unreliable as they are |
//! | [`credentials`] | who the user is to them: Docker's and Podman's files and helpers |
//! | [`archive`] | what `docker save`, skopeo and buildah write |
//! | `docker_daemon` | the images of this host's Docker |
//! | [`options`], [`progress`] | how, and how far |
//! | `pull` | all of it: one entry, [`pull()`] |
//!
//! Nothing here reads the environment or starts a task of its own; dropping the future of a pull ends it, and what has come
//! is where the next one goes on.

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests arrange and inspect the real world"))]

pub mod archive;
pub mod blobs;
pub mod config;
pub mod credentials;
pub mod digest;
mod docker_daemon;
pub mod fuzz;
pub mod manifest;
pub mod options;
pub mod progress;
mod pull;
pub mod reference;
pub mod registry;
pub mod source;

pub use blobs::Blobs;
pub use config::Config;
pub use digest::Digest;
pub use docker_daemon::DockerDaemonError;
pub use manifest::{Architecture, Compression};
pub use options::Options;
pub use progress::{LayerState, Progress};
pub use pull::{Layer, PullError, Pulled, load, pull};
pub use reference::Reference;
pub use registry::Web;
pub use source::Source;
