//! A running test host: started, found again, filled with programs, ended.
//!
//! A host is a directory of the cache and a QEMU process. `pid` in it is written before QEMU begins and names that very
//! process (its number, start time and boot), so that no other one is ever taken for it. A warm host outlives the command
//! that started it; a tied one is killed by the kernel when that command ends, however it ends. What a host writes to
//! its disk has no name and ends with QEMU.

use std::fs::{self, File};
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::Signal;
use sys::kvm::Kvm;
use sys::process::{Identity, Tie};

use super::build::check_room;
use super::cache::Cache;
use super::emulator;
use super::machine::Machine;
use super::ssh;

/// How long a boot may take on a machine that is busy with other things.
const BOOT_MAX: Duration = Duration::from_secs(300);
/// How long QEMU may take to end itself.
const END_MAX: Duration = Duration::from_secs(20);
/// Size of the disk that archives arrive on; the file is sparse.
const MAILBOX_BYTES: u64 = 8 << 30;
/// How often a port that somebody else took meanwhile is replaced.
const PORT_TRIES: u32 = 3;

/// What a tied host's name begins with; the rest is the process that started it.
const TIED_PREFIX: &str = "run-";

/// Who keeps a host.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    /// It runs until `down`.
    Warm,
    /// It ends with this process.
    Tied,
}

/// What a host is made with.
#[derive(Clone)]
pub(crate) struct Shape {
    pub(crate) memory_mib: u32,
    pub(crate) cpus: u32,
    /// The file system with what guests boot from.
    pub(crate) parts: Option<PathBuf>,
}

/// A running test host.
pub(crate) struct Host {
    pub(crate) name: String,
    dir: PathBuf,
    image: PathBuf,
    port: u16,
    identity: Identity,
    /// Present in the process that started it.
    child: Option<Child>,
}

impl Host {
    /// Starts a host and waits until it is ready.
    pub(crate) fn up(cache: &Cache, name: &str, image: &Path, shape: &Shape, keep: Keep) -> Result<Host> {
        check_room(cache.root())?;
        Host::sweep(cache)?;
        let _lock = lock(cache, name)?;
        if let Some(host) = Host::find(cache, name)? {
            bail!("the test host {name} is up already, port {}; `cargo xtask testhost down` ends it", host.port);
        }
        let from = Instant::now();
        let host = Host::start(cache, name, image, shape, keep)?;
        if let Err(error) = host.await_ready() {
            let console = host.console_tail();
            host.end()?;
            return Err(error.context(format!("the test host never got ready; its console ends with:\n{console}")));
        }
        eprintln!("testhost: {name} is ready after {:.0} s, port {}", from.elapsed().as_secs_f64(), host.port);
        Ok(host)
    }

    fn start(cache: &Cache, name: &str, image: &Path, shape: &Shape, keep: Keep) -> Result<Host> {
        let dir = cache.host(name);
        sys::fs::remove_tree(&dir)?;
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let mailbox = dir.join("mailbox");
        size_mailbox(&File::create(&mailbox).context("cannot make the mailbox")?)?;
        fs::write(dir.join("image"), image.display().to_string()).context("cannot record the image")?;
        let is_accelerated = sys::kvm::probe() == Kvm::Usable;
        for attempt in 1.. {
            let port = free_port()?;
            fs::write(dir.join("port"), port.to_string()).context("cannot record the port")?;
            let machine = Machine {
                is_accelerated,
                cpus: shape.cpus,
                memory_mib: shape.memory_mib,
                image: image.to_owned(),
                parts: shape.parts.clone(),
                mailbox: mailbox.clone(),
                console: dir.join("console.log"),
                ssh_port: port,
                tsc_khz: sys::tsc::Measurement::begin().khz(),
            };
            let (child, identity) = spawn(&machine, &dir, keep)?;
            let (name, image, dir) = (name.to_owned(), image.to_owned(), dir.clone());
            let mut host = Host { name, dir, image, port, identity, child: Some(child) };
            if host.await_banner()? {
                return Ok(host);
            }
            let said = fs::read_to_string(host.dir.join("qemu.log")).unwrap_or_default();
            host.reap();
            ensure!(
                said.contains("host forwarding rule") && attempt < PORT_TRIES,
                "the test host's QEMU ended at once: {}\nits console ends with:\n{}",
                said.trim(),
                host.console_tail()
            );
        }
        unreachable!("the loop above ends by returning")
    }

    /// Removes what hosts left that ended with a command that was killed.
    fn sweep(cache: &Cache) -> Result<()> {
        for name in cache.host_names()? {
            if was_left(&name) && Host::find(cache, &name)?.is_none() {
                sys::fs::remove_tree(&cache.host(&name))?;
                sys::fs::remove_file(&lock_path(cache, &name))?;
            }
        }
        Ok(())
    }

    /// The running host of this name.
    pub(crate) fn find(cache: &Cache, name: &str) -> Result<Option<Host>> {
        let dir = cache.host(name);
        let pid = dir.join("pid");
        let recorded = Identity::recorded(&pid).with_context(|| format!("cannot read {}", pid.display()))?;
        let Some(identity) = recorded.filter(Identity::is_alive) else {
            return Ok(None);
        };
        let read = |file: &str| {
            let path = dir.join(file);
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
        };
        let port = read("port")?.trim().parse().context("the recorded port is not a number")?;
        let image = PathBuf::from(read("image")?.trim());
        Ok(Some(Host { name: name.to_owned(), dir, image, port, identity, child: None }))
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn image(&self) -> &Path {
        &self.image
    }

    pub(crate) fn console(&self) -> PathBuf {
        self.dir.join("console.log")
    }

    /// ssh(1) to this host; the caller adds what to run.
    pub(crate) fn ssh(&self, user: &str) -> Command {
        ssh::command(&self.image, self.port, user)
    }

    /// Runs a line of shell as root to its end and gives what it printed.
    pub(crate) fn shell(&self, line: &str) -> Result<String> {
        let output = self.ssh("root").arg(line).stdin(Stdio::null()).output().context("cannot run ssh")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "`{line}` in the test host: {}\n{}", output.status, said.trim());
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Unpacks a tree of this machine below `to` in the host, as root's.
    pub(crate) fn put(&self, cache: &Cache, tree: &Path, to: &str) -> Result<u64> {
        let _lock = lock(cache, &self.name)?;
        let path = self.dir.join("mailbox");
        let mailbox =
            File::options().write(true).open(&path).with_context(|| format!("cannot open {}", path.display()))?;
        let mut tar = Command::new("tar");
        tar.args(["--create", "--owner=0", "--group=0", "--numeric-owner", "--directory"]).arg(tree).arg(".");
        let stdout = mailbox.try_clone().context("cannot share the mailbox")?;
        let status = tar.stdin(Stdio::null()).stdout(stdout).status().context("cannot run tar")?;
        ensure!(status.success(), "cannot pack {}: tar: {status}", tree.display());
        let bytes = rustix::fs::tell(&mailbox).context("cannot tell the archive's size")?;
        let outcome = self.shell(&format!("testhost-unpack {bytes} '{to}'"));
        mailbox.set_len(0).context("cannot empty the mailbox")?;
        size_mailbox(&mailbox)?;
        outcome.map(|_| bytes)
    }

    /// Ends the host and forgets it.
    pub(crate) fn down(self, cache: &Cache) -> Result<()> {
        let _lock = lock(cache, &self.name)?;
        let (name, is_tied) = (self.name.clone(), self.name.starts_with(TIED_PREFIX));
        self.end()?;
        if is_tied {
            sys::fs::remove_file(&lock_path(cache, &name))?;
        }
        Ok(())
    }

    fn end(mut self) -> Result<()> {
        self.identity.signal(Signal::TERM).context("cannot end QEMU")?;
        if !self.await_end(END_MAX)? {
            self.identity.signal(Signal::KILL).context("cannot kill QEMU")?;
            ensure!(self.await_end(END_MAX)?, "QEMU (process {}) does not end", self.identity.pid);
        }
        self.reap();
        Ok(sys::fs::remove_tree(&self.dir)?)
    }

    fn reap(&mut self) {
        if let Some(child) = &mut self.child {
            // Its end was seen, and its status says nothing that its log does not.
            drop(child.wait());
        }
    }

    /// Whether the process ends within this time.
    fn await_end(&self, max: Duration) -> Result<bool> {
        let Some(pidfd) = self.identity.pidfd() else {
            return Ok(true);
        };
        let timeout = Timespec::try_from(max).context("too long a time")?;
        let ready = rustix::event::poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout));
        Ok(ready.context("cannot wait for QEMU")? > 0)
    }

    /// Waits until sshd answers; false when QEMU ends before.
    fn await_banner(&self) -> Result<bool> {
        let deadline = Instant::now() + BOOT_MAX;
        while Instant::now() < deadline {
            if has_banner(self.port) {
                return Ok(true);
            }
            // The process is what is waited for; between two looks it may end.
            if self.await_end(Duration::from_millis(200))? {
                return Ok(false);
            }
        }
        bail!(
            "the test host did not answer within {} s; its console ends with:\n{}",
            BOOT_MAX.as_secs(),
            self.console_tail()
        )
    }

    fn await_ready(&self) -> Result<()> {
        self.shell("testhost-ready").map(|_| ())
    }

    /// The end of what the host's kernel and services said.
    pub(crate) fn console_tail(&self) -> String {
        let text = fs::read(self.console()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text[text.len().saturating_sub(2000)..]).into_owned();
        if text.trim().is_empty() { "(nothing)".to_owned() } else { text }
    }
}

fn spawn(machine: &Machine, dir: &Path, keep: Keep) -> Result<(Child, Identity)> {
    let log = File::create(dir.join("qemu.log")).context("cannot make qemu.log")?;
    let mut command = emulator::command(&machine.image);
    command.args(machine.arguments()).current_dir(dir).stdin(Stdio::null());
    command.stdout(log.try_clone().context("cannot share qemu.log")?).stderr(log);
    // The file that takes what the machine writes is made here, and has no name from then on.
    command.env("TMPDIR", dir);
    if keep == Keep::Tied {
        command.tie();
    }
    sys::process::spawn_recorded(&mut command, &dir.join("pid")).context("cannot start QEMU")
}

fn size_mailbox(file: &File) -> Result<()> {
    file.set_len(MAILBOX_BYTES).context("cannot size the mailbox")
}

/// The name of a host that ends with this process.
pub(crate) fn tied_name() -> String {
    format!("{TIED_PREFIX}{}", std::process::id())
}

/// Whether this is a tied host whose starter has ended.
fn was_left(name: &str) -> bool {
    let starter = name.strip_prefix(TIED_PREFIX).and_then(|pid| pid.parse().ok());
    starter.is_some_and(|pid| Identity::of(pid).is_none())
}

fn lock_path(cache: &Cache, name: &str) -> PathBuf {
    cache.host(&format!("{name}.lock"))
}

/// Only one command at a time starts, fills or ends a host.
fn lock(cache: &Cache, name: &str) -> Result<File> {
    let path = lock_path(cache, name);
    let file = File::create(&path).with_context(|| format!("cannot open {}", path.display()))?;
    file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
    Ok(file)
}

fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot find a free port")?;
    Ok(listener.local_addr().context("cannot read the free port")?.port())
}

/// Whether an sshd answers. QEMU accepts the connection long before, so that only the greeting counts.
fn has_banner(port: u16) -> bool {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let Ok(mut stream) = TcpStream::connect_timeout(&address, Duration::from_secs(1)) else {
        return false;
    };
    let mut greeting = [0; 4];
    stream.set_read_timeout(Some(Duration::from_secs(2))).is_ok()
        && stream.read_exact(&mut greeting).is_ok()
        && &greeting == b"SSH-"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_tied_host_without_its_starter_was_left() {
        assert!(!was_left(&tied_name()), "this process runs");
        assert!(was_left(&format!("{TIED_PREFIX}4194305")), "no process has this number");
        assert!(!was_left("default") && !was_left("run-down"));
    }

    #[test]
    fn only_a_greeting_is_an_answer() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let answering = std::thread::spawn(move || {
            for greeting in [&b"SSH-2.0-x\r\n"[..], b"", b"HTTP/1.1 400\r\n"] {
                let (mut stream, _) = listener.accept().unwrap();
                std::io::Write::write_all(&mut stream, greeting).unwrap();
            }
        });
        assert_eq!([has_banner(port), has_banner(port), has_banner(port)], [true, false, false]);
        answering.join().unwrap();
        assert!(!has_banner(port), "nobody listens");
    }
}
