//! How the database file is opened, looked over, and kept writable on a disk that is full.
//!
//! ```text
//! state.db       grows and shrinks in whole chunks, so that a checkpoint seldom needs new room
//! state.db-wal   never shorter than RESERVE_BYTES, never deleted: what is written next overwrites what was checkpointed
//! ```
//!
//! `unix-excl` is SQLite's own way of locking a file for one process: the index of the log is in memory and not in a
//! third file, which a full disk would refuse, and a second daemon over the same file is refused by the kernel.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, FileControl, OpenFlags, ToSql};

use super::{StoreError, schema, sql};

/// How long the first look waits for another process (an earlier daemon, a person with `sqlite3`) to let go of the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Page cache of the connection that writes, KiB: what an operation touches is next to nothing.
const WRITER_CACHE_KIB: i64 = 512;
/// Page cache of the one that reads: the rows of a thousand VMs. It takes what is read, and no more.
const READER_CACHE_KIB: i64 = 2048;
/// What the log has on the disk before it is needed: some twenty deletions of VMs on a full disk, if no checkpoint
/// succeeds in between, beside [`CHECKPOINT_PAGES`].
pub(super) const RESERVE_BYTES: u64 = 4 << 20;
/// Pages in the log after which it is written back: a quarter of the reserve, so that the rest is there when the disk
/// fills up at the worst moment.
const CHECKPOINT_PAGES: i64 = 256;
/// The same when an operation ends: nobody waits then, so that few have to in the middle of one.
const CHECKPOINT_EARLY_PAGES: i64 = 128;
/// Room that must be left beside the reserve for it to be made: a full disk is not filled further.
const ROOM_BESIDE_BYTES: u64 = 4 << 20;
/// The database file grows by this.
const CHUNK_BYTES: i32 = 256 << 10;

const _: () = assert!(CHECKPOINT_PAGES as u64 * 4096 <= RESERVE_BYTES / 4);

/// The connection that writes, with everything in place. Nothing is changed in a file that is refused.
pub(super) fn writer(path: &Path) -> Result<Connection, StoreError> {
    let opened = |source| refused(path, source);
    let mut connection = open(path, WRITER_CACHE_KIB).map_err(opened)?;
    schema::check(&connection, path)?;
    look_over(&connection, path)?;
    connection.pragma_update(None, "journal_mode", "WAL").map_err(opened)?;
    connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES).map_err(opened)?;
    connection.pragma_update(None, "synchronous", "NORMAL").map_err(opened)?;
    connection.pragma_update(None, "foreign_keys", true).map_err(opened)?;
    schema::migrate(&mut connection, path)?;
    if let Err(error) = keep_room(path) {
        tracing::warn!(error = %error, "no room is kept for a full disk");
    }
    Ok(connection)
}

/// A connection that only reads; it waits for no write.
pub(super) fn reader(path: &Path) -> Result<Connection, StoreError> {
    let opened = |source| refused(path, source);
    let connection = open(path, READER_CACHE_KIB).map_err(opened)?;
    connection.pragma_update(None, "query_only", true).map_err(opened)?;
    Ok(connection)
}

fn open(path: &Path, cache_kib: i64) -> Result<Connection, rusqlite::Error> {
    let connection = Connection::open_with_flags_and_vfs(path, OpenFlags::default(), c"unix-excl")?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    let (mut persists, mut chunk) = (1, CHUNK_BYTES);
    connection.file_control(None::<&str>, FileControl::PersistWal(&mut persists))?;
    connection.file_control(None::<&str>, FileControl::ChunkSize(&mut chunk))?;
    connection.pragma_update(None, "cache_size", -cache_kib)?;
    // Sorting and undoing a statement need no file.
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    Ok(connection)
}

/// Runs `act` so that what it commits survives the death of the machine, and all that was committed before.
pub(super) fn durably<T>(
    connection: &mut Connection,
    act: impl FnOnce(&mut Connection) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    under(connection, "synchronous", &"FULL", &"NORMAL", act)
}

/// Runs `act`, whose commit writes the log back if that will soon be needed anyhow.
///
/// Writing back costs two syncs and the log's next beginning a third: in the middle of an operation they would come on top
/// of its commit point's.
pub(super) fn writing_back_early<T>(
    connection: &mut Connection,
    act: impl FnOnce(&mut Connection) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    under(connection, "wal_autocheckpoint", &CHECKPOINT_EARLY_PAGES, &CHECKPOINT_PAGES, act)
}

/// Runs `act` under another setting of the connection, and puts the usual one back whatever comes of it.
fn under<T>(
    connection: &mut Connection,
    setting: &str,
    value: &dyn ToSql,
    usual: &dyn ToSql,
    act: impl FnOnce(&mut Connection) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    let set = |connection: &Connection, value: &dyn ToSql| {
        connection.pragma_update(None, setting, value).map_err(sql("change how it is written"))
    };
    set(connection, value)?;
    let done = act(connection);
    set(connection, usual)?;
    done
}

/// What a failure to open means.
pub(super) fn refused(path: &Path, source: rusqlite::Error) -> StoreError {
    let path = path.to_path_buf();
    match source.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => StoreError::Locked { path },
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
            StoreError::Corrupt { path, why: source.to_string() }
        }
        Some(ErrorCode::DiskFull) => StoreError::Full { act: "open it", path },
        _ => match reason(&path) {
            Some(source) if source.kind() == std::io::ErrorKind::StorageFull => {
                StoreError::Full { act: "open it", path }
            }
            Some(source) => StoreError::Unusable { path, source },
            None => StoreError::Open { path, source },
        },
    }
}

/// Why the file cannot be written, in the kernel's words: SQLite says only that it cannot.
fn reason(path: &Path) -> Option<std::io::Error> {
    File::options().read(true).write(true).create(true).truncate(false).open(path).err()
}

/// Looks for damage; a file of some thousand VMs is read in a few milliseconds.
fn look_over(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    let found: String =
        connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(|source| refused(path, source))?;
    if found == "ok" { Ok(()) } else { Err(StoreError::Corrupt { path: path.to_path_buf(), why: found }) }
}

/// The log of the database at `path`. SQLite puts it beside the file itself, not beside a link to it.
fn log_of(path: &Path) -> PathBuf {
    let file = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    let mut name = file.into_os_string();
    name.push("-wal");
    PathBuf::from(name)
}

/// Gives the log its room on the disk, if it has not got it and the disk has more than that. To be called by whoever
/// writes: what lies behind the newest entry of the log is nobody's.
pub(super) fn keep_room(path: &Path) -> Result<(), sys::fs::FsError> {
    let log = log_of(path);
    // A copy of it may have holes.
    let has = sys::fs::allocated_bytes(&log).min(RESERVE_BYTES);
    if has >= RESERVE_BYTES || sys::fs::available_bytes(&log)? < RESERVE_BYTES - has + ROOM_BESIDE_BYTES {
        return Ok(());
    }
    sys::holes::fill_up(&log, RESERVE_BYTES)
}

/// The schema of the database at `path`, without changing anything; none when there is no database.
pub(super) fn version(path: &Path) -> Result<Option<i64>, StoreError> {
    match std::fs::metadata(path) {
        Ok(meta) if meta.len() > 0 => {}
        Ok(_) => return Ok(None),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(StoreError::Unusable { path: path.to_path_buf(), source }),
    }
    if std::fs::metadata(log_of(path)).is_ok_and(|meta| meta.len() > 0)
        && let Some(version) = version_with_log(path)
    {
        return Ok(Some(version));
    }
    // Nobody has written since the last checkpoint, or a daemon holds the file, and it writes back after a migration.
    let location = format!("file:{}?mode=ro&immutable=1", escaped(path));
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(location, flags).map_err(|source| refused_reading(path, source))?;
    schema::version(&connection).map(Some).map_err(|source| refused_reading(path, source))
}

/// The schema as the log has it; none when somebody holds the file. Neither file is written: the statement reads, and
/// closing is told to leave the log as it is.
fn version_with_log(path: &Path) -> Option<i64> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags_and_vfs(path, flags, c"unix-excl").ok()?;
    connection.busy_timeout(Duration::ZERO).ok()?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).ok()?;
    connection.pragma_update(None, "query_only", true).ok()?;
    schema::version(&connection).ok()
}

fn refused_reading(path: &Path, source: rusqlite::Error) -> StoreError {
    let path = path.to_path_buf();
    match source.sqlite_error_code() {
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
            StoreError::Corrupt { path, why: source.to_string() }
        }
        _ => StoreError::Open { path, source },
    }
}

/// A path inside a `file:` address.
fn escaped(path: &Path) -> String {
    let text = path.to_string_lossy();
    text.replace('%', "%25").replace('?', "%3f").replace('#', "%23")
}
