//! An exec or a session as seen from here: standard input, output, signals and the terminal of a command in a guest.
//!
//! ```text
//! stdin ─► reader thread ─(at most what InputCredit grants)─► send side ─► socket ─► receive side ─► writer thread ─► stdout, stderr
//!                                      signals, resizes ─────────┘
//! ```
//! Threads do what may block; both queues between are short, so memory is bounded and a slow reader of our output holds
//! the guest back. A signal waits behind one message of input at most. Bytes pass exactly as they are.

use std::cell::Cell;
use std::future::pending;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::mpsc as blocking;
use std::thread;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use wire::agent::message::TerminalSize;
use wire::attach::{self, AttachError, Ended, HEADER_BYTES, Kind, PAYLOAD_MAX};
use wire::size::human;

use crate::detach_keys::DetachKeys;
use crate::error::Io;
use crate::limit::{Due, Limit};
use crate::output::{Outlet, printable_lines};
use crate::terminal::{self, RawMode, TerminalError};

/// Messages between the socket and each thread.
const QUEUE: usize = 4;

/// Bytes read from the socket at once.
const READ_BYTES: usize = 256 * 1024;

/// How soon a second signal that asks for the end must follow the first to end the command by force.
const SECOND_INTERRUPT: Duration = Duration::from_secs(2);

/// SIGHUP, SIGINT and SIGTERM: the second of one kind does not wait for a guest that may not answer.
const ENDING: [i32; 3] = [1, 2, 15];

const SIGKILL: i32 = 9;
const SIGCONT: i32 = 18;

/// What is attached to.
#[derive(Debug)]
pub(crate) enum Purpose {
    /// A command of our own: signals reach it, and it ends with us.
    Exec,
    /// A session, which goes on without us: a signal or these keys end our part only.
    Session {
        /// None where nobody types.
        keys: Option<DetachKeys>,
    },
}

/// Makes bytes fit for a terminal; what is cut at the end waits in the first argument.
pub(crate) type Escape = fn(&mut Vec<u8>, &[u8]) -> String;

/// What an exec or a session is given of ours.
#[derive(Debug)]
pub(crate) struct Given {
    /// Which of them it is.
    pub(crate) purpose: Purpose,
    /// Where its output goes.
    pub(crate) outlet: Outlet,
    /// How output is shown, where not as it is.
    pub(crate) escape: Option<Escape>,
    /// Whether standard input goes in.
    pub(crate) stdin: bool,
    /// The terminal, when the command gets one of its own and this is one.
    pub(crate) raw: Option<RawMode>,
    /// Whether the command has a terminal: its size follows ours.
    pub(crate) terminal: bool,
    /// Listening since before the command began, so that no signal is lost on the way.
    pub(crate) signals: Signals,
    /// How long the command may run.
    pub(crate) limit: Limit,
}

/// How an attachment ended.
#[derive(Debug)]
pub(crate) enum Ending {
    /// As the daemon says.
    Told(Ended),
    /// Nobody reads our output.
    OutputClosed,
    /// A person pressed Ctrl-C twice, or somebody told us to end twice; the command was killed.
    GaveUp {
        /// With what.
        signal: i32,
    },
    /// Its time was over, and it was ended for that.
    TimedOut,
    /// A session was left, and goes on.
    Left {
        /// With this signal, or with the keys for it.
        signal: Option<i32>,
    },
}

/// Why an attachment broke.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StreamError {
    /// The connection ended before the command.
    #[error("the connection to the daemon ended before the command did")]
    Lost,
    /// The connection broke.
    #[error("the connection to the daemon broke")]
    Broken(#[source] Io),
    /// Bytes that are no message.
    #[error("the daemon sent nonsense")]
    Message(#[source] AttachError),
    /// A last message that is not JSON.
    #[error("the daemon sent nonsense")]
    Ended(#[source] serde_json::Error),
    /// Our output cannot be written.
    #[error("cannot write the command's output")]
    Output(#[source] Io),
    /// The terminal cannot be used.
    #[error(transparent)]
    Terminal(#[from] TerminalError),
}

/// The time of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Clock {
    /// Some is left, or it has no end.
    Runs,
    /// It is over, and the command was told.
    Over,
    /// The command has ended: the rest is about what it printed.
    Stands,
}

/// Carries an exec to its end.
///
/// # Errors
/// When the connection breaks or our output cannot be written.
pub(crate) async fn run(stream: UnixStream, early: Bytes, given: Given) -> Result<Ending, StreamError> {
    let (from_daemon, to_daemon) = stream.into_split();
    let (credits, grants) = blocking::channel();
    let input = given.stdin.then(|| read_stdin(grants));
    let (sink, written) = write_output();
    let (outlet, escape) = (given.outlet, given.escape);
    let screen = Screen { outlet, escape, cut: Default::default(), is_raw: given.raw.is_some() };
    let clock = Cell::new(Clock::Runs);
    let mut receiving = std::pin::pin!(receive(from_daemon, early, credits, sink, screen));
    let mut sending = std::pin::pin!(send(to_daemon, input, given, &clock));
    let ended = tokio::select! {
        ended = &mut receiving => ended,
        given_up = &mut sending => return given_up,
    };
    // Nothing more comes; what came last may still be on its way out, and Ctrl-C must still work.
    let is_late = clock.replace(Clock::Stands) == Clock::Over;
    let closed = tokio::select! {
        closed = written => closed,
        given_up = &mut sending => return given_up,
    };
    match closed {
        Ok(Err(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Ending::OutputClosed),
        Ok(Err(error)) => Err(StreamError::Output(Io(error))),
        Ok(Ok(())) | Err(_) => match ended?.ok_or(StreamError::Lost)? {
            Ended::Exited { .. } if is_late => Ok(Ending::TimedOut),
            ended => Ok(Ending::Told(ended)),
        },
    }
}

/// Reads messages until the last one; none when our output was closed.
async fn receive(
    mut socket: OwnedReadHalf,
    early: Bytes,
    credits: blocking::Sender<u32>,
    sink: mpsc::Sender<Written>,
    mut screen: Screen,
) -> Result<Option<Ended>, StreamError> {
    let mut buffer = BytesMut::from(&early[..]);
    loop {
        while let Some((kind, payload)) = take_message(&mut buffer)? {
            match kind {
                Kind::Output | Kind::Error | Kind::Skipped if screen.outlet == Outlet::None => {}
                Kind::Output | Kind::Error | Kind::Skipped => {
                    if sink.send(screen.shown(kind, payload)).await.is_err() {
                        return Ok(None);
                    }
                }
                Kind::InputCredit => {
                    if let Ok(grant) = <[u8; 4]>::try_from(&payload[..]) {
                        // Nobody waits for it when there is no input.
                        let _ = credits.send(u32::from_le_bytes(grant));
                    }
                }
                Kind::Ended => {
                    for rest in screen.rest() {
                        if sink.send(rest).await.is_err() {
                            return Ok(None);
                        }
                    }
                    return serde_json::from_slice(&payload).map(Some).map_err(StreamError::Ended);
                }
                Kind::Input | Kind::InputEof | Kind::Resize | Kind::Signal => {
                    return Err(StreamError::Message(AttachError::Kind { kind: kind as u8 }));
                }
            }
        }
        buffer.reserve(READ_BYTES);
        if socket.read_buf(&mut buffer).await.map_err(|e| StreamError::Broken(Io(e)))? == 0 {
            return Err(StreamError::Lost);
        }
    }
}

/// How output is shown.
struct Screen {
    outlet: Outlet,
    escape: Option<Escape>,
    /// What was cut in the middle, of each stream.
    cut: [Vec<u8>; 2],
    is_raw: bool,
}

impl Screen {
    fn shown(&mut self, kind: Kind, payload: Bytes) -> Written {
        let is_error = kind != Kind::Output;
        let to_stderr = is_error || self.outlet == Outlet::Error;
        if kind == Kind::Skipped {
            let count = <[u8; 8]>::try_from(&payload[..]).map_or(0, u64::from_le_bytes);
            let end = if self.is_raw { "\r\n" } else { "\n" };
            let line = format!("banger: {} of output are missing here: it came too fast{end}", human(count));
            return Written { to_stderr, bytes: Bytes::from(line) };
        }
        let bytes = match self.escape {
            Some(escape) => Bytes::from(escape(&mut self.cut[usize::from(is_error)], &payload)),
            None => payload,
        };
        Written { to_stderr, bytes }
    }

    /// What was cut and whose other half never came.
    fn rest(&mut self) -> Vec<Written> {
        let cut = std::mem::take(&mut self.cut);
        let rest = [self.outlet == Outlet::Error, true].into_iter().zip(cut).filter(|(_, bytes)| !bytes.is_empty());
        let text = |bytes: Vec<u8>| Bytes::from(printable_lines(&String::from_utf8_lossy(&bytes)));
        rest.map(|(to_stderr, bytes)| Written { to_stderr, bytes: text(bytes) }).collect()
    }
}

/// Takes the first message off `buffer`, when it is whole.
fn take_message(buffer: &mut BytesMut) -> Result<Option<(Kind, Bytes)>, StreamError> {
    let Some(header) = buffer.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
    let (kind, length) = attach::parse_header(*header).map_err(StreamError::Message)?;
    if buffer.len() < HEADER_BYTES + length {
        return Ok(None);
    }
    let mut message = buffer.split_to(HEADER_BYTES + length).freeze();
    Ok(Some((kind, message.split_off(HEADER_BYTES))))
}

/// Sends input, signals and sizes; ends only when a person gives up, or a guest does not end what is over its time.
async fn send(
    mut socket: OwnedWriteHalf,
    mut input: Option<mpsc::Receiver<Bytes>>,
    mut given: Given,
    clock: &Cell<Clock>,
) -> Result<Ending, StreamError> {
    let mut interrupted: Option<(i32, Instant)> = None;
    loop {
        let message = tokio::select! {
            biased;
            told = given.signals.next() => match told {
                Told::Resized if given.terminal => resize(terminal::size()),
                Told::Resized => continue,
                Told::Continued => {
                    let Some(raw) = &given.raw else { continue };
                    raw.again()?;
                    resize(terminal::size())
                }
                Told::Signal(signal) if matches!(given.purpose, Purpose::Session { .. }) => {
                    return Ok(Ending::Left { signal: Some(signal) });
                }
                Told::Signal(signal) if interrupted.is_some_and(|(first, at)| first == signal && at.elapsed() < SECOND_INTERRUPT) => {
                    // The connection may be stuck too; it is closed next, which ends the command as well.
                    drop(tokio::time::timeout(SECOND_INTERRUPT, socket.write_all(&signal_message(SIGKILL))).await);
                    return Ok(Ending::GaveUp { signal });
                }
                Told::Signal(number) => {
                    interrupted = ENDING.contains(&number).then(|| (number, Instant::now()));
                    signal_message(number)
                }
            },
            due = given.limit.due() => match due {
                _ if clock.get() == Clock::Stands => continue,
                Due::Signal(number) => {
                    clock.set(Clock::Over);
                    signal_message(number)
                }
                Due::GiveUp => return Ok(Ending::TimedOut),
            },
            bytes = next_input(&mut input) => match bytes {
                Some(bytes) => match given.purpose.take(bytes) {
                    Some(bytes) => message(Kind::Input, &bytes),
                    None => return Ok(Ending::Left { signal: None }),
                },
                None => {
                    input = None;
                    message(Kind::InputEof, &[])
                }
            },
        };
        if socket.write_all(&message).await.is_err() {
            // The daemon has closed its side: the other half of the stream says why.
            return pending().await;
        }
    }
}

impl Purpose {
    /// What of `bytes` goes in; none when they ask to leave.
    fn take(&mut self, bytes: Bytes) -> Option<Bytes> {
        match self {
            Purpose::Session { keys: Some(keys) } => {
                let typed = keys.take(&bytes);
                (!typed.leaves).then(|| Bytes::from(typed.input))
            }
            Purpose::Session { keys: None } | Purpose::Exec => Some(bytes),
        }
    }
}

async fn next_input(input: &mut Option<mpsc::Receiver<Bytes>>) -> Option<Bytes> {
    match input {
        Some(input) => input.recv().await,
        None => pending().await,
    }
}

fn message(kind: Kind, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("payloads are at most PAYLOAD_MAX long");
    let mut bytes = Vec::with_capacity(HEADER_BYTES + payload.len());
    bytes.extend_from_slice(&attach::header(kind, length));
    bytes.extend_from_slice(payload);
    bytes
}

fn signal_message(number: i32) -> Vec<u8> {
    message(Kind::Signal, &[u8::try_from(number).expect("signal numbers are below 65")])
}

fn resize(size: TerminalSize) -> Vec<u8> {
    message(Kind::Resize, &serde_json::to_vec(&size).expect("a size is plain data"))
}

/// Something the system told this process.
enum Told {
    /// To be passed on.
    Signal(i32),
    /// The terminal has another size.
    Resized,
    /// It was stopped and goes on.
    Continued,
}

/// The signals that reach a command in a guest, and those about our terminal.
#[derive(Debug)]
pub(crate) struct Signals {
    streams: Vec<(SignalKind, tokio::signal::unix::Signal)>,
}

impl Signals {
    /// Begins to listen.
    pub(crate) fn listen() -> Signals {
        let kinds = [
            SignalKind::interrupt(),
            SignalKind::terminate(),
            SignalKind::hangup(),
            SignalKind::quit(),
            SignalKind::user_defined1(),
            SignalKind::user_defined2(),
            SignalKind::window_change(),
            SignalKind::from_raw(SIGCONT),
        ];
        Signals { streams: kinds.into_iter().filter_map(|kind| Some((kind, signal(kind).ok()?))).collect() }
    }

    async fn next(&mut self) -> Told {
        std::future::poll_fn(|cx| {
            for (kind, stream) in &mut self.streams {
                if stream.poll_recv(cx).is_ready() {
                    let told = match kind {
                        kind if *kind == SignalKind::window_change() => Told::Resized,
                        kind if kind.as_raw_value() == SIGCONT => Told::Continued,
                        kind => Told::Signal(kind.as_raw_value()),
                    };
                    return std::task::Poll::Ready(told);
                }
            }
            std::task::Poll::Pending
        })
        .await
    }
}

/// A thread that reads standard input, never more than was granted.
fn read_stdin(grants: blocking::Receiver<u32>) -> mpsc::Receiver<Bytes> {
    let (bytes, input) = mpsc::channel(QUEUE);
    thread::spawn(move || {
        let mut credit: usize = 0;
        loop {
            while credit == 0 {
                let Ok(grant) = grants.recv() else { return };
                credit += grant as usize;
            }
            credit += grants.try_iter().map(|grant| grant as usize).sum::<usize>();
            let mut chunk = vec![0; credit.min(PAYLOAD_MAX)];
            match retry(PollFlags::IN, rustix::stdio::stdin(), || {
                rustix::io::read(rustix::stdio::stdin(), &mut chunk[..])
            }) {
                // Standard input that cannot be read is at its end: a terminal that hung up, a closed descriptor.
                Ok(0) | Err(_) => return,
                Ok(length) => {
                    chunk.truncate(length);
                    credit -= length;
                    if bytes.blocking_send(Bytes::from(chunk)).is_err() {
                        return;
                    }
                }
            }
        }
    });
    input
}

/// Bytes for one of our outputs.
struct Written {
    to_stderr: bool,
    bytes: Bytes,
}

/// A thread that writes output in the order it came; it answers when there is no more, or when it cannot go on.
fn write_output() -> (mpsc::Sender<Written>, oneshot::Receiver<io::Result<()>>) {
    let (sink, mut source) = mpsc::channel::<Written>(QUEUE);
    let (done, written) = oneshot::channel();
    thread::spawn(move || {
        let mut result = Ok(());
        let mut stderr_open = true;
        while let Some(Written { to_stderr, bytes }) = source.blocking_recv() {
            if to_stderr {
                // Without a standard error the command's messages are lost, not its output.
                stderr_open = stderr_open && write_all(rustix::stdio::stderr(), &bytes).is_ok();
            } else if let Err(error) = write_all(rustix::stdio::stdout(), &bytes) {
                result = Err(error);
                break;
            }
        }
        drop(source);
        // The receiver is gone only when nobody asks any more.
        drop(done.send(result));
    });
    (sink, written)
}

fn write_all(fd: BorrowedFd<'_>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let written = retry(PollFlags::OUT, fd, || rustix::io::write(fd, bytes))?;
        bytes = &bytes[written..];
    }
    Ok(())
}

/// `act` until it is neither interrupted nor told to come back; a descriptor shared with a non-blocking parent says so.
fn retry(
    ready: PollFlags,
    fd: BorrowedFd<'_>,
    mut act: impl FnMut() -> rustix::io::Result<usize>,
) -> io::Result<usize> {
    loop {
        match act() {
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                // A failed wait is found out by the next try.
                let _ = poll(&mut [PollFd::from_borrowed_fd(fd, ready)], None);
            }
            other => return Ok(other?),
        }
    }
}
