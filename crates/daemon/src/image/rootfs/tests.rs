//! Whole archives to filesystems and back, with GNU tar and e2fsprogs as the other opinion.

use std::fs;
use std::io::Write;
use std::os::unix::fs::FileExt as _;

use super::*;
use crate::model::progress::is_cancelled;

struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, tar: &[u8]) -> Result<Rootfs, RootfsError> {
        fs::write(self.path("x.tar"), tar).unwrap();
        sys::fs::remove_file(&self.path("x.ext4")).unwrap();
        let rootfs = write(&self.path("x.tar"), &self.path("x.ext4"), Watcher::none())?;
        let mut fsck = sys::process::command("/usr/sbin/e2fsck");
        sys::process::run(fsck.arg("-fn").arg(self.path("x.ext4"))).expect("a clean filesystem");
        Ok(rootfs)
    }

    fn debugfs(&self, request: &str) -> String {
        let mut debugfs = sys::process::command("/usr/sbin/debugfs");
        let out = sys::process::run(debugfs.args(["-R", request]).arg(self.path("x.ext4"))).unwrap();
        String::from_utf8_lossy(&out).into_owned()
    }

    fn refusal(&self, tar: &[u8]) -> String {
        let err = self.write(tar).unwrap_err();
        let cause = std::error::Error::source(&err).map(ToString::to_string).unwrap_or_default();
        format!("{err}: {cause}")
    }
}

/// Builds archives, also those a well-behaved tar would not.
struct Tar(tar::Builder<Vec<u8>>);

impl Tar {
    fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    fn add(mut self, path: &str, kind: tar::EntryType, mode: u32, link: &str, content: &[u8]) -> Self {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(1000);
        header.set_gid(2000);
        header.set_mtime(1_700_000_000);
        header.set_size(content.len() as u64);
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        if kind == tar::EntryType::Char {
            header.set_device_major(10).unwrap();
            header.set_device_minor(200).unwrap();
        }
        header.set_cksum();
        self.0.append(&header, content).unwrap();
        self
    }

    fn file(self, path: &str, content: &[u8]) -> Self {
        self.add(path, tar::EntryType::Regular, 0o644, "", content)
    }

    fn xattr(mut self, name: &str, value: &[u8]) -> Self {
        self.0.append_pax_extensions([(format!("SCHILY.xattr.{name}").as_str(), value)]).unwrap();
        self
    }

    fn done(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

#[test]
fn every_kind_of_entry_is_kept() {
    let bench = Bench::new();
    let capability = [1, 0, 0, 2, 0x0a, 0x0a, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let tar = Tar::new()
        .add("./", tar::EntryType::Directory, 0o755, "", b"")
        .add("./usr/", tar::EntryType::Directory, 0o750, "", b"")
        .add("./usr/bin/su", tar::EntryType::Regular, 0o4755, "", b"su")
        .add("./usr/bin/su2", tar::EntryType::Link, 0o4755, "./usr/bin/su", b"")
        .add("./bin", tar::EntryType::Symlink, 0o777, "usr/bin", b"")
        .add("./sbin", tar::EntryType::Symlink, 0o777, "/usr/lib", b"")
        .file("./usr/lib/real", b"init")
        .add("./usr/lib/init", tar::EntryType::Symlink, 0o777, "../../usr/lib/real", b"")
        .add("./dev/tun", tar::EntryType::Char, 0o600, "", b"")
        .add("./run/pipe", tar::EntryType::Fifo, 0o600, "", b"")
        .xattr("security.capability", &capability)
        .file("./usr/bin/ping", b"ping")
        .xattr("trusted.overlay.opaque", b"y")
        .file("./plain", b"")
        .file(
            "./var/lib/dpkg/status",
            b"Package: a\nStatus: install ok installed\n\nPackage: b\nStatus: deinstall ok config-files\n",
        );
    let rootfs = bench.write(&tar.done()).unwrap();
    assert_eq!(rootfs.init.as_deref(), Some("/sbin/init"));
    assert_eq!(rootfs.packages, Some(1));
    let su = bench.debugfs("stat /usr/bin/su");
    assert!(su.contains("Mode:  04755") && su.contains("Links: 2") && su.contains("User:  1000"), "{su}");
    assert!(su.contains("mtime: 0x6553f100"), "{su}");
    assert_eq!(bench.debugfs("cat /usr/bin/su2"), "su");
    assert!(bench.debugfs("stat /usr").contains("Mode:  0750"));
    assert!(bench.debugfs("stat /dev/tun").contains("10:200"));
    assert!(bench.debugfs("stat /run/pipe").contains("Type: FIFO"));
    assert!(bench.debugfs("stat /bin").contains("usr/bin"));
    let ping = bench.debugfs("ea_get -x /usr/bin/ping security.capability");
    assert!(ping.contains("01 00 00 02 0a 0a"), "{ping}");
    assert!(!bench.debugfs("ea_list /plain").contains("overlay"));
}

#[test]
fn equal_archives_give_equal_files_and_holes_stay_holes() {
    let bench = Bench::new();
    let mut content = vec![0; 4 << 20];
    content[..4].copy_from_slice(b"head");
    let tar = Tar::new().file("zeros", &content).file("b", b"b").done();
    let first = bench.write(&tar).unwrap();
    assert!(sys::fs::allocated_bytes(&bench.path("x.ext4")) < 1 << 20);
    assert_eq!(bench.write(&tar).unwrap(), first);
    let other = Tar::new().file("zeros", &content).file("b", b"c").done();
    assert_ne!(bench.write(&other).unwrap().sha256, first.sha256);
}

#[test]
fn sparse_files_stay_sparse_inside() {
    let bench = Bench::new();
    let file = fs::File::create(bench.path("holes")).unwrap();
    file.set_len((1 << 30) + 5).unwrap();
    file.write_all_at(b"middle", (64 << 20) + 4096 + 100).unwrap();
    for format in ["gnu", "pax"] {
        let mut tar = sys::process::command("tar");
        tar.arg("-C").arg(bench.dir.path()).args(["--sparse", &format!("--format={format}"), "-cf", "-", "holes"]);
        let rootfs = bench.write(&sys::process::run(&mut tar).unwrap()).unwrap();
        assert!(rootfs.bytes < 64 << 20, "{format}: {rootfs:?}");
        let out = bench.path("out");
        bench.debugfs(&format!("dump /holes {}", out.display()));
        let dumped = fs::File::open(&out).unwrap();
        assert_eq!(dumped.metadata().unwrap().len(), (1 << 30) + 5, "{format}");
        let mut middle = [0; 8];
        dumped.read_exact_at(&mut middle, (64 << 20) + 4096 + 99).unwrap();
        assert_eq!(&middle, b"\0middle\0", "{format}");
    }
}

#[test]
fn later_entries_replace_earlier_ones() {
    let bench = Bench::new();
    let tar = Tar::new()
        .file("a", b"old")
        .file("a", b"new")
        .file("d/inside", b"kept")
        .add("d", tar::EntryType::Directory, 0o700, "", b"")
        .file("lost+found", b"ignored");
    bench.write(&tar.done()).unwrap();
    assert_eq!(bench.debugfs("cat /a"), "new");
    assert_eq!(bench.debugfs("cat /d/inside"), "kept");
    assert!(bench.debugfs("stat /d").contains("Mode:  0700"));
}

#[test]
fn what_leads_outside_is_refused_by_name() {
    let bench = Bench::new();
    for path in ["../etc/passwd", "/etc/passwd", "a/../../b"] {
        let said = bench.refusal(&Tar::new().file(path, b"x").done());
        assert!(said.contains(path) && said.contains("x.tar"), "{said}");
    }
    let link = Tar::new().add("l", tar::EntryType::Symlink, 0o777, "/etc", b"").file("l/passwd", b"x");
    assert!(bench.refusal(&link.done()).contains("l/passwd"));
    let hard = Tar::new().add("h", tar::EntryType::Link, 0o644, "../../etc/passwd", b"");
    assert!(bench.refusal(&hard.done()).contains("../../etc/passwd"));
    let dangling = Tar::new().add("h", tar::EntryType::Link, 0o644, "absent", b"");
    assert!(bench.refusal(&dangling.done()).contains("absent"));
    let not_utf8 = Tar::new().add("x", tar::EntryType::Regular, 0o644, "", b"").done();
    let mut bytes = not_utf8.clone();
    bytes[0] = 0xff;
    bytes[148..156].copy_from_slice(format!("{:06o}\0 ", 0o7).as_bytes());
    assert!(bench.refusal(&bytes).contains("checksum"));
}

#[test]
fn a_cut_archive_is_refused() {
    let bench = Bench::new();
    let tar = Tar::new().file("first", &[1; 3000]).file("second", &[2; 3000]).done();
    for (cut, what) in [
        (0, "cut short"),
        (700, "\"first\""),
        (3700, "\"first\""),
        (4700, "\"second\""),
        (tar.len() - 1024, "\"second\""),
    ] {
        let said = bench.refusal(&tar[..cut]);
        assert!(said.contains("cut short") && said.contains(what), "{cut}: {said}");
    }
    assert!(bench.refusal(&[0; 1024]).contains("no entries"));
}

#[test]
fn many_small_files_and_large_directories() {
    let bench = Bench::new();
    let mut tar = Tar::new();
    for index in 0..40_000 {
        tar = tar.file(&format!("d/file-{index:06}-with-a-longer-name"), b"");
    }
    let rootfs = bench.write(&tar.done()).unwrap();
    assert_eq!(rootfs.entries, 40_001);
    assert_eq!(rootfs.init, None);
    assert!(bench.debugfs("stat /d/file-039999-with-a-longer-name").contains("Type: regular"));
}

#[test]
fn a_cancelled_write_stops() {
    let bench = Bench::new();
    fs::File::create(bench.path("x.tar")).unwrap().write_all(&Tar::new().file("a", b"a").done()).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(true);
    let err = write(&bench.path("x.tar"), &bench.path("x.ext4"), Watcher::new(&|_| {}, &stop)).unwrap_err();
    assert!(is_cancelled(&err), "{err:?}");
}
