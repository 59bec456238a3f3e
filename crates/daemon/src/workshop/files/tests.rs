//! Files of e2fsprogs, and what is no such file.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use super::*;
use crate::model::progress::Progress;

/// A directory with `good.ext4`, the filesystem of a small tree.
struct Bench {
    dir: tempfile::TempDir,
}

fn run(program: &str, args: &[&str]) {
    sys::process::run(sys::process::command(program).args(args)).unwrap();
}

impl Bench {
    fn new() -> Bench {
        let bench = Bench { dir: tempfile::tempdir().unwrap() };
        for dir in ["sbin", "lib/systemd", "var/lib/dpkg"] {
            std::fs::create_dir_all(bench.path("tree").join(dir)).unwrap();
        }
        let put = |path: &str, content: &str| std::fs::write(bench.path("tree").join(path), content).unwrap();
        put("lib/systemd/systemd", "init");
        put("var/lib/dpkg/status", "Package: a\nStatus: install ok installed\n");
        std::os::unix::fs::symlink("/lib/systemd/systemd", bench.path("tree/sbin/init")).unwrap();
        bench.mkfs("good.ext4", "4096");
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn mkfs(&self, name: &str, block_bytes: &str) -> PathBuf {
        let (tree, file) = (self.path("tree"), self.path(name));
        let (tree, path) = (tree.to_str().unwrap(), file.to_str().unwrap());
        run("/usr/sbin/mkfs.ext4", &["-q", "-b", block_bytes, "-d", tree, path, "32M"]);
        file
    }

    /// A copy that debugfs(8) changed.
    fn changed(&self, request: &str) -> PathBuf {
        let file = self.path("changed.ext4");
        std::fs::copy(self.path("good.ext4"), &file).unwrap();
        run("/usr/sbin/debugfs", &["-w", "-R", request, file.to_str().unwrap()]);
        file
    }

    /// An empty staging directory.
    fn staging(&self) -> PathBuf {
        let staging = self.path("staging");
        sys::fs::remove_tree(&staging).unwrap();
        sys::fs::create_private_dir(&staging).unwrap();
        staging
    }

    fn register(&self, file: &Path, keeping: Keeping) -> Result<ImageManifest, Cause> {
        register(file, keeping, &self.staging(), Watcher::none())
    }

    fn refusal(&self, file: &Path) -> String {
        let cause = self.register(file, Keeping::Copied).unwrap_err();
        format!("{}; {}", cause.message, cause.hint.unwrap_or_default())
    }
}

#[test]
fn a_copy_is_private_and_the_same() {
    let bench = Bench::new();
    let (good, link) = (bench.path("good.ext4"), bench.path("a link"));
    std::os::unix::fs::symlink(&good, &link).unwrap();
    let image = bench.register(&link, Keeping::Copied).unwrap();
    let copy = bench.path("staging/rootfs.ext4");
    assert_eq!(std::fs::read(&copy).unwrap(), std::fs::read(&good).unwrap());
    assert_eq!(image.digest, Digest::of(&std::fs::read(&good).unwrap()));
    assert_eq!((image.bytes, image.init.as_deref(), image.packages), (32 << 20, Some("/sbin/init"), Some(1)));
    assert_eq!((image.linked, image.content_bytes), (None, 4 + 40));
    assert_eq!(image.source, format!("file {}", good.canonicalize().unwrap().display()));
    let meta = copy.metadata().unwrap();
    assert_eq!((meta.nlink(), meta.mode() & 0o777), (1, 0o600));
    assert!(meta.blocks() * 512 < 16 << 20, "it has holes");
}

#[test]
fn a_link_is_the_file_itself() {
    let bench = Bench::new();
    let good = bench.path("good.ext4");
    let image = bench.register(&good, Keeping::Linked).unwrap();
    let (linked, name) = (image.linked.unwrap(), bench.path("staging/rootfs.ext4"));
    assert_eq!(name.metadata().unwrap().ino(), good.metadata().unwrap().ino());
    assert!(linked.is_unchanged(&name.metadata().unwrap()));
    let longer = std::fs::OpenOptions::new().append(true).open(&good).unwrap();
    std::io::Write::write_all(&mut &longer, b"x").unwrap();
    assert!(!linked.is_unchanged(&name.metadata().unwrap()));
    if let Ok(memory) = tempfile::tempdir_in("/dev/shm") {
        let elsewhere = memory.path().join("elsewhere.ext4");
        bench.mkfs("other.ext4", "4096");
        std::fs::copy(bench.path("other.ext4"), &elsewhere).unwrap();
        let cause = bench.register(&elsewhere, Keeping::Linked).unwrap_err();
        assert!(cause.message.contains("on another filesystem") && cause.hint.unwrap().contains("copied"));
    }
}

#[test]
fn what_no_guest_could_mount_is_refused_with_what_helps() {
    let bench = Bench::new();
    for (request, why) in [
        ("feature needs_recovery", "journal has to be written"),
        ("ssv state 2", "errors"),
        ("ssv blocks_count 1000000", "blocks of 4096 bytes"),
        ("feature encrypt", "features"),
    ] {
        let refusal = bench.refusal(&bench.changed(request));
        assert!(refusal.contains(why) && refusal.contains("changed.ext4"), "{request}: {refusal}");
        assert!(refusal.contains("e2fsck -f FILE") || why == "features", "{request}: {refusal}");
        assert!(!bench.path("staging/rootfs.ext4").exists(), "{request}: nothing was copied");
    }
    let refusal = bench.refusal(&bench.mkfs("small.ext4", "1024"));
    assert!(refusal.contains("4096") && refusal.contains("mkfs.ext4 -b 4096"), "{refusal}");
    std::fs::write(bench.path("text"), "x".repeat(10_000)).unwrap();
    sys::process::run(sys::process::command("mkfifo").arg(bench.path("fifo"))).unwrap();
    for (name, why) in [("text", "another format"), ("fifo", "no regular file"), ("tree", "no regular file")] {
        let refusal = bench.refusal(&bench.path(name));
        assert!(refusal.contains(why), "{name}: {refusal}");
    }
    let missing = bench.register(&bench.path("missing"), Keeping::Copied).unwrap_err();
    assert!(missing.is(ErrorCode::NotFound), "{missing:?}");
}

#[test]
fn what_is_written_to_meanwhile_is_refused_and_a_cancellation_is_one() {
    let bench = Bench::new();
    let good = bench.path("good.ext4");
    let write = |progress| {
        if progress == Progress::Stage("read root filesystem".into()) {
            let file = std::fs::OpenOptions::new().append(true).open(&good).unwrap();
            std::io::Write::write_all(&mut &file, &[0; 4096]).unwrap();
        }
    };
    let never = AtomicBool::new(false);
    for keeping in [Keeping::Copied, Keeping::Linked] {
        let cause = register(&good, keeping, &bench.staging(), Watcher::new(&write, &never)).unwrap_err();
        assert!(cause.is(ErrorCode::WrongState) && cause.message.contains("written to"), "{cause:?}");
    }
    let stop = AtomicBool::new(true);
    let cause = register(&good, Keeping::Copied, &bench.staging(), Watcher::new(&|_| {}, &stop)).unwrap_err();
    assert!(cause.is_cancellation(), "{cause:?}");
}

#[test]
fn a_copy_of_what_has_changed_is_refused() {
    let bench = Bench::new();
    let (good, to) = (bench.path("good.ext4"), bench.path("copy.ext4"));
    let digest = Digest::of(&std::fs::read(&good).unwrap());
    copy_verified(&good, &to, digest, Watcher::none()).unwrap();
    assert_eq!(std::fs::read(&to).unwrap(), std::fs::read(&good).unwrap());
    let changed = bench.changed("ssv mtime 1");
    let cause = copy_verified(&changed, &bench.path("other.ext4"), digest, Watcher::none()).unwrap_err();
    assert!(cause.is(ErrorCode::WrongState) && cause.message.contains("not what it was"), "{cause:?}");
}
