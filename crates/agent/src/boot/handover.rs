//! The last steps of process 1: the root switched, the agent forked off, the image's init executed.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use rustix::fs::{Mode, OFlags};
use rustix::mount::mount_move;
use rustix::process::{Resource, Rlimit, setrlimit};
use sys::spawn::{c_string, exec, exit_at_once, fork, fork_into};

use super::root::{NEW_ROOT, detach_layers, move_pseudo};
use super::{BootError, log, plain};
use crate::ending;
use crate::process_one;
use crate::root_dir::RootDir;
use crate::serve::{Server, readiness};

/// Inits an image may have, in the order in which they are looked for.
const INITS: [&str; 4] = ["/sbin/init", "/etc/init", "/bin/init", "/lib/systemd/systemd"];
/// Where systemd is, with and without a merged /usr.
const SYSTEMD: [&str; 2] = ["/lib/systemd/systemd", "/usr/lib/systemd/systemd"];
/// Our cgroups; systemd leaves what it did not make alone.
pub const CGROUPS: &str = "/sys/fs/cgroup/banger";
/// Descriptors a command may have: soft as programs expect (select(2) handles no more), hard as systemd grants.
const FILES: Rlimit = Rlimit { current: Some(1024), maximum: Some(524_288) };

/// The image's init.
#[derive(Debug)]
pub struct Init {
    /// As it is executed.
    pub path: String,
    /// It is systemd: it tells when it has booted, and executes our shutdown hook.
    pub is_systemd: bool,
}

/// A root that is ready for its init.
#[derive(Debug)]
pub struct Built {
    /// The root, at [`NEW_ROOT`].
    pub root: RootDir,
    /// What takes over; none: we stay.
    pub init: Option<Init>,
}

/// Finds the image's init.
#[must_use]
pub fn find_init(root: &RootDir) -> Option<Init> {
    let path = INITS.iter().find(|path| root.is_program(path))?;
    let same = |other: &str| match (root.open_at(path, OFlags::PATH), root.open_at(other, OFlags::PATH)) {
        (Ok(a), Ok(b)) => match (rustix::fs::fstat(a), rustix::fs::fstat(b)) {
            (Ok(a), Ok(b)) => (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino),
            _ => false,
        },
        _ => false,
    };
    Some(Init { path: (*path).to_owned(), is_systemd: SYSTEMD.iter().any(|systemd| same(systemd)) })
}

/// Switches root, forks the serving agent and becomes the init. Returns only when that failed.
pub fn hand_over(mut server: Server, built: Built) -> BootError {
    let Built { root, init } = built;
    if let Err(error) = switch_root(&root) {
        return error;
    }
    // An open directory would keep the guest's root from being unmounted at the end.
    drop(root);
    match prepare_server(&mut server, init.as_ref()) {
        Ok(()) => {}
        Err(source) => return BootError { act: "prepare the serving agent".to_owned(), source },
    }
    let (init, other) = match init {
        Some(init) if init.is_systemd => (Some(init), None),
        other => (None, other),
    };
    let Some(init) = init else {
        return process_one::stay(server, other.as_ref());
    };
    match fork_server() {
        Ok(Forked::Server { in_cgroup }) => {
            become_server(in_cgroup);
            let error = server.run();
            log(&format!("the agent ends: {error:?}"));
            exit_at_once(1);
        }
        Ok(Forked::Init) => {}
        Err(source) => return BootError { act: "fork the serving agent".to_owned(), source },
    }
    drop(server);
    run_init(&init)
}

/// Who one is after the fork.
enum Forked {
    /// Process 1, that becomes the init.
    Init,
    /// The one that serves; in its own cgroup already, or not yet.
    Server { in_cgroup: bool },
}

fn fork_server() -> io::Result<Forked> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let cgroup = rustix::fs::open(format!("{CGROUPS}/agent"), flags, Mode::empty());
    let born_there = cgroup.map_err(io::Error::from).and_then(|cgroup| fork_into(cgroup.as_fd()));
    let (pid, in_cgroup) = match born_there {
        Ok(pid) => (pid, true),
        // No cgroups, or a kernel that gives birth in none of them.
        Err(_) => (fork()?, false),
    };
    Ok(if pid.is_some() { Forked::Init } else { Forked::Server { in_cgroup } })
}

fn switch_root(root: &RootDir) -> Result<(), BootError> {
    detach_layers().map_err(BootError::during("detach the layers' mounts"))?;
    // The initramfs stays in memory for ever; the program in it is all that is used.
    for path in ["/init", "/modules.list"] {
        let _: rustix::io::Result<()> = rustix::fs::unlink(path);
    }
    move_pseudo(root)?;
    rustix::process::chdir(NEW_ROOT).map_err(BootError::during("enter the new root"))?;
    mount_move(".", "/").map_err(BootError::during("move the new root"))?;
    rustix::process::chroot(".").map_err(BootError::during("change the root"))?;
    rustix::process::chdir("/").map_err(BootError::during("enter the new root"))
}

/// What the server needs of the running root: its cgroups, the sockets the init and the shutdown hook talk to.
fn prepare_server(server: &mut Server, init: Option<&Init>) -> io::Result<()> {
    let is_systemd = init.is_some_and(|init| init.is_systemd);
    // Without cgroups commands run without; the boot has warned.
    for path in [CGROUPS.to_owned(), format!("{CGROUPS}/agent")] {
        let _: rustix::io::Result<()> = rustix::fs::mkdir(&path, Mode::from_raw_mode(0o755));
    }
    if !is_systemd {
        ending::remove_hook()?;
    }
    server.root_is_ready(readiness::Tells::of(init)?, ending::hook_listener()?);
    Ok(())
}

/// Makes this process what an init leaves alone: a session, a cgroup (unless it is `in_cgroup` already), a name and a
/// score of its own.
pub fn become_server(in_cgroup: bool) {
    let note = |act: &str, result: io::Result<()>| {
        if let Err(error) = result {
            log(&format!("cannot {act}: {}", plain(&error)));
        }
    };
    let write = |path: &str, text: &str| File::options().write(true).open(path)?.write_all(text.as_bytes());
    note("start a session", rustix::process::setsid().map(|_| ()).map_err(io::Error::from));
    if !in_cgroup {
        note("enter its cgroup", write(&format!("{CGROUPS}/agent/cgroup.procs"), "0"));
    }
    // What newer versions of systemd look at besides the name: systemd.kill(5), SurviveFinalKillSignal=.
    let survive = rustix::fs::setxattr(
        format!("{CGROUPS}/agent"),
        "user.survive_final_kill_signal",
        b"1",
        rustix::fs::XattrFlags::empty(),
    );
    note("ask to be spared", survive.map_err(io::Error::from));
    note("protect itself from the OOM killer", write("/proc/self/oom_score_adj", "-1000"));
    note("name itself", rustix::thread::set_name(c"banger-agent").map_err(io::Error::from));
    note("mark itself as not to be killed", mark_arguments());
    note("limit files", setrlimit(Resource::Nofile, FILES).map_err(io::Error::from));
    note("log to the kernel", redirect_to_log());
}

/// systemd's last round of kills spares a process of root whose first argument begins with `@`: systemd.io/ROOT_STORAGE_DAEMONS.
fn mark_arguments() -> io::Result<()> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // Field 48 of proc(5), `arg_start`; the second field is in parentheses and may hold anything.
    let field = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_ascii_whitespace().nth(48 - 3)?.parse().ok());
    let address: u64 = field.ok_or(io::ErrorKind::InvalidData)?;
    File::options().write(true).open("/proc/self/mem")?.write_all_at(b"@", address)
}

/// What the agent says when it dies belongs to the kernel's log; its input and output are nobody's.
fn redirect_to_log() -> io::Result<()> {
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    let log = rustix::fs::open("/dev/kmsg", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    Ok(rustix::stdio::dup2_stderr(&log)?)
}

/// Becomes the init. Returns only when that failed.
#[must_use]
pub fn run_init(init: &Init) -> BootError {
    let act = format!("run {}", init.path);
    let strings = |all: &[&str]| all.iter().map(|s| c_string(*s)).collect::<io::Result<Vec<CString>>>();
    // `container` is not set: to systemd this is a machine, with a kernel of its own.
    let mut env = vec!["HOME=/", "TERM=linux", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"];
    let notify = format!("NOTIFY_SOCKET={}", readiness::SOCKET);
    if init.is_systemd {
        env.push(&notify);
    }
    let executed = (|| -> io::Result<io::Error> {
        let path = c_string(init.path.as_str())?;
        Ok(exec(&path, &strings(&[&init.path])?, &strings(&env)?))
    })();
    BootError { act, source: executed.unwrap_or_else(|error| error) }
}
