//! How many rows the tables of a database have, seen from outside: every table, those that are added later too.

use std::collections::BTreeMap;
use std::path::Path;

/// The rows of each table of the database at `path`, which a daemon may be using: it is copied between two commits.
pub(crate) fn rows(path: &Path) -> BTreeMap<String, i64> {
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("copy.db");
    let log = |of: &Path| of.with_extension("db-wal");
    loop {
        let before = std::fs::read(log(path)).unwrap();
        std::fs::copy(path, &copy).unwrap();
        if std::fs::read(log(path)).unwrap() == before {
            std::fs::write(log(&copy), before).unwrap();
            break;
        }
    }
    let database = rusqlite::Connection::open(&copy).unwrap();
    let mut tables = database.prepare("SELECT name FROM sqlite_schema WHERE type = 'table'").unwrap();
    let tables: Vec<String> = tables.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    let count = |table: &str| -> i64 {
        database.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap()
    };
    tables.iter().map(|table| (table.clone(), count(table))).collect()
}
