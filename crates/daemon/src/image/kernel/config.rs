//! Says whether a kernel can run the guest: reads its configuration and checks the options the guest needs.
//!
//! [`NEEDS`] is the list, [`RECORDED`] what is noted beside it. An option built as a module counts only if the module
//! is in the tree. A kernel that came without a configuration is judged by its module tree, where options that leave
//! no trace there stay unknown.

use std::collections::BTreeMap;

use super::modules::ModuleTree;
use crate::model::kernel::{ConfigSource, OptionState};

/// Lines a configuration may have; a full one has some 12,000.
const LINES_MAX: usize = 100_000;

/// One thing the guest needs: any one of several options.
pub(crate) struct Need {
    /// The options, each with the module that carries it where it can be one.
    any_of: &'static [(&'static str, Option<&'static str>)],
    /// What for, to tell a person.
    purpose: &'static str,
}

const fn need(any_of: &'static [(&'static str, Option<&'static str>)], purpose: &'static str) -> Need {
    Need { any_of, purpose }
}

/// What a kernel must have.
const NEEDS: &[Need] = &[
    need(&[("CONFIG_X86_64", None)], "a 64-bit guest"),
    need(&[("CONFIG_BLK_DEV_INITRD", None)], "the initramfs"),
    need(&[("CONFIG_BINFMT_ELF", None)], "running programs"),
    need(&[("CONFIG_DEVTMPFS", None)], "device nodes"),
    need(&[("CONFIG_TMPFS", None)], "/run"),
    need(&[("CONFIG_PROC_FS", None)], "/proc"),
    need(&[("CONFIG_SYSFS", None)], "/sys"),
    need(&[("CONFIG_CGROUPS", None)], "systemd and containers"),
    need(&[("CONFIG_UNIX", Some("unix"))], "local sockets"),
    need(&[("CONFIG_VIRTIO", Some("virtio"))], "every device of the VM"),
    need(
        &[("CONFIG_VIRTIO_MMIO", Some("virtio_mmio")), ("CONFIG_VIRTIO_PCI", Some("virtio_pci"))],
        "finding the VM's devices",
    ),
    need(&[("CONFIG_VIRTIO_BLK", Some("virtio_blk"))], "the VM's drives"),
    need(&[("CONFIG_VIRTIO_CONSOLE", Some("virtio_console"))], "the agent's channel"),
    need(&[("CONFIG_VIRTIO_NET", Some("virtio_net"))], "the VM's network"),
    need(&[("CONFIG_EXT4_FS", Some("ext4"))], "the VM's drives"),
    need(&[("CONFIG_OVERLAY_FS", Some("overlay"))], "the VM's own layer over the image"),
];

/// Options that are recorded for the drivers and for people, and refused by nobody here.
const RECORDED: &[(&str, Option<&str>)] = &[
    ("CONFIG_ACPI", None),
    ("CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES", None),
    ("CONFIG_VSOCKETS", Some("vsock")),
    ("CONFIG_VIRTIO_VSOCKETS", Some("vmw_vsock_virtio_transport")),
    ("CONFIG_EROFS_FS", Some("erofs")),
    ("CONFIG_FUSE_FS", Some("fuse")),
    ("CONFIG_NF_TABLES", Some("nf_tables")),
    ("CONFIG_BRIDGE", Some("bridge")),
    ("CONFIG_HW_RANDOM_VIRTIO", Some("virtio_rng")),
    ("CONFIG_MODULE_SIG_FORCE", None),
    ("CONFIG_PVH", None),
];

/// A kernel cannot run the guest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// An option is off.
    #[error("{} is not set, and the guest needs it for {purpose}", .options.join(" or "))]
    NotSet {
        /// The option, or the several of which one would do.
        options: Vec<&'static str>,
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
    let needed = NEEDS.iter().flat_map(|need| need.any_of);
    let looked_at = needed.chain(RECORDED);
    if let Some((config, source)) = config {
        let options = looked_at.map(|(option, _)| ((*option).to_owned(), config.get(option)));
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
                let derived = match (*option, state(*module)) {
                    // af_unix is bool or tristate by version, and a bool leaves no trace in modules.builtin.
                    ("CONFIG_UNIX", OptionState::Absent) => OptionState::Unknown,
                    (_, state) => state,
                };
                ((*option).to_owned(), derived)
            })
            .collect(),
    })
}

/// Refuses a kernel that cannot run the guest, naming the option.
pub(crate) fn check(facts: &Facts, tree: Option<&ModuleTree>) -> Result<(), Unfit> {
    for need in NEEDS {
        let mut missing_module = None;
        let satisfied = need.any_of.iter().any(|(option, module)| {
            match facts.options.get(*option).copied().unwrap_or(OptionState::Absent) {
                OptionState::BuiltIn | OptionState::Unknown => true,
                OptionState::Absent => false,
                OptionState::Module => {
                    let module = module.unwrap_or(option);
                    let there = tree.is_some_and(|tree| tree.has(module));
                    if !there {
                        missing_module = Some(Unfit::ModuleMissing { option, module });
                    }
                    there
                }
            }
        });
        if !satisfied {
            return Err(missing_module.unwrap_or_else(|| Unfit::NotSet {
                options: need.any_of.iter().map(|(option, _)| *option).collect(),
                purpose: need.purpose,
            }));
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
        NEEDS.iter().map(|need| format!("{}=y\n", need.any_of[0].0)).collect()
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
        for need in NEEDS {
            let option = need.any_of[0].0;
            let text = complete().replace(&format!("{option}=y\n"), &format!("# {option} is not set\n"));
            let err = judge(&text, None).expect_err(option).to_string();
            assert!(err.contains(&format!("{option} ")), "{err}");
        }
    }

    #[test]
    fn one_of_several_is_enough() {
        let text = complete().replace("CONFIG_VIRTIO_MMIO=y", "CONFIG_VIRTIO_PCI=y");
        assert_eq!(judge(&text, None), Ok(()));
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
        let deps = "a/virtio.ko:\na/virtio_mmio.ko:\na/virtio-blk.ko:\na/virtio_console.ko:\na/virtio_net.ko:\n";
        let lacking = ModuleTree::parse(deps, "kernel/fs/ext4/ext4.ko\n").expect("lines");
        let derived = facts(None, Some(&lacking)).expect("a tree");
        assert_eq!(derived.options["CONFIG_EXT4_FS"], OptionState::BuiltIn);
        assert_eq!(derived.options["CONFIG_VIRTIO_BLK"], OptionState::Module);
        assert_eq!(derived.options["CONFIG_CGROUPS"], OptionState::Unknown);
        let err = check(&derived, Some(&lacking)).expect_err("no overlay").to_string();
        assert!(err.contains("CONFIG_OVERLAY_FS"), "{err}");
        let whole = ModuleTree::parse(&format!("{deps}a/overlay.ko:\n"), "kernel/fs/ext4/ext4.ko\n").expect("lines");
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
