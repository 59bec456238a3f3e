//! What is recorded about an image: its root filesystem and where it comes from.

use std::collections::BTreeMap;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;

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
    /// What `banger run` runs where nobody says what: a program and its arguments. Empty: a shell for a person.
    #[serde(default)]
    pub command: Vec<String>,
    /// Where it was pulled from, if it was.
    #[serde(default)]
    pub origin: Option<Origin>,
    /// The user's file that `rootfs.ext4` is one more name of; absent: it is banger's own, and nobody else writes to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub linked: Option<LinkedFile>,
}

/// A file of the user's as it was when an image was made of it: whoever has another name of it can change it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkedFile {
    /// Where it was then.
    pub path: String,
    /// Its number in its filesystem.
    pub inode: u64,
    /// Its length.
    pub bytes: u64,
    /// When it was last written to: seconds since 1970.
    pub mtime_s: i64,
    /// And nanoseconds.
    pub mtime_ns: i64,
}

impl LinkedFile {
    /// The file at `path`, of which `meta` tells.
    #[must_use]
    pub fn new(path: String, meta: &Metadata) -> LinkedFile {
        LinkedFile { path, inode: meta.ino(), bytes: meta.len(), mtime_s: meta.mtime(), mtime_ns: meta.mtime_nsec() }
    }

    /// Whether `meta` tells of the same file, and nothing was written to it since. The device does not count: its number
    /// may be another after each boot of the host.
    #[must_use]
    pub fn is_unchanged(&self, meta: &Metadata) -> bool {
        *self == LinkedFile::new(self.path.clone(), meta)
    }
}

/// Where an image was pulled from. Digests are written as registries do, `sha256:…`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// As it was asked for, in full: `docker.io/library/debian:bookworm`.
    pub reference: String,
    /// What that led to: an index or a manifest.
    pub target: String,
    /// The manifest for this processor.
    pub manifest: String,
    /// The configuration, which Docker calls the image's id.
    pub config: String,
    /// Layers and whatever else of the cache belongs to it.
    pub blobs: Vec<String>,
    /// The kernel of its catalog that it is meant for, if it came from one and says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel_ref: Option<String>,
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
    /// The image's id: the beginning of its digest. Where commands in it begin with something of their own, two images
    /// of one root filesystem may differ in that, and it is part of the id.
    #[must_use]
    pub fn id(&self) -> ImageId {
        if self.exec == ExecSettings::default() && self.command.is_empty() {
            return ImageId::from_random(self.digest.id_bytes());
        }
        let settings = serde_json::to_vec(&(&self.exec, &self.command)).expect("text and maps of text become JSON");
        ImageId::from_random(Digest::of_parts([self.digest.as_bytes().as_slice(), &settings]).id_bytes())
    }
}

/// Most bytes of a name: a registry's, a path and a digest.
const NAME_BYTES_MAX: usize = 400;

/// `name` as it is kept, if an image may be called so: letters, digits, `.`, `_` and `-`, or the name of an image in a
/// registry.
#[must_use]
pub fn checked_name(name: &str) -> Option<String> {
    if wire::naming::is_artifact_name(name) { Some(name.to_owned()) } else { familiar(name) }
}

/// How an image of a registry is called here, `alpine:latest`, however it is written; none when `text` is no such name.
#[must_use]
pub fn familiar(text: &str) -> Option<String> {
    let reference: oci::Reference = text.parse().ok()?;
    Some(reference.familiar()).filter(|name| name.len() <= NAME_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (typed, kept) in [
            ("small", Some("small")),
            ("debian:bookworm", Some("debian:bookworm")),
            ("docker.io/library/debian:bookworm", Some("debian:bookworm")),
            ("ghcr.io/o/i", Some("ghcr.io/o/i:latest")),
            ("", None),
            ("-x", None),
            ("a b", None),
            ("../x", None),
        ] {
            assert_eq!(checked_name(typed).as_deref(), kept, "{typed}");
        }
        assert_eq!(familiar("alpine").as_deref(), Some("alpine:latest"));
    }

    #[test]
    fn one_root_filesystem_with_other_settings_is_another_image() {
        let manifest = |command: &[&str]| ImageManifest {
            name: "x".into(),
            variant: None,
            digest: Digest::of(b"rootfs"),
            bytes: 1,
            content_bytes: 1,
            entries: 1,
            packages: None,
            recipe_sha256: None,
            source: "test".into(),
            init: None,
            arch: "amd64".into(),
            exec: ExecSettings::default(),
            command: command.iter().map(|arg| (*arg).to_owned()).collect(),
            origin: None,
            linked: None,
        };
        let plain = manifest(&[]);
        assert_eq!(plain.id(), ImageId::from_random(plain.digest.id_bytes()));
        assert_ne!(plain.id(), manifest(&["sh"]).id());
        assert_ne!(manifest(&["sh"]).id(), manifest(&["s", "h"]).id());
    }
}
