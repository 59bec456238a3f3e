//! `manifest.json`: what a bundle says of itself. Fields that are not known are passed over: a later banger may have written
//! them, and what counts of a bundle stands in its catalog.

use std::collections::BTreeMap;

use oci::Digest;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::document::{DESCRIPTION_LETTERS_MAX, is_description};
use crate::name::{Name, Word};

/// Of a manifest; the environment of an image is the longest in it.
pub const MANIFEST_BYTES_MAX: u64 = 1 << 20;

/// What an image's bundle says. The first four are the original system's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageManifest {
    /// The image's name.
    pub name: Name,
    /// The distribution in it.
    pub distro: Word,
    /// The processor it is for.
    pub arch: Word,
    /// The kernel of the same catalog that it is meant for.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "perhaps")]
    pub kernel_ref: Option<Name>,
    /// What it is, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// The SHA-256 of `rootfs.ext4`.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "hex")]
    pub digest: Option<Digest>,
    /// Which variant of its recipe it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// What it was made from, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Bytes of file content in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_bytes: Option<u64>,
    /// Files, directories and other entries in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entries: Option<u64>,
    /// Installed packages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packages: Option<u64>,
    /// The init that it starts: an absolute path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<String>,
    /// What commands in its VMs begin with.
    #[serde(default, skip_serializing_if = "Exec::is_default")]
    pub exec: Exec,
}

/// What a command begins with, where the image says so.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exec {
    /// Variables of its environment.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Who runs it: a name or a number, with `:group` behind it or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Where: an absolute path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workdir: Option<String>,
    /// What is run where nobody says what: a program and its arguments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
}

/// What a kernel's bundle says, if it says anything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelManifest {
    /// The kernel's name.
    pub name: Name,
    /// Whose configuration it has.
    pub distro: Word,
    /// The processor it is for.
    pub arch: Word,
    /// Its version.
    pub version: Word,
    /// What it is, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
}

/// A manifest that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// It is no JSON, or not this.
    #[error("it is malformed")]
    Malformed(#[from] serde_json::Error),
    /// Something in it cannot be.
    #[error("its {field} {rule}")]
    Field {
        /// Which.
        field: &'static str,
        /// What it should be.
        rule: &'static str,
    },
}

impl Exec {
    fn is_default(&self) -> bool {
        *self == Exec::default()
    }
}

const DESCRIPTION_RULE: &str = "is longer than a description may be, or controls terminals";
const _: () = assert!(DESCRIPTION_LETTERS_MAX < MANIFEST_BYTES_MAX as usize);

impl ImageManifest {
    /// A manifest with nothing but what each has.
    #[must_use]
    pub fn new(name: Name, distro: Word, arch: Word) -> ImageManifest {
        ImageManifest {
            name,
            distro,
            arch,
            kernel_ref: None,
            description: String::new(),
            digest: None,
            variant: None,
            source: None,
            content_bytes: None,
            entries: None,
            packages: None,
            init: None,
            exec: Exec::default(),
        }
    }

    /// Reads one.
    ///
    /// # Errors
    /// When it is malformed, or something in it cannot be.
    pub fn parse(bytes: &[u8]) -> Result<ImageManifest, ManifestError> {
        let manifest: ImageManifest = serde_json::from_slice(bytes)?;
        manifest.check()?;
        Ok(manifest)
    }

    /// Whether everything in it can be.
    pub(crate) fn check(&self) -> Result<(), ManifestError> {
        let refused = |field, rule| Err(ManifestError::Field { field, rule });
        let is_path = |path: &Option<String>| path.as_ref().is_none_or(|path| path.starts_with('/') && is_text(path));
        let is_variable = |(name, value): (&String, &String)| {
            !name.is_empty() && !name.contains('=') && is_text(name) && is_text(value)
        };
        if !is_description(&self.description) {
            return refused("description", DESCRIPTION_RULE);
        }
        if !is_path(&self.init) {
            return refused("init", "is no absolute path");
        }
        if !is_path(&self.exec.workdir) {
            return refused("exec.workdir", "is no absolute path");
        }
        if !self.exec.env.iter().all(is_variable) {
            return refused("exec.env", "has a variable without a name, or one with = or a zero in it");
        }
        if !self.exec.command.iter().all(|word| is_text(word)) {
            return refused("exec.command", "has a word with a zero in it");
        }
        if self.exec.user.as_ref().is_some_and(|user| user.is_empty() || !is_text(user)) {
            return refused("exec.user", "is empty, or has a zero in it");
        }
        Ok(())
    }
}

impl KernelManifest {
    /// Reads one.
    ///
    /// # Errors
    /// When it is malformed, or something in it cannot be.
    pub fn parse(bytes: &[u8]) -> Result<KernelManifest, ManifestError> {
        let manifest: KernelManifest = serde_json::from_slice(bytes)?;
        manifest.check()?;
        Ok(manifest)
    }

    pub(crate) fn check(&self) -> Result<(), ManifestError> {
        if is_description(&self.description) {
            return Ok(());
        }
        Err(ManifestError::Field { field: "description", rule: DESCRIPTION_RULE })
    }
}

fn is_text(text: &str) -> bool {
    !text.contains('\0')
}

/// An empty name is none.
fn perhaps<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Name>, D::Error> {
    let text = Option::<String>::deserialize(from)?.filter(|text| !text.is_empty());
    text.map(|text| text.parse().map_err(serde::de::Error::custom)).transpose()
}

/// A digest as its 64 digits; read also with `sha256:` before them.
mod hex {
    use super::{Deserialize, Deserializer, Digest, Serializer};

    pub(super) fn serialize<S: Serializer>(digest: &Option<Digest>, to: S) -> Result<S::Ok, S::Error> {
        match digest {
            Some(digest) => to.serialize_str(&digest.hex()),
            None => to.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Digest>, D::Error> {
        let text = Option::<String>::deserialize(from)?;
        let digest = text.map(|text| Digest::from_hex(text.strip_prefix("sha256:").unwrap_or(&text)));
        digest.transpose().map_err(serde::de::Error::custom)
    }
}
