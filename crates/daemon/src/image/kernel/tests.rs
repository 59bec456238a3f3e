//! Whole imports: of made-up kernels in every shape, and of a real Debian package where one is named.

use std::fs;

use super::*;
use crate::image::codec::{Codec, tests::encode};

const DEP: &str = "kernel/virtio_ring.ko:\nkernel/virtio.ko: kernel/virtio_ring.ko\nkernel/overlay.ko.xz:\n";

fn config() -> String {
    let builtin = "X86_64 BLK_DEV_INITRD BINFMT_ELF BINFMT_SCRIPT FUTEX MULTIUSER UNIX98_PTYS DEVTMPFS TMPFS \
        PROC_FS SYSFS CGROUPS EPOLL SIGNALFD TIMERFD EVENTFD INOTIFY_USER FHANDLE NET INET UNIX ACPI \
        VIRTIO_MMIO VIRTIO_BLK VIRTIO_CONSOLE VIRTIO_VSOCKETS VIRTIO_NET EXT4_FS NF_TABLES";
    let lines = builtin.split_ascii_whitespace().map(|option| format!("CONFIG_{option}=y\n"));
    lines.chain(["CONFIG_VIRTIO=m\nCONFIG_OVERLAY_FS=m\n".to_owned()]).collect()
}

fn vmlinuz() -> Vec<u8> {
    let vmlinux = elf::tests::sample(b"Linux version 6.1.0-test (who)", true);
    bzimage::tests::sample(&encode(Codec::Zstd, &vmlinux), vmlinux.len(), "6.1.0-test")
}

/// A kernel laid out as in `/`: boot and lib/modules, indexed.
fn lay_out(root: &Path) {
    let modules = root.join("lib/modules/6.1.0-test");
    fs::create_dir_all(root.join("boot")).unwrap();
    fs::create_dir_all(modules.join("kernel")).unwrap();
    fs::write(root.join("boot/vmlinuz-6.1.0-test"), vmlinuz()).unwrap();
    fs::write(root.join("boot/config-6.1.0-test"), config()).unwrap();
    fs::write(modules.join("modules.dep"), DEP).unwrap();
    fs::write(modules.join("modules.dep.bin"), "").unwrap();
    for name in ["virtio.ko", "virtio_ring.ko"] {
        fs::write(modules.join("kernel").join(name), b"\x7fELF").unwrap();
    }
    fs::write(modules.join("kernel/overlay.ko.xz"), encode(Codec::Xz, b"\x7fELF overlay")).unwrap();
    std::os::unix::fs::symlink("/usr/src", modules.join("build")).unwrap();
}

fn import_from(path: &Path, config: Option<PathBuf>) -> Result<(tempfile::TempDir, KernelManifest), KernelError> {
    let staging = tempfile::tempdir().unwrap();
    let source = Source { path: path.to_owned(), more: Vec::new(), config, modules: None };
    let manifest = import(&source, staging.path(), Watcher::none())?;
    Ok((staging, manifest))
}

fn e2fsck(image: &Path) {
    let mut fsck = sys::process::command("/usr/sbin/e2fsck");
    sys::process::run(fsck.arg("-fn").arg(image)).expect("a clean filesystem");
}

#[test]
fn a_directory_becomes_a_kernel() {
    let root = tempfile::tempdir().unwrap();
    lay_out(root.path());
    let (staging, manifest) = import_from(root.path(), None).unwrap();
    assert_eq!(manifest.release, "6.1.0-test");
    assert!(manifest.pvh);
    assert_eq!(manifest.config_source, ConfigSource::File);
    let missed: Vec<_> = manifest.missed().map(|wish| wish.option).collect();
    assert!(missed.contains(&"CONFIG_FUSE_FS") && !missed.contains(&"CONFIG_NF_TABLES"), "{missed:?}");
    let names: Vec<_> = manifest.load_order.iter().map(|module| module.file.as_str()).collect();
    assert_eq!(names, ["00-virtio_ring.ko", "01-virtio.ko", "02-overlay.ko"]);
    let overlay = fs::read(staging.path().join("needed-modules/02-overlay.ko")).unwrap();
    assert_eq!(overlay, b"\x7fELF overlay");
    assert_eq!(manifest.modules.as_ref().unwrap().count, 3);
    e2fsck(&staging.path().join("modules.ext4"));
    let json = fs::read(staging.path().join("manifest.json")).unwrap();
    assert_eq!(serde_json::from_slice::<KernelManifest>(&json).unwrap(), manifest);
    let mut left: Vec<_> = fs::read_dir(staging.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["config", "manifest.json", "modules.ext4", "needed-modules", "vmlinux"]);
    let (_, again) = import_from(root.path(), None).unwrap();
    assert_eq!(again.digest, manifest.digest);
    let (_, of_file) = import_from(&root.path().join("boot/vmlinuz-6.1.0-test"), None).unwrap();
    assert_eq!(of_file.digest, manifest.digest, "a file finds what lies beside it");
}

#[test]
fn a_package_becomes_the_same_kernel() {
    let root = tempfile::tempdir().unwrap();
    lay_out(root.path());
    let (_, manifest) = import_from(root.path(), None).unwrap();
    let (image, config) = (vmlinuz(), config());
    let overlay = encode(Codec::Xz, b"\x7fELF overlay");
    let files: [(&str, &[u8]); 7] = [
        ("./boot/vmlinuz-6.1.0-test", &image),
        ("./boot/config-6.1.0-test", config.as_bytes()),
        ("./lib/modules/6.1.0-test/modules.dep", DEP.as_bytes()),
        ("./lib/modules/6.1.0-test/modules.dep.bin", b""),
        ("./lib/modules/6.1.0-test/kernel/virtio.ko", b"\x7fELF"),
        ("./lib/modules/6.1.0-test/kernel/virtio_ring.ko", b"\x7fELF"),
        ("./lib/modules/6.1.0-test/kernel/overlay.ko.xz", &overlay),
    ];
    let package = root.path().join("linux.deb");
    fs::write(&package, deb::tests::package(Some(Codec::Xz), &files)).unwrap();
    let (_, of_package) = import_from(&package, None).unwrap();
    assert_eq!(of_package.digest, manifest.digest);
}

const MODULES: &str = "lib/modules/6.1.0-test";

/// The files of [`lay_out`], by the distribution: those of the package with the kernel, and those of the one with its modules.
fn split(kernel_at: &str, config_at: &str) -> [Vec<(String, Vec<u8>)>; 2] {
    let at = |below: &str| format!("./{MODULES}/{below}");
    let kernel = vec![(kernel_at.to_owned(), vmlinuz())];
    let modules = vec![
        (config_at.to_owned(), config().into_bytes()),
        (at("modules.dep"), DEP.into()),
        (at("modules.dep.bin"), Vec::new()),
        (at("kernel/virtio.ko"), b"\x7fELF".into()),
        (at("kernel/virtio_ring.ko"), b"\x7fELF".into()),
        (at("kernel/overlay.ko.xz"), encode(Codec::Xz, b"\x7fELF overlay")),
    ];
    [kernel, modules]
}

fn borrowed(files: &[(String, Vec<u8>)]) -> Vec<(&str, &[u8])> {
    files.iter().map(|(path, content)| (path.as_str(), content.as_slice())).collect()
}

/// Two packages of one kernel, as Ubuntu and as Fedora make them; with the names of the kernel's and the modules'.
fn split_packages() -> [[(&'static str, Vec<u8>); 2]; 2] {
    let [kernel, modules] = split("./boot/vmlinuz-6.1.0-test", "./boot/config-6.1.0-test");
    let deb = |files: &[_]| deb::tests::package(Some(Codec::Zstd), &borrowed(files));
    let ubuntu = [
        ("linux-image-unsigned-6.1.0-test_6.1_amd64.deb", deb(&kernel)),
        ("linux-modules-6.1.0-test_6.1_amd64.deb", deb(&modules)),
    ];
    let [kernel, modules] = split(&format!("./{MODULES}/vmlinuz"), &format!("./{MODULES}/config"));
    let rpm = |codec, files: &[_]| rpm::tests::package(Some(codec), &borrowed(files));
    let fedora = [
        ("kernel-core-6.1-1.fc41.x86_64.rpm", rpm(Codec::Zstd, &kernel)),
        ("kernel-modules-core-6.1-1.fc41.x86_64.rpm", rpm(Codec::Gzip, &modules)),
    ];
    [ubuntu, fedora]
}

#[test]
fn several_packages_make_one_kernel() {
    let root = tempfile::tempdir().unwrap();
    lay_out(root.path());
    let (_, manifest) = import_from(root.path(), None).unwrap();
    for packages in split_packages() {
        let dir = tempfile::tempdir().unwrap();
        let paths = packages.map(|(name, bytes)| {
            fs::write(dir.path().join(name), bytes).unwrap();
            dir.path().join(name)
        });
        // A package for developers beside them is none of the kernel's.
        fs::write(dir.path().join("kernel-devel-6.1-1.fc41.x86_64.rpm"), "not even a package").unwrap();
        let (_, of_directory) = import_from(dir.path(), None).unwrap();
        assert_eq!(of_directory.digest, manifest.digest);
        for [first, second] in [[0, 1], [1, 0]] {
            let staging = tempfile::tempdir().unwrap();
            let more = vec![paths[second].clone()];
            let source = Source { path: paths[first].clone(), more, config: None, modules: None };
            let of_both = import(&source, staging.path(), Watcher::none()).unwrap();
            assert_eq!(of_both.digest, manifest.digest);
            assert!(of_both.source.ends_with(".deb and 1 more") || of_both.source.ends_with(".rpm and 1 more"));
        }
        let err = import_from(&paths[0], Some(root.path().join("boot/config-6.1.0-test"))).unwrap_err();
        assert!(err.hint().unwrap().contains("modules"), "{err}");
        let err = import_from(&paths[1], None).unwrap_err().to_string();
        assert!(err.contains("only modules"), "{err}");
        let other = root.path().join("boot/config-6.1.0-test");
        for [first, second] in [[&paths[0], &other], [&other, &paths[0]], [&root.path().join("boot"), &paths[0]]] {
            let staging = tempfile::tempdir().unwrap();
            let source = Source { path: first.clone(), more: vec![second.clone()], config: None, modules: None };
            let err = import(&source, staging.path(), Watcher::none()).unwrap_err().to_string();
            assert!(err.contains("/boot") && err.contains("other packages"), "{err}");
        }
    }
}

#[test]
fn a_kernel_beside_its_modules_is_found() {
    let root = tempfile::tempdir().unwrap();
    lay_out(root.path());
    let (_, manifest) = import_from(root.path(), None).unwrap();
    let modules = root.path().join(MODULES);
    fs::rename(root.path().join("boot/vmlinuz-6.1.0-test"), modules.join("vmlinuz")).unwrap();
    fs::rename(root.path().join("boot/config-6.1.0-test"), modules.join("config")).unwrap();
    fs::write(modules.join("System.map"), "symbols").unwrap();
    for path in [root.path().to_owned(), modules.join("vmlinuz")] {
        let (_, of_tree) = import_from(&path, None).unwrap();
        assert_eq!(of_tree.digest, manifest.digest, "{}", path.display());
    }
}

#[test]
fn the_hosts_own_kernel_is_imported() {
    let root = tempfile::tempdir().unwrap();
    lay_out(root.path());
    let (_, manifest) = import_from(root.path(), None).unwrap();
    fs::write(root.path().join("boot/vmlinuz-6.0.0-older"), "another").unwrap();
    let staging = tempfile::tempdir().unwrap();
    let source = host(root.path(), "6.1.0-test").unwrap();
    let of_host = import(&source, staging.path(), Watcher::none()).unwrap();
    assert_eq!(of_host.digest, manifest.digest);
    assert_eq!(of_host.source, "vmlinuz-6.1.0-test");
}

#[test]
fn an_unfit_kernel_is_refused_by_option() {
    let root = tempfile::tempdir().unwrap();
    lay_out(root.path());
    let config_path = root.path().join("other-config");
    for (from, to, what) in [
        ("CONFIG_OVERLAY_FS=m", "# CONFIG_OVERLAY_FS is not set", "CONFIG_OVERLAY_FS is not set"),
        ("CONFIG_VIRTIO_VSOCKETS=y", "", "needs it for the agent's channel in Firecracker"),
        ("CONFIG_EXT4_FS=y", "CONFIG_EXT4_FS=m", "module ext4 is not in"),
    ] {
        fs::write(&config_path, config().replace(from, to)).unwrap();
        let err = import_from(root.path(), Some(config_path.clone())).unwrap_err();
        assert!(matches!(err, KernelError::Unfit { .. }), "{err}");
        let cause = std::error::Error::source(&err).unwrap().to_string();
        assert!(cause.contains(what), "{cause}");
    }
    fs::write(&config_path, "no options").unwrap();
    let err = import_from(root.path(), Some(config_path)).unwrap_err();
    assert!(err.to_string().contains("other-config"), "{err}");
}

#[test]
fn without_modules_and_config_there_is_nothing_to_judge_by() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("vmlinux");
    fs::write(&path, elf::tests::sample(b"Linux version 6.1.0-test (who)", false)).unwrap();
    let err = import_from(&path, None).unwrap_err();
    assert!(err.hint().unwrap().contains("--config"), "{err}");
}

#[test]
fn a_kernel_without_a_pvh_entry_is_refused() {
    let root = tempfile::tempdir().unwrap();
    lay_out(root.path());
    let vmlinux = elf::tests::sample(b"Linux version 6.1.0-test (who)", false);
    fs::write(root.path().join("boot/vmlinuz-6.1.0-test"), vmlinux).unwrap();
    let err = import_from(root.path(), None).unwrap_err();
    let cause = std::error::Error::source(&err).unwrap().to_string();
    assert!(cause.contains("CONFIG_PVH") && cause.contains("QEMU"), "{cause}");
}

#[test]
fn a_monolithic_kernel_needs_no_modules() {
    let root = tempfile::tempdir().unwrap();
    let mut text = b"Linux version 6.1.0-test (who) IKCFG_ST".to_vec();
    text.extend(encode(Codec::Gzip, config().replace("=m", "=y").as_bytes()));
    let path = root.path().join("vmlinux");
    fs::write(&path, elf::tests::sample(&text, true)).unwrap();
    let (_, manifest) = import_from(&path, None).unwrap();
    assert_eq!((manifest.modules, manifest.load_order), (None, Vec::new()));
    assert_eq!(manifest.config_source, ConfigSource::Ikconfig);
}

/// As `kernels/lean/build.sh` leaves it: no module is built, and their index says so.
#[test]
fn a_kernel_with_everything_built_in_keeps_the_index_of_it() {
    let root = tempfile::tempdir().unwrap();
    let modules = root.path().join(MODULES);
    fs::create_dir_all(&modules).unwrap();
    fs::write(root.path().join("vmlinux"), elf::tests::sample(b"Linux version 6.1.0-test (who)", true)).unwrap();
    fs::write(root.path().join("config"), config().replace("=m", "=y")).unwrap();
    fs::write(modules.join("modules.order"), "").unwrap();
    fs::write(modules.join("modules.builtin"), "kernel/fs/overlayfs/overlay.ko\n").unwrap();
    let (staging, manifest) = import_from(root.path(), None).unwrap();
    assert_eq!((manifest.load_order, manifest.modules.unwrap().count), (Vec::new(), 0));
    let drive = staging.path().join("modules.ext4");
    e2fsck(&drive);
    let mut debugfs = sys::process::command("/usr/sbin/debugfs");
    let listing = sys::process::run(debugfs.args(["-R", "ls /"]).arg(&drive)).unwrap();
    let listing = String::from_utf8_lossy(&listing).into_owned();
    assert!(listing.contains("modules.builtin") && listing.contains("modules.dep"), "{listing}");
}

#[test]
fn what_holds_no_kernel_is_said() {
    let root = tempfile::tempdir().unwrap();
    let err = import_from(root.path(), None).unwrap_err().to_string();
    assert!(err.contains("no kernel found"), "{err}");
    for name in ["vmlinuz-1", "vmlinuz-2"] {
        fs::write(root.path().join(name), "").unwrap();
    }
    let err = import_from(root.path(), None).unwrap_err().to_string();
    assert!(err.contains("vmlinuz-1, vmlinuz-2"), "{err}");
    let err = import_from(&root.path().join("absent"), None).unwrap_err().to_string();
    assert!(err.contains("absent"), "{err}");
    let err = import_from(&root.path().join("vmlinuz-1"), None).unwrap_err();
    assert!(matches!(err, KernelError::Unpack { err: BzImageError::Magic, .. }), "{err}");
}

#[test]
fn a_cancelled_import_says_so() {
    let root = tempfile::tempdir().unwrap();
    lay_out(root.path());
    let staging = tempfile::tempdir().unwrap();
    let stop = std::sync::atomic::AtomicBool::new(true);
    let source = Source { path: root.path().to_owned(), more: Vec::new(), config: None, modules: None };
    let err = import(&source, staging.path(), Watcher::new(&|_| {}, &stop)).unwrap_err();
    assert!(crate::model::progress::is_cancelled(&err), "{err:?}");
}

/// `BANGER_TEST_KERNEL_DEB` names a `linux-image-cloud-amd64` package.
#[test]
fn a_real_debian_package_becomes_a_kernel() {
    let Some(package) = std::env::var_os("BANGER_TEST_KERNEL_DEB") else {
        return;
    };
    let (staging, manifest) =
        import_from(Path::new(&package), None).expect("the package named by BANGER_TEST_KERNEL_DEB");
    assert!(manifest.release.ends_with("-cloud-amd64"), "{}", manifest.release);
    assert!(manifest.pvh);
    let names: Vec<_> = manifest.load_order.iter().map(|module| module.name.as_str()).collect();
    let at = |name: &str| names.iter().position(|other| *other == name);
    // Which of the two needs the other differs between point releases; every driver needs both.
    let base = at("virtio").unwrap().max(at("virtio_ring").unwrap());
    for driver in ["virtio_mmio", "virtio_blk", "virtio_console", "virtio_net"] {
        assert!(at(driver).unwrap() > base, "{driver} in {names:?}");
    }
    assert!(at("overlay").is_some(), "{names:?}");
    let missed: Vec<_> = manifest.missed().map(|wish| wish.option).collect();
    assert_eq!(missed, ["CONFIG_VMGENID"]);
    let drive = staging.path().join("modules.ext4");
    e2fsck(&drive);
    let mut debugfs = sys::process::command("/usr/sbin/debugfs");
    let listing = sys::process::run(debugfs.args(["-R", "ls /"]).arg(&drive)).unwrap();
    assert!(String::from_utf8_lossy(&listing).contains("modules.dep.bin"));
}
