//! Says whether a kernel can run the guest: reads its configuration and checks the options the guest needs.
//!
//! [`NEEDS`] is the list, [`WISHES`] what is missed where it is not there, [`RECORDED`] what is noted beside them. An option built as a module counts only if the module
//! is in the tree. A kernel that came without a configuration is judged by its module tree, where options that leave
//! no trace there stay unknown.

use std::collections::BTreeMap;

use super::modules::ModuleTree;
use crate::model::kernel::{ConfigSource, OptionState, WISHES};

/// Lines a configuration may have; a full one has some 12,000.
const LINES_MAX: usize = 100_000;

/// One thing the guest needs.
pub(crate) struct Need {
    option: &'static str,
    /// The module that carries it, where it can be one.
    module: Option<&'static str>,
    /// What for, to tell a person.
    purpose: &'static str,
}

const fn need(option: &'static str, module: Option<&'static str>, purpose: &'static str) -> Need {
    Need { option, module, purpose }
}

/// What a kernel must have. No VMM here has a PCI bus, so that a kernel that finds virtio's devices only there finds none;
/// each has another channel for the agent, and a VM may be started by any.
const NEEDS: &[Need] = &[
    need("CONFIG_X86_64", None, "a 64-bit guest"),
    need("CONFIG_BLK_DEV_INITRD", None, "the initramfs"),
    need("CONFIG_BINFMT_ELF", None, "running programs"),
    need("CONFIG_BINFMT_SCRIPT", Some("binfmt_script"), "running scripts"),
    need("CONFIG_FUTEX", None, "programs with threads"),
    need("CONFIG_MULTIUSER", None, "users other than root"),
    need("CONFIG_UNIX98_PTYS", None, "terminals"),
    need("CONFIG_DEVTMPFS", None, "device nodes"),
    need("CONFIG_TMPFS", None, "/run"),
    need("CONFIG_PROC_FS", None, "/proc"),
    need("CONFIG_SYSFS", None, "/sys"),
    need("CONFIG_CGROUPS", None, "systemd and containers"),
    need("CONFIG_EPOLL", None, "the agent and systemd"),
    need("CONFIG_SIGNALFD", None, "systemd"),
    need("CONFIG_TIMERFD", None, "systemd"),
    need("CONFIG_EVENTFD", None, "the agent and systemd"),
    need("CONFIG_INOTIFY_USER", None, "systemd"),
    need("CONFIG_FHANDLE", None, "systemd"),
    need("CONFIG_NET", None, "the VM's network"),
    need("CONFIG_INET", None, "the VM's network"),
    need("CONFIG_UNIX", Some("unix"), "local sockets"),
    need("CONFIG_ACPI", None, "finding the VM's devices in QEMU"),
    need("CONFIG_VIRTIO", Some("virtio"), "every device of the VM"),
    need("CONFIG_VIRTIO_MMIO", Some("virtio_mmio"), "finding the VM's devices, which are on no PCI bus"),
    need("CONFIG_VIRTIO_BLK", Some("virtio_blk"), "the VM's drives"),
    need("CONFIG_VIRTIO_CONSOLE", Some("virtio_console"), "the agent's channel in QEMU"),
    need("CONFIG_VIRTIO_VSOCKETS", Some("vmw_vsock_virtio_transport"), "the agent's channel in Firecracker"),
    need("CONFIG_VIRTIO_NET", Some("virtio_net"), "the VM's network"),
    need("CONFIG_EXT4_FS", Some("ext4"), "the VM's drives"),
    need("CONFIG_OVERLAY_FS", Some("overlay"), "the VM's own layer over the image"),
];

/// Options that are recorded for the drivers and for people beside [`NEEDS`] and [`WISHES`], and refused by nobody.
const RECORDED: &[(&str, Option<&str>)] = &[
    ("CONFIG_VIRTIO_PCI", Some("virtio_pci")),
    ("CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES", None),
    ("CONFIG_VSOCKETS", Some("vsock")),
    ("CONFIG_MODULE_SIG_FORCE", None),
    ("CONFIG_PVH", None),
];

/// A kernel cannot run the guest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// An option is off.
    #[error("{option} is not set, and the guest needs it for {purpose}")]
    NotSet {
        /// The option.
        option: &'static str,
        /// What for.
        purpose: &'static str,
    },
    /// An option is a module whose file is missing.
    #[error("{option}=m, but module {module} is not in the kernel's module tree")]
    ModuleMissing {
        /// The option.
        option: &'static str,
        /// The module.
        module: &'static str,
    },
    /// It cannot be entered as an ELF file by every VMM.
    #[error("it has no PVH entry (CONFIG_PVH), which QEMU needs to start an unpacked kernel")]
    NoPvh,
    /// There is nothing to judge by.
    #[error("there is no configuration to check: none inside the kernel image, none beside it and no module tree")]
    NoConfig,
}

/// A parsed `.config`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Config(BTreeMap<String, OptionState>);

impl Config {
    /// Reads the text of a `.config`. Lines of another shape are skipped, as the kernel's own tools do.
    pub(crate) fn parse(text: &str) -> Self {
        let mut options = BTreeMap::new();
        for line in text.lines().take(LINES_MAX) {
            let line = line.trim();
            let Some((name, value)) = line.split_once('=') else {
                continue;
            };
            if !name.starts_with("CONFIG_") || name.contains(char::is_whitespace) {
                continue;
            }
            let state = match value {
                "m" => OptionState::Module,
                "n" => continue,
                _ => OptionState::BuiltIn,
            };
            options.insert(name.to_owned(), state);
        }
        Self(options)
    }

    fn get(&self, option: &str) -> OptionState {
        self.0.get(option).copied().unwrap_or(OptionState::Absent)
    }

    /// Whether this looks like a configuration at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What is known about a kernel's options, for the manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) source: ConfigSource,
    pub(crate) options: BTreeMap<String, OptionState>,
}

/// Reads the facts from a configuration, or without one from the module tree.
pub(crate) fn facts(config: Option<(&Config, ConfigSource)>, tree: Option<&ModuleTree>) -> Result<Facts, Unfit> {
    let needed = NEEDS.iter().map(|need| (need.option, need.module));
    let wished = WISHES.iter().map(|wish| (wish.option, wish.module));
    let looked_at = needed.chain(wished).chain(RECORDED.iter().copied());
    if let Some((config, source)) = config {
        let options = looked_at.map(|(option, _)| (option.to_owned(), config.get(option)));
        return Ok(Facts { source, options: options.collect() });
    }
    let tree = tree.ok_or(Unfit::NoConfig)?;
    let state = |module: Option<&str>| match module {
        Some(module) if tree.is_builtin(module) => OptionState::BuiltIn,
        Some(module) if tree.has(module) => OptionState::Module,
        Some(_) => OptionState::Absent,
        None => OptionState::Unknown,
    };
    Ok(Facts {
        source: ConfigSource::ModuleTree,
        options: looked_at
            .map(|(option, module)| {
                let derived = match (option, state(module)) {
                    // af_unix is bool or tristate by version, and a bool leaves no trace in modules.builtin.
                    ("CONFIG_UNIX", OptionState::Absent) => OptionState::Unknown,
                    (_, state) => state,
                };
                (option.to_owned(), derived)
            })
            .collect(),
    })
}

/// Refuses a kernel that cannot run the guest, naming the option.
pub(crate) fn check(facts: &Facts, tree: Option<&ModuleTree>) -> Result<(), Unfit> {
    for Need { option, module, purpose } in NEEDS {
        match facts.options.get(*option).copied().unwrap_or(OptionState::Absent) {
            OptionState::BuiltIn | OptionState::Unknown => {}
            OptionState::Absent => return Err(Unfit::NotSet { option, purpose }),
            OptionState::Module => {
                let module = module.unwrap_or(option);
                if !tree.is_some_and(|tree| tree.has(module)) {
                    return Err(Unfit::ModuleMissing { option, module });
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A configuration with everything needed built in.
    fn complete() -> String {
        NEEDS.iter().map(|need| format!("{}=y\n", need.option)).collect()
    }

    fn judge(text: &str, tree: Option<&ModuleTree>) -> Result<(), Unfit> {
        let config = Config::parse(text);
        check(&facts(Some((&config, ConfigSource::File)), tree)?, tree)
    }

    #[test]
    fn parses_the_shapes_of_a_config() {
        let config = Config::parse(
            "#\n# Linux\nCONFIG_A=y\nCONFIG_B=m\n# CONFIG_C is not set\nCONFIG_D=\"\"\nCONFIG_E=0x10\nCONFIG_F=n\nnoise\nX=y\n",
        );
        for (option, state) in [
            ("CONFIG_A", OptionState::BuiltIn),
            ("CONFIG_B", OptionState::Module),
            ("CONFIG_C", OptionState::Absent),
            ("CONFIG_D", OptionState::BuiltIn),
            ("CONFIG_E", OptionState::BuiltIn),
            ("CONFIG_F", OptionState::Absent),
            ("X", OptionState::Absent),
        ] {
            assert_eq!(config.get(option), state, "{option}");
        }
        assert!(Config::parse("nothing here").is_empty());
    }

    #[test]
    fn each_missing_option_is_named() {
        assert_eq!(judge(&complete(), None), Ok(()));
        for Need { option, purpose, .. } in NEEDS {
            let text = complete().replace(&format!("{option}=y\n"), &format!("# {option} is not set\n"));
            let err = judge(&text, None).expect_err(option).to_string();
            assert_eq!(err, format!("{option} is not set, and the guest needs it for {purpose}"));
        }
        for option in
            ["OVERLAY_FS", "VIRTIO_VSOCKETS", "VIRTIO_CONSOLE", "VIRTIO_BLK", "EXT4_FS", "CGROUPS", "DEVTMPFS"]
        {
            assert!(NEEDS.iter().any(|need| need.option.strip_prefix("CONFIG_") == Some(option)), "{option}");
        }
    }

    #[test]
    fn a_kernel_that_knows_only_pci_is_refused() {
        let text = complete().replace("CONFIG_VIRTIO_MMIO=y", "CONFIG_VIRTIO_PCI=y");
        let err = judge(&text, None).expect_err("no VMM has PCI").to_string();
        assert!(err.starts_with("CONFIG_VIRTIO_MMIO is not set") && err.contains("no PCI bus"), "{err}");
    }

    #[test]
    fn the_lean_kernel_has_all_that_is_needed_and_wished_for_built_in() {
        let fragment = Config::parse(include_str!("../../../../../kernels/lean/fragment.config"));
        for option in NEEDS.iter().map(|need| need.option).chain(WISHES.iter().map(|wish| wish.option)) {
            assert_eq!(fragment.get(option), OptionState::BuiltIn, "{option}");
        }
    }

    #[test]
    fn an_option_stands_in_one_list() {
        let listed = NEEDS.iter().map(|need| need.option).chain(WISHES.iter().map(|wish| wish.option));
        let mut all: Vec<_> = listed.chain(RECORDED.iter().map(|(option, _)| *option)).collect();
        assert!(all.iter().all(|option| option.starts_with("CONFIG_")));
        all.sort_unstable();
        let count = all.len();
        all.dedup();
        assert_eq!(all.len(), count);
    }

    #[test]
    fn a_module_counts_only_with_its_file() {
        let text = complete().replace("CONFIG_OVERLAY_FS=y", "CONFIG_OVERLAY_FS=m");
        let with = ModuleTree::parse("kernel/fs/overlayfs/overlay.ko:\n", "").expect("one line");
        let without = ModuleTree::parse("kernel/fs/erofs/erofs.ko:\n", "").expect("one line");
        assert_eq!(judge(&text, Some(&with)), Ok(()));
        for tree in [None, Some(&without)] {
            let err = judge(&text, tree).expect_err("no file");
            assert!(matches!(err, Unfit::ModuleMissing { module: "overlay", .. }), "{err}");
        }
    }

    #[test]
    fn without_a_config_the_tree_decides() {
        assert_eq!(facts(None, None), Err(Unfit::NoConfig));
        let deps = "a/virtio.ko:\na/virtio_mmio.ko:\na/virtio-blk.ko:\na/virtio_console.ko:\na/virtio_net.ko:\n\
            a/vmw_vsock_virtio_transport.ko:\n";
        let builtin = "kernel/fs/ext4/ext4.ko\nkernel/fs/binfmt_script.ko\n";
        let lacking = ModuleTree::parse(deps, builtin).expect("lines");
        let derived = facts(None, Some(&lacking)).expect("a tree");
        assert_eq!(derived.options["CONFIG_EXT4_FS"], OptionState::BuiltIn);
        assert_eq!(derived.options["CONFIG_VIRTIO_BLK"], OptionState::Module);
        assert_eq!(derived.options["CONFIG_CGROUPS"], OptionState::Unknown);
        let err = check(&derived, Some(&lacking)).expect_err("no overlay").to_string();
        assert!(err.contains("CONFIG_OVERLAY_FS"), "{err}");
        let whole = ModuleTree::parse(&format!("{deps}a/overlay.ko:\n"), builtin).expect("lines");
        let derived = facts(None, Some(&whole)).expect("a tree");
        assert_eq!(check(&derived, Some(&whole)), Ok(()));
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in "(CONFIG_[A-Z]{0,3}[= ][ymn\"]{0,3}\n|.{0,20}\n){0,20}") {
            let _outcome = judge(&text, None);
        }
    }
}
