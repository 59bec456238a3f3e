//! Taking the world away from a process: its own view of the filesystem, of processes and of the network, no way to more
//! rights. For a child of one thread between [`isolated_fork`] and execve(2).

mod seccomp;

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, mount, mount_change, move_mount, open_tree,
};
use rustix::thread::{CapabilitySet, remove_capability_from_bounding_set, set_no_new_privs};

pub use seccomp::deny_escapes;

/// Whether a process sees the host's network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// The caller's namespace.
    Shared,
    /// An empty one.
    None,
}

/// Makes a copy of this process in new mount, PID, IPC and UTS namespaces, where it is process 1, and perhaps a new network
/// namespace. `None` in the copy; in the caller its process id and a pidfd. **The calling process must have one thread.**
///
/// # Errors
/// When this process may not, or the kernel makes no further process.
pub fn isolated_fork(network: Network) -> io::Result<Option<(u32, OwnedFd)>> {
    let mut flags =
        libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | libc::CLONE_PIDFD;
    if network == Network::None {
        flags |= libc::CLONE_NEWNET;
    }
    let mut pidfd = -1;
    match crate::spawn::clone_whole(flags, &mut pidfd)? {
        None => Ok(None),
        // SAFETY: the kernel has just made this descriptor for us (CLONE_PIDFD).
        Some(pid) => Ok(Some((pid, unsafe { OwnedFd::from_raw_fd(pidfd) }))),
    }
}

/// What may be done through a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MountAccess {
    /// Reading.
    ReadOnly,
    /// Reading and writing.
    ReadWrite,
}

/// A mount of the file or directory that `place` is open at, attached nowhere yet. No device node works through it, and no
/// program can be run from it. `place` must be open in the caller's mount namespace.
///
/// # Errors
/// When this process may not; Linux before 5.12.
pub fn detached_mount(place: impl AsFd, access: MountAccess) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let tree = open_tree(&place, c"", flags)?;
    let mut set = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC;
    if access == MountAccess::ReadOnly {
        set |= libc::MOUNT_ATTR_RDONLY;
    }
    let attributes = libc::mount_attr { attr_set: set, attr_clr: 0, propagation: libc::MS_PRIVATE, userns_fd: 0 };
    // SAFETY: the path is a terminated string; the kernel reads the structure, whose size is passed along.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(tree) }
}

/// Attaches a [`detached_mount`] at `path`, in the mount namespace of the caller.
///
/// # Errors
/// When there is nothing at `path` to mount on.
pub fn attach_mount(tree: impl AsFd, path: &Path) -> io::Result<()> {
    Ok(move_mount(tree, c"", rustix::fs::CWD, path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
}

/// Keeps what is mounted from now on in this process's mount namespace, and what is mounted elsewhere out of it.
///
/// # Errors
/// When this process may not.
pub fn keep_mounts_private() -> io::Result<()> {
    Ok(mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?)
}

/// Mounts an empty filesystem in memory at `path`, private to its owner, where device nodes work.
///
/// # Errors
/// When this process may not.
pub fn mount_memory(path: &Path, bytes: u64, files: u32) -> io::Result<()> {
    let options = std::ffi::CString::new(format!("mode=0700,size={bytes},nr_inodes={files}"))?;
    Ok(mount(c"tmpfs", path, c"tmpfs", MountFlags::NOSUID, &*options)?)
}

/// The capabilities that making a jail with device nodes, and becoming another user in it, takes.
const JAILERS: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SYS_ADMIN);

/// Takes from this process, and from every program it becomes, all capabilities but those a jailer needs, and every way to
/// more: no setuid bit and no file capability counts from now on.
///
/// # Errors
/// When this process may not.
pub fn limit_to_jailer() -> io::Result<()> {
    for capability in CapabilitySet::all().difference(JAILERS) {
        match remove_capability_from_bounding_set(capability) {
            // INVAL: one that this kernel does not know.
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(set_no_new_privs(true)?)
}
