//! The schema's history: one file a step, applied once, in order, each in a transaction of its own.
//! `PRAGMA user_version` says how many were applied. A published file is never changed; a change is a new file.

use std::path::Path;

use rusqlite::{Connection, TransactionBehavior};

use super::{StoreError, connect};

/// In the order they are applied.
pub const MIGRATIONS: &[&str] = &[
    include_str!("migrations/0001-first.sql"),
    include_str!("migrations/0002-reset.sql"),
    include_str!("migrations/0003-policies.sql"),
    include_str!("migrations/0004-slots.sql"),
    include_str!("migrations/0005-image-names.sql"),
];

/// The newest schema this build knows.
#[must_use]
pub fn known() -> i64 {
    i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX)
}

pub(super) fn version(connection: &Connection) -> Result<i64, rusqlite::Error> {
    connection.pragma_query_value(None, "user_version", |row| row.get(0))
}

/// How a database stands to this build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// There is none yet.
    Absent,
    /// Nothing is to be done.
    Compatible,
    /// The next daemon brings it from `found` to [`known`].
    Pending {
        /// Its schema.
        found: i64,
    },
    /// A newer banger wrote it.
    Newer {
        /// Its schema.
        found: i64,
    },
}

/// How the database at `path` stands to this build. Changes nothing, also beside a running daemon.
///
/// # Errors
/// When it cannot be read, or is no database.
pub fn standing(path: &Path) -> Result<Standing, StoreError> {
    Ok(match connect::version(path)? {
        None => Standing::Absent,
        Some(found) if found > known() => Standing::Newer { found },
        Some(found) if found < known() => Standing::Pending { found },
        Some(_) => Standing::Compatible,
    })
}

/// Refuses a database that a newer banger wrote, before anything in it is touched.
///
/// # Errors
/// When it is newer, or no database.
pub fn check(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    let found = version(connection).map_err(|source| connect::refused(path, source))?;
    if found > known() {
        return Err(StoreError::Newer { path: path.to_path_buf(), found, known: known() });
    }
    Ok(())
}

/// Applies what is missing.
///
/// # Errors
/// When a step fails; the database is then as it was before that step.
pub fn migrate(connection: &mut Connection, path: &Path) -> Result<(), StoreError> {
    let found = version(connection).map_err(|source| connect::refused(path, source))?;
    let applied = usize::try_from(found).unwrap_or(0);
    for (index, step) in MIGRATIONS.iter().enumerate().skip(applied) {
        let to = i64::try_from(index + 1).unwrap_or(i64::MAX);
        let failed = |source: rusqlite::Error| match source.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DiskFull) => {
                StoreError::Full { act: "make its tables", path: path.to_path_buf() }
            }
            _ => StoreError::Migrate { to, source },
        };
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Exclusive).map_err(failed)?;
        transaction.execute_batch(step).map_err(failed)?;
        transaction.pragma_update(None, "user_version", to).map_err(failed)?;
        transaction.commit().map_err(failed)?;
    }
    if found < known() {
        // Into the file itself, where the version can be read beside a running daemon. A full disk refuses it now and
        // takes it with a later checkpoint.
        if let Err(error) = connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())) {
            tracing::warn!(%error, "the new schema is in the log only");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::Store;
    use super::*;

    #[test]
    fn every_step_is_applied_once_and_a_newer_schema_is_refused_untouched() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.db");
        let mut connection = Connection::open(&path).unwrap();
        migrate(&mut connection, &path).unwrap();
        migrate(&mut connection, &path).unwrap();
        assert_eq!(version(&connection).unwrap(), known());
        connection.pragma_update(None, "user_version", known() + 1).unwrap();
        drop(connection);
        let before = std::fs::read(&path).unwrap();
        let error = Store::open(&path).err().unwrap();
        assert!(matches!(error, StoreError::Newer { .. }), "{error:?}");
        assert_eq!(std::fs::read(&path).unwrap(), before);
    }

    #[test]
    fn a_step_that_fails_leaves_the_database_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.db");
        let mut connection = Connection::open(&path).unwrap();
        connection.execute_batch("CREATE TABLE vms (x)").unwrap();
        let error = migrate(&mut connection, &path).unwrap_err();
        assert!(matches!(error, StoreError::Migrate { to: 1, .. }), "{error:?}");
        assert_eq!(version(&connection).unwrap(), 0);
        let tables: i64 = connection
            .query_row("SELECT count(*) FROM sqlite_master WHERE type = 'table'", [], |row| row.get(0))
            .unwrap();
        assert_eq!(tables, 1);
    }
}
