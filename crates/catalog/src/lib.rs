//! Catalogs of images and kernels: what can be had by a short name, from whom, and how it is known to be that.
//!
//! ```text
//!   catalog.json  ──signed by──►  catalog.json.sig       a list with a serial number, which never goes down
//!        │ names by SHA-256
//!        ▼
//!   <name>-<arch>-<sha prefix>.tar.zst                   a bundle: rootfs.ext4, or vmlinux and its modules; manifest.json
//! ```
//!
//! | module | what |
//! |---|---|
//! | [`document`] | `catalog.json`: entries, their bounds, their text |
//! | [`name`] | what entries may be called |
//! | [`embedded`] | the catalog of whoever has set none |
//! | [`keys`] | whom catalogs are believed; keys that sign them |
//! | [`signature`] | `catalog.json.sig` |
//! | [`source`] | where a catalog is, and what it must prove there |
//! | [`client`] | a catalog, fetched or as it was last time; its files, into the cache of blobs |
//! | [`bundle`] | bundles: unpacked, looked through, made |
//! | [`publish`] | a directory that any web server can serve |
//!
//! Nothing here reads the environment or remembers anything between two calls but the copy of the last catalog, in the
//! directory that the caller names.

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests arrange and inspect the real world"))]

pub mod bundle;
pub mod client;
pub mod document;
pub mod embedded;
pub mod fuzz;
mod kept;
pub mod keys;
pub mod name;
pub mod publish;
pub mod signature;
pub mod source;

pub use client::{Client, Current, FetchError, Freshness, PullError};
pub use document::{Artifact, Catalog, CatalogError, ImageEntry, KernelEntry};
pub use keys::{Algorithm, KeyError, PrivateKey, PublicKey, keygen};
pub use name::{Name, Word};
pub use signature::{SignatureError, Signatures};
pub use source::{Insecure, Site, Source, SourceError, Trust};
