//! Connections: who may ask, of which build, one packet at a time, all in one thread. A verb takes milliseconds.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::FlockOperation;
use rustix::process::{WaitId, WaitIdOptions, waitid};
use sys::packet;
use wire::helper::{Envelope, Failure, PACKET_BYTES_MAX, Request};
use wire::id::BootId;
use wire::naming;

use crate::config::Config;
use crate::{dispatch, enter, say};

/// Connections at once. The daemon needs one.
const CONNECTIONS_MAX: usize = 32;

/// How much of a request the journal gets. Requests are ASCII.
const LOGGED_BYTES_MAX: usize = 400;

/// What the verbs work with.
pub(crate) struct Helper {
    pub(crate) config: Config,
    /// VMMs that this process started, to be reaped.
    pub(crate) children: Vec<(BootId, OwnedFd)>,
}

/// What both ends of a connection must be.
pub(crate) fn build() -> String {
    wire::helper::build_id(env!("CARGO_PKG_VERSION"), env!("BANGER_COMMIT"))
}

struct Connection {
    socket: OwnedFd,
    is_greeted: bool,
}

/// Serves until it is killed.
pub(crate) fn run(config: Config) -> io::Result<()> {
    let listener = packet::inherited_listener()?;
    let _lock = claim(&config.run)?;
    let mut helper = Helper { config, children: Vec::new() };
    let mut connections: Vec<Connection> = Vec::new();
    let mut buffer = vec![0; PACKET_BYTES_MAX + 1];
    loop {
        let ready = wait(&listener, &connections, &helper.children)?;
        reap(&mut helper.children);
        let (has_caller, mut is_ready) = (ready.first() == Some(&true), ready.iter().skip(1));
        connections.retain_mut(|connection| match is_ready.next() {
            Some(true) => serve(&mut helper, connection, &mut buffer),
            _ => true,
        });
        // After those that have ended made room.
        if has_caller {
            take(&helper.config, &listener, &mut connections);
        }
    }
}

/// Makes sure of the directories every jail needs, and that no other helper uses them.
pub(crate) fn claim(run: &std::path::Path) -> io::Result<File> {
    let of = |error: sys::fs::FsError| io::Error::other(format!("{error}: {}", error.source));
    for (dir, mode) in [(run.to_owned(), 0o755), (naming::jails_dir(run), 0o711), (enter::stage(run), 0o700)] {
        sys::fs::create_private_dir(&dir).map_err(of)?;
        sys::fs::set_mode(&dir, mode).map_err(of)?;
    }
    let lock = sys::fs::append(&run.join("helper.lock"), 0o600).map_err(of)?;
    rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)
        .map_err(|errno| io::Error::other(format!("another helper works in {}: {errno}", run.display())))?;
    Ok(lock)
}

/// Which of the listener and the connections have something to say; a VMM that ends wakes it, too.
fn wait(listener: &OwnedFd, connections: &[Connection], children: &[(BootId, OwnedFd)]) -> io::Result<Vec<bool>> {
    let sockets = std::iter::once(listener).chain(connections.iter().map(|connection| &connection.socket));
    let all = sockets.chain(children.iter().map(|(_, pidfd)| pidfd));
    let mut fds: Vec<_> = all.map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
    match poll(&mut fds, None) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(errno) => return Err(errno.into()),
    }
    Ok(fds.iter().take(1 + connections.len()).map(|fd| !fd.revents().is_empty()).collect())
}

/// Collects VMMs that have ended.
fn reap(children: &mut Vec<(BootId, OwnedFd)>) {
    children.retain(|(boot, pidfd)| {
        match waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG) {
            Ok(None) | Err(rustix::io::Errno::INTR) => true,
            Ok(Some(status)) => {
                let how = (status.exit_status(), status.terminating_signal());
                say(&format!("the VMM of boot {boot} has ended: (status, signal) = {how:?}"));
                false
            }
            Err(_) => false,
        }
    });
}

/// Takes the next connection, unless it is somebody else's.
fn take(config: &Config, listener: &OwnedFd, connections: &mut Vec<Connection>) {
    let Ok(socket) = packet::accept(listener) else { return };
    match packet::peer_uid(&socket) {
        Ok(uid) if uid != 0 && uid != config.owner_uid => say(&format!("refused a connection of uid {uid}")),
        Ok(_) if connections.len() < CONNECTIONS_MAX => connections.push(Connection { socket, is_greeted: false }),
        Ok(_) => say("refused a connection: there are too many"),
        Err(error) => say(&format!("refused a connection: {error}")),
    }
}

/// Answers one packet; whether the connection goes on.
fn serve(helper: &mut Helper, connection: &mut Connection, buffer: &mut [u8]) -> bool {
    let received = match packet::receive(&connection.socket, buffer) {
        Ok(received) if received.bytes > 0 => received,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
        _ => return false,
    };
    let parsed = if received.is_cut { Err(Failure::Malformed) } else { Envelope::parse(&buffer[..received.bytes]) };
    let goes_on = parsed.is_ok();
    let outcome = match parsed {
        Err(failure) => dispatch::refused(failure),
        Ok(Envelope { request: Request::Hello(hello), .. }) => {
            let outcome = dispatch::welcome(helper, &hello);
            connection.is_greeted = outcome.refused.is_none();
            outcome
        }
        Ok(_) if !connection.is_greeted => dispatch::refused(Failure::Malformed),
        Ok(Envelope { operation, request }) => {
            let asked = operation.map(|id| format!("{id} ")).unwrap_or_default();
            let mut what = serde_json::to_string(&request).unwrap_or_default();
            what.truncate(LOGGED_BYTES_MAX);
            let outcome = dispatch::dispatch(helper, request, received.fds);
            match &outcome.refused {
                None => say(&format!("{asked}{what}: done")),
                Some(failure) => say(&format!("{asked}{what}: {failure}")),
            }
            outcome
        }
    };
    let fds: Vec<_> = outcome.fd.iter().map(AsFd::as_fd).collect();
    // A peer that does not take its answer has lost the connection; every verb can be asked again.
    packet::send(&connection.socket, &outcome.packet, &fds).is_ok() && goes_on
}
