//! What is recorded about an image: its root filesystem and where it comes from.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use wire::id::ImageId;

use super::digest::Digest;

/// The manifest of one image directory, stored beside `rootfs.ext4` as `manifest.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageManifest {
    /// The image's name, as people type it.
    pub name: String,
    /// Which variant of its recipe this is, where it has one.
    pub variant: Option<String>,
    /// What names this image: the SHA-256 of `rootfs.ext4`.
    pub digest: Digest,
    /// Length of `rootfs.ext4`; the file is sparse.
    pub bytes: u64,
    /// Bytes of file content in it.
    pub content_bytes: u64,
    /// Files, directories and other entries in it.
    pub entries: u64,
    /// Installed packages, where the image has a dpkg database.
    pub packages: Option<u64>,
    /// Digest of the recipe's variant and of every file it names: an equal digest means an equal request.
    pub recipe_sha256: Option<Digest>,
    /// What it was made from, for a person.
    pub source: String,
    /// The init the image starts, where it has one; without one the agent stays PID 1.
    pub init: Option<String>,
    /// The processor family it is for, as Debian calls it: `amd64`.
    pub arch: String,
    /// What commands in its VMs begin with.
    #[serde(default)]
    pub exec: ExecSettings,
}

/// What a command in a VM begins with, where the image says so and whoever runs it does not.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecSettings {
    /// Variables of its environment.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Who runs it: a name or a number, with `:group` behind it or not.
    pub user: Option<String>,
    /// Where: an absolute path.
    pub workdir: Option<String>,
}

impl ImageManifest {
    /// The image's id: the beginning of its digest.
    #[must_use]
    pub fn id(&self) -> ImageId {
        ImageId::from_random(self.digest.id_bytes())
    }
}
