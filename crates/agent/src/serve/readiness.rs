//! Whether the guest has booted: systemd says so (`READY=1` of sd_notify(3)), other inits do not.

use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::fs::Mode;
use rustix::net::{AddressFamily, RecvFlags, SocketAddrUnix, SocketFlags, SocketType, bind, recv, socket_with};
use wire::agent::message::{Failure, Level, Readiness, Reply};

use super::Server;
use super::requests::uptime_ms;
use super::worker::Channels;
use crate::boot::handover::Init;

/// Where systemd is told to tell.
pub const SOCKET: &str = "/run/banger/notify";
/// Failed units named at most.
const UNITS_MAX: usize = 100;
/// How often a port is tried that nobody listens on yet; there is nothing to be woken by.
const SSH_RETRY: Duration = Duration::from_millis(100);
/// How long one try may take.
const SSH_TRY: Duration = Duration::from_secs(5);

/// What is known of the init's progress.
#[derive(Debug, Default)]
pub struct Tells {
    socket: Option<OwnedFd>,
    note: Option<String>,
    ready_at_ms: Option<u64>,
    /// Streams that wait.
    pub(super) waiting: Vec<u32>,
    /// Streams whose answer is being found out.
    pub(super) asking: Vec<u32>,
    /// The last of these answers.
    answered: Option<Readiness>,
    /// That answer, in a guest that went on from a saved machine: it booted then, and to list units again costs a machine whose
    /// memory is touched for the first time more than everything else.
    known: Option<Readiness>,
}

impl Tells {
    /// What this init will tell.
    ///
    /// # Errors
    /// When the socket for it cannot be made.
    pub fn of(init: Option<&Init>) -> io::Result<Tells> {
        let note = match init {
            Some(init) if init.is_systemd => {
                return Ok(Tells { socket: Some(listen()?), ..Tells::default() });
            }
            Some(init) => format!("{} does not tell when it has booted", init.path),
            None => "the image has no init".to_owned(),
        };
        Ok(Tells { note: Some(note), ..Tells::default() })
    }

    /// The socket to poll, while there is something to hear.
    #[must_use]
    pub fn wanted(&self) -> Option<&OwnedFd> {
        self.socket.as_ref().filter(|_| self.ready_at_ms.is_none())
    }

    /// Whether the init is systemd.
    #[must_use]
    pub fn is_systemd(&self) -> bool {
        self.note.is_none() && (self.socket.is_some() || self.ready_at_ms.is_some())
    }

    /// Whether the init is known to have booted, or never tells.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.ready_at_ms.is_some() || self.socket.is_none()
    }

    /// Takes what the init says; whether it has now booted.
    fn hear(&mut self) -> bool {
        let Some(socket) = self.wanted() else {
            return false;
        };
        let mut message = [0_u8; 4096];
        while let Ok((count, _)) = recv(socket, &mut message[..], RecvFlags::DONTWAIT) {
            if message[..count.min(message.len())].split(|b| *b == b'\n').any(|line| line == b"READY=1") {
                self.ready_at_ms = Some(uptime_ms());
                return true;
            }
        }
        false
    }

    /// An answer on this stream was found out.
    pub(super) fn note_answer(&mut self, stream: u32, reply: &Reply) {
        let was_asked = self.asking.contains(&stream);
        self.asking.retain(|other| *other != stream);
        if let (true, Reply::Ready(readiness)) = (was_asked, reply) {
            self.answered = Some(readiness.clone());
        }
    }

    /// The guest is another machine that had booted before.
    pub(super) fn renewed(&mut self) {
        self.known = self.answered.clone();
    }

    /// Lets go of the socket and its place in the filesystem.
    pub fn forget(&mut self) {
        self.socket = None;
    }
}

fn listen() -> io::Result<OwnedFd> {
    match rustix::fs::mkdir("/run/banger", Mode::from_raw_mode(0o700)) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(errno) => return Err(errno.into()),
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
    bind(&socket, &SocketAddrUnix::new(SOCKET)?)?;
    Ok(socket)
}

impl Server {
    /// The init said something.
    pub fn hear_init(&mut self) {
        if self.tells.hear() {
            for stream in std::mem::take(&mut self.tells.waiting) {
                self.report_units(stream);
            }
        }
    }

    /// Answers when the guest is ready to `level`.
    pub fn await_level(&mut self, stream: u32, level: Level) {
        match level {
            Level::Ssh => self.work(stream, Channels::Neither, |_| Ok(await_ssh())),
            Level::System if !self.tells.is_ready() => self.tells.waiting.push(stream),
            Level::System if let Some(known) = &self.tells.known => {
                let known = Reply::Ready(known.clone());
                self.reply(stream, &known);
            }
            Level::System if self.tells.ready_at_ms.is_some() => self.report_units(stream),
            Level::System => {
                let note = Some(self.tells.note.clone().unwrap_or_else(|| "there is no init".to_owned()));
                let ready = Readiness { failed_units: Vec::new(), note, uptime_ms: uptime_ms() };
                self.reply(stream, &Reply::Ready(ready));
            }
        }
    }

    fn report_units(&mut self, stream: u32) {
        let uptime_ms = self.tells.ready_at_ms.unwrap_or_else(uptime_ms);
        self.tells.asking.push(stream);
        self.work(stream, Channels::Neither, move |_| failed_units(uptime_ms));
    }
}

fn failed_units(uptime_ms: u64) -> Result<Reply, Failure> {
    let mut command = sys::process::command("/bin/systemctl");
    command.args(["list-units", "--failed", "--plain", "--no-legend", "--no-pager", "--full"]);
    let (failed_units, note) = match sys::process::run(&mut command) {
        Ok(listed) => (units(&String::from_utf8_lossy(&listed)), None),
        Err(error) => (Vec::new(), Some(format!("failed units could not be listed: {error}"))),
    };
    Ok(Reply::Ready(Readiness { failed_units, note, uptime_ms }))
}

/// The units of a `systemctl list-units`.
fn units(listed: &str) -> Vec<String> {
    let name =
        |line: &str| line.split_whitespace().find(|word| word.contains('.')).map(|w| w.chars().take(256).collect());
    listed.lines().filter_map(name).take(UNITS_MAX).collect()
}

/// Waits until something answers as SSH on port 22. Whoever asked resets the stream when it has waited enough.
fn await_ssh() -> Reply {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 22));
    while !speaks_ssh(address) {
        std::thread::sleep(SSH_RETRY);
    }
    Reply::Ready(Readiness { failed_units: Vec::new(), note: None, uptime_ms: uptime_ms() })
}

fn speaks_ssh(address: SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect_timeout(&address, SSH_TRY) else {
        return false;
    };
    let mut greeting = [0; 4];
    stream.set_read_timeout(Some(SSH_TRY)).is_ok() && stream.read_exact(&mut greeting).is_ok() && greeting == *b"SSH-"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_saved_machine_answered_is_its_copies_answer() {
        let ready = |unit: &str| Readiness { failed_units: vec![unit.to_owned()], note: None, uptime_ms: 7 };
        let mut tells = Tells { asking: vec![3, 4], ..Tells::default() };
        // Somebody asked for SSH on another stream.
        tells.note_answer(5, &Reply::Ready(ready("ssh")));
        tells.note_answer(4, &Reply::Done { bytes: 0 });
        assert_eq!((&tells.answered, &tells.asking), (&None, &vec![3]));
        tells.renewed();
        assert_eq!(tells.known, None, "it has to be asked");
        tells.note_answer(3, &Reply::Ready(ready("a.service")));
        assert_eq!(tells.known, None, "the machine itself is asked again");
        tells.renewed();
        assert_eq!(tells.known, Some(ready("a.service")));
    }

    #[test]
    fn units_are_named_whatever_marks_them() {
        let listed = "a.service loaded failed failed A thing\n● b@x.mount loaded failed failed B\n\n";
        assert_eq!(units(listed), ["a.service", "b@x.mount"]);
        assert_eq!(units(&"x.service\n".repeat(1000)).len(), UNITS_MAX);
    }
}
