//! Opening a connection: preamble, its answer, hello.
//!
//! Where agents connect by themselves, [`meet`] greets the one that came last: an agent connects anew only when it has lost
//! what it had, so that one is the agent, and whoever in the guest came before it and says nothing keeps nobody waiting.
//! Nothing of another connection is in a connection that is new to both: one preamble is all it takes, however long a busy
//! guest thinks about it.
//!
//! Where we connect: a VMM's socket takes a connection long before the guest has opened its port, so having connected means nothing and the
//! hello is what is waited for. Bytes stay in the socket until the guest reads them; once they have left it and no answer
//! comes, something is left of a host that died, and two things are done about it until there is an answer:
//!
//! - The connection is made anew: QEMU (7.2, `hw/char/virtio-console.c`) takes no more of a guest's bytes when the guest
//!   wrote between the old host's end and hearing of it, and the end of another connection makes it take them again.
//! - Zeros are sent before the next preamble: they complete whatever frame the agent is in the middle of.
//!
//! Each preamble carries a new nonce and only the last one's answer counts.

use std::io;
use std::path::Path;
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::{Instant, sleep_until};
use wire::agent::frame::{
    FILLER_BYTES, FROM_AGENT_MAX, HEADER_BYTES, Hunt, Kind, NONCE_BYTES, TRAILER_BYTES, Tag, hunt_reply, parse_header,
    preamble,
};
use wire::agent::message::Hello;

use super::GuestError;
use super::connection::Input;
use super::link::{Incoming, Link, Violation, json};
use super::secret::Secret;

/// How often a socket that is not there yet is tried again.
const RETRY_EVERY: Duration = Duration::from_millis(10);
/// How long an agent that has taken the preamble may think, twice, before it is sent another one; doubled each time.
const ANSWER_WITHIN: Duration = Duration::from_millis(250);
/// The longest of these times.
const ANSWER_WITHIN_MAX: Duration = Duration::from_secs(16);

/// What is done about an agent that has read the preamble and does not answer.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Unanswered<'a> {
    /// Nothing: the agent made this connection, and reads what it was sent first.
    Wait,
    /// Something of an earlier connection may be in the way: another preamble, behind filler.
    Repeat,
    /// The same over a connection that is made anew to this socket.
    Redial(&'a Path),
}

/// A connection whose agent has said hello.
pub(crate) struct Opened {
    pub(crate) socket: UnixStream,
    pub(crate) link: Link,
    pub(crate) hello: Hello,
    /// What came behind the hello.
    pub(crate) unread: Vec<u8>,
}

/// Connects to `path`, trying again while nobody listens there.
pub(crate) async fn dial(path: &Path, deadline: Instant) -> Result<UnixStream, GuestError> {
    loop {
        match UnixStream::connect(path).await {
            Ok(socket) => return Ok(socket),
            Err(source) if Instant::now() >= deadline => {
                return Err(GuestError::Connect { path: path.to_path_buf(), source: source.into() });
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                sleep_until(deadline.min(Instant::now() + RETRY_EVERY)).await;
            }
            Err(source) => return Err(GuestError::Connect { path: path.to_path_buf(), source: source.into() }),
        }
    }
}

/// Waits for an agent that connects to `listener`, and greets it. Where there is a `secret`, only who says it is the agent.
pub(crate) async fn meet(
    listener: &UnixListener,
    secret: Option<&Secret>,
    deadline: Instant,
) -> Result<Opened, GuestError> {
    let began = Instant::now();
    let accept = async || listener.accept().await.map(|(socket, _)| socket).map_err(GuestError::channel);
    let mut came: Option<UnixStream> = None;
    loop {
        let Some(socket) = came.take() else {
            tokio::select! {
                socket = accept() => came = Some(socket?),
                () = sleep_until(deadline) => return Err(GuestError::Unanswered { waited: began.elapsed() }),
            }
            continue;
        };
        tokio::select! {
            opened = greet(socket, Unanswered::Wait, deadline) => match opened {
                Ok(opened) if secret.is_none_or(|secret| secret.is_said_by(&opened.hello)) => return Ok(opened),
                Ok(_) => tracing::debug!("what connected says it is the agent, and does not know what the agent knows"),
                Err(error @ GuestError::Unanswered { .. }) => return Err(error),
                // It went away, or was no agent; another one may be.
                Err(error) => tracing::debug!(%error, "what connected was no agent"),
            },
            socket = accept() => came = Some(socket?),
        }
    }
}

/// Greets the agent behind `socket`.
pub(crate) async fn greet(
    mut socket: UnixStream,
    unanswered: Unanswered<'_>,
    deadline: Instant,
) -> Result<Opened, GuestError> {
    let began = Instant::now();
    let mut input = Input::new();
    let mut greeting = Greeting::new();
    let mut link = greeting.begin();
    let may_repeat = !matches!(unanswered, Unanswered::Wait);
    loop {
        let mut hello = None;
        input.consume(&mut link, &mut |incoming| {
            if let Incoming::Hello(said) = incoming {
                hello = Some(said);
            }
        })?;
        if let Some(hello) = hello {
            return Ok(Opened { socket, link, hello, unread: input.rest().to_vec() });
        }
        greeting.write(&socket)?;
        tokio::select! {
            ready = socket.readable() => {
                ready.map_err(GuestError::channel)?;
                input.fill(|buffer| socket.try_read(buffer))?;
            }
            ready = socket.writable(), if greeting.is_unwritten() => ready.map_err(GuestError::channel)?,
            () = sleep_until(deadline) => return Err(GuestError::Unanswered { waited: began.elapsed() }),
            () = sleep_until(greeting.due), if may_repeat && !greeting.is_unwritten() => {
                if !greeting.has_waited_enough(&socket)? {
                    continue;
                }
                if let Unanswered::Redial(path) = unanswered {
                    drop(socket);
                    socket = dial(path, deadline).await?;
                    input = Input::new();
                }
                greeting.filler_left = FILLER_BYTES;
                link = greeting.begin();
            }
        }
    }
}

/// Greets the agent behind `socket` as the one whose connection had `nonce`, and gives what it said behind its hello. It came by
/// itself and has nothing half read, so that it is asked once.
pub(crate) async fn greet_again(
    socket: &UnixStream,
    nonce: [u8; NONCE_BYTES],
    secret: Option<&Secret>,
    deadline: Instant,
) -> Result<Vec<u8>, GuestError> {
    let began = Instant::now();
    let mut input = Input::new();
    let mut greeting = Greeting { unwritten: Bytes::copy_from_slice(&preamble(&nonce)), ..Greeting::new() };
    loop {
        if let Some((hello, end)) = hello_again(input.rest(), &nonce)? {
            if secret.is_some_and(|secret| !secret.is_said_by(&hello)) {
                return Err(
                    Violation::OutOfPlace { kind: Kind::Hello, why: "and does not know what the agent knows" }.into()
                );
            }
            return Ok(input.rest()[end..].to_vec());
        }
        greeting.write(socket)?;
        tokio::select! {
            ready = socket.readable() => {
                ready.map_err(GuestError::channel)?;
                input.fill(|buffer| socket.try_read(buffer))?;
            }
            ready = socket.writable(), if greeting.is_unwritten() => ready.map_err(GuestError::channel)?,
            () = sleep_until(deadline) => return Err(GuestError::Unanswered { waited: began.elapsed() }),
        }
    }
}

/// The hello behind the answer to a preamble, and where it ends; none while it is not there. The names in it are those that are
/// known.
fn hello_again(bytes: &[u8], nonce: &[u8; NONCE_BYTES]) -> Result<Option<(Hello, usize)>, Violation> {
    let Hunt::Found { end: begin, .. } = hunt_reply(bytes, nonce) else {
        return Ok(None);
    };
    let Some(header) = bytes[begin..].first_chunk::<HEADER_BYTES>() else {
        return Ok(None);
    };
    let (head, length) = parse_header(header, Tag::of(nonce), FROM_AGENT_MAX)?;
    if head.kind != Kind::Hello {
        return Err(Violation::OutOfPlace { kind: head.kind, why: "before its hello" });
    }
    let payload = begin + HEADER_BYTES;
    let end = payload + length + TRAILER_BYTES;
    if end > bytes.len() {
        return Ok(None);
    }
    Ok(Some((json(Kind::Hello, &bytes[payload..payload + length])?, end)))
}

/// What is written until the agent answers.
struct Greeting {
    unwritten: Bytes,
    filler_left: usize,
    /// When to look whether the agent has read it all.
    due: Instant,
    patience: Duration,
    /// Whether the agent had read it all when that was last looked at.
    taken: bool,
}

static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

impl Greeting {
    fn new() -> Greeting {
        Greeting {
            unwritten: Bytes::new(),
            filler_left: 0,
            due: Instant::now() + ANSWER_WITHIN,
            patience: ANSWER_WITHIN,
            taken: false,
        }
    }

    /// A new preamble, behind the filler if there is some.
    fn begin(&mut self) -> Link {
        let nonce = sys::rand::bytes();
        self.unwritten = Bytes::copy_from_slice(&preamble(&nonce));
        self.taken = false;
        Link::new(nonce)
    }

    fn is_unwritten(&self) -> bool {
        self.filler_left > 0 || !self.unwritten.is_empty()
    }

    fn write(&mut self, socket: &UnixStream) -> Result<(), GuestError> {
        while self.is_unwritten() {
            let filler = self.filler_left.min(ZEROS.len());
            let now = if filler > 0 { &ZEROS[..filler] } else { &self.unwritten[..] };
            match socket.try_write(now) {
                Ok(count) if filler > 0 => self.filler_left -= count,
                Ok(count) => self.unwritten.advance(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(GuestError::channel(error)),
            }
        }
        if !self.is_unwritten() && self.due < Instant::now() {
            self.due = Instant::now() + self.patience;
        }
        Ok(())
    }

    /// Whether the agent has had everything for long enough to have answered; else when to look again is set.
    fn has_waited_enough(&mut self, socket: &UnixStream) -> Result<bool, GuestError> {
        let is_taken = sys::socket::unread_by_peer(socket).map_err(GuestError::channel)? == 0;
        let was_taken = std::mem::replace(&mut self.taken, is_taken);
        let enough = is_taken && was_taken;
        if enough {
            self.patience = (self.patience * 2).min(ANSWER_WITHIN_MAX);
        }
        self.due = Instant::now() + self.patience;
        Ok(enough)
    }
}
