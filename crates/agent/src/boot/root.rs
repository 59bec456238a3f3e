//! The guest's root: the image below, the VM's disk above, and around them what must not be on an overlay.
//!
//! The mounts of the image and of the disk themselves are detached once everything stands: the guest sees the overlay and
//! the binds only, and unmounting those at the end unmounts the disk.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::mpsc;

use rustix::fs::{Advice, Mode, OFlags};
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, mount_move, unmount};

use super::devices::{self, Drives, release};
use super::{Beside, BootError, Report, disk};
use crate::root_dir::{RootDir, path_of};
use crate::seed;

/// Where the guest's root is built.
pub const NEW_ROOT: &str = "/newroot";
const LOWER: &str = "/lower";
const MODULES: &str = "/modules";

/// The layers' options: renames of directories work, hard links and inode numbers stay what they are, no file is only half
/// copied up. The kernel's defaults differ from build to build.
const OVERLAY: &std::ffi::CStr = c"lowerdir=/lower,upperdir=/disk/system/upper,workdir=/disk/system/work,redirect_dir=on,index=on,xino=on,metacopy=off";

/// The VM's home, which a reset of the system leaves alone.
const HOME: &str = "/root";

/// Paths that must not sit on overlayfs, because what uses them puts an overlay on top or wants its own filesystem
/// semantics. Their names on the disk follow by turning slashes into dashes.
pub const DIRECT: [&str; 10] = [
    "/home",
    "/var/lib/docker",
    "/var/lib/containerd",
    "/var/lib/containers",
    "/var/lib/buildkit",
    "/var/lib/kubelet",
    "/var/lib/rancher",
    "/var/lib/lxc",
    "/var/lib/incus",
    "/var/lib/machines",
];

/// Makes a directory of the initramfs, which may bring it already.
pub(super) fn mount_point(path: &str) -> std::io::Result<()> {
    match rustix::fs::mkdir(path, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// What the root is built of.
#[derive(Debug)]
pub struct Layers {
    drives: Drives,
    lower: RootDir,
    /// The VM's disk.
    pub disk: RootDir,
}

/// Mounts the image and the disk, and has what the first command needs read ahead, which is over when the second one given
/// back is. Asks the host nothing, so it is done while the host is. `filesystems` and `drives` are modules; the drives' are
/// of use once `transport` has told that devices can be found.
///
/// # Errors
/// When a drive is not there or cannot be mounted.
pub fn layers(
    filesystems: &[String],
    drives: &[String],
    transport: &mpsc::Receiver<()>,
    report: &mut Report,
) -> Result<(Layers, Beside<()>), BootError> {
    devices::load(filesystems, report);
    report.reached("filesystems");
    transport.recv().map_err(|gone| BootError::during("wait for the way to the drives")(io::Error::other(gone)))?;
    devices::load(drives, report);
    report.reached("modules");
    let drives = devices::drives()?;
    report.reached("drives");
    mount_point(LOWER).map_err(BootError::during("make a mount point"))?;
    mount(&drives.rootfs, LOWER, "ext4", MountFlags::RDONLY, c"").map_err(BootError::during("mount the image"))?;
    let lower = RootDir::open(LOWER).map_err(BootError::during("open the image"))?;
    let image = lower.try_clone().map_err(BootError::during("share the image"))?;
    let warm = Beside::begin("warm", move |_| read_ahead(&image));
    let disk = disk::mount(&drives, report)?;
    report.reached("disk");
    Ok((Layers { drives, lower, disk }, warm))
}

/// What nearly every program of an image needs: its shell, what links it, what says who is who; and the init.
const NEEDED_FIRST: [&str; 8] = [
    "/lib64/ld-linux-x86-64.so.2",
    "/etc/ld.so.cache",
    "/lib/x86_64-linux-gnu/libc.so.6",
    "/lib64/libc.so.6",
    "/etc/passwd",
    "/etc/group",
    "/bin/sh",
    "/sbin/init",
];

/// Has the kernel read what the first command will wait for, while the boot is busy with other things.
fn read_ahead(image: &RootDir) {
    for path in NEEDED_FIRST {
        // An image need not have it, and nothing but time is lost.
        if let Ok(file) = image.open_at(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY) {
            let _: rustix::io::Result<()> = rustix::fs::fadvise(&file, 0, None, Advice::WillNeed);
        }
    }
}

/// The name on the disk of a path that it keeps.
fn kept_as(path: &str) -> String {
    if path == HOME {
        return "home-root".to_owned();
    }
    format!("direct/{}", path.trim_start_matches('/').replace('/', "-"))
}

/// Sees that the disk has the directory it keeps for `path`.
fn keep(lower: &RootDir, disk: &RootDir, path: &str) -> io::Result<()> {
    let name = kept_as(path);
    if disk.exists(&name) {
        return Ok(());
    }
    seed::first_use(lower, path, disk, &name, if path == HOME { 0o700 } else { 0o755 })
}

/// Builds the root at [`NEW_ROOT`], but for what [`extend`] adds.
///
/// # Errors
/// When the overlay cannot be mounted.
pub fn assemble() -> Result<RootDir, BootError> {
    mount_point(NEW_ROOT).map_err(BootError::during("make a mount point"))?;
    mount("overlay", NEW_ROOT, "overlay", MountFlags::empty(), OVERLAY)
        .map_err(BootError::during("mount the overlay of image and disk"))?;
    let root = RootDir::open(NEW_ROOT).map_err(BootError::during("open the new root"))?;
    for (path, mode) in
        [("/proc", 0o555), ("/sys", 0o555), ("/dev", 0o755), ("/run", 0o755), ("/etc", 0o755), ("/tmp", 0o1777)]
    {
        root.ensure_dir(path, mode).map_err(BootError::during(format!("make {path} in the guest's root")))?;
    }
    // The rest of the boot writes below the guest's /run.
    move_into(&root, "/run").map_err(BootError::during("move /run into the guest's root"))?;
    Ok(root)
}

/// The two ends of [`extend`] that are elsewhere.
#[derive(Debug)]
pub struct Meanwhile {
    /// Tells that the disk has the VM's home, or why not.
    pub home: mpsc::Sender<io::Result<()>>,
    /// Gets the root when it stands.
    pub root: mpsc::Receiver<RootDir>,
}

/// Gives the disk what it keeps of the image, and the root what the image's init needs and nothing before it: the direct
/// paths, the kernel's modules, `/tmp`. What needs no root is done while that is made.
pub fn extend(layers: &Layers, meanwhile: &Meanwhile, report: &mut Report) {
    let Layers { drives, lower, disk } = layers;
    // Nobody listens, or sends, in a boot that failed.
    if meanwhile.home.send(keep(lower, disk, HOME)).is_err() {
        return;
    }
    report.reached("home");
    let kept = DIRECT.map(|path| keep(lower, disk, path));
    let modules = drives.modules.as_deref().map(mount_modules);
    report.reached("kept");
    let Ok(root) = meanwhile.root.recv() else {
        return;
    };
    for (path, kept) in DIRECT.into_iter().zip(kept) {
        report.note(&format!("mount {path} directly"), kept.and_then(|()| bind_kept(&root, disk, path)));
    }
    if let Some(mounted) = modules {
        report.note("bind the kernel's modules", mounted.and_then(|()| bind_modules(&root)));
    }
    report.note("mount /tmp", mount_tmp(&root));
    report.reached("direct paths");
}

/// Mounts the VM's own home, which the disk has.
///
/// # Errors
/// When it cannot be mounted.
pub fn bind_home(root: &RootDir, layers: &Layers) -> Result<(), BootError> {
    bind_kept(root, &layers.disk, HOME).map_err(BootError::during("mount the VM's /root"))
}

/// Moves the filesystems that the boot itself looks into, as its last act on its own root.
///
/// # Errors
/// When one cannot be moved.
pub fn move_pseudo(root: &RootDir) -> Result<(), BootError> {
    // The others' targets are named through /proc.
    for path in ["/sys", "/dev", "/proc"] {
        move_into(root, path).map_err(BootError::during(format!("move {path} into the guest's root")))?;
    }
    Ok(())
}

/// Detaches the layers' own mounts: the overlay and the binds keep what they need.
///
/// # Errors
/// When one cannot be detached.
pub fn detach_layers() -> io::Result<()> {
    for path in [LOWER, disk::DISK] {
        unmount(path, UnmountFlags::DETACH)?;
    }
    Ok(())
}

/// Binds the directory that the disk keeps for `path`.
fn bind_kept(root: &RootDir, disk: &RootDir, path: &str) -> io::Result<()> {
    let kept = disk.open_at(&kept_as(path), OFlags::PATH | OFlags::DIRECTORY)?;
    let target = root.ensure_dir(path, 0o755)?;
    Ok(mount_bind(path_of(&kept), path_of(&target))?)
}

fn mount_modules(device: &Path) -> io::Result<()> {
    mount_point(MODULES)?;
    Ok(mount(device, MODULES, "ext4", MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV, c"")?)
}

/// Binds the kernel's module tree at `/lib/modules/<release>`. The drive holds the tree itself, or holds it below the
/// release's name.
fn bind_modules(root: &RootDir) -> io::Result<()> {
    let release = release();
    let drive = RootDir::open(MODULES)?;
    let inner = [format!("/{release}"), format!("/lib/modules/{release}")];
    let tree = inner.iter().find(|path| drive.exists(path)).map_or("/", String::as_str);
    let source = drive.ensure_dir(tree, 0o755)?;
    let target: OwnedFd = root.ensure_dir(&format!("/lib/modules/{release}"), 0o755)?;
    mount_bind(path_of(&source), path_of(&target))?;
    drop((drive, source));
    Ok(unmount(MODULES, UnmountFlags::DETACH)?)
}

/// Mounts a tmpfs at `/tmp` where the image's systemd would: what early commands put there would vanish below a later one.
fn mount_tmp(root: &RootDir) -> io::Result<()> {
    let is_masked = root.read_link("/etc/systemd/system/tmp.mount").is_some_and(|target| target == "/dev/null");
    let is_wanted = ["/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"]
        .iter()
        .any(|directory| root.read_link(&format!("{directory}/local-fs.target.wants/tmp.mount")).is_some());
    if is_masked || !is_wanted {
        return Ok(());
    }
    let target = root.ensure_dir("/tmp", 0o1777)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    Ok(mount("tmpfs", path_of(&target), "tmpfs", flags, c"mode=1777,size=50%,nr_inodes=1m")?)
}

fn move_into(root: &RootDir, path: &str) -> io::Result<()> {
    let target = root.ensure_dir(path, 0o755)?;
    Ok(mount_move(path, path_of(&target))?)
}
