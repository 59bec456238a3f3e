//! What an image says of itself: for whom it was made, how a process in it begins, what its layers unpack to.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

use crate::digest::Digest;
use crate::manifest::{Architecture, LAYERS_MAX, ManifestError};

/// An image's configuration, as far as a VM is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The processor it was made for, as it says.
    pub architecture: String,
    /// The operating system it was made for, as it says.
    pub os: String,
    /// `NAME=value`, in its order.
    pub env: Vec<String>,
    /// Where a process begins; empty: `/`.
    pub working_dir: String,
    /// `USER[:GROUP]`, names or numbers; empty: root.
    pub user: String,
    /// What is run, before the arguments.
    pub entrypoint: Vec<String>,
    /// What is run, or the entry point's arguments, unless others are given.
    pub cmd: Vec<String>,
    /// The signal that asks it to end, if it is not the usual one.
    pub stop_signal: Option<String>,
    /// What somebody noted about it.
    pub labels: BTreeMap<String, String>,
    /// The digest of each layer's tar stream, uncompressed; the lowest layer first.
    pub diff_ids: Vec<Digest>,
}

/// Go writes `null` for an empty list and an empty map.
fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Option::<T>::deserialize(from).map(Option::unwrap_or_default)
}

#[derive(Deserialize)]
struct Raw {
    #[serde(default, deserialize_with = "or_default")]
    architecture: String,
    #[serde(default, deserialize_with = "or_default")]
    os: String,
    #[serde(default, deserialize_with = "or_default")]
    config: RawProcess,
    rootfs: RawRootfs,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct RawProcess {
    #[serde(deserialize_with = "or_default")]
    env: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    working_dir: String,
    #[serde(deserialize_with = "or_default")]
    user: String,
    #[serde(deserialize_with = "or_default")]
    entrypoint: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    cmd: Vec<String>,
    stop_signal: Option<String>,
    #[serde(deserialize_with = "or_default")]
    labels: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct RawRootfs {
    #[serde(default, deserialize_with = "or_default")]
    diff_ids: Vec<Digest>,
}

impl Config {
    /// Reads a configuration.
    ///
    /// # Errors
    /// When it is malformed or has too many layers.
    pub fn parse(bytes: &[u8]) -> Result<Config, ManifestError> {
        let raw: Raw = serde_json::from_slice(bytes).map_err(ManifestError::ParseConfig)?;
        if raw.rootfs.diff_ids.len() > LAYERS_MAX {
            return Err(ManifestError::TooManyLayers { count: raw.rootfs.diff_ids.len() });
        }
        let process = raw.config;
        Ok(Config {
            architecture: raw.architecture,
            os: raw.os,
            env: process.env,
            working_dir: process.working_dir,
            user: process.user,
            entrypoint: process.entrypoint,
            cmd: process.cmd,
            stop_signal: process.stop_signal.filter(|signal| !signal.is_empty()),
            labels: process.labels,
            diff_ids: raw.rootfs.diff_ids,
        })
    }

    /// Refuses an image for another machine. One that names none is taken at its word.
    ///
    /// # Errors
    /// When the image was made for another processor or operating system.
    pub fn check_platform(&self, wanted: Architecture) -> Result<(), ManifestError> {
        let is_ours = |said: &str, ours: &str| said.is_empty() || said == ours;
        if is_ours(&self.os, "linux") && is_ours(&self.architecture, wanted.name()) {
            return Ok(());
        }
        let offered = format!("{}/{}", self.os, self.architecture);
        Err(ManifestError::NoPlatform { wanted, offered: vec![offered] })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nulls_and_absences_are_empty() {
        let text = r#"{"architecture":"amd64","os":"linux","config":{"Env":null,"Cmd":["sh"],"Labels":null,
            "StopSignal":"","Unknown":1},"rootfs":{"type":"layers","diff_ids":null}}"#;
        let config = Config::parse(text.as_bytes()).unwrap();
        assert_eq!((config.env.len(), config.cmd, config.stop_signal), (0, vec!["sh".to_owned()], None));
        let least = Config::parse(br#"{"config":null,"rootfs":{}}"#).unwrap();
        assert_eq!(least.check_platform(Architecture::Amd64).is_ok(), least.diff_ids.is_empty());
    }

    #[test]
    fn another_machine_is_refused_by_name() {
        for (os, architecture) in [("linux", "s390x"), ("windows", "amd64"), ("linux", "arm64")] {
            let text = format!(r#"{{"architecture":"{architecture}","os":"{os}","rootfs":{{"diff_ids":[]}}}}"#);
            let config = Config::parse(text.as_bytes()).unwrap();
            let refused = config.check_platform(Architecture::Amd64).unwrap_err().to_string();
            assert_eq!(refused, format!("the image is not for linux/amd64, but for {os}/{architecture}"));
        }
    }

    #[test]
    fn what_is_no_configuration_is_refused() {
        let many = vec![format!("{:?}", Digest::of(b"").to_string()); LAYERS_MAX + 1].join(",");
        for bad in ["", "[]", "{}", r#"{"rootfs":{"diff_ids":["sha256:1"]}}"#, r#"{"rootfs":{},"rootfs":{}}"#] {
            assert!(matches!(Config::parse(bad.as_bytes()), Err(ManifestError::ParseConfig(_))), "{bad}");
        }
        let refused = Config::parse(format!(r#"{{"rootfs":{{"diff_ids":[{many}]}}}}"#).as_bytes());
        assert!(matches!(refused, Err(ManifestError::TooManyLayers { count: 501 })));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(text in r#"(\{|\}|"rootfs":|"config":|"diff_ids":|\[|\]|null|"Env"|,|:|1|"){0,30}"#) {
            let _outcome = Config::parse(text.as_bytes());
        }
    }
}
