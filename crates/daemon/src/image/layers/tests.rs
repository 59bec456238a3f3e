//! Layers over layers, with e2fsprogs as the other opinion.

use std::io::Write;
use std::path::PathBuf;

use oci::Compression;

use super::*;

/// A directory for layers and what becomes of them.
struct Bench {
    dir: tempfile::TempDir,
}

/// Builds one layer, also such as no good builder would.
struct Tar(tar::Builder<Vec<u8>>);

impl Tar {
    fn new() -> Tar {
        Tar(tar::Builder::new(Vec::new()))
    }

    fn add(mut self, path: &str, kind: tar::EntryType, mode: u32, link: &str, content: &[u8]) -> Tar {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(1000);
        header.set_gid(2000);
        header.set_mtime(1_700_000_000);
        header.set_size(content.len() as u64);
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        self.0.append(&header, content).unwrap();
        self
    }

    fn file(self, path: &str, content: &str) -> Tar {
        self.add(path, tar::EntryType::Regular, 0o644, "", content.as_bytes())
    }

    fn dir(self, path: &str, mode: u32) -> Tar {
        self.add(path, tar::EntryType::Directory, mode, "", b"")
    }

    fn link(self, path: &str, target: &str) -> Tar {
        self.add(path, tar::EntryType::Link, 0o644, target, b"")
    }

    fn symlink(self, path: &str, target: &str) -> Tar {
        self.add(path, tar::EntryType::Symlink, 0o777, target, b"")
    }

    fn bytes(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

impl Bench {
    fn new() -> Bench {
        Bench { dir: tempfile::tempdir().unwrap() }
    }

    fn image(&self) -> PathBuf {
        self.dir.path().join("rootfs.ext4")
    }

    /// A layer of these bytes, packed so.
    fn layer(&self, tar: &[u8], compression: Compression) -> Layer {
        let packed = match compression {
            Compression::None => tar.to_vec(),
            Compression::Zstd => zstd::encode_all(tar, 3).unwrap(),
            Compression::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(tar).unwrap();
                encoder.finish().unwrap()
            }
        };
        let digest = oci::Digest::of(&packed);
        let path = self.dir.path().join(digest.hex());
        std::fs::write(&path, &packed).unwrap();
        Layer { digest, diff_id: oci::Digest::of(tar), compression, size: packed.len() as u64, path }
    }

    fn flatten(&self, layers: &[Layer]) -> Result<Rootfs, LayersError> {
        sys::fs::remove_file(&self.image()).unwrap();
        let rootfs = flatten(layers, &self.image(), Limits::default(), Watcher::none())?;
        let mut fsck = sys::process::command("/usr/sbin/e2fsck");
        sys::process::run(fsck.arg("-fn").arg(self.image())).expect("a clean filesystem");
        let left: Vec<_> = std::fs::read_dir(self.dir.path()).unwrap().map(|it| it.unwrap().file_name()).collect();
        let is_known = |name: &std::ffi::OsString| name == "rootfs.ext4" || name.len() == 64;
        assert!(left.iter().all(is_known), "nothing stays beside the result: {left:?}");
        Ok(rootfs)
    }

    /// Flattens tars, gzip and zstd and neither in turn.
    fn stack(&self, tars: Vec<Tar>) -> Result<Rootfs, LayersError> {
        let kinds = [Compression::Gzip, Compression::Zstd, Compression::None];
        let packed = tars.into_iter().map(Tar::bytes).zip(kinds.into_iter().cycle());
        let layers: Vec<Layer> = packed.map(|(tar, kind)| self.layer(&tar, kind)).collect();
        self.flatten(&layers)
    }

    fn debugfs(&self, request: &str) -> String {
        let mut debugfs = sys::process::command("/usr/sbin/debugfs");
        let out = sys::process::run(debugfs.args(["-R", request]).arg(self.image())).unwrap();
        String::from_utf8_lossy(&out).into_owned()
    }

    /// The names in a directory.
    fn names(&self, dir: &str) -> Vec<String> {
        let listed = self.debugfs(&format!("ls -p {dir}"));
        let names = listed.lines().filter_map(|line| line.split('/').nth(5).map(str::to_owned));
        let mut names: Vec<String> =
            names.filter(|name| !matches!(name.as_str(), "" | "." | ".." | "lost+found")).collect();
        names.sort();
        names
    }

    fn cat(&self, path: &str) -> String {
        self.debugfs(&format!("cat {path}"))
    }

    fn refusal(&self, tars: Vec<Tar>) -> String {
        let error = self.stack(tars).unwrap_err();
        wire::api::chain(&error)
    }
}

#[test]
fn upper_layers_hide_replace_and_remove() {
    let bench = Bench::new();
    let lower = Tar::new()
        .dir("etc/", 0o755)
        .file("etc/passwd", "root")
        .file("etc/gone", "x")
        .dir("opt/", 0o700)
        .file("opt/a", "lower a")
        .file("opt/b", "lower b")
        .dir("tree/", 0o755)
        .file("tree/leaf", "x")
        .file("was-file", "x")
        .dir("was-dir/", 0o755)
        .file("was-dir/x", "x");
    // Whiteouts stand before and behind what they must not hide.
    let upper = Tar::new()
        .file("opt/new", "upper new")
        .file("opt/.wh..wh..opq", "")
        .file("etc/.wh.gone", "")
        .file("etc/.wh.never-was", "")
        .dir("was-file/", 0o755)
        .file("was-file/y", "y")
        .file("was-dir", "now a file")
        .file(".wh.tree", "")
        .file("tree/again", "again")
        .file(".wh..wh.aufs", "")
        .dir("opt/", 0o711);
    let rootfs = bench.stack(vec![lower, upper]).unwrap();
    assert_eq!(bench.names("/"), ["etc", "opt", "tree", "was-dir", "was-file"]);
    assert_eq!(bench.names("/etc"), ["passwd"]);
    assert_eq!(bench.names("/opt"), ["new"]);
    assert_eq!(bench.names("/tree"), ["again"]);
    assert_eq!(bench.names("/was-file"), ["y"]);
    assert_eq!(bench.cat("/was-dir"), "now a file");
    assert!(bench.debugfs("stat /opt").contains("Mode:  0711"));
    assert_eq!(rootfs.entries, 9);
}

#[test]
fn hard_links_reach_into_lower_layers_and_outlive_their_first_name() {
    let bench = Bench::new();
    let lower = Tar::new().file("one", "content").file("other", "x");
    let middle = Tar::new().link("two", "one").link("deep/three", "./one");
    let upper = Tar::new().file(".wh.one", "").file("two", "replaced");
    bench.stack(vec![lower, middle, upper]).unwrap();
    assert_eq!(bench.names("/"), ["deep", "other", "two"]);
    assert_eq!((bench.cat("/deep/three"), bench.cat("/two")), ("content".to_owned(), "replaced".to_owned()));
    assert!(bench.debugfs("stat /deep/three").contains("Links: 1"));
}

#[test]
fn entries_beneath_links_go_where_the_links_lead_and_never_out() {
    let bench = Bench::new();
    let lower = Tar::new()
        .dir("usr/lib/", 0o755)
        .symlink("lib", "usr/lib")
        .symlink("out", "../../../../tmp")
        .symlink("abs", "/usr")
        .symlink("usr/back", "../usr/lib");
    let upper = Tar::new()
        .file("lib/a", "a")
        .file("out/b", "b")
        .file("abs/lib/c", "c")
        .file("usr/back/d", "d")
        .link("usr/lib/e", "lib/a");
    bench.stack(vec![lower, upper, Tar::new().file("lib/.wh.c", "")]).unwrap();
    assert_eq!(bench.names("/usr/lib"), ["a", "d", "e"]);
    assert_eq!(bench.names("/tmp"), ["b"], "above the root is the root");
    assert_eq!(bench.names("/"), ["abs", "lib", "out", "tmp", "usr"]);
}

#[test]
fn what_is_overwritten_takes_no_room() {
    let bench = Bench::new();
    let large = "x".repeat(40 << 20);
    let small = bench.stack(vec![Tar::new().file("a", "small")]).unwrap();
    let over = bench.stack(vec![Tar::new().file("a", &large), Tar::new().file("a", "small")]).unwrap();
    assert_eq!((over.bytes, over.content_bytes, over.entries), (small.bytes, small.content_bytes, small.entries));
}

#[test]
fn the_same_layers_give_the_same_file_and_an_init_is_found_over_layers() {
    let bench = Bench::new();
    let tars =
        || vec![Tar::new().symlink("sbin/init", "/lib/systemd/systemd"), Tar::new().file("lib/systemd/systemd", "x")];
    let (first, second) = (bench.stack(tars()).unwrap(), bench.stack(tars()).unwrap());
    assert_eq!(first, second);
    assert_eq!(first.init.as_deref(), Some("/sbin/init"));
    // Packed otherwise it is the same image.
    let layers: Vec<Layer> = tars().into_iter().map(|tar| bench.layer(&tar.bytes(), Compression::None)).collect();
    assert_eq!(bench.flatten(&layers).unwrap(), first);
}

#[test]
fn a_layer_without_end_marks_and_one_of_nothing_are_layers() {
    let bench = Bench::new();
    let mut cut = Tar::new().file("a", "a").bytes();
    cut.truncate(cut.len() - 1024);
    let mut unpadded = Tar::new().file("b", "b").bytes();
    unpadded.truncate(512 + 1);
    let layers = [&cut[..], &unpadded, b""].map(|tar| bench.layer(tar, Compression::Gzip));
    bench.flatten(&layers).unwrap();
    assert_eq!(bench.names("/"), ["a", "b"]);
    assert_eq!(bench.cat("/b"), "b");
}

#[test]
fn what_leads_outside_is_refused_with_layer_and_entry() {
    let bench = Bench::new();
    for (tar, why) in [
        (Tar::new().file("../x", ""), "\"../x\" is refused: its name leads outside"),
        (Tar::new().file("/etc/x", ""), "\"/etc/x\" is refused: its name is absolute"),
        (Tar::new().file("a/../../x", ""), "its name leads outside"),
        (Tar::new().link("x", "../../etc/passwd"), "the entry it is a hard link to is outside"),
        (Tar::new().link("x", "/etc/passwd"), "the entry it is a hard link to is outside"),
        (Tar::new().link("x", "nothing"), "the entry it is a hard link to is not there"),
        (Tar::new().dir("d/", 0o755).link("x", "d"), "it is a hard link to a directory"),
        (Tar::new().file("a", "").file("a/b", ""), "beneath something that is not a directory"),
        (Tar::new().symlink("a", "b").symlink("b", "a").file("a/x", ""), "too many symbolic links"),
        (Tar::new().file("a/.wh.", ""), "it removes what has no name"),
        (Tar::new().file("a/.wh...", ""), "it removes what has no name"),
        (Tar::new().file("", ""), "the root can only be a directory"),
    ] {
        let refusal = bench.refusal(vec![Tar::new().file("base", ""), tar]);
        assert!(refusal.contains("layer sha256:") && refusal.contains(why), "{refusal}");
    }
}

#[test]
fn what_is_not_as_promised_is_refused() {
    let bench = Bench::new();
    let tar = Tar::new().file("a", &"content".repeat(10_000)).bytes();
    let good = bench.layer(&tar, Compression::Gzip);
    let wrong = Layer { diff_id: oci::Digest::of(b"x"), ..good.clone() };
    let error = bench.flatten(&[good.clone(), wrong]).unwrap_err();
    assert!(matches!(error, LayersError::DiffId { .. }), "{error:?}");
    let packed = std::fs::read(&good.path).unwrap();
    std::fs::write(&good.path, &packed[..packed.len() / 2]).unwrap();
    let cut = wire::api::chain(&bench.flatten(std::slice::from_ref(&good)).unwrap_err());
    assert!(cut.contains("its gzip stream is damaged"), "{cut}");
    std::fs::write(&good.path, [&packed[..], b"garbage"].concat()).unwrap();
    let garbage = bench.flatten(std::slice::from_ref(&good)).unwrap_err();
    assert!(matches!(garbage, LayersError::Unpack { .. }), "{garbage:?}");
    let mut flipped = packed.clone();
    flipped[packed.len() / 2] ^= 0x55;
    std::fs::write(&good.path, flipped).unwrap();
    bench.flatten(&[good]).unwrap_err();
}

#[test]
fn bombs_end_at_their_limits() {
    let bench = Bench::new();
    let tar = Tar::new().file("zeros", &"\0".repeat(20 << 20)).bytes();
    let layers = [bench.layer(&tar, Compression::Gzip)];
    let limits = Limits { suspicious_bytes: 1 << 20, ratio: 10, ..Limits::default() };
    let refused = |limits| {
        sys::fs::remove_file(&bench.image()).unwrap();
        wire::api::chain(&flatten(&layers, &bench.image(), limits, Watcher::none()).unwrap_err())
    };
    assert!(refused(limits).contains("is refused at entry"), "{}", refused(limits));
    assert!(refused(limits).contains("MiB and more"), "{}", refused(limits));
    let all = refused(Limits { unpacked_bytes: 10 << 20, ..Limits::default() });
    assert!(all.contains("the image unpacks to more than 10 MiB"), "{all}");
    let names = refused(Limits { metadata_bytes: 3, ..Limits::default() });
    assert!(names.contains("its names and attributes take too much room"), "{names}");
}

#[test]
fn a_cancelled_one_stops() {
    let bench = Bench::new();
    let layer = bench.layer(&Tar::new().file("a", "a").bytes(), Compression::Gzip);
    let stop = AtomicBool::new(true);
    let error = flatten(&[layer], &bench.image(), Limits::default(), Watcher::new(&|_| {}, &stop)).unwrap_err();
    assert!(matches!(error, LayersError::Cancelled(_)), "{error:?}");
}
