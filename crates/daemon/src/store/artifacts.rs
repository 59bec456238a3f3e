//! The tables of images and kernels: the same columns, two names.

use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};
use serde::Serialize;
use serde::de::DeserializeOwned;
use wire::id::{ImageId, KernelId};

use super::records::{ImageRecord, KernelRecord};
use super::vms::PREFIX_LEN_MIN;
use super::{Store, StoreError, from_json, id, int, ms, sql, to_json};

/// One of the two tables.
#[derive(Clone, Copy)]
struct Table {
    name: &'static str,
    what: &'static str,
    /// The column of `vms` that refers to it.
    user: &'static str,
}

const IMAGES: Table = Table { name: "images", what: "image", user: "image_id" };
const KERNELS: Table = Table { name: "kernels", what: "kernel", user: "kernel_id" };

struct Raw {
    id: String,
    name: String,
    manifest: String,
    created_at_ms: i64,
}

impl Table {
    fn select(self, connection: &Connection, clause: &str, key: &str) -> Result<Vec<Raw>, StoreError> {
        connection
            .prepare(&format!("SELECT id, name, manifest_json, created_at_ms FROM {} WHERE {clause}", self.name))
            .and_then(|mut statement| {
                statement
                    .query_map([key], |row| {
                        Ok(Raw {
                            id: row.get(0)?,
                            name: row.get(1)?,
                            manifest: row.get(2)?,
                            created_at_ms: row.get(3)?,
                        })
                    })?
                    .collect()
            })
            .map_err(sql("read an image or kernel"))
    }

    fn find(self, connection: &Connection, key: &str) -> Result<Raw, StoreError> {
        let mut found = self.select(connection, "name = ?1 OR id = ?1", key)?;
        if found.len() > 1 {
            // A name that looks like another's id: the name wins, as everywhere.
            found.retain(|raw| raw.name == key);
        }
        if found.is_empty() && key.len() >= PREFIX_LEN_MIN && key.bytes().all(|b| b.is_ascii_hexdigit()) {
            found = self.select(connection, "substr(id, 1, length(?1)) = ?1", key)?;
        }
        if found.len() > 1 {
            return Err(StoreError::Ambiguous { what: self.what, key: key.to_owned() });
        }
        found.pop().ok_or_else(|| StoreError::NotFound { what: self.what, key: key.chars().take(130).collect() })
    }

    /// Adds or renames the artifact so that it, and no other, is called `name`.
    fn publish<M: Serialize>(
        self,
        connection: &mut Connection,
        (id, name, created_at_ms): (&str, &str, u64),
        manifest: &M,
    ) -> Result<(), StoreError> {
        let act = "record an image or kernel";
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(sql(act))?;
        let other: Option<String> = transaction
            .query_row(&format!("SELECT id FROM {} WHERE name = ?1 AND id <> ?2", self.name), [name, id], |r| r.get(0))
            .optional()
            .map_err(sql(act))?;
        if let Some(other) = other {
            // The replaced one keeps a name, by which it can be listed and deleted.
            let kept: String = format!("{name}-{}", other.chars().take(8).collect::<String>());
            transaction
                .execute(&format!("UPDATE {} SET name = ?2 WHERE id = ?1", self.name), [&other, &kept])
                .map_err(sql(act))?;
        }
        transaction
            .execute(
                &format!(
                    "INSERT INTO {} (id, name, manifest_json, created_at_ms) VALUES (?1, ?2, ?3, ?4)
                     ON CONFLICT (id) DO UPDATE SET name = excluded.name, manifest_json = excluded.manifest_json",
                    self.name
                ),
                params![id, name, to_json("the manifest", manifest)?, int(created_at_ms)],
            )
            .map_err(sql(act))?;
        transaction.commit().map_err(sql(act))
    }

    /// Takes a publication back: the artifact gets the name it had before, or goes if it was not on record, and whoever
    /// was called `name` is so again.
    fn unpublish(
        self,
        connection: &mut Connection,
        id: &str,
        was: Option<&str>,
        (name, replaced): (&str, Option<&str>),
    ) -> Result<(), StoreError> {
        let act = "take back an image or kernel";
        let table = self.name;
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(sql(act))?;
        match was {
            Some(was) => transaction
                .execute(&format!("UPDATE {table} SET name = ?2 WHERE id = ?1 AND name = ?3"), [id, was, name]),
            None => transaction.execute(&format!("DELETE FROM {table} WHERE id = ?1"), [id]),
        }
        .map_err(sql(act))?;
        if let Some(replaced) = replaced.filter(|replaced| *replaced != id) {
            transaction
                .execute(&format!("UPDATE {table} SET name = ?2 WHERE id = ?1"), [replaced, name])
                .map_err(sql(act))?;
        }
        transaction.commit().map_err(sql(act))
    }

    fn users(self, connection: &Connection, id: &str) -> Result<Vec<String>, StoreError> {
        connection
            .prepare(&format!("SELECT name FROM vms WHERE {} = ?1 ORDER BY name", self.user))
            .and_then(|mut statement| statement.query_map([id], |row| row.get(0))?.collect())
            .map_err(sql("list the users of an image or kernel"))
    }

    /// Refuses while a VM uses it.
    fn check_unused(self, connection: &Connection, id: &str, name: &str) -> Result<(), StoreError> {
        let users = self.users(connection, id)?;
        if users.is_empty() { Ok(()) } else { Err(StoreError::InUse { what: self.what, name: name.to_owned(), users }) }
    }

    fn delete(self, connection: &mut Connection, id: &str, name: &str) -> Result<(), StoreError> {
        let act = "remove an image or kernel";
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(sql(act))?;
        self.check_unused(&transaction, id, name)?;
        transaction.execute(&format!("DELETE FROM {} WHERE id = ?1", self.name), [id]).map_err(sql(act))?;
        transaction.commit().map_err(sql(act))
    }
}

fn read<M: DeserializeOwned>(raw: &Raw) -> Result<M, StoreError> {
    from_json("a manifest", &raw.manifest)
}

macro_rules! artifact {
    ($table:ident, $record:ident, $id:ident, $list:ident, $find:ident, $publish:ident, $unpublish:ident, $users:ident, $delete:ident) => {
        impl Store {
            /// All of them, by name.
            ///
            /// # Errors
            /// When the database cannot be read.
            pub async fn $list(&self) -> Result<Vec<$record>, StoreError> {
                self.read(|connection| {
                    let rows = $table.select(connection, "?1 = '' ORDER BY name", "")?;
                    rows.into_iter().map($record::from_raw).collect()
                })
                .await
            }

            /// The one of that name, id, or unambiguous beginning of an id.
            ///
            /// # Errors
            /// [`StoreError::NotFound`], [`StoreError::Ambiguous`], or when the database cannot be read.
            pub async fn $find(&self, key: &str) -> Result<$record, StoreError> {
                let key = key.to_owned();
                self.read(move |connection| $table.find(connection, &key).and_then($record::from_raw)).await
            }

            /// Records it under its name; another of that name is renamed.
            ///
            /// # Errors
            /// When it cannot be written.
            pub async fn $publish(&self, record: $record) -> Result<(), StoreError> {
                self.write(move |connection| {
                    let key = (record.id.as_str(), record.name.as_str(), record.created_at_ms);
                    $table.publish(connection, key, &record.manifest)
                })
                .await
            }

            /// Takes back what publishing `id` as `name` did: `was` is the name it had before, if it was on record, and
            /// `replaced` who had the name before. Idempotent.
            ///
            /// # Errors
            /// When a VM uses it already, or it cannot be written.
            pub async fn $unpublish(
                &self,
                id: &$id,
                was: Option<String>,
                name: &str,
                replaced: Option<$id>,
            ) -> Result<(), StoreError> {
                let (id, name) = (id.clone(), name.to_owned());
                self.write(move |connection| {
                    let replaced = replaced.as_ref().map($id::as_str);
                    $table.unpublish(connection, id.as_str(), was.as_deref(), (&name, replaced))
                })
                .await
            }

            /// The VMs that use it, by name.
            ///
            /// # Errors
            /// When the database cannot be read.
            pub async fn $users(&self, id: &$id) -> Result<Vec<String>, StoreError> {
                let id = id.clone();
                self.read(move |connection| $table.users(connection, id.as_str())).await
            }

            /// Removes the row. Idempotent.
            ///
            /// # Errors
            /// [`StoreError::InUse`] with the VMs, or when it cannot be written.
            pub async fn $delete(&self, id: &$id, name: &str) -> Result<(), StoreError> {
                let (id, name) = (id.clone(), name.to_owned());
                self.write(move |connection| $table.delete(connection, id.as_str(), &name)).await
            }
        }

        impl $record {
            fn from_raw(raw: Raw) -> Result<$record, StoreError> {
                Ok($record {
                    id: id(&raw.id).map_err(sql("read the id of an image or kernel"))?,
                    manifest: read(&raw)?,
                    name: raw.name,
                    created_at_ms: ms(raw.created_at_ms),
                })
            }
        }
    };
}

artifact!(IMAGES, ImageRecord, ImageId, images, find_image, publish_image, unpublish_image, image_users, delete_image);
artifact!(
    KERNELS,
    KernelRecord,
    KernelId,
    kernels,
    find_kernel,
    publish_kernel,
    unpublish_kernel,
    kernel_users,
    delete_kernel
);
