//! The jail that Firecracker runs in where there is nobody with rights to make one: `bangerd` called by [`VERB`].
//!
//! ```text
//! daemon ── vmm-jail ──► launcher: namespaces of its own for users, mounts, network, IPC, names, cgroups
//!                          │  forks; records the child; waits for it and ends as it does
//!                          ▼
//!                        child, process 1 of a PID namespace: a root in memory with nothing in it but the files of this
//!                          machine, a tap, Landlock, no capability, no way to one ──► becomes Firecracker
//! ```
//!
//! | in the jail | what |
//! |---|---|
//! | `/firecracker` | read-only |
//! | `/kernel /initramfs /rootfs /modules` | read-only |
//! | `/disk` | the VM's own disk |
//! | `/metrics` | what Firecracker counts |
//! | `/config.json` | what it is to run, unless it goes on from a saved machine |
//! | `/memory /devices` | the saved machine it goes on from; read-only |
//! | `/saves` | where it leaves what it saves |
//! | `/run` | where it runs: its API's socket, its vsock's; shared with the daemon |
//! | `/dev/kvm /dev/net/tun /dev/urandom` | the devices |
//! | `/lib …` | read-only, for a Firecracker that is not static |
//!
//! An escaped VMM has its owner's number and none of its owner's rights: it sees no file, no process, no interface and no
//! socket of the host but these. The network's only way out is a socket for the tap's frames, held by the
//! [filter](crate::network::filter).

use std::ffi::{CString, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, UnmountFlags, mount_bind, mount_remount, unmount};
use rustix::process::{Resource, Rlimit, setrlimit};
use serde::{Deserialize, Serialize};
use sys::confine::{self, MountAccess};
use sys::process::Identity;
use sys::seclusion;

use super::config::{Config, TAP};
use super::landlock;
use crate::model::machine::{DriveRole, SavedMachine};

/// What `bangerd` is called with to be this.
pub const VERB: &str = "vmm-jail";
/// Behind [`VERB`] instead of a jail: only look whether there can be one.
pub(super) const PROBE: &str = "probe";

/// Firecracker, in the jail.
const PROGRAM: &str = "/firecracker";
/// The kernel, in the jail.
pub(super) const KERNEL: &str = "/kernel";
/// The initramfs, in the jail.
pub(super) const INITRAMFS: &str = "/initramfs";
/// What Firecracker counts, in the jail.
pub(super) const METRICS: &str = "/metrics";
/// What Firecracker is to run, in the jail.
pub(super) const CONFIG: &str = "/config.json";
/// The memory of the machine that it goes on from, in the jail.
pub(super) const MEMORY: &str = "/memory";
/// Its processors and devices, in the jail.
pub(super) const STATE: &str = "/devices";
/// Where Firecracker leaves what it saves, in the jail.
pub(super) const SAVES: &str = "/saves";
/// Where Firecracker runs, in the jail.
pub(super) const RUN: &str = "/run";
/// The devices of a jail.
const DEVICES: [&str; 3] = ["/dev/kvm", "/dev/net/tun", "/dev/urandom"];
/// What a program that is not static needs, where the host has it.
const LIBRARIES: [&str; 5] = ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache"];

/// Bytes and files of the root in memory: it holds mount points and the configuration.
const ROOT_BYTES: u64 = 1 << 20;
const ROOT_FILES: u32 = 64;

/// A drive, in the jail.
pub(super) fn drive(role: DriveRole) -> String {
    format!("/{}", role.serial())
}

/// What is put into a jail and becomes a VMM there: the form of the argument behind [`VERB`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Jail {
    /// Firecracker.
    pub(super) program: PathBuf,
    /// Its arguments.
    pub(super) arguments: Vec<String>,
    /// What it is to run.
    pub(super) config: Option<Config>,
    /// The files it sees.
    pub(super) files: Vec<Shown>,
    /// The boot's directory.
    pub(super) boot_dir: PathBuf,
    /// Where on the host it leaves what it saves.
    #[serde(default)]
    pub(super) saves: Option<PathBuf>,
    /// Receives what it prints, which is the guest's console.
    pub(super) console: PathBuf,
    /// Whether there is a tap.
    pub(super) has_tap: bool,
    /// Where the tap's frames go; nowhere when none.
    pub(super) uplink: Option<PathBuf>,
}

impl Jail {
    /// What of the host is at this place in the jail.
    pub(super) fn shown(&self, at: &str) -> Option<&Path> {
        self.files.iter().find(|shown| shown.at == at).map(|shown| shown.path.as_path())
    }

    /// What the machine goes on from.
    pub(super) fn saved(&self) -> Option<SavedMachine> {
        let (memory, devices) = (self.shown(MEMORY)?.to_path_buf(), self.shown(STATE)?.to_path_buf());
        Some(SavedMachine { memory, devices })
    }
}

/// A file of the host, in a jail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Shown {
    /// On the host.
    pub(super) path: PathBuf,
    /// In the jail.
    pub(super) at: String,
    /// Whether it may be written.
    pub(super) is_writable: bool,
}

/// Holds the root in memory while it is made.
pub(super) fn root_dir(boot_dir: &Path) -> PathBuf {
    boot_dir.join("jail")
}

/// What could not be done.
#[derive(Debug)]
struct Failure {
    act: String,
    source: io::Error,
}

fn during<E: Into<io::Error>>(act: impl Into<String>) -> impl FnOnce(E) -> Failure {
    let act = act.into();
    move |source| Failure { act, source: source.into() }
}

/// `bangerd vmm-jail JAIL|probe`, with the arguments behind the verb. Ends as the VMM does.
pub fn run(mut arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let (Some(word), None) = (arguments.next(), arguments.next()) else {
        return complain(&format!("usage: bangerd {VERB} JAIL|{PROBE}"), 2);
    };
    let done = match serde_json::from_slice::<Jail>(word.as_bytes()) {
        _ if word == PROBE => probe(),
        Ok(jail) => launch(&jail),
        Err(error) => return complain(&format!("bangerd {VERB}: {error}"), 2),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { act, source }) => {
            complain(&format!("cannot {act}: {}", wire::api::plain(&source.to_string())), 1)
        }
    }
}

#[expect(clippy::print_stderr, reason = "what it prints is the log that the driver quotes")]
fn complain(text: &str, code: u8) -> ExitCode {
    eprintln!("{text}");
    ExitCode::from(code)
}

/// Tries what only the kernel's set-up decides.
fn probe() -> Result<(), Failure> {
    seclusion::unshare_all().map_err(during("make namespaces for a VMM"))?;
    confine::keep_mounts_private().map_err(during("keep mounts private"))?;
    // The launcher's own directory, whatever it is: nobody else sees this.
    confine::mount_memory(Path::new("/tmp"), ROOT_BYTES, ROOT_FILES).map_err(during("mount a root for a VMM"))?;
    make_tap().map(|_index| ())
}

/// Makes the jail, and the child that becomes the VMM in it. Returns only when that failed; else ends as the child does.
fn launch(jail: &Jail) -> Result<(), Failure> {
    sys::spawn::keep_inherited_private().map_err(during("keep descriptors private"))?;
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    setrlimit(Resource::Core, none).map_err(during("forbid core dumps"))?;
    let console = append(&jail.console)?;
    seclusion::unshare_all().map_err(during("make namespaces for the VMM"))?;
    let (heard, tell) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(during("make a pipe"))?;
    let Some(child) = sys::spawn::fork().map_err(during("fork"))? else {
        drop(tell);
        // Until it is on record; never, if the launcher ends before.
        let mut word = [0];
        match File::from(heard).read(&mut word) {
            Ok(1) => {}
            _ => sys::spawn::exit_at_once(1),
        }
        return confined(jail, console);
    };
    drop(heard);
    let recorded = Identity::of(child).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound));
    let recorded = recorded.and_then(|identity| identity.record(&super::pid_file(&jail.boot_dir)));
    recorded.map_err(during("record the VMM's process"))?;
    File::from(tell).write_all(b"!").map_err(during("let the VMM begin"))?;
    seclusion::drop_capabilities().map_err(during("give up capabilities"))?;
    seclusion::end_like(child)
}

/// The child: takes the world away from itself and becomes the VMM.
fn confined(jail: &Jail, console: File) -> Result<(), Failure> {
    seclusion::end_with_parent().map_err(during("end with the launcher"))?;
    rustix::stdio::dup2_stdout(&console).map_err(during("write to the console's log"))?;
    drop(console);
    seclusion::end_user_namespaces().map_err(during("forbid further namespaces"))?;
    // It ends when this process does: that is how the filter knows.
    let uplink = network(jail)?;
    if let Some(uplink) = &uplink {
        rustix::io::fcntl_setfd(uplink, rustix::io::FdFlags::empty()).map_err(during("keep the way out"))?;
    }
    if jail.shown(MEMORY).is_some() {
        // Its memory is a file's: large pages would go to the VMM's own stacks alone, two MiB each.
        rustix::thread::disable_transparent_huge_pages(true).map_err(during("keep to small pages"))?;
    }
    let libraries = if is_static(&jail.program)? { &[][..] } else { &LIBRARIES[..] };
    let writable = build_root(jail, libraries)?;
    landlock::restrict(&writable, &DEVICES).map_err(during("restrict the VMM's files"))?;
    seclusion::drop_capabilities().map_err(during("give up capabilities"))?;
    confine::deny_escapes().map_err(during("restrict the VMM's system calls"))?;
    let text = |text: &str| CString::new(text).map_err(during("name an argument"));
    let argv: Vec<CString> = std::iter::once(PROGRAM)
        .chain(jail.arguments.iter().map(String::as_str))
        .map(text)
        .collect::<Result<_, _>>()?;
    let error = sys::spawn::exec(&text(PROGRAM)?, &argv, &[]);
    Err(during(format!("run {}", jail.program.display()))(error))
}

/// Makes the root in memory and everything in it, and moves there. Gives the paths that may be written.
fn build_root(jail: &Jail, libraries: &[&str]) -> Result<Vec<String>, Failure> {
    let root = root_dir(&jail.boot_dir);
    confine::keep_mounts_private().map_err(during("keep mounts private"))?;
    // Opened before anything is mounted over them.
    let shared = open(&crate::vmm::shared_dir(&jail.boot_dir))?;
    let saves = jail.saves.as_deref().map(open).transpose()?;
    let files = jail.files.iter().map(|shown| Ok((shown, open(&shown.path)?))).collect::<Result<Vec<_>, Failure>>()?;
    confine::mount_memory(&root, ROOT_BYTES, ROOT_FILES).map_err(during("mount the VMM's root"))?;
    let inside = |at: &str| root.join(at.trim_start_matches('/'));
    for dir in ["/dev", "/dev/net", RUN, "/etc", "/usr"] {
        make_dir(&inside(dir))?;
    }
    for device in DEVICES {
        make_file(&inside(device), b"")?;
        mount_bind(device, inside(device)).map_err(during(format!("give the VMM {device}")))?;
    }
    make_file(&inside(PROGRAM), b"")?;
    show_program(&jail.program, &inside(PROGRAM))
        .map_err(during(format!("give the VMM {}", jail.program.display())))?;
    for (shown, place) in &files {
        let access = if shown.is_writable { MountAccess::ReadWrite } else { MountAccess::ReadOnly };
        make_file(&inside(&shown.at), b"")?;
        show(place, access, &inside(&shown.at)).map_err(during(format!("give the VMM {}", shown.path.display())))?;
    }
    show(&shared, MountAccess::ReadWrite, &inside(RUN)).map_err(during("give the VMM its directory"))?;
    if let Some(saves) = &saves {
        make_dir(&inside(SAVES))?;
        show(saves, MountAccess::ReadWrite, &inside(SAVES)).map_err(during("give the VMM where to save"))?;
    }
    for library in libraries {
        show_library(library, &inside(library))?;
    }
    if let Some(config) = &jail.config {
        let json = serde_json::to_vec(config).map_err(during("write the VMM's configuration"))?;
        make_file(&inside(CONFIG), &json)?;
    }
    enter(&root)?;
    let writable = jail.files.iter().filter(|shown| shown.is_writable).map(|shown| shown.at.clone());
    let saves = jail.saves.iter().map(|_| SAVES.to_owned());
    Ok(writable.chain([RUN.to_owned()]).chain(saves).collect())
}

/// Makes `root` the root, leaves nothing of the old one, and has nothing be made in it any more.
fn enter(root: &Path) -> Result<(), Failure> {
    let act = || during("enter the VMM's root");
    rustix::process::chdir(root).map_err(act())?;
    rustix::process::pivot_root(".", ".").map_err(act())?;
    // The old root lies over the new one now.
    unmount(".", UnmountFlags::DETACH).map_err(act())?;
    let flags = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NOEXEC;
    mount_remount("/", flags, c"").map_err(during("make the VMM's root read-only"))?;
    rustix::process::chdir(RUN).map_err(act())
}

fn show(place: &OwnedFd, access: MountAccess, at: &Path) -> io::Result<()> {
    confine::attach_mount(confine::detached_mount(place, access)?, at)
}

/// A directory of libraries, or the link to one, or a file that names them; what the host has not, is not missed.
fn show_library(path: &str, at: &Path) -> Result<(), Failure> {
    let act = || format!("give the VMM {path}");
    let meta = match std::fs::symlink_metadata(path) {
        Ok(meta) => meta,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(during(act())(error)),
    };
    if meta.is_symlink() {
        let target = std::fs::read_link(path).map_err(during(act()))?;
        return rustix::fs::symlink(target, at).map_err(during(act()));
    }
    if meta.is_dir() {
        make_dir(at)?
    } else {
        make_file(at, b"")?
    }
    show_program(Path::new(path), at).map_err(during(act()))
}

/// Something to be run, or read to be run.
fn show_program(path: &Path, at: &Path) -> io::Result<()> {
    mount_bind(path, at)?;
    let flags = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
    Ok(mount_remount(at, flags, c"")?)
}

/// The tap, and whatever carries its frames away.
fn network(jail: &Jail) -> Result<Option<UnixStream>, Failure> {
    if !jail.has_tap {
        return Ok(None);
    }
    let index = make_tap()?;
    let Some(uplink) = &jail.uplink else {
        return Ok(None);
    };
    let act = || during("hand the NIC's frames to the guest's network");
    let frames = seclusion::frames(index).map_err(act())?;
    let uplink = UnixStream::connect(uplink).map_err(act())?;
    sys::packet::send(&uplink, b"!", &[frames.as_fd()]).map_err(act())?;
    // Nothing else is ever said.
    uplink.shutdown(Shutdown::Write).map_err(act())?;
    Ok(Some(uplink))
}

fn make_tap() -> Result<u32, Failure> {
    seclusion::silence_ipv6().map_err(during("silence the kernel on the VMM's network"))?;
    sys::tap::ensure(TAP, rustix::process::getuid().as_raw()).map_err(during("make a tap for the VMM"))
}

/// Whether a program needs no other file to run: no `PT_INTERP` among its ELF program headers, elf(5).
fn is_static(program: &Path) -> Result<bool, Failure> {
    const PT_INTERP: u32 = 3;
    const ACT: &str = "look at the VMM's program";
    let file = File::open(program).map_err(during(ACT))?;
    let mut head = Vec::new();
    file.take(4096).read_to_end(&mut head).map_err(during(ACT))?;
    let number = |at: usize, bytes: usize| {
        let field = head.get(at..at + bytes)?;
        Some(field.iter().rev().fold(0_usize, |number, byte| number << 8 | usize::from(*byte)))
    };
    let headers = || Some((number(32, 8)?, number(54, 2)?, number(56, 2)?));
    let Some((at, bytes, count)) = headers().filter(|_| head.starts_with(b"\x7fELF\x02\x01")) else {
        return Err(during(ACT)(io::Error::new(io::ErrorKind::InvalidData, "it is no 64-bit ELF program")));
    };
    let kinds = (0..count.min(64)).filter_map(|index| number(at.checked_add(index * bytes)?, 4));
    Ok(!kinds.into_iter().any(|kind| kind == PT_INTERP as usize))
}

/// Opened as a place, not to be read.
fn open(path: &Path) -> Result<OwnedFd, Failure> {
    rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map_err(during(format!("open {}", path.display())))
}

fn append(path: &Path) -> Result<File, Failure> {
    sys::fs::append(path, 0o600).map_err(|error| during(format!("open {}", path.display()))(error.source))
}

fn make_dir(path: &Path) -> Result<(), Failure> {
    rustix::fs::mkdir(path, Mode::from_raw_mode(0o700)).map_err(during(format!("make {}", path.display())))
}

fn make_file(path: &Path, content: &[u8]) -> Result<(), Failure> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::from_raw_mode(0o600))
        .map_err(during(format!("make {}", path.display())))?;
    File::from(file).write_all(content).map_err(during(format!("write {}", path.display())))
}
