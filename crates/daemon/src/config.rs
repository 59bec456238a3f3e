//! `config.toml`: what its owner decided; every key is optional and an unknown one is refused.
//!
//! Read once, at the daemon's start. A VM's sizes are resolved field by field: asked for → config → this host → floor.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use wire::agent::message::SyncedFile;
use wire::api::Defaults;

use crate::model::limits;

/// The image a VM gets when none is asked.
pub const DEFAULT_IMAGE: &str = "debian-bookworm";
/// The kernel a VM gets when none is asked: the Debian package it is imported from.
pub const DEFAULT_KERNEL: &str = "linux-image-cloud-amd64";

/// How long a daemon without running VMs and work stays, in seconds: long enough for the next command of somebody at a
/// keyboard, short enough that nothing is left behind.
const IDLE_EXIT_S: u64 = 60;
/// Most bytes of one file of `file_sync`: it travels inside the boot configuration.
const SYNC_FILE_BYTES_MAX: u64 = 256 * 1024;

/// The file as written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// `debug`, `info`, `warn` or `error`.
    pub log_level: Option<LogLevel>,
    /// The image a VM gets when none is asked.
    pub default_image_name: Option<String>,
    /// The kernel a VM gets when none is asked.
    pub default_kernel_name: Option<String>,
    /// How long an idle daemon stays, in seconds.
    pub idle_exit_s: Option<u64>,
    /// How long a guest may take until its agent answers, in seconds.
    pub boot_timeout_s: Option<u64>,
    /// Sizes of a VM.
    #[serde(default)]
    pub vm_defaults: VmDefaults,
    /// Files of the host that every boot gets.
    #[serde(default)]
    pub file_sync: Vec<FileSync>,
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

/// One `[[file_sync]]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileSync {
    /// On the host: absolute or `~/…`.
    pub host: String,
    /// In the guest: below `~/` or `/root/`.
    pub guest: String,
    /// Permission bits, octal: `0600`.
    pub mode: Option<String>,
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
    /// A size no VM may have.
    #[error("vm_defaults in config.toml is refused")]
    Limit(#[source] limits::LimitError),
    /// An entry of `file_sync` that is refused.
    #[error("file_sync entry {index} in config.toml: {why}")]
    FileSync {
        /// Counted from 1.
        index: usize,
        /// Why.
        why: String,
    },
}

/// The line of the byte at `offset`, counted from 1.
fn line_of(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
}

impl Config {
    /// Reads `dir/config.toml`; a missing file is an empty one.
    ///
    /// # Errors
    /// When the file cannot be read or understood, or says something that is refused.
    pub fn load(dir: &Path) -> Result<Config, ConfigError> {
        let path = dir.join("config.toml");
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Config::default()),
            Err(source) => return Err(ConfigError::Read { path, source }),
        };
        let config: Config = toml::from_str(&text).map_err(|error| ConfigError::Parse {
            path,
            line: line_of(&text, error.span().map_or(0, |span| span.start)),
            why: error.message().replace('\n', ", "),
        })?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), ConfigError> {
        let disk_bytes = self.disk_bytes()?.unwrap_or(limits::DISK_BYTES_MIN);
        let memory_mib = self.vm_defaults.memory_mib.unwrap_or(limits::MEMORY_MIB_MIN);
        let vcpus = self.vm_defaults.vcpu.unwrap_or(*limits::VCPUS.start());
        limits::check(vcpus, memory_mib, disk_bytes).map_err(ConfigError::Limit)?;
        for (index, entry) in self.file_sync.iter().enumerate() {
            entry.check().map_err(|why| ConfigError::FileSync { index: index + 1, why })?;
        }
        Ok(())
    }

    fn disk_bytes(&self) -> Result<Option<u64>, ConfigError> {
        let parse = |text: &String| {
            wire::size::parse(text, 1).map_err(|source| ConfigError::Size { key: "vm_defaults.disk_size", source })
        };
        self.vm_defaults.disk_size.as_ref().map(parse).transpose()
    }

    /// What a VM gets when nothing is asked, on a host of this size.
    ///
    /// # Errors
    /// When the configured disk size is none; [`Config::load`] has refused that before.
    pub fn defaults(&self, host: HostSize) -> Result<Defaults, ConfigError> {
        let vcpus = u16::try_from(host.cpus / 4).unwrap_or(u16::MAX).clamp(VCPUS_FLOOR, 4);
        Ok(Defaults {
            image: self.default_image_name.clone().unwrap_or_else(|| DEFAULT_IMAGE.to_owned()),
            kernel: self.default_kernel_name.clone().unwrap_or_else(|| DEFAULT_KERNEL.to_owned()),
            vcpus: self.vm_defaults.vcpu.unwrap_or(vcpus),
            memory_mib: self
                .vm_defaults
                .memory_mib
                .unwrap_or_else(|| (host.memory_mib / 8).clamp(MEMORY_MIB_FLOOR, 8192)),
            disk_bytes: self.disk_bytes()?.unwrap_or(8 << 30),
        })
    }

    /// How long an idle daemon stays.
    #[must_use]
    pub fn idle_exit(&self) -> std::time::Duration {
        std::time::Duration::from_secs(self.idle_exit_s.unwrap_or(IDLE_EXIT_S))
    }

    /// Reads the files of `file_sync`, `home` standing for `~`: what the guest gets, and warnings about what is missing.
    #[must_use]
    pub fn synced_files(&self, home: &Path) -> (Vec<SyncedFile>, Vec<String>) {
        let (mut files, mut warnings) = (Vec::new(), Vec::new());
        for entry in &self.file_sync {
            match entry.read(home) {
                Ok(file) => files.push(file),
                Err(why) => warnings.push(format!("file_sync: {} is left out: {why}", entry.host)),
            }
        }
        (files, warnings)
    }
}

const VCPUS_FLOOR: u16 = 2;
const MEMORY_MIB_FLOOR: u64 = 1024;

/// How large this host is.
#[derive(Debug, Clone, Copy)]
pub struct HostSize {
    /// Processors online.
    pub cpus: usize,
    /// Memory in all.
    pub memory_mib: u64,
}

impl FileSync {
    fn check(&self) -> Result<(), String> {
        if !(self.host.starts_with("~/") || self.host.starts_with('/')) {
            return Err(format!("host path {:?} is neither absolute nor below ~/", self.host));
        }
        if !(self.guest.starts_with("~/") || self.guest.starts_with("/root/")) {
            return Err(format!("guest path {:?} is neither below ~/ nor below /root/", self.guest));
        }
        for path in [&self.host, &self.guest] {
            if path.split('/').any(|part| part == "..") {
                return Err(format!("{path:?} contains .."));
            }
        }
        self.mode().map(drop)
    }

    fn mode(&self) -> Result<u32, String> {
        match &self.mode {
            None => Ok(0o600),
            Some(text) => match u32::from_str_radix(text, 8) {
                Ok(mode) if mode <= 0o7777 => Ok(mode),
                _ => Err(format!("mode {text:?} is not octal permission bits")),
            },
        }
    }

    fn read(&self, home: &Path) -> Result<SyncedFile, String> {
        let host = match self.host.strip_prefix("~/") {
            Some(rest) => home.join(rest),
            None => PathBuf::from(&self.host),
        };
        let meta = std::fs::metadata(&host).map_err(|e| e.kind().to_string())?;
        if !meta.is_file() {
            return Err("it is not a regular file".to_owned());
        }
        if meta.len() > SYNC_FILE_BYTES_MAX {
            return Err(format!("it is larger than {}", wire::size::human(SYNC_FILE_BYTES_MAX)));
        }
        let content = std::fs::read(&host).map_err(|e| e.kind().to_string())?;
        let path = self.guest.strip_prefix("~/").map_or_else(|| self.guest.clone(), |rest| format!("/root/{rest}"));
        let content_hex = content.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(SyncedFile { path, mode: self.mode()?, content_hex })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Config, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.toml"), text).unwrap();
        Config::load(dir.path())
    }

    #[test]
    fn sizes_come_from_config_then_host_then_floor() {
        let small = HostSize { cpus: 2, memory_mib: 2048 };
        let large = HostSize { cpus: 64, memory_mib: 262_144 };
        let empty = Config::default();
        let floor = empty.defaults(small).unwrap();
        assert_eq!((floor.vcpus, floor.memory_mib, floor.disk_bytes), (2, 1024, 8 << 30));
        let host = empty.defaults(large).unwrap();
        assert_eq!((host.vcpus, host.memory_mib), (4, 8192));
        let config = load("[vm_defaults]\nvcpu = 7\nmemory_mib = 300\ndisk_size = \"20G\"").unwrap();
        let set = config.defaults(large).unwrap();
        assert_eq!((set.vcpus, set.memory_mib, set.disk_bytes), (7, 300, 20 << 30));
    }

    #[test]
    fn what_is_refused() {
        for (text, part) in [
            ("colour = true", "config.toml, line 1: unknown field"),
            ("\n\n[x", "config.toml, line 3: unclosed table"),
            ("[vm_defaults]\nvcpu = 900", "not 900"),
            ("[vm_defaults]\nmemory_mib = 1", "not 1 MiB"),
            ("[vm_defaults]\ndisk_size = \"1M\"", "not 1 MiB"),
            ("[vm_defaults]\ncpus = 1", "unknown field"),
            ("[vm_defaults]\ndisk_size = \"many\"", "not a size"),
            ("[[file_sync]]\nhost = \"x\"\nguest = \"~/x\"", "entry 1"),
            ("[[file_sync]]\nhost = \"~/a\"\nguest = \"/etc/x\"", "entry 1"),
            ("[[file_sync]]\nhost = \"~/../x\"\nguest = \"~/x\"", "contains .."),
            ("[[file_sync]]\nhost = \"~/x\"\nguest = \"~/x\"\nmode = \"rw\"", "octal"),
        ] {
            let error = load(text).unwrap_err();
            let chain = wire::api::ApiError::from_chain(wire::api::ErrorCode::BadRequest, &error).message;
            assert!(chain.contains(part), "{text:?}: {chain}");
        }
    }

    #[test]
    fn files_are_read_at_every_boot_and_missing_ones_warn() {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("token"), b"\x00s").unwrap();
        let config = load(
            "[[file_sync]]\nhost = \"~/token\"\nguest = \"~/.token\"\n[[file_sync]]\nhost = \"~/no\"\nguest = \"/root/no\"",
        )
        .unwrap();
        let (files, warnings) = config.synced_files(home.path());
        assert_eq!(files, [SyncedFile { path: "/root/.token".into(), mode: 0o600, content_hex: "0073".into() }]);
        assert_eq!(warnings.len(), 1);
    }
}
