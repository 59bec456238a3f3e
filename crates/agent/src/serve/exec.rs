//! From an [`ExecRequest`] to a running process: the contract of `exec`.
//!
//! Environment, later over earlier: a sane default, the image's, the request's. User: the request's, the image's, root.
//! Directory: the request's, or else the first that can be entered of the image's, the user's home, `/`. The process leads
//! a session of its own; no shell, no PAM; `login` puts the user's shell in front, called as a login shell is.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use sys::spawn::{Act, Credentials, Program, SpawnError, Started, c_string, spawn};
use wire::agent::frame::Channel;
use wire::agent::message::{ExecRequest, Failure, TerminalSize};

use super::accounts::Account;
use super::guest::Guest;
use super::job::{Input, Job, Output, Task};

/// Where programs are searched when nothing says otherwise.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// What a terminal is called when nothing says otherwise.
const TERM: &str = "xterm-256color";

/// The descriptors of a process to be, its side and ours.
struct Wires {
    theirs: [OwnedFd; 3],
    input: Option<OwnedFd>,
    outputs: Vec<(OwnedFd, Channel)>,
    terminal: Option<OwnedFd>,
}

/// Starts a command; its bytes are for `stream`, or for whoever asks the job.
///
/// # Errors
/// Why it cannot run.
pub fn start(request: &ExecRequest, stream: Option<u32>, guest: &mut Guest) -> Result<Job, Failure> {
    let account = guest.account(request.user.as_deref())?;
    let argv = arguments(request, &account)?;
    let environment = environment(request, &account, guest);
    let directories = directories(request, &account, guest)?;
    let paths = candidates(&argv.program, &environment)?;
    let env = environment
        .iter()
        .map(|(name, value)| c_string(format!("{name}={value}")).map_err(refused))
        .collect::<Result<Vec<_>, _>>()?;
    let credentials = Credentials { uid: account.uid, gid: account.gid, groups: account.groups.clone() };
    let wires = wires(request, guest)
        .map_err(|source| Failure::Os { act: "cannot make pipes or a terminal".to_owned(), why: source.to_string() })?;
    let cgroup = guest.cgroups.take();
    let program = Program {
        paths: &paths,
        argv: &argv.arguments,
        env: &env,
        stdio: [wires.theirs[0].as_fd(), wires.theirs[1].as_fd(), wires.theirs[2].as_fd()],
        terminal: wires.terminal.is_some(),
        credentials: (credentials != *guest.own_credentials()).then_some(&credentials),
        directories: &directories,
        cgroup: cgroup.as_ref().map(super::cgroup::Cgroup::as_fd),
    };
    let started = match spawn(&program) {
        Ok(started) => started,
        Err(error) => {
            if let Some(cgroup) = cgroup {
                guest.cgroups.give_back(cgroup);
            }
            return Err(explain(&error, request, &argv));
        }
    };
    let mut job = connect(started, wires, stream);
    job.cgroup = cgroup;
    Ok(job)
}

fn connect(started: Started, wires: Wires, stream: Option<u32>) -> Job {
    let mut job = Job::new(stream, Task::Command, started.pid, started.pidfd);
    job.input = wires.input.map(Input::new);
    job.outputs = wires.outputs.into_iter().map(|(fd, channel)| Output::new(fd, channel)).collect();
    job.terminal = wires.terminal;
    job
}

/// What is executed, under which arguments.
struct Arguments {
    program: String,
    arguments: Vec<CString>,
}

fn arguments(request: &ExecRequest, account: &Account) -> Result<Arguments, Failure> {
    let strings = |all: Vec<String>| all.into_iter().map(c_string).collect::<Result<Vec<_>, _>>().map_err(refused);
    let argv: Vec<String> = request.through.iter().chain(&request.argv).cloned().collect();
    if !request.login {
        let program = argv.first().filter(|program| !program.is_empty());
        let program = program.ok_or_else(|| Failure::Refused { why: "no program named".to_owned() })?.clone();
        return Ok(Arguments { program, arguments: strings(argv)? });
    }
    let base = account.shell.rsplit('/').next().unwrap_or("sh");
    let mut arguments = vec![format!("-{base}")];
    if !argv.is_empty() {
        // The words reach the command as they are: the shell sees them as its parameters, not as text to parse.
        let run = if base == "fish" { "exec $argv" } else { "exec \"$@\"" };
        arguments.extend(["-c".to_owned(), run.to_owned()]);
        if base != "fish" {
            arguments.push(base.to_owned());
        }
        arguments.extend(argv);
    }
    Ok(Arguments { program: account.shell.clone(), arguments: strings(arguments)? })
}

fn environment(request: &ExecRequest, account: &Account, guest: &Guest) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    let mut set = |name: &str, value: &str| all.insert(name.to_owned(), value.to_owned());
    set("PATH", PATH);
    set("LANG", "C.UTF-8");
    set("HOME", &guest.place(&account.home));
    set("USER", &account.name);
    set("LOGNAME", &account.name);
    set("SHELL", &account.shell);
    if request.terminal.is_some() {
        set("TERM", TERM);
    }
    for (name, value) in guest.image_env().iter().chain(&request.env) {
        if !name.is_empty() && !name.contains('=') {
            set(name, value);
        }
    }
    all
}

fn directories(request: &ExecRequest, account: &Account, guest: &Guest) -> Result<Vec<CString>, Failure> {
    let wanted = match &request.cwd {
        Some(cwd) => vec![cwd.as_str()],
        None => guest.image_workdir().into_iter().chain([account.home.as_str(), "/"]).collect(),
    };
    wanted.into_iter().map(|path| c_string(guest.place(path)).map_err(refused)).collect()
}

/// Where a program may be: the name itself when it has a slash, else below each entry of `PATH`.
fn candidates(program: &str, environment: &BTreeMap<String, String>) -> Result<Vec<CString>, Failure> {
    if program.contains('/') {
        return Ok(vec![c_string(program).map_err(refused)?]);
    }
    let path = environment.get("PATH").map_or(PATH, String::as_str);
    let within = |directory: &str| match directory {
        "" => format!("./{program}"),
        directory => format!("{directory}/{program}"),
    };
    path.split(':').map(|directory| c_string(within(directory)).map_err(refused)).collect()
}

fn refused(error: io::Error) -> Failure {
    Failure::Refused { why: error.to_string() }
}

fn wires(request: &ExecRequest, guest: &mut Guest) -> io::Result<Wires> {
    if let Some(size) = request.terminal {
        return terminal(size);
    }
    let (stdin, input) = if request.stdin {
        let (theirs, ours) = pipe_with(PipeFlags::CLOEXEC)?;
        (theirs, Some(unblocked(ours)?))
    } else {
        (guest.null()?.try_clone_to_owned()?, None)
    };
    let (out_ours, stdout) = pipe_with(PipeFlags::CLOEXEC)?;
    let (err_ours, stderr) = pipe_with(PipeFlags::CLOEXEC)?;
    let outputs = vec![(unblocked(out_ours)?, Channel::Output), (unblocked(err_ours)?, Channel::Error)];
    Ok(Wires { theirs: [stdin, stdout, stderr], input, outputs, terminal: None })
}

fn terminal(size: TerminalSize) -> io::Result<Wires> {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let slave = ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    resize(master.as_fd(), size)?;
    let master = unblocked(master)?;
    Ok(Wires {
        theirs: [slave.try_clone()?, slave.try_clone()?, slave],
        input: Some(master.try_clone()?),
        outputs: vec![(master.try_clone()?, Channel::Output)],
        terminal: Some(master),
    })
}

/// Gives a terminal its size; the kernel tells the foreground process (`SIGWINCH`).
///
/// # Errors
/// When it is no terminal.
pub fn resize(master: BorrowedFd<'_>, size: TerminalSize) -> io::Result<()> {
    Ok(tcsetwinsize(master, Winsize { ws_row: size.rows, ws_col: size.cols, ws_xpixel: 0, ws_ypixel: 0 })?)
}

/// Our end of a pipe never blocks us; theirs stays as programs expect it.
pub fn unblocked(fd: OwnedFd) -> io::Result<OwnedFd> {
    let flags = rustix::fs::fcntl_getfl(&fd)?;
    rustix::fs::fcntl_setfl(&fd, flags | OFlags::NONBLOCK)?;
    Ok(fd)
}

/// Opens `/dev/null` for reading and writing.
///
/// # Errors
/// When there is none.
pub fn open_null() -> io::Result<OwnedFd> {
    Ok(rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?)
}

fn explain(error: &SpawnError, request: &ExecRequest, argv: &Arguments) -> Failure {
    let why = error.source.to_string();
    let why = why.split(" (os error").next().unwrap_or_default().to_owned();
    match error.act {
        Act::Directory => Failure::Directory { path: request.cwd.clone().unwrap_or_else(|| "/".to_owned()), why },
        Act::Exec => {
            let program = argv.program.clone();
            match error.source.raw_os_error().map(Errno::from_raw_os_error) {
                Some(Errno::NOENT | Errno::NOTDIR) => Failure::ProgramNotFound { program },
                Some(Errno::TOOBIG) => Failure::Os { act: format!("cannot run {program}"), why },
                _ => Failure::ProgramNotExecutable { program, why },
            }
        }
        Act::Clone => Failure::Os { act: "cannot make a process".to_owned(), why },
        Act::Prepare => Failure::Os { act: "cannot prepare the process".to_owned(), why },
        Act::Credentials => Failure::Os { act: "cannot take the user's rights".to_owned(), why },
    }
}
