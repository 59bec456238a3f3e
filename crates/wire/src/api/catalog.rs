//! What the catalog offers.

use serde::{Deserialize, Serialize};

/// `GET /v1/images/available` and `GET /v1/kernels/available`: the catalog's list for this host's processor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Available {
    /// Where the catalog is; absent where none is configured.
    #[serde(default)]
    pub catalog: Option<String>,
    /// Which publication it is.
    pub serial: u64,
    /// How old it is, where it is the one that came last because there is no newer one: milliseconds.
    #[serde(default)]
    pub kept_for_ms: Option<u64>,
    /// Why there is no newer one.
    #[serde(default)]
    pub why: Option<String>,
    /// By name.
    pub entries: Vec<AvailableEntry>,
}

/// An image or a kernel of the catalog.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AvailableEntry {
    /// Its name.
    pub name: String,
    /// The distribution in it, or whose configuration it has.
    pub distro: String,
    /// The processor it is for.
    pub arch: String,
    /// The version of a kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The kernel that an image is meant for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel_ref: Option<String>,
    /// The digest of its bundle: `sha256:…`.
    pub digest: String,
    /// Bytes to fetch.
    pub size: u64,
    /// What it is, for people.
    pub description: String,
    /// Whether it is here, as it is in the catalog.
    pub is_here: bool,
}
