//! `config.toml`: what its owner decided; every key is optional and an unknown one is refused.
//!
//! | file | what |
//! |---|---|
//! | here | the file as written, and what is wrong with it |
//! | [`resolve`] | what holds: asked for → config → this host → floor, each setting with its origin |
//! | [`file_sync`] | files of the host that every boot gets |
//! | [`registries`] | what is special about a registry |
//! | [`catalogs`] | where the catalog is, and who signs it |
//!
//! Read once, at the daemon's start. docs/config.md is its page for people.

pub mod catalogs;
pub mod file_sync;
pub mod registries;
pub mod resolve;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::model::limits;
pub use file_sync::FileSync;
pub use resolve::{HostSize, Overrides};

/// The image a VM gets when none is asked.
pub const DEFAULT_IMAGE: &str = "debian-bookworm";
/// The kernel a VM gets when none is asked: the Debian package it is imported from.
pub const DEFAULT_KERNEL: &str = "linux-image-cloud-amd64";

/// The file as written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// `debug`, `info`, `warn` or `error`.
    pub log_level: Option<LogLevel>,
    /// Which VMM runs new boots.
    pub vmm: Option<VmmChoice>,
    /// Who makes jails for new boots.
    pub mode: Option<ModeChoice>,
    /// The image a VM gets when none is asked.
    pub default_image_name: Option<String>,
    /// The kernel a VM gets when none is asked.
    pub default_kernel_name: Option<String>,
    /// The private key that opens guests' root accounts; its public half stands beside it. Absolute or `~/…`.
    pub ssh_key_path: Option<String>,
    /// The resolver of guests that reach the outside, instead of the host's own.
    pub default_dns: Option<IpAddr>,
    /// How long a new VM may be idle before it is stopped: `30m`; `0` is never.
    pub auto_stop_stale_after: Option<String>,
    /// How long an idle daemon stays, in seconds.
    pub idle_exit_s: Option<u64>,
    /// How long a guest may take until its agent answers, in seconds.
    pub boot_timeout_s: Option<u64>,
    /// Whether fresh VMs go on from templates.
    pub templates: Option<bool>,
    /// Sizes of a VM.
    #[serde(default)]
    pub vm_defaults: VmDefaults,
    /// Files of the host that every boot gets.
    #[serde(default)]
    pub file_sync: Vec<FileSync>,
    /// Registries that are spoken to in a way of their own, by host and port.
    #[serde(default)]
    pub registries: BTreeMap<String, registries::Registry>,
    /// The catalog of images and kernels; none unless its owner has one.
    pub catalog: Option<catalogs::CatalogSection>,
}

/// How much the daemon logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Everything.
    Debug,
    /// What happened.
    Info,
    /// What should not have.
    Warn,
    /// What failed.
    Error,
}

impl LogLevel {
    /// As the file spells it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            LogLevel::Debug => "debug",
            LogLevel::Info => "info",
            LogLevel::Warn => "warn",
            LogLevel::Error => "error",
        }
    }

    /// The level of this name.
    #[must_use]
    pub fn of(name: &str) -> Option<LogLevel> {
        [LogLevel::Debug, LogLevel::Info, LogLevel::Warn, LogLevel::Error]
            .into_iter()
            .find(|level| level.name() == name)
    }
}

/// Which VMM runs new boots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VmmChoice {
    /// Firecracker where it can run, else QEMU.
    Auto,
    /// Firecracker; where it cannot run, nothing does.
    Firecracker,
    /// QEMU.
    Qemu,
}

impl VmmChoice {
    /// As the file spells it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            VmmChoice::Auto => "auto",
            VmmChoice::Firecracker => "firecracker",
            VmmChoice::Qemu => "qemu",
        }
    }
}

/// Who makes jails for new boots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ModeChoice {
    /// The helper where it answers for this daemon, else the daemon itself.
    Auto,
    /// The helper; where it does not answer, no VM starts.
    System,
    /// The daemon, without root.
    Session,
}

impl ModeChoice {
    /// As the file spells it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            ModeChoice::Auto => "auto",
            ModeChoice::System => "system",
            ModeChoice::Session => "session",
        }
    }
}

/// `[vm_defaults]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmDefaults {
    /// Virtual processors.
    pub vcpu: Option<u16>,
    /// Guest memory.
    pub memory_mib: Option<u64>,
    /// Disk size: `8G`.
    pub disk_size: Option<String>,
}

/// What is wrong with the configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It is there and cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It is no TOML, or has a key nobody knows.
    #[error("cannot understand {}, line {line}: {why}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where, counted from 1.
        line: usize,
        /// Why, on one line.
        why: String,
    },
    /// A size that is none.
    #[error("{key} in config.toml is no size")]
    Size {
        /// The key.
        key: &'static str,
        /// Why.
        #[source]
        source: wire::size::SizeError,
    },
    /// A time that is none.
    #[error("{key} in config.toml is no time")]
    Duration {
        /// The key.
        key: &'static str,
        /// Why.
        #[source]
        source: wire::duration::DurationError,
    },
    /// A time no VM may have.
    #[error("auto_stop_stale_after in config.toml is refused")]
    StopAfter(#[source] limits::LimitError),
    /// A size no VM may have.
    #[error("vm_defaults in config.toml is refused")]
    Limit(#[source] limits::LimitError),
    /// A path that is neither absolute nor below the home.
    #[error("{key} in config.toml is {path:?}, neither absolute nor below ~/")]
    Path {
        /// The key.
        key: &'static str,
        /// As written.
        path: String,
    },
    /// Jails of the helper around a VMM that it does not start.
    #[error("config.toml says mode = \"system\" and vmm = \"qemu\": the helper makes jails for Firecracker only")]
    SystemQemu,
    /// An entry of `file_sync` that is refused.
    #[error("file_sync entry {index} in config.toml: {why}")]
    FileSync {
        /// Counted from 1.
        index: usize,
        /// Why.
        why: String,
    },
    /// A registry that cannot be one.
    #[error("registries.{name:?} in config.toml: {what:?} is no host and port")]
    Registry {
        /// The entry.
        name: String,
        /// What is none.
        what: String,
    },
    /// A catalog that is not used.
    #[error("catalog in config.toml is refused")]
    Catalog {
        /// Why.
        #[source]
        source: catalogs::CatalogError,
    },
}

impl ConfigError {
    /// What a person can do about it, where the message does not say it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        use catalog::SourceError;
        use catalogs::CatalogError;
        match self {
            ConfigError::Catalog { source: CatalogError::Source(error) } => match error {
                SourceError::Plain(_) => {
                    Some("use its https address; or say insecure_http = true, it is signed all the same")
                }
                SourceError::NoKey(_) => Some("say who signs it: keys = [\"ed25519:…\"]"),
                SourceError::Unsigned(_) => Some("unsigned = true is for directories and for servers of this host"),
                SourceError::Malformed(_) => None,
            },
            ConfigError::Catalog { source: CatalogError::Key(error) | CatalogError::KeyFile { source: error, .. } } => {
                error.hint()
            }
            _ => None,
        }
    }
}

/// The line of the byte at `offset`, counted from 1.
fn line_of(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
}

impl Config {
    /// Reads the file at `path`; a missing one is an empty one.
    ///
    /// # Errors
    /// When the file cannot be read or understood, or says something that is refused.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Config::default()),
            Err(source) => return Err(ConfigError::Read { path: path.to_path_buf(), source }),
        };
        let config: Config = toml::from_str(&text).map_err(|error| ConfigError::Parse {
            path: path.to_path_buf(),
            line: line_of(&text, error.span().map_or(0, |span| span.start)),
            why: why(error.message()),
        })?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), ConfigError> {
        let disk_bytes = self.disk_bytes()?.unwrap_or(limits::DISK_BYTES_MIN);
        let memory_mib = self.vm_defaults.memory_mib.unwrap_or(limits::MEMORY_MIB_MIN);
        let vcpus = self.vm_defaults.vcpu.unwrap_or(*limits::VCPUS.start());
        limits::check(vcpus, memory_mib, disk_bytes).map_err(ConfigError::Limit)?;
        if let Some(after_ms) = self.stop_after_ms()?.filter(|after_ms| *after_ms > 0) {
            limits::check_stop_after(after_ms).map_err(ConfigError::StopAfter)?;
        }
        if (self.mode, self.vmm) == (Some(ModeChoice::System), Some(VmmChoice::Qemu)) {
            return Err(ConfigError::SystemQemu);
        }
        if let Some(path) = self.ssh_key_path.as_ref().filter(|path| !is_rooted(path)) {
            return Err(ConfigError::Path { key: "ssh_key_path", path: path.clone() });
        }
        for (index, entry) in self.file_sync.iter().enumerate() {
            entry.check().map_err(|why| ConfigError::FileSync { index: index + 1, why })?;
        }
        if let Some(section) = &self.catalog {
            section.check().map_err(|source| ConfigError::Catalog { source })?;
        }
        registries::check(self)
    }

    /// Zero is never.
    fn stop_after_ms(&self) -> Result<Option<u64>, ConfigError> {
        let parse = |text: &String| {
            wire::duration::parse_ms(text)
                .map_err(|source| ConfigError::Duration { key: "auto_stop_stale_after", source })
        };
        self.auto_stop_stale_after.as_ref().map(parse).transpose()
    }

    fn disk_bytes(&self) -> Result<Option<u64>, ConfigError> {
        let parse = |text: &String| {
            wire::size::parse(text, 1).map_err(|source| ConfigError::Size { key: "vm_defaults.disk_size", source })
        };
        self.vm_defaults.disk_size.as_ref().map(parse).transpose()
    }
}

/// Whether a path says where it begins.
fn is_rooted(path: &str) -> bool {
    path.starts_with('/') || path.starts_with("~/")
}

/// `~/x` in the home of this user.
#[must_use]
pub fn expanded(path: &str, home: &Path) -> PathBuf {
    path.strip_prefix("~/").map_or_else(|| PathBuf::from(path), |rest| home.join(rest))
}

/// What the parser says, on one line; of an unknown key the one that was probably meant.
fn why(message: &str) -> String {
    let line = message.replace('\n', ", ");
    let mut names = line.split('`').skip(1).step_by(2);
    let (Some(unknown), true) = (names.next(), line.starts_with("unknown field")) else {
        return line;
    };
    let known: Vec<&str> = names.collect();
    let near = known.iter().min_by_key(|name| strsim::damerau_levenshtein(unknown, name));
    match near.filter(|name| strsim::damerau_levenshtein(unknown, name) <= 1 + unknown.len() / 3) {
        Some(name) => format!("unknown key `{unknown}`; did you mean `{name}`?"),
        None => format!("unknown key `{unknown}`; known here: {}", known.join(", ")),
    }
}

#[cfg(test)]
mod tests;
