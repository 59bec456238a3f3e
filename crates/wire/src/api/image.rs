//! Images and kernels.

use serde::{Deserialize, Serialize};

use crate::id::{ImageId, KernelId};

/// A root filesystem VMs can be made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Image {
    /// The beginning of its digest.
    pub id: ImageId,
    /// What people call it; a rebuild moves the name to the new image.
    pub name: String,
    /// Which variant of its recipe.
    pub variant: Option<String>,
    /// sha256 of the root filesystem, hexadecimal.
    pub digest: String,
    /// Size of the root filesystem.
    pub bytes: u64,
    /// What it takes on the host.
    pub allocated_bytes: u64,
    /// `amd64`.
    pub arch: String,
    /// Where it came from.
    pub source: String,
    /// The init it brings, none when the agent stays process 1.
    pub init: Option<String>,
    /// When it was made.
    pub created_at_ms: u64,
    /// VMs made of it.
    pub used_by: Vec<String>,
}

/// `GET /v1/images`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ImageList {
    /// By name.
    pub images: Vec<Image>,
}

/// `POST /v1/images/build`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct BuildImage {
    /// The name of a recipe this installation brings, or the absolute path of a recipe's directory.
    pub recipe: String,
    /// Which variant; absent: the recipe's default.
    #[serde(default)]
    pub variant: Option<String>,
    /// What to call the image; absent: the recipe's name.
    #[serde(default)]
    pub name: Option<String>,
}

/// A kernel VMs can boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Kernel {
    /// Its id.
    pub id: KernelId,
    /// What people call it.
    pub name: String,
    /// As `uname -r` says in the guest.
    pub release: String,
    /// `amd64`.
    pub arch: String,
    /// sha256 of the unpacked ELF image, hexadecimal.
    pub vmlinux_sha256: String,
    /// Its size.
    pub vmlinux_bytes: u64,
    /// Modules in its tree.
    pub module_count: u32,
    /// Where it came from.
    pub source: String,
    /// What its configuration says of what guests need.
    pub facts: KernelFacts,
    /// When it was imported.
    pub created_at_ms: u64,
    /// VMs that boot it.
    pub used_by: Vec<String>,
}

/// Options worth knowing: `y`, `m` or `n`, by `CONFIG_` name without the prefix.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(transparent)]
pub struct KernelFacts(pub std::collections::BTreeMap<String, String>);

/// `GET /v1/kernels`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct KernelList {
    /// By name.
    pub kernels: Vec<Kernel>,
}

/// `POST /v1/kernels/import`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ImportKernel {
    /// Where from.
    pub source: KernelSource,
    /// What to call it; absent: its release.
    #[serde(default)]
    pub name: Option<String>,
}

/// Where a kernel is imported from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum KernelSource {
    /// A `.deb`, a `vmlinuz`, a `vmlinux` or a directory, told apart by content.
    Path {
        /// Absolute.
        path: String,
        /// A kernel configuration file, for an image that carries none. Absolute.
        #[serde(default)]
        config: Option<String>,
        /// A module tree, `lib/modules/<release>` or a directory that holds it. Absolute.
        #[serde(default)]
        modules: Option<String>,
    },
    /// A kernel package of the host's Debian archive, fetched and verified by apt: `linux-image-cloud-amd64`.
    Debian {
        /// The package; a meta package stands for the one it depends on.
        package: String,
    },
}
