//! The only SQL: VMs, boots, images, kernels and the journal of operations, in one SQLite file.
//!
//! | file | what |
//! |---|---|
//! | `migrations/*.sql`, [`schema`] | the tables, append-only; a newer schema is refused |
//! | [`records`] | what a row is, as Rust |
//! | `vms`, `boots`, `artifacts`, `operations` | the statements, one file a table |
//!
//! One thread owns the one connection and sleeps while nobody asks. Write-ahead log, `synchronous = NORMAL`: what is
//! committed survives this process, and a crash of the machine loses at most the newest transactions, never the order.
//! Where more is needed the statement runs under `FULL`.

mod artifacts;
mod boots;
mod operations;
pub mod records;
pub mod schema;
mod vms;

use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::oneshot;

pub use operations::{OperationJournal, OperationState};

/// How long a statement waits for another process (a person with `sqlite3`) to let go.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Page cache, KiB: the whole working set of some thousand VMs, and small beside the daemon.
const CACHE_KIB: i64 = 512;

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

/// The database. Cheap to clone; the last clone closes it.
#[derive(Clone)]
pub struct Store {
    jobs: mpsc::Sender<Job>,
}

/// What went wrong with the database.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It cannot be opened.
    #[error("cannot open the database {}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
    /// A newer banger wrote it.
    #[error("the database {} is of schema {found}, this banger knows up to {known}", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its schema.
        found: i64,
        /// The newest this build knows.
        known: i64,
    },
    /// A migration failed; the database is as before.
    #[error("cannot migrate the database to schema {to}")]
    Migrate {
        /// The schema that was being made.
        to: i64,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
    /// A statement failed.
    #[error("cannot {act} in the database")]
    Sql {
        /// What was being done.
        act: &'static str,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
    /// A document in it is not what this build reads.
    #[error("cannot understand {what} in the database")]
    Damaged {
        /// Which document.
        what: &'static str,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The thread is gone.
    #[error("the database is closed")]
    Closed,
    /// No such row.
    #[error("no {what} {key:?}")]
    NotFound {
        /// `VM`, `image`, `kernel`, `operation`.
        what: &'static str,
        /// As asked.
        key: String,
    },
    /// Several rows fit.
    #[error("{key:?} is the beginning of several {what} ids")]
    Ambiguous {
        /// `VM`, `image`, `kernel`.
        what: &'static str,
        /// As asked.
        key: String,
    },
    /// The name is taken.
    #[error("there is already a {what} called {name}")]
    NameTaken {
        /// `VM`, `image`, `kernel`.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// Another operation holds it.
    #[error("{subject} is busy: {kind}, {}", elapsed(*elapsed_ms))]
    Busy {
        /// What is held.
        subject: String,
        /// What the other does, without the noun: `start`.
        kind: String,
        /// Since when.
        elapsed_ms: u64,
        /// The other operation.
        operation: wire::id::OpId,
    },
    /// Rows that refer to it remain.
    #[error("{what} {name} is used by {}", users.join(", "))]
    InUse {
        /// `image`, `kernel`.
        what: &'static str,
        /// Its name.
        name: String,
        /// The VMs.
        users: Vec<String>,
    },
    /// The VM cannot do that now.
    #[error("VM {name} is {refused}")]
    Refused {
        /// Its name.
        name: String,
        /// Why.
        refused: crate::model::vm::Refused,
    },
}

impl StoreError {
    /// Whether the disk is full.
    #[must_use]
    pub fn is_full(&self) -> bool {
        let (StoreError::Open { source, .. } | StoreError::Migrate { source, .. } | StoreError::Sql { source, .. }) =
            self
        else {
            return false;
        };
        source.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull)
    }
}

fn elapsed(ms: u64) -> String {
    format!("{}.{} s", ms / 1000, ms % 1000 / 100)
}

impl Store {
    /// Opens or makes the database at `path` and brings it to the newest schema.
    ///
    /// # Errors
    /// When it cannot be opened or migrated, or a newer banger wrote it.
    pub fn open(path: &Path) -> Result<Store, StoreError> {
        let opened = |source| StoreError::Open { path: path.to_path_buf(), source };
        let mut connection = Connection::open(path).map_err(opened)?;
        connection.busy_timeout(BUSY_TIMEOUT).map_err(opened)?;
        schema::check(&connection, path)?;
        connection.pragma_update(None, "journal_mode", "WAL").map_err(opened)?;
        connection.pragma_update(None, "synchronous", "NORMAL").map_err(opened)?;
        connection.pragma_update(None, "foreign_keys", true).map_err(opened)?;
        connection.pragma_update(None, "cache_size", -CACHE_KIB).map_err(opened)?;
        schema::migrate(&mut connection, path)?;
        let (jobs, queue) = mpsc::channel::<Job>();
        std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || {
                for job in queue {
                    job(&mut connection);
                }
            })
            .map_err(|error| opened(rusqlite::Error::ToSqlConversionFailure(error.into())))?;
        Ok(Store { jobs })
    }

    /// Runs `job` on the thread that owns the connection.
    async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        let job: Job = Box::new(move |connection| {
            // Nobody waits any more: the statement has run all the same.
            drop(reply.send(job(connection)));
        });
        self.jobs.send(job).map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }
}

/// Adds the act to an SQLite error.
fn sql(act: &'static str) -> impl Fn(rusqlite::Error) -> StoreError {
    move |source| StoreError::Sql { act, source }
}

/// Whether a UNIQUE constraint refused.
fn is_unique_violation(error: &rusqlite::Error) -> bool {
    error.sqlite_error().is_some_and(|e| e.extended_code == rusqlite::ffi::SQLITE_CONSTRAINT_UNIQUE)
}

fn to_json<T: serde::Serialize>(what: &'static str, value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|source| StoreError::Damaged { what, source })
}

fn from_json<T: serde::de::DeserializeOwned>(what: &'static str, text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|source| StoreError::Damaged { what, source })
}

/// Reads an id column; text that is no id is damage.
fn id<T: std::str::FromStr>(text: &str) -> Result<T, rusqlite::Error>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    text.parse().map_err(|error: T::Err| {
        rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, Box::new(error))
    })
}

fn ms(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

fn int(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
