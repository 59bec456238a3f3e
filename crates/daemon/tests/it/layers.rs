//! Layers flattened here and unpacked by umoci(1) as root: the same tree, entry by entry.
//!
//! Unpacking needs root for owners and devices; as another user this does nothing, as every test that needs root. Where a
//! program or loop devices are missing, it is skipped and says so.

use std::collections::{BTreeMap, HashMap};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use daemon::image::layers::{Limits, flatten};
use daemon::model::progress::Watcher;
use oci::{Blobs, Options};

/// Makes trees with everything a layer may hold and packs them: `$1` is an empty directory.
const MAKE: &str = r#"
cd "$1"
pack() { tar --create --format=pax --sparse --xattrs --xattrs-include='*' --numeric-owner --file "$1.tar" --directory "$1" .; }

mkdir -p one/usr/bin one/usr/lib one/etc one/dev one/opt/old one/var/deep/er one/srv
ln -s usr/lib one/lib
ln -s /usr/bin one/bin
ln -s ../nowhere one/etc/dangling
printf tool > one/usr/bin/tool; chmod 4755 one/usr/bin/tool
printf group > one/usr/bin/group; chmod 2711 one/usr/bin/group
mkdir one/tmp; chmod 1777 one/tmp
printf cap > one/usr/bin/ping; setfattr -n security.capability -v 0x0100000200200000000000000000000000000000 one/usr/bin/ping
printf attr > one/srv/attr; setfattr -n user.note -v hello one/srv/attr
mknod one/dev/null c 1 3; mknod one/dev/disk b 259 1000; mkfifo one/dev/pipe
chown 1000:2000 one/srv; chown 65534:100000 one/srv/attr; chown -h 5:6 one/lib
ln one/usr/bin/tool one/usr/bin/tool-too
truncate -s 8M one/srv/sparse; printf middle | dd of=one/srv/sparse bs=1 seek=4194304 conv=notrunc status=none
truncate -s 3M one/srv/hollow
printf x > "one/srv/a name with  spaces"; printf x > 'one/srv/quote"d'; printf x > "one/srv/ünïcödé"
printf x > "one/srv/$(head -c 200 /dev/zero | tr '\0' n)"
printf old > one/etc/changed; printf gone > one/etc/gone; printf a > one/opt/old/a; printf b > one/opt/old/b
printf leaf > one/var/deep/er/leaf; printf file > one/was-file; mkdir one/was-dir; printf x > one/was-dir/x
printf kept > one/etc/first; touch -d '1969-07-20 20:17:40.5 UTC' one/etc/first
touch -d '2100-01-01 00:00:00.25 UTC' one/etc/changed
pack one

mkdir -p two/etc two/opt/old two/usr/lib two/was-file two/new
printf new > two/etc/changed; : > two/etc/.wh.gone
: > two/opt/old/.wh..wh..opq; printf c > two/opt/old/c
chmod 700 two/opt/old; chown 7:7 two/opt/old
: > two/.wh.was-dir; printf y > two/was-file/y; printf library > two/usr/lib/library
printf only > two/new/only
pack two

# Through a link of a lower layer, a hard link across layers, a name that is both removed and there again.
mkdir -p three/etc three/usr/bin
ln two/new/only three/etc/linked; mkdir three/new; ln two/new/only three/new/only
: > three/usr/bin/.wh.tool; : > three/etc/.wh.first; printf dir > three/was-dir
tar --create --format=pax --numeric-owner --file three.tar --directory three .
tar --append --format=pax --file three.tar --transform 's,^,lib/,' --directory two/etc changed
"#;

fn sh(script: &str, dir: &Path) {
    let mut shell = sys::process::command("/bin/sh");
    sys::process::run(shell.args(["-euc", script, "sh"]).arg(dir)).unwrap();
}

#[expect(clippy::print_stderr, reason = "a test that shows nothing says so")]
fn is_skipped() -> bool {
    let needed = ["/usr/bin/umoci", "/usr/bin/setfattr", "/dev/loop-control"];
    let missing = needed.into_iter().find(|path| !Path::new(path).exists());
    if let Some(missing) = missing {
        eprintln!("skipped: there is no {missing}: scripts/packages.sh install images");
    }
    missing.is_some()
}

/// What one entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    kind: char,
    mode: u32,
    owner: (u32, u32),
    /// Seconds and nanoseconds; none of a directory, whose time is that of whoever made something in it last.
    time: Option<(i64, i64)>,
    device: u64,
    /// What a file holds, where a link leads.
    content: Vec<u8>,
    attributes: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The first of the names of its inode.
    first: PathBuf,
}

/// Everything below `root`, by its path.
fn entries(root: &Path) -> BTreeMap<PathBuf, Entry> {
    let mut inodes: HashMap<u64, PathBuf> = HashMap::new();
    let (mut left, mut found) = (vec![root.to_owned()], BTreeMap::new());
    let mut paths = Vec::new();
    while let Some(dir) = left.pop() {
        for entry in std::fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            if std::fs::symlink_metadata(&path).unwrap().is_dir() {
                left.push(path.clone());
            }
            paths.push(path);
        }
    }
    paths.sort();
    for path in paths {
        let meta = std::fs::symlink_metadata(&path).unwrap();
        let (kind, below) = (meta.file_type(), path.strip_prefix(root).unwrap().to_owned());
        let letter = match kind {
            kind if kind.is_dir() => 'd',
            kind if kind.is_symlink() => 'l',
            kind if kind.is_char_device() => 'c',
            kind if kind.is_block_device() => 'b',
            kind if kind.is_fifo() => 'p',
            _ => '-',
        };
        let content = match letter {
            'l' => std::fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec(),
            '-' => std::fs::read(&path).unwrap(),
            _ => Vec::new(),
        };
        let first = inodes.entry(meta.ino()).or_insert_with(|| below.clone()).clone();
        let entry = Entry {
            kind: letter,
            mode: meta.mode() & 0o7777,
            owner: (meta.uid(), meta.gid()),
            time: (letter != 'd').then_some((meta.mtime(), meta.mtime_nsec())),
            device: if matches!(letter, 'c' | 'b') { meta.rdev() } else { 0 },
            content,
            attributes: attributes(&path),
            first: if letter == 'd' { below.clone() } else { first },
        };
        found.insert(below, entry);
    }
    // Every ext4 has one.
    found.remove(Path::new("lost+found"));
    found
}

fn attributes(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = vec![0; 64 << 10];
    let length = rustix::fs::llistxattr(path, &mut names[..]).unwrap();
    let names = names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    names
        .map(|name| {
            let mut value = vec![0; 64 << 10];
            let length = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
            (name.to_vec(), value[..length].to_vec())
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tree_is_the_one_that_umoci_unpacks_as_root() {
    if !rustix::process::geteuid().is_root() || is_skipped() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    sh(MAKE, dir.path());
    sh(
        r#"cd "$1"; umoci init --layout image; umoci new --image image:v1
        for layer in one two three; do umoci raw add-layer --image image:v1 "$layer.tar"; done
        umoci unpack --image image:v1 unpacked; mkdir mounted cache"#,
        dir.path(),
    );
    let source = format!("oci:{}:v1", dir.path().join("image").display()).parse().unwrap();
    let blobs = Blobs::open(&dir.path().join("cache")).unwrap();
    let pulled = oci::pull(&source, &Options::default(), &blobs, &()).await.unwrap();
    let image = dir.path().join("rootfs.ext4");
    let rootfs = flatten(&pulled.layers, &image, Limits::default(), Watcher::none()).unwrap();
    let ours = {
        // In a mount namespace that goes with the shell, the filesystem is copied to where it can be looked at.
        sh(
            r#"cd "$1"; unshare --mount sh -euc 'mount -o loop,ro rootfs.ext4 mounted; cp --archive mounted copied'"#,
            dir.path(),
        );
        entries(&dir.path().join("copied"))
    };
    let theirs = entries(&dir.path().join("unpacked/rootfs"));
    assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>());
    for (path, entry) in &theirs {
        assert_eq!(&ours[path], entry, "{}", path.display());
    }
    assert!(theirs.len() > 35 && ours.len() as u64 == rootfs.entries, "{} {}", theirs.len(), rootfs.entries);
}
