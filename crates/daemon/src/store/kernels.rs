//! The table of kernels.

use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};
use wire::id::KernelId;

use super::records::KernelRecord;
use super::vms::PREFIX_LEN_MIN;
use super::{Store, StoreError, from_json, id, int, ms, sql, to_json};

fn select(connection: &Connection, clause: &str, key: &str) -> Result<Vec<KernelRecord>, StoreError> {
    type Raw = (String, String, String, i64);
    let rows: Vec<Raw> = connection
        .prepare(&format!("SELECT id, name, manifest_json, created_at_ms FROM kernels WHERE {clause}"))
        .and_then(|mut statement| {
            let read = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?));
            statement.query_map([key], read)?.collect()
        })
        .map_err(sql("read a kernel"))?;
    let record = |(key, name, manifest, created_at_ms): Raw| {
        Ok(KernelRecord {
            id: id(&key).map_err(sql("read the id of a kernel"))?,
            manifest: from_json("a manifest", &manifest)?,
            name,
            created_at_ms: ms(created_at_ms),
        })
    };
    rows.into_iter().map(record).collect()
}

fn find(connection: &Connection, key: &str) -> Result<KernelRecord, StoreError> {
    let mut found = select(connection, "name = ?1 OR id = ?1", key)?;
    if found.len() > 1 {
        // A name that looks like another's id: the name wins, as everywhere.
        found.retain(|kernel| kernel.name == key);
    }
    if found.is_empty() && key.len() >= PREFIX_LEN_MIN && key.bytes().all(|b| b.is_ascii_hexdigit()) {
        found = select(connection, "substr(id, 1, length(?1)) = ?1", key)?;
    }
    if found.len() > 1 {
        return Err(StoreError::Ambiguous { what: "kernel", key: key.to_owned() });
    }
    found.pop().ok_or_else(|| StoreError::NotFound { what: "kernel", key: key.chars().take(130).collect() })
}

/// Adds or renames the kernel so that it, and no other, has its name.
fn publish(connection: &mut Connection, record: &KernelRecord) -> Result<(), StoreError> {
    let act = "record a kernel";
    let (key, name) = (record.id.as_str(), record.name.as_str());
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(sql(act))?;
    let other: Option<String> = transaction
        .query_row("SELECT id FROM kernels WHERE name = ?1 AND id <> ?2", [name, key], |row| row.get(0))
        .optional()
        .map_err(sql(act))?;
    if let Some(other) = other {
        // The replaced one keeps a name, by which it can be listed and deleted.
        let kept = format!("{name}-{}", other.chars().take(8).collect::<String>());
        transaction.execute("UPDATE kernels SET name = ?2 WHERE id = ?1", [&other, &kept]).map_err(sql(act))?;
    }
    transaction
        .execute(
            "INSERT INTO kernels (id, name, manifest_json, created_at_ms) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (id) DO UPDATE SET name = excluded.name, manifest_json = excluded.manifest_json",
            params![key, name, to_json("the manifest", &record.manifest)?, int(record.created_at_ms)],
        )
        .map_err(sql(act))?;
    transaction.commit().map_err(sql(act))
}

/// Takes a publication back: the kernel gets the name it had before, or goes if it was not on record, and whoever was called
/// `name` is so again.
fn unpublish(
    connection: &mut Connection,
    kernel: &str,
    was: Option<&str>,
    (name, replaced): (&str, Option<&str>),
) -> Result<(), StoreError> {
    let act = "take back a kernel";
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(sql(act))?;
    match was {
        Some(was) => {
            transaction.execute("UPDATE kernels SET name = ?2 WHERE id = ?1 AND name = ?3", [kernel, was, name])
        }
        None => transaction.execute("DELETE FROM kernels WHERE id = ?1", [kernel]),
    }
    .map_err(sql(act))?;
    if let Some(replaced) = replaced.filter(|replaced| *replaced != kernel) {
        transaction.execute("UPDATE kernels SET name = ?2 WHERE id = ?1", [replaced, name]).map_err(sql(act))?;
    }
    transaction.commit().map_err(sql(act))
}

fn users(connection: &Connection, kernel: &str) -> Result<Vec<String>, StoreError> {
    connection
        .prepare("SELECT name FROM vms WHERE kernel_id = ?1 ORDER BY name")
        .and_then(|mut statement| statement.query_map([kernel], |row| row.get(0))?.collect())
        .map_err(sql("list the users of a kernel"))
}

impl Store {
    /// All of them, by name.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn kernels(&self) -> Result<Vec<KernelRecord>, StoreError> {
        self.read(|connection| select(connection, "?1 = '' ORDER BY name", "")).await
    }

    /// The one of that name, id, or unambiguous beginning of an id.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Ambiguous`], or when the database cannot be read.
    pub async fn find_kernel(&self, key: &str) -> Result<KernelRecord, StoreError> {
        let key = key.to_owned();
        self.read(move |connection| find(connection, &key)).await
    }

    /// Records it under its name; another of that name is renamed.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn publish_kernel(&self, record: KernelRecord) -> Result<(), StoreError> {
        self.write(move |connection| publish(connection, &record)).await
    }

    /// Takes back what publishing `id` as `name` did: `was` is the name it had before, if it was on record, and `replaced`
    /// who had the name before. Idempotent.
    ///
    /// # Errors
    /// When a VM uses it already, or it cannot be written.
    pub async fn unpublish_kernel(
        &self,
        id: &KernelId,
        was: Option<String>,
        name: &str,
        replaced: Option<KernelId>,
    ) -> Result<(), StoreError> {
        let (id, name) = (id.clone(), name.to_owned());
        self.write(move |connection| {
            let replaced = replaced.as_ref().map(KernelId::as_str);
            unpublish(connection, id.as_str(), was.as_deref(), (&name, replaced))
        })
        .await
    }

    /// The VMs that use it, by name.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn kernel_users(&self, id: &KernelId) -> Result<Vec<String>, StoreError> {
        let id = id.clone();
        self.read(move |connection| users(connection, id.as_str())).await
    }

    /// Removes the row. Idempotent.
    ///
    /// # Errors
    /// [`StoreError::InUse`] with the VMs, or when it cannot be written.
    pub async fn delete_kernel(&self, id: &KernelId, name: &str) -> Result<(), StoreError> {
        let (id, name) = (id.clone(), name.to_owned());
        let act = "remove a kernel";
        self.write(move |connection| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(sql(act))?;
            let users = users(&transaction, id.as_str())?;
            if !users.is_empty() {
                return Err(StoreError::InUse { what: "kernel", name, users });
            }
            transaction.execute("DELETE FROM kernels WHERE id = ?1", [id.as_str()]).map_err(sql(act))?;
            transaction.commit().map_err(sql(act))
        })
        .await
    }
}
