//! Templates: fresh machines that were saved, from which later VMs go on instead of booting.

use serde::{Deserialize, Serialize};

/// `GET /v1/templates`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TemplateList {
    /// Whether VMs go on from them, and new ones are made.
    pub is_enabled: bool,
    /// How often one could not be used, and its VM booted instead.
    pub fell_back: u64,
    /// The last used first.
    pub templates: Vec<Template>,
}

/// One.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Template {
    /// What it is called: 16 hexadecimal digits that follow from all it depends on.
    pub key: String,
    /// The image's name.
    pub image: String,
    /// The kernel's name.
    pub kernel: String,
    /// Virtual processors.
    pub vcpus: u16,
    /// Guest memory.
    pub memory_mib: u64,
    /// The size of its VMs' disks.
    pub disk_bytes: u64,
    /// Whether its VMs reach the outside.
    pub nat: bool,
    /// What it takes on the host's disk.
    pub bytes: u64,
    /// How many VMs went on from it.
    pub uses: u64,
    /// When it was made.
    pub created_at_ms: u64,
    /// When a VM went on from it last, or it was made.
    pub used_at_ms: u64,
}

/// `DELETE /v1/templates` and `DELETE /v1/templates/{key}`: what is gone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PrunedTemplates {
    /// Which.
    pub keys: Vec<String>,
    /// What they took on the host's disk.
    pub freed_bytes: u64,
}
