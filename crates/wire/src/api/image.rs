//! Images and kernels.

use std::collections::BTreeMap;

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
    /// What else they call it.
    #[serde(default)]
    pub also: Vec<String>,
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
    /// What commands in its VMs begin with.
    #[serde(default)]
    pub exec: ImageExec,
    /// Where it was pulled from, if it was.
    #[serde(default)]
    pub origin: Option<ImageOrigin>,
    /// The user's file that it is a link to; absent: banger's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub linked: Option<String>,
    /// When it was made.
    pub created_at_ms: u64,
    /// VMs made of it.
    pub used_by: Vec<String>,
}

/// What commands in an image's VMs begin with, where whoever runs one does not say otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ImageExec {
    /// Variables of their environment.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Who runs them; absent: root.
    #[serde(default)]
    pub user: Option<String>,
    /// Where; absent: the user's home.
    #[serde(default)]
    pub workdir: Option<String>,
    /// What `banger run` runs where nobody says what; empty: a shell for a person.
    #[serde(default)]
    pub command: Vec<String>,
}

/// Where an image was pulled from. Digests are written as registries do, `sha256:…`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ImageOrigin {
    /// As it was asked for, in full: `docker.io/library/debian:bookworm`.
    pub reference: String,
    /// What that led to: an index or a manifest.
    pub target: String,
    /// The manifest for this processor.
    pub manifest: String,
    /// The configuration, which Docker calls the image's id.
    pub config: String,
    /// The kernel of its catalog that it is meant for, if it came from one and says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel_ref: Option<String>,
}

/// `POST /v1/images/pull`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct PullImage {
    /// The name of an image in a registry, or `docker-archive:`, `oci-archive:`, `oci:` or `bundle:` and an absolute path,
    /// or `docker-daemon:` or `catalog:` and a name. A name alone is of the catalog where that lists it.
    pub source: String,
    /// What to call the image; absent: as its source does.
    #[serde(default)]
    pub name: Option<String>,
}

/// `POST /v1/images/register`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct RegisterImage {
    /// The absolute path of a file with an ext4 filesystem.
    pub path: String,
    /// What to call the image.
    pub name: String,
    /// Do not copy the file, but link it: it stays the user's, and no VM of it starts once it has changed.
    #[serde(default)]
    pub link: bool,
}

/// `POST /v1/images/{image}/promote`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct PromoteImage {}

/// The query of `POST /v1/images/load`, whose body is an archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub struct LoadQuery {
    /// What to call the image; absent: as the archive does.
    #[serde(default)]
    pub name: Option<String>,
}

/// The query of `GET /v1/images/{image}/archive`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub struct SaveQuery {
    /// As what.
    #[serde(default)]
    pub format: SaveFormat,
}

/// A file that an image is saved as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum SaveFormat {
    /// As catalogs have them: `rootfs.ext4` and `manifest.json`, a tar packed with zstd.
    #[default]
    Bundle,
    /// An OCI layout with one layer, as a tar.
    OciArchive,
}

/// `POST /v1/images/prune`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct PruneImages {
    /// Also cached parts of images that are here: the next pull of something like them fetches those again.
    #[serde(default)]
    pub all: bool,
}

/// The answer to [`PruneImages`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PrunedImages {
    /// Cached parts of images that were removed.
    pub blobs: u64,
    /// What they took of the disk.
    pub bytes: u64,
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

/// `POST /v1/vms/{vm}/commit`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct CommitVm {
    /// What to call the image.
    pub name: String,
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
pub struct KernelFacts(pub BTreeMap<String, String>);

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
    /// A package, a `vmlinuz`, a `vmlinux` or a directory, told apart by content.
    Path {
        /// Absolute.
        path: String,
        /// The other packages of the same kernel, where its distribution makes several of one. Absolute.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        more: Vec<String>,
        /// A kernel configuration file, for an image that carries none. Absolute.
        #[serde(default)]
        config: Option<String>,
        /// A module tree, `lib/modules/<release>` or a directory that holds it. Absolute.
        #[serde(default)]
        modules: Option<String>,
    },
    /// The kernel that this host runs, from `/boot` or beside its modules.
    Host,
    /// A kernel package of the host's Debian archive, fetched and verified by apt: `linux-image-cloud-amd64`.
    Debian {
        /// The package; a meta package stands for the one it depends on.
        package: String,
    },
    /// A kernel of the catalog that is configured.
    Catalog {
        /// What the catalog calls it.
        name: String,
    },
}
