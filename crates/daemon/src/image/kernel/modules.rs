//! A kernel's module tree: which modules there are, what depends on what, and the order to load them in.
//!
//! The facts come from `modules.dep` and `modules.builtin` (depmod(8), modules.dep(5)). Debian's kernel packages carry
//! no `modules.dep`; [`index`] has depmod make it, and with it the indexes modprobe needs inside the guest.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::KernelError;
use crate::image::codec::Codec;
use crate::image::stream::Bounded;
use crate::model::kernel::ModuleCompression;

/// `modules.dep` of a full distribution kernel is under 1 MB.
const INDEX_MAX_BYTES: u64 = 64 << 20;
/// The largest modules (GPU drivers) are some 20 MB; those banger loads are far smaller.
const MODULE_MAX_BYTES: u64 = 64 << 20;

/// What the initramfs loads where it is a module, in this order: the way to every device, the drives and what is on them,
/// the agent's channel, the rest.
const WANTED: &[&str] = &[
    "virtio",
    "virtio_mmio",
    "virtio_blk",
    "ext4",
    "overlay",
    "virtio_console",
    "vmw_vsock_virtio_transport",
    "unix",
    "virtio_net",
    "virtio_rng",
];
/// What the groups but the last hold, in the order of the initramfs' list: the way to every device, what is on the drives,
/// the drives, the agent's channel of one kind and of the other.
const GROUPS: [&[&str]; 5] = [
    &["virtio", "virtio_mmio", "virtio_pci"],
    &["ext4", "overlay"],
    &["virtio_blk"],
    &["virtio_console"],
    &["vmw_vsock_virtio_transport"],
];
/// ext4 as a module asks for these by a soft dependency, which modules.dep does not list.
const WANTED_BY_EXT4: &[&str] = &["crc32c_generic", "crc32c_intel"];

/// Why the order of modules cannot be told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ModuleError {
    /// A line of `modules.dep` has another shape.
    #[error("line {line} of modules.dep is not `module: dependencies`")]
    Line {
        /// Counted from 1.
        line: usize,
    },
    /// A dependency is not in the tree.
    #[error("module {module} depends on {dependency}, which is not in the tree")]
    Missing {
        /// The one that depends.
        module: String,
        /// What it depends on.
        dependency: String,
    },
    /// Modules depend on each other in a circle.
    #[error("module {module} depends on itself through others")]
    Cycle {
        /// One of them.
        module: String,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Module {
    path: String,
    dependencies: Vec<String>,
}

/// What `modules.dep` and `modules.builtin` say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ModuleTree {
    modules: BTreeMap<String, Module>,
    builtin: BTreeSet<String>,
}

/// The name of the module in a file: without directory and suffixes, and with `_` for `-`, as the kernel says it.
fn module_name(path: &str) -> Option<String> {
    let file = path.rsplit('/').next()?;
    let stem = &file[..file.find(".ko")?];
    (!stem.is_empty()).then(|| stem.replace('-', "_"))
}

impl ModuleTree {
    /// Reads the texts of the two files.
    pub(crate) fn parse(dep: &str, builtin: &str) -> Result<Self, ModuleError> {
        let mut modules = BTreeMap::new();
        for (index, line) in dep.lines().enumerate() {
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            let bad = ModuleError::Line { line: index + 1 };
            let (path, dependencies) = line.split_once(':').ok_or_else(|| bad.clone())?;
            let name = module_name(path).ok_or_else(|| bad.clone())?;
            let dependencies: Option<Vec<_>> = dependencies.split_whitespace().map(module_name).collect();
            let module = Module { path: path.to_owned(), dependencies: dependencies.ok_or(bad)? };
            modules.insert(name, module);
        }
        Ok(Self { modules, builtin: builtin.lines().filter_map(module_name).collect() })
    }

    /// Reads the files of the tree `dir`, the `lib/modules/<release>` of some kernel.
    pub(crate) fn read(dir: &Path) -> Result<Self, KernelError> {
        let text = |name: &str| {
            let path = dir.join(name);
            read_text(&path).map_err(|err| KernelError::Read { path, err })
        };
        let builtin = match text("modules.builtin") {
            Err(KernelError::Read { err, .. }) if err.kind() == io::ErrorKind::NotFound => String::new(),
            outcome => outcome?,
        };
        Self::parse(&text("modules.dep")?, &builtin).map_err(KernelError::Modules)
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.modules.contains_key(name)
    }

    pub(crate) fn is_builtin(&self, name: &str) -> bool {
        self.builtin.contains(name)
    }

    pub(crate) fn len(&self) -> usize {
        self.modules.len()
    }

    /// How the tree's modules are compressed, judged by the first.
    pub(crate) fn compression(&self) -> ModuleCompression {
        match self.modules.values().next().map(|module| module.path.as_str()) {
            Some(path) if path.ends_with(".xz") => ModuleCompression::Xz,
            Some(path) if path.ends_with(".zst") => ModuleCompression::Zstd,
            Some(path) if path.ends_with(".gz") => ModuleCompression::Gzip,
            _ => ModuleCompression::None,
        }
    }

    /// Names and paths of what the initramfs loads, each after everything it depends on.
    pub(crate) fn load_order(&self) -> Result<Vec<(String, PathBuf)>, ModuleError> {
        let mut wanted = WANTED.to_vec();
        if !self.has("virtio_mmio") && !self.is_builtin("virtio_mmio") {
            wanted.insert(1, "virtio_pci");
        }
        if self.has("ext4") {
            let at = wanted.iter().position(|name| *name == "ext4").unwrap_or(0);
            wanted.splice(at..at, WANTED_BY_EXT4.iter().copied());
        }
        let mut order = Order { tree: self, placed: BTreeSet::new(), open: BTreeSet::new(), list: Vec::new() };
        for name in wanted {
            if self.has(name) {
                order.place(name)?;
            }
        }
        Ok(order.list)
    }
}

/// The positions of a load order by group: those of [`GROUPS`], and the rest. A module stands with the next one that is
/// wanted for itself, which it was placed for; one that is built in is in no list, and a group may be empty.
pub(crate) fn grouped(names: &[&str]) -> [Vec<usize>; GROUPS.len() + 1] {
    let mut groups = [const { Vec::new() }; GROUPS.len() + 1];
    let mut group = GROUPS.len();
    for (index, name) in names.iter().enumerate().rev() {
        if let Some(found) = GROUPS.iter().position(|group| group.contains(name)) {
            group = found;
        } else if WANTED.contains(name) {
            group = GROUPS.len();
        }
        groups[group].insert(0, index);
    }
    groups
}

/// A topological walk: dependencies first, each module once.
struct Order<'a> {
    tree: &'a ModuleTree,
    placed: BTreeSet<&'a str>,
    open: BTreeSet<&'a str>,
    list: Vec<(String, PathBuf)>,
}

impl<'a> Order<'a> {
    /// Walks with a stack of its own: a hostile modules.dep may nest deeper than a thread's stack.
    fn place(&mut self, name: &str) -> Result<(), ModuleError> {
        let Some((root, _)) = self.tree.modules.get_key_value(name) else {
            return Ok(());
        };
        let mut stack: Vec<(&'a str, usize)> = vec![(root, 0)];
        self.open.insert(root);
        while let Some((name, next)) = stack.pop() {
            let module = &self.tree.modules[name];
            let Some(dependency) = module.dependencies.get(next) else {
                self.open.remove(name);
                if self.placed.insert(name) {
                    self.list.push((name.to_owned(), PathBuf::from(&module.path)));
                }
                continue;
            };
            stack.push((name, next + 1));
            if self.placed.contains(dependency.as_str()) || self.tree.is_builtin(dependency) {
                continue;
            }
            let Some((dependency, _)) = self.tree.modules.get_key_value(dependency) else {
                return Err(ModuleError::Missing { module: name.to_owned(), dependency: dependency.clone() });
            };
            if !self.open.insert(dependency) {
                return Err(ModuleError::Cycle { module: dependency.clone() });
            }
            stack.push((dependency, 0));
        }
        Ok(())
    }
}

fn read_text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    Bounded::new(File::open(path)?, INDEX_MAX_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

/// The module in `path`, uncompressed.
pub(crate) fn read_module(path: &Path) -> Result<Vec<u8>, KernelError> {
    let failed = |err| KernelError::Read { path: path.to_owned(), err };
    let mut bytes = Vec::new();
    Bounded::new(File::open(path).map_err(failed)?, MODULE_MAX_BYTES).read_to_end(&mut bytes).map_err(failed)?;
    if let Some(codec) = Codec::sniff(&bytes) {
        let mut unpacked = Vec::new();
        let decoder = codec.decode(bytes.as_slice()).map_err(|err| failed(io::Error::other(err)))?;
        Bounded::new(decoder, MODULE_MAX_BYTES).read_to_end(&mut unpacked).map_err(failed)?;
        bytes = unpacked;
    }
    if !super::elf::is_elf(&bytes) {
        return Err(failed(io::Error::other("it is not an ELF file")));
    }
    Ok(bytes)
}

/// Has depmod index the tree at `<base>/lib/modules/<release>`, if it has no `modules.dep` yet.
pub(crate) fn index(base: &Path, release: &str) -> Result<(), KernelError> {
    let dir = base.join("lib/modules").join(release);
    if dir.join("modules.dep").exists() && dir.join("modules.dep.bin").exists() {
        return Ok(());
    }
    // A kmod built for a merged /usr looks beneath usr/lib instead of lib.
    let usr = base.join("usr");
    if !usr.exists() {
        sys::fs::symlink(Path::new("."), &usr)?;
    }
    let outcome = super::depmod::run(base, release);
    sys::fs::remove_file(&usr)?;
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::codec::tests::encode;
    use proptest::prelude::*;
    use std::fs;

    const DEP: &str = "\
kernel/drivers/virtio/virtio_ring.ko:
kernel/drivers/virtio/virtio.ko: kernel/drivers/virtio/virtio_ring.ko
kernel/drivers/virtio/virtio_mmio.ko.xz: kernel/drivers/virtio/virtio_ring.ko kernel/drivers/virtio/virtio.ko
kernel/drivers/block/virtio_blk.ko: kernel/drivers/virtio/virtio_ring.ko kernel/drivers/virtio/virtio.ko
kernel/net/core/failover.ko:
kernel/drivers/net/net_failover.ko: kernel/net/core/failover.ko
kernel/drivers/net/virtio_net.ko: kernel/drivers/net/net_failover.ko kernel/net/core/failover.ko kernel/drivers/virtio/virtio_ring.ko kernel/drivers/virtio/virtio.ko
kernel/fs/overlayfs/overlay.ko:
kernel/drivers/net/dummy.ko:
";

    fn names(tree: &ModuleTree) -> Vec<String> {
        let order = tree.load_order().expect("no cycle");
        order.into_iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn dependencies_come_first_and_only_what_is_needed() {
        let tree = ModuleTree::parse(DEP, "kernel/fs/ext4/ext4.ko\n").expect("well-formed");
        assert_eq!(
            names(&tree),
            ["virtio_ring", "virtio", "virtio_mmio", "virtio_blk", "overlay", "failover", "net_failover", "virtio_net"]
        );
        assert!(tree.is_builtin("ext4") && !tree.has("ext4"));
        let names = names(&tree);
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        assert_eq!(grouped(&names), [vec![0, 1, 2], vec![4], vec![3], vec![], vec![], vec![5, 6, 7]]);
        assert_eq!(
            grouped(&["jbd2", "ext4", "overlay", "virtio_console", "vsock", "vmw_vsock_virtio_transport", "x"]),
            [vec![], vec![0, 1, 2], vec![], vec![3], vec![4, 5], vec![6]]
        );
        assert_eq!(grouped(&["virtio_console", "virtio_blk"]), [vec![], vec![], vec![1], vec![0], vec![], vec![]]);
    }

    #[test]
    fn without_mmio_the_pci_transport_is_loaded() {
        let tree = ModuleTree::parse("a/virtio-pci.ko:\n", "").expect("well-formed");
        assert_eq!(names(&tree), ["virtio_pci"]);
    }

    #[test]
    fn damage_is_named() {
        assert_eq!(ModuleTree::parse("a.ko:\nnonsense\n", ""), Err(ModuleError::Line { line: 2 }));
        assert_eq!(ModuleTree::parse("a.ko: b\n", ""), Err(ModuleError::Line { line: 1 }));
        let missing = ModuleTree::parse("virtio.ko: x/virtio_ring.ko\n", "").expect("well-formed");
        assert!(matches!(missing.load_order(), Err(ModuleError::Missing { .. })));
        let cycle = ModuleTree::parse("virtio.ko: overlay.ko\noverlay.ko: virtio.ko\n", "").expect("well-formed");
        assert!(matches!(cycle.load_order(), Err(ModuleError::Cycle { .. })));
    }

    #[test]
    fn modules_are_uncompressed_whatever_their_suffix() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let plain = b"\x7fELF module".to_vec();
        for (codec, name) in [(Codec::Xz, "a.ko.xz"), (Codec::Zstd, "a.ko.zst"), (Codec::Gzip, "a.ko.gz")] {
            let path = dir.path().join(name);
            fs::write(&path, encode(codec, &plain)).expect("written");
            assert_eq!(read_module(&path).expect(name), plain);
        }
        let path = dir.path().join("bad.ko");
        fs::write(&path, "text").expect("written");
        let err = read_module(&path).expect_err("not a module");
        assert!(err.to_string().contains("bad.ko"), "{err}");
    }

    proptest! {
        #[test]
        fn order_is_closed_and_sorted_for_any_tree(edges in proptest::collection::vec((0usize..9, 0usize..9), 0..20)) {
            let name = |i: usize| WANTED[i];
            let mut dep = String::new();
            for module in 0..WANTED.len() {
                dep += &format!("k/{}.ko:", name(module));
                for (_, to) in edges.iter().filter(|(from, _)| *from == module) {
                    dep += &format!(" k/{}.ko", name(*to));
                }
                dep += "\n";
            }
            let tree = ModuleTree::parse(&dep, "").expect("well-formed");
            if let Ok(order) = tree.load_order() {
                let at = |wanted: &str| order.iter().position(|(name, _)| name == wanted);
                for (from, to) in edges {
                    prop_assert!(at(name(to)) < at(name(from)));
                }
            }
        }

        #[test]
        fn arbitrary_text_never_panics(text in "([a-z/]{0,6}(\\.ko)?:?( [a-z]{0,3}(\\.ko)?){0,2}\n){0,8}") {
            if let Ok(tree) = ModuleTree::parse(&text, &text) {
                let _outcome = tree.load_order();
            }
        }
    }
}
