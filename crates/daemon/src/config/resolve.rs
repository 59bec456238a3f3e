//! What holds, setting by setting: environment → config → this host → default, and where each came from.

use std::path::Path;
use std::time::Duration;

use wire::api::{Configuration, Defaults, Origin, Setting};

use super::{Config, ConfigError, DEFAULT_IMAGE, DEFAULT_KERNEL, LogLevel, ModeChoice, VmmChoice};

/// How long a daemon without running VMs and work stays, in seconds: long enough for the next command of somebody at a
/// keyboard, short enough that nothing is left behind.
const IDLE_EXIT_S: u64 = 60;
/// How long a guest may take to answer where the processor is emulated, in seconds: ten times the usual, for a busy host.
const BOOT_TIMEOUT_EMULATED_S: u64 = 90;
/// The same where it is not.
const BOOT_TIMEOUT_S: u64 = 30;
/// A VM has at least two processors: one that waits for the other would have init and command take turns.
const VCPUS_FLOOR: u16 = 2;
const MEMORY_MIB_FLOOR: u64 = 1024;
const DISK_BYTES: u64 = 8 << 30;

/// What a host is, as far as settings depend on it.
#[derive(Debug, Clone, Copy)]
pub struct HostSize {
    /// Processors online.
    pub cpus: usize,
    /// Memory in all.
    pub memory_mib: u64,
    /// Guests' processors are emulated.
    pub is_emulated: bool,
}

/// What the environment says over the file.
#[derive(Debug, Clone, Copy, Default)]
pub struct Overrides {
    /// `BANGER_LOG_LEVEL`.
    pub log_level: Option<LogLevel>,
    /// `BANGER_VMM`.
    pub vmm: Option<VmmChoice>,
}

/// A value and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved<T> {
    /// What holds.
    pub value: T,
    origin: Origin,
    why: Option<String>,
}

impl<T> Resolved<T> {
    fn configured_or(configured: Option<T>, otherwise: impl FnOnce() -> Resolved<T>) -> Resolved<T> {
        match configured {
            Some(value) => Resolved { value, origin: Origin::Config, why: None },
            None => otherwise(),
        }
    }

    fn default(value: T) -> Resolved<T> {
        Resolved { value, origin: Origin::Default, why: None }
    }

    fn host(value: T, why: String) -> Resolved<T> {
        Resolved { value, origin: Origin::Host, why: Some(why) }
    }

    fn setting(&self, key: &str, text: impl FnOnce(&T) -> String) -> Setting {
        Setting { key: key.to_owned(), value: text(&self.value), origin: self.origin, why: self.why.clone() }
    }
}

/// Every setting, resolved.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `log_level`.
    pub log_level: Resolved<LogLevel>,
    /// `vmm`.
    pub vmm: Resolved<VmmChoice>,
    /// `mode`.
    pub mode: Resolved<ModeChoice>,
    image: Resolved<String>,
    kernel: Resolved<String>,
    vcpus: Resolved<u16>,
    memory_mib: Resolved<u64>,
    disk_bytes: Resolved<u64>,
    boot_timeout_s: Resolved<u64>,
    /// Zero is never.
    stop_after_ms: Resolved<u64>,
    idle_exit_s: Resolved<u64>,
    templates: Resolved<bool>,
}

impl Config {
    /// What holds on this host.
    ///
    /// # Errors
    /// When the configured disk size or time is none; [`Config::load`] has refused that before.
    pub fn resolve(&self, host: HostSize, over: Overrides) -> Result<Settings, ConfigError> {
        let sizes = &self.vm_defaults;
        let log_level = match over.log_level {
            Some(value) => Resolved { value, origin: Origin::Environment, why: Some("BANGER_LOG_LEVEL".to_owned()) },
            None => Resolved::configured_or(self.log_level, || Resolved::default(LogLevel::Info)),
        };
        let vmm = match over.vmm {
            Some(value) => Resolved { value, origin: Origin::Environment, why: Some("BANGER_VMM".to_owned()) },
            None => Resolved::configured_or(self.vmm, || Resolved::default(VmmChoice::Auto)),
        };
        let name = |configured: &Option<String>, otherwise: &str| {
            Resolved::configured_or(configured.clone(), || Resolved::default(otherwise.to_owned()))
        };
        Ok(Settings {
            log_level,
            vmm,
            mode: Resolved::configured_or(self.mode, || Resolved::default(ModeChoice::Auto)),
            image: name(&self.default_image_name, DEFAULT_IMAGE),
            kernel: name(&self.default_kernel_name, DEFAULT_KERNEL),
            vcpus: Resolved::configured_or(sizes.vcpu, || vcpus(host.cpus)),
            memory_mib: Resolved::configured_or(sizes.memory_mib, || memory_mib(host.memory_mib)),
            disk_bytes: Resolved::configured_or(self.disk_bytes()?, || Resolved::default(DISK_BYTES)),
            stop_after_ms: Resolved::configured_or(self.stop_after_ms()?, || Resolved::default(0)),
            boot_timeout_s: Resolved::configured_or(self.boot_timeout_s, || boot_timeout_s(host.is_emulated)),
            idle_exit_s: Resolved::configured_or(self.idle_exit_s, || Resolved::default(IDLE_EXIT_S)),
            templates: Resolved::configured_or(self.templates, || Resolved::default(true)),
        })
    }
}

fn vcpus(cpus: usize) -> Resolved<u16> {
    let quarter = u16::try_from(cpus / 4).unwrap_or(u16::MAX);
    if quarter < VCPUS_FLOOR {
        return Resolved::default(VCPUS_FLOOR);
    }
    Resolved::host(quarter.min(4), format!("a quarter of {cpus} processors, at most 4"))
}

fn memory_mib(total: u64) -> Resolved<u64> {
    let eighth = total / 8;
    if eighth < MEMORY_MIB_FLOOR {
        return Resolved::default(MEMORY_MIB_FLOOR);
    }
    Resolved::host(eighth.min(8192), format!("an eighth of {}, at most 8 GiB", wire::size::human(total << 20)))
}

fn boot_timeout_s(is_emulated: bool) -> Resolved<u64> {
    if is_emulated {
        return Resolved::host(BOOT_TIMEOUT_EMULATED_S, "processors are emulated".to_owned());
    }
    Resolved::default(BOOT_TIMEOUT_S)
}

/// A time as the file could say it.
fn off_or(ms: u64) -> String {
    match ms {
        0 => "0".to_owned(),
        ms if ms % 60_000 == 0 => format!("{}m", ms / 60_000),
        ms if ms % 1000 == 0 => format!("{}s", ms / 1000),
        ms => format!("{ms}ms"),
    }
}

impl Settings {
    /// What a VM gets when nothing is asked.
    #[must_use]
    pub fn defaults(&self) -> Defaults {
        Defaults {
            image: self.image.value.clone(),
            kernel: self.kernel.value.clone(),
            vcpus: self.vcpus.value,
            memory_mib: self.memory_mib.value,
            disk_bytes: self.disk_bytes.value,
            stop_after_ms: Some(self.stop_after_ms.value).filter(|after_ms| *after_ms > 0),
        }
    }

    /// How long a guest may take until its agent answers.
    #[must_use]
    pub fn boot_timeout(&self) -> Duration {
        Duration::from_secs(self.boot_timeout_s.value)
    }

    /// How long an idle daemon stays.
    #[must_use]
    pub fn idle_exit(&self) -> Duration {
        Duration::from_secs(self.idle_exit_s.value)
    }

    /// Whether fresh VMs go on from templates.
    #[must_use]
    pub fn templates(&self) -> bool {
        self.templates.value
    }

    /// All of it for people: `config` is what was read from the file at `path`.
    #[must_use]
    pub fn describe(&self, config: &Config, path: &Path, ssh_key: &Path) -> Configuration {
        let quoted = |text: &String| format!("{text:?}");
        let plain = |number: &u64| number.to_string();
        let key = Resolved::configured_or(config.ssh_key_path.clone(), || Resolved {
            value: ssh_key.display().to_string(),
            origin: Origin::Default,
            why: Some("made on first use".to_owned()),
        });
        let dns = Resolved::configured_or(config.default_dns.map(|address| address.to_string()), || Resolved {
            value: "-".to_owned(),
            origin: Origin::Host,
            why: Some("its own resolvers".to_owned()),
        });
        let sync = Resolved::configured_or((!config.file_sync.is_empty()).then_some(config.file_sync.len()), || {
            Resolved::default(0)
        });
        let registries =
            Resolved::configured_or((!config.registries.is_empty()).then_some(config.registries.len()), || {
                Resolved::default(0)
            });
        let catalog = Resolved::configured_or(config.catalog.as_ref().map(|section| section.source.clone()), || {
            Resolved { value: "-".to_owned(), origin: Origin::Default, why: Some("there is no public one".to_owned()) }
        });
        Configuration {
            exists: path.exists(),
            path: path.display().to_string(),
            settings: vec![
                self.log_level.setting("log_level", |level| format!("{:?}", level.name())),
                self.vmm.setting("vmm", |choice| format!("{:?}", choice.name())),
                self.mode.setting("mode", |choice| format!("{:?}", choice.name())),
                self.image.setting("default_image_name", quoted),
                self.kernel.setting("default_kernel_name", quoted),
                key.setting("ssh_key_path", quoted),
                dns.setting("default_dns", |text| if text == "-" { text.clone() } else { quoted(text) }),
                self.stop_after_ms.setting("auto_stop_stale_after", |ms| quoted(&off_or(*ms))),
                self.idle_exit_s.setting("idle_exit_s", plain),
                self.boot_timeout_s.setting("boot_timeout_s", plain),
                self.templates.setting("templates", ToString::to_string),
                self.vcpus.setting("vm_defaults.vcpu", ToString::to_string),
                self.memory_mib.setting("vm_defaults.memory_mib", plain),
                self.disk_bytes.setting("vm_defaults.disk_size", |bytes| quoted(&wire::size::human(*bytes))),
                sync.setting("file_sync", |count| format!("{count} entries")),
                registries.setting("registries", |count| format!("{count} entries")),
                catalog.setting("catalog.source", |text| if text == "-" { text.clone() } else { quoted(text) }),
            ],
        }
    }
}
