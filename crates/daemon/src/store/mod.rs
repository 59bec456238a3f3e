//! The only SQL: VMs, boots, images, kernels and the journal of operations, in one SQLite file.
//!
//! | file | what |
//! |---|---|
//! | `migrations/*.sql`, [`schema`] | the tables, append-only; a newer schema is refused |
//! | `connect` | how the file is opened, looked over, and kept writable on a full disk |
//! | [`records`] | what a row is, as Rust |
//! | `vms`, `boots`, `images`, `kernels`, `operations` | the statements, one file a table |
//! | `slots` | which VM has which number of the host |
//! | `listing` | all VMs in one look |
//! | [`policies`] | of VMs, what the daemon acts on unasked |
//!
//! One thread owns the connection that writes, another the one that reads, so that no read waits for a disk to take a
//! write; both sleep while nobody asks. Write-ahead log, `synchronous = NORMAL`: what is committed survives this process,
//! and a crash of the machine loses at most the newest transactions, never the order. Where more is needed the statement
//! runs under `FULL`.

mod boots;
mod connect;
mod images;
mod kernels;
mod listing;
mod operations;
pub mod policies;
pub mod records;
pub mod schema;
mod slots;
mod vms;

use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};

use rusqlite::Connection;
use tokio::sync::oneshot;

pub use operations::{OperationJournal, OperationState};

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

/// The database. Cheap to clone; the last clone closes it.
#[derive(Clone)]
pub struct Store {
    path: Arc<Path>,
    writes: mpsc::Sender<Job>,
    reads: mpsc::Sender<Job>,
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
    /// The file cannot be written.
    #[error("cannot use the database {}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Another process has it.
    #[error("the database {} is in use by another program", path.display())]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// It is no database, or parts of it are missing or garbage.
    #[error("the database {} is damaged: {why}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The disk is full.
    #[error("cannot {act} in the database: the disk that holds {} is full", path.display())]
    Full {
        /// What was being done.
        act: &'static str,
        /// The file.
        path: PathBuf,
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
        matches!(self, StoreError::Full { .. })
    }

    /// What a person can do about a file that cannot be used.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let dir = |path: &Path| path.parent().unwrap_or(path).display().to_string();
        match self {
            StoreError::Locked { path } => Some(format!(
                "`fuser {}` tells which: a bangerd with another XDG_RUNTIME_DIR, or a database shell; end it, then try again",
                path.display()
            )),
            StoreError::Corrupt { path, .. } => Some(format!(
                "nothing in it was changed: put back a copy of it, or move {} away whole and begin anew; the disks of VMs that \
                 an older copy does not know are removed, so save {}/vms first",
                dir(path),
                dir(path)
            )),
            StoreError::Newer { .. } => Some("use the banger that wrote it, or a newer one".to_owned()),
            StoreError::Unusable { path, .. } => {
                Some(format!("banger must be able to write to {}; BANGER_HOME names another place", dir(path)))
            }
            _ => None,
        }
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
        let writer = connect::writer(path)?;
        let reader = connect::reader(path)?;
        let started = |name, connection| {
            serve(name, connection).map_err(|source| StoreError::Unusable { path: path.to_path_buf(), source })
        };
        Ok(Store { path: path.into(), writes: started("store", writer)?, reads: started("store-reads", reader)? })
    }

    /// Runs `job` on the thread that writes.
    async fn write<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        ask(&self.writes, job).await.map_err(|error| match error {
            StoreError::Sql { act, source } if source.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull) => {
                StoreError::Full { act, path: self.path.to_path_buf() }
            }
            other => other,
        })
    }

    /// Runs `job` on the thread that reads: it sees every write that was answered before.
    async fn read<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        ask(&self.reads, job).await
    }

    /// Gives the log its room on the disk again, where it has lost it and there is enough.
    ///
    /// # Errors
    /// When the file cannot be extended.
    pub async fn keep_room(&self) -> Result<(), StoreError> {
        let path = Arc::clone(&self.path);
        self.write(move |_| {
            connect::keep_room(&path)
                .map_err(|error| StoreError::Unusable { path: path.to_path_buf(), source: error.source })
        })
        .await
    }
}

/// A thread that runs jobs with `connection` until nobody can ask any more.
fn serve(name: &str, mut connection: Connection) -> Result<mpsc::Sender<Job>, std::io::Error> {
    let (jobs, queue) = mpsc::channel::<Job>();
    std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        for job in queue {
            job(&mut connection);
        }
    })?;
    Ok(jobs)
}

async fn ask<T: Send + 'static>(
    jobs: &mpsc::Sender<Job>,
    job: impl FnOnce(&mut Connection) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let (reply, answer) = oneshot::channel();
    let job: Job = Box::new(move |connection| {
        // Nobody waits any more: the statement has run all the same.
        drop(reply.send(job(connection)));
    });
    jobs.send(job).map_err(|_| StoreError::Closed)?;
    answer.await.map_err(|_| StoreError::Closed)?
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_read_waits_for_no_write_and_sees_every_answered_one() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("state.db")).unwrap();
        let (begun, is_begun) = oneshot::channel();
        let (release, released) = mpsc::channel::<()>();
        let writer = store.clone();
        let write = tokio::spawn(async move {
            let job = move |connection: &mut Connection| {
                let transaction = connection.transaction().map_err(sql("begin"))?;
                let insert = "INSERT INTO operations (id, kind, subject, plan_json, state, started_at_ms)
                              VALUES ('op-0101010101010101', 'vm.start', 'web', '{}', 'succeeded', 1)";
                transaction.execute(insert, []).map_err(sql("insert"))?;
                begun.send(()).unwrap();
                released.recv().unwrap();
                transaction.commit().map_err(sql("commit"))
            };
            writer.write(job).await
        });
        is_begun.await.unwrap();
        assert!(store.operations().await.unwrap().is_empty(), "answered while the write is under way");
        release.send(()).unwrap();
        write.await.unwrap().unwrap();
        assert_eq!(store.operations().await.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn the_log_keeps_its_room() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.db");
        let log = dir.path().join("state.db-wal");
        let store = Store::open(&path).unwrap();
        let length = || std::fs::metadata(&log).unwrap().len();
        assert_eq!(length(), connect::RESERVE_BYTES);
        assert!(sys::fs::allocated_bytes(&log) >= connect::RESERVE_BYTES);
        assert!(!dir.path().join("state.db-shm").exists(), "nothing else that a full disk would refuse");
        store.keep_room().await.unwrap();
        // A database that came without its log gets a new one.
        let copy = dir.path().join("copy.db");
        std::fs::copy(&path, &copy).unwrap();
        Store::open(&copy).unwrap();
        let copied = dir.path().join("copy.db-wal");
        assert_eq!(std::fs::metadata(&copied).unwrap().len(), connect::RESERVE_BYTES);
        // One that was copied with holes has its room again.
        std::fs::File::create(&copied).unwrap().set_len(connect::RESERVE_BYTES).unwrap();
        Store::open(&copy).unwrap();
        assert!(sys::fs::allocated_bytes(&copied) >= connect::RESERVE_BYTES);
    }
}
