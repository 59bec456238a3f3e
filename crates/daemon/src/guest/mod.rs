//! The host's side of the agent channel: one connection, many streams, everything bounded.
//!
//! ```text
//! Guest::connect(agent.sock) ─► Guest (a cheap handle)
//!   .configure(BootConfig)      .wait_ready(Level)     .call(Request)
//!   .exec(ExecRequest)  ─► ExecStream: write, read, control, started, exited
//!   .put_tree(path, tar)        .get_tree(path) ─► TreeStream
//!   .settle(path, records)      .survey(path, …)       .remove(path, names)    .get_files(path, names) ─► TreeStream
//!   .attach_session(…) ─► SessionStream             .sessions() and their kin
//!   .events()                   .closed()
//! ```
//!
//! | file | what |
//! |---|---|
//! | [`link`] | what the guest may send: a pure state machine that every byte of a guest passes |
//! | `untrusted` | a guest's words, bounded and harmless to terminals |
//! | `connect` | preamble, answer, hello |
//! | `connection` | the task that owns the socket |
//! | `outbox` | frames on their way out |
//! | `stream` | one stream, shared by the task and its opener |
//! | [`secret`] | what an agent is told from other programs by |
//! | [`uses`] | who uses a guest, and who only looks at it |
//! | [`exec`], [`session`], [`tree`], [`changes`], [`workspace`] | what streams are used for |
//! | [`fuzz`] | any bytes through the state machine |
//!
//! A guest is hostile: what it may make the host keep is one window of bytes for each channel of an open stream, and one
//! frame. A guest that breaks the protocol is cut off with an error that says what it did ([`link::Violation`]).
//! No call here has a time limit of its own: drop the future, and the stream is given up.

mod answering;
mod changes;
mod connect;
mod connection;
pub mod exec;
pub mod fuzz;
pub mod link;
mod outbox;
pub mod secret;
pub mod session;
mod stream;
pub mod tree;
pub mod untrusted;
pub mod uses;
pub mod workspace;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::broadcast;
use tokio::time::Instant;
use wire::agent::message::{
    BootConfig, Configured, Ending, Event, ExecRequest, Failure, Health, Hello, Level, Listeners, Readiness, Reply,
    Request,
};
use wire::agent::renewal::{Renewal, Renewed};

use connect::Unanswered;
use connection::{Command, Handle};
use link::{Opening, Violation};
use secret::Secret;
use stream::Stream;
use uses::Uses;

pub use changes::ChangeStream;
pub use exec::ExecStream;
pub use session::SessionStream;
pub use tree::TreeStream;

/// The first generation of agents that hold.
const HOLDS_SINCE: u32 = 6;

/// What went wrong between the host and a guest's agent.
#[derive(Debug, Clone, thiserror::Error)]
pub enum GuestError {
    /// The socket cannot be reached.
    #[error("cannot connect to the guest's channel at {}", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: Arc<io::Error>,
    },
    /// The socket that the agent connects to cannot be made.
    #[error("cannot listen for the guest's agent at {}", path.display())]
    Listen {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: Arc<io::Error>,
    },
    /// What the agent is told from other programs by cannot be read.
    #[error("cannot read {}", path.display())]
    Secret {
        /// Where it is kept.
        path: PathBuf,
        /// Why.
        #[source]
        source: Arc<io::Error>,
    },
    /// No hello before the deadline.
    #[error("the guest agent did not answer within {:.1} s", waited.as_secs_f64())]
    Unanswered {
        /// How long it was waited for.
        waited: Duration,
    },
    /// It was serving, and answers nothing any more.
    #[error("the guest stands still: it has not answered for {} s", waited.as_secs())]
    Stuck {
        /// How long it was waited for.
        waited: Duration,
    },
    /// The other end closed the connection: the VMM ended, or this side let go.
    #[error("the guest is gone")]
    Closed,
    /// The connection broke.
    #[error("the guest's channel broke")]
    Channel(#[source] Arc<io::Error>),
    /// The guest broke the protocol and was cut off.
    #[error("the guest agent was cut off")]
    CutOff(#[from] Violation),
    /// What the guest sent as a session's output is none.
    #[error("the guest agent sent nonsense as a session's output")]
    Records(#[from] wire::agent::session::RecordError),
    /// The guest answered that it failed; its words, bounded and not to be trusted.
    #[error(transparent)]
    Failed(Failure),
    /// The guest answered something else than what was asked.
    #[error("the guest agent answered {what} where it should not")]
    Unexpected {
        /// What it answered.
        what: &'static str,
    },
    /// The guest ended the stream without an answer.
    #[error("the guest agent gave the request up")]
    GaveUp,
    /// As many streams are open as one connection carries.
    #[error("{} requests to this guest are under way already", wire::agent::STREAMS_MAX)]
    Busy,
    /// The request does not fit into a frame: too many arguments, too much environment, too many files.
    #[error("the request has {bytes} bytes, a guest takes at most {max}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// What was to be sent could not be read.
    #[error("cannot read what goes into the guest")]
    Read(#[source] Arc<io::Error>),
}

impl GuestError {
    fn channel(error: io::Error) -> GuestError {
        match error.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof => {
                GuestError::Closed
            }
            _ => GuestError::Channel(Arc::new(error)),
        }
    }

    fn unexpected(reply: &Reply) -> GuestError {
        let what = match reply {
            Reply::Configured(_) => "that it is configured",
            Reply::Started { .. } => "that a command started",
            Reply::Exited(_) => "that a command ended",
            Reply::Ready(_) => "that it is ready",
            Reply::Health(_) => "how it is",
            Reply::Listeners(_) => "what listens",
            Reply::Session(_) => "about sessions",
            Reply::Stat(_) => "what is at a path",
            Reply::Surveyed(_) => "how a workspace is",
            Reply::Renewed(_) => "that it is another machine",
            Reply::Done { .. } => "that it is done",
            Reply::Failed(_) => "that it failed",
        };
        GuestError::Unexpected { what }
    }
}

/// One connection to a guest's agent. Clones share it; it ends when the last one and the last stream are dropped.
#[derive(Debug, Clone)]
pub struct Guest {
    handle: Handle,
    parts: Arc<Parts>,
}

#[derive(Debug)]
struct Parts {
    hello: Hello,
    events: broadcast::Sender<Event>,
    /// Holds what came before anybody listened.
    first_listener: Mutex<Option<broadcast::Receiver<Event>>>,
    uses: Uses,
}

impl Guest {
    /// Connects to the agent behind the VMM's socket and waits for its hello.
    ///
    /// # Errors
    /// When there is no hello before `deadline`, or what answers is no agent.
    pub async fn connect(socket: &Path, deadline: Instant) -> Result<Guest, GuestError> {
        let connection = connect::dial(socket, deadline).await?;
        Guest::begin(connection, Unanswered::Redial(socket), deadline).await
    }

    /// Waits for the agent that connects to `listener`, and for its hello. Whoever does not say `secret`, if there is one, is
    /// not the agent.
    ///
    /// # Errors
    /// When there is no hello before `deadline`.
    pub async fn meet(
        listener: &UnixListener,
        secret: Option<&Secret>,
        deadline: Instant,
    ) -> Result<Guest, GuestError> {
        Ok(Guest::opened(connect::meet(listener, secret, deadline).await?))
    }

    /// The same over a connection that is there already.
    ///
    /// # Errors
    /// As [`Guest::connect`].
    pub async fn over(socket: UnixStream, deadline: Instant) -> Result<Guest, GuestError> {
        Guest::begin(socket, Unanswered::Repeat, deadline).await
    }

    async fn begin(socket: UnixStream, unanswered: Unanswered<'_>, deadline: Instant) -> Result<Guest, GuestError> {
        Ok(Guest::opened(connect::greet(socket, unanswered, deadline).await?))
    }

    fn opened(opened: connect::Opened) -> Guest {
        let (handle, events, first_listener) = connection::start(opened.socket, opened.link, &opened.unread);
        let first_listener = Mutex::new(Some(first_listener));
        let parts = Parts { hello: opened.hello, events, first_listener, uses: Uses::default() };
        Guest { handle, parts: Arc::new(parts) }
    }

    /// The agent's first words.
    #[must_use]
    pub fn hello(&self) -> &Hello {
        &self.parts.hello
    }

    /// Whether both are the same connection.
    #[must_use]
    pub fn is_same(&self, other: &Guest) -> bool {
        Arc::ptr_eq(&self.parts, &other.parts)
    }

    /// Asks something that is answered by one reply and moves no bytes: everything but exec and trees.
    ///
    /// # Errors
    /// When it fails; what the guest refuses is [`GuestError::Failed`].
    pub async fn call(&self, request: &Request) -> Result<Reply, GuestError> {
        self.open(Opening::Call, request).await?.ended().await
    }

    async fn open(&self, opening: Opening, request: &Request) -> Result<Stream, GuestError> {
        let payload = serde_json::to_vec(request).expect("every request has a form in JSON");
        let using = uses::is_use(request).then(|| self.parts.uses.begin());
        Stream::open(self.handle.clone(), opening, payload, using).await
    }

    /// Who uses this guest over this connection.
    #[must_use]
    pub fn uses(&self) -> &Uses {
        &self.parts.uses
    }

    /// Gives the guest its identity and lets its init begin; once a boot.
    ///
    /// # Errors
    /// When the guest cannot build its root, or was configured before.
    pub async fn configure(&self, config: BootConfig) -> Result<Configured, GuestError> {
        match self.call(&Request::Configure(Box::new(config))).await? {
            Reply::Configured(configured) => Ok(configured),
            other => Err(GuestError::unexpected(&other)),
        }
    }

    /// Asks for a command to be run. Whether it runs is said by [`ExecStream::started`].
    ///
    /// # Errors
    /// When the request does not fit or the connection is gone.
    pub async fn exec(&self, request: ExecRequest) -> Result<ExecStream, GuestError> {
        Ok(ExecStream::new(self.open(Opening::Exec, &Request::Exec(Box::new(request))).await?))
    }

    /// Waits until the guest is ready to `level`.
    ///
    /// # Errors
    /// When the guest cannot tell, or is gone.
    pub async fn wait_ready(&self, level: Level) -> Result<Readiness, GuestError> {
        match self.call(&Request::Await { level }).await? {
            Reply::Ready(readiness) => Ok(readiness),
            other => Err(GuestError::unexpected(&other)),
        }
    }

    /// Writes everything to the guest's disk.
    ///
    /// # Errors
    /// When the guest fails to, or is gone.
    pub async fn sync(&self) -> Result<(), GuestError> {
        self.done(&Request::Sync).await.map(|_bytes| ())
    }

    /// Asks the guest to end; that it has ended is seen from its VMM.
    ///
    /// # Errors
    /// When the guest refuses, or is gone already.
    pub async fn shutdown(&self, how: Ending) -> Result<(), GuestError> {
        self.done(&Request::Shutdown { how }).await.map(|_bytes| ())
    }

    /// Sets the guest's clock to nanoseconds since 1970, UTC.
    ///
    /// # Errors
    /// When the guest fails to, or is gone.
    pub async fn set_clock(&self, unix_ns: u64) -> Result<(), GuestError> {
        self.done(&Request::SetClock { unix_ns }).await.map(|_bytes| ())
    }

    /// Has the guest grow the filesystem of its disk to its device, which was made `bytes` large.
    ///
    /// # Errors
    /// When the guest fails to, is gone, or its agent is older than this request.
    pub async fn grow_disk(&self, bytes: u64) -> Result<(), GuestError> {
        self.done(&Request::GrowDisk { bytes }).await.map(|_bytes| ())
    }

    /// Asks which sockets of the guest wait for somebody.
    ///
    /// # Errors
    /// When it does not say, or its agent is older than this request.
    pub async fn listeners(&self) -> Result<Listeners, GuestError> {
        match self.call(&Request::Listeners).await? {
            Reply::Listeners(listeners) => Ok(listeners),
            other => Err(GuestError::unexpected(&other)),
        }
    }

    /// Asks how the guest is.
    ///
    /// # Errors
    /// When it does not say.
    pub async fn health(&self) -> Result<Health, GuestError> {
        match self.call(&Request::Health).await? {
            Reply::Health(health) => Ok(health),
            other => Err(GuestError::unexpected(&other)),
        }
    }

    /// Has the guest get ready to be saved: everything on its disk, and with `quiesce` its NIC bare and down.
    ///
    /// # Errors
    /// When the guest fails to, or is gone.
    pub async fn freeze(&self, quiesce: bool) -> Result<(), GuestError> {
        self.done(&Request::Freeze { quiesce }).await.map(|_bytes| ())
    }

    /// Readies the connection for breaking, which it does when some VMMs save the guest: nothing is on its way any more, and what
    /// anybody asks of the guest waits, until [`Guest::go_on_over`] or [`Guest::release`].
    ///
    /// # Errors
    /// When the guest does not answer, or its agent is older than this request. [`Guest::release`] it then all the same.
    pub async fn hold(&self) -> Result<(), GuestError> {
        if self.hello().generation < HOLDS_SINCE {
            return Err(GuestError::Failed(Failure::Unsupported));
        }
        match self.open(Opening::Hold, &Request::Hold).await?.ended().await? {
            Reply::Done { .. } => Ok(()),
            other => Err(GuestError::unexpected(&other)),
        }
    }

    /// Whether it is held.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.handle.is_held()
    }

    /// Holds it no longer than `within`: unless the agent has come back by then, what waits goes over the old connection, if that
    /// has not broken.
    pub fn release(&self, within: Duration) {
        self.handle.send(Command::Release { at: Instant::now() + within });
    }

    /// Ends the connection: its agent has another one, or will have, and nobody tells this end.
    pub fn end(&self) {
        self.handle.send(Command::End);
    }

    /// Goes on over `socket`, by which the agent of a held connection has come back.
    ///
    /// # Errors
    /// When it is not that agent, or says nothing before `deadline`.
    pub async fn go_on_over(
        &self,
        socket: UnixStream,
        secret: Option<&Secret>,
        deadline: Instant,
    ) -> Result<(), GuestError> {
        let unread = connect::greet_again(&socket, self.handle.nonce(), secret, deadline).await?;
        self.handle.send(Command::GoOn { socket, unread });
        Ok(())
    }

    /// Makes a guest that goes on from what was saved the machine it is from now on. Its hello still has the old names.
    ///
    /// # Errors
    /// When the guest could be mistaken for what it was saved as, or is gone.
    pub async fn renew(&self, renewal: Renewal) -> Result<Renewed, GuestError> {
        match self.call(&Request::Renew(Box::new(renewal))).await? {
            Reply::Renewed(renewed) => Ok(renewed),
            other => Err(GuestError::unexpected(&other)),
        }
    }

    async fn done(&self, request: &Request) -> Result<u64, GuestError> {
        match self.call(request).await? {
            Reply::Done { bytes } => Ok(bytes),
            other => Err(GuestError::unexpected(&other)),
        }
    }

    /// What the guest tells unasked. The first listener also hears what came before; one that is slow misses the oldest.
    #[must_use]
    pub fn events(&self) -> broadcast::Receiver<Event> {
        let mut first = self.parts.first_listener.lock().unwrap_or_else(PoisonError::into_inner);
        first.take().unwrap_or_else(|| self.parts.events.subscribe())
    }

    /// Waits for the end of the connection and says why it ended.
    pub async fn closed(&self) -> GuestError {
        self.handle.ended().await
    }
}

#[cfg(test)]
pub(crate) mod tests;
