//! The tables of images and of their names: one image may be called by several, a name belongs to one image.

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};
use wire::id::ImageId;

use super::records::ImageRecord;
use super::vms::PREFIX_LEN_MIN;
use super::{Store, StoreError, from_json, id, int, ms, sql, to_json};
use crate::model::image::ImageManifest;

const READ: &str = "read an image";
const NAME: &str = "name an image";

/// Columns in the order of [`record`]; the names in the order they were given.
const SELECT: &str = "
    SELECT images.id, manifest_json, created_at_ms,
           (SELECT json_group_array(name) FROM (SELECT name FROM image_names WHERE image = images.id ORDER BY number))
    FROM images";

fn select(connection: &Connection, clause: &str, key: &str) -> Result<Vec<ImageRecord>, StoreError> {
    type Raw = (String, String, i64, String);
    let rows: Vec<Raw> = connection
        .prepare(&format!("{SELECT} WHERE {clause}"))
        .and_then(|mut statement| {
            let read = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?));
            statement.query_map([key], read)?.collect()
        })
        .map_err(sql(READ))?;
    rows.into_iter().map(record).collect()
}

fn record((key, manifest, created_at_ms, names): (String, String, i64, String)) -> Result<ImageRecord, StoreError> {
    let mut names: Vec<String> = from_json("the names of an image", &names)?;
    // It has one, unless somebody wrote into the database.
    let name = if names.is_empty() { key.clone() } else { names.remove(0) };
    Ok(ImageRecord {
        id: id(&key).map_err(sql("read the id of an image"))?,
        name,
        also: names,
        manifest: from_json("a manifest", &manifest)?,
        created_at_ms: ms(created_at_ms),
    })
}

fn find(connection: &Connection, key: &str) -> Result<ImageRecord, StoreError> {
    let named = "images.id = (SELECT image FROM image_names WHERE name = ?1)";
    let mut found = select(connection, named, key)?;
    if found.is_empty()
        && let Some(familiar) = crate::model::image::familiar(key)
    {
        found = select(connection, named, &familiar)?;
    }
    if found.is_empty() {
        found = select(connection, "images.id = ?1", key)?;
    }
    if found.is_empty() && key.len() >= PREFIX_LEN_MIN && key.bytes().all(|b| b.is_ascii_hexdigit()) {
        found = select(connection, "substr(images.id, 1, length(?1)) = ?1", key)?;
    }
    if found.len() > 1 {
        return Err(StoreError::Ambiguous { what: "image", key: key.to_owned() });
    }
    found.pop().ok_or_else(|| StoreError::NotFound { what: "image", key: key.chars().take(300).collect() })
}

/// What an image is called that lost its last name.
fn kept_name(name: &str, image: &str) -> String {
    format!("{name}-{}", image.chars().take(8).collect::<String>())
}

/// Gives `name` to the image, and takes it from whoever had it; that one keeps a name, by which it can be listed and
/// deleted.
fn give(transaction: &Transaction<'_>, name: &str, image: &str) -> Result<(), StoreError> {
    let owner: Option<String> = transaction
        .query_row("SELECT image FROM image_names WHERE name = ?1", [name], |row| row.get(0))
        .optional()
        .map_err(sql(NAME))?;
    match owner {
        Some(owner) if owner == image => return Ok(()),
        Some(owner) => take(transaction, name, &owner)?,
        None => {}
    }
    transaction
        .execute("INSERT INTO image_names (name, image) VALUES (?1, ?2)", [name, image])
        .map(drop)
        .map_err(sql(NAME))
}

/// Takes a name from an image; one without another name gets one.
fn take(transaction: &Transaction<'_>, name: &str, owner: &str) -> Result<(), StoreError> {
    transaction.execute("DELETE FROM image_names WHERE name = ?1 AND image = ?2", [name, owner]).map_err(sql(NAME))?;
    transaction
        .execute(
            "INSERT INTO image_names (name, image) SELECT ?1, ?2
             WHERE NOT EXISTS (SELECT 1 FROM image_names WHERE image = ?2)",
            [kept_name(name, owner), owner.to_owned()],
        )
        .map(drop)
        .map_err(sql(NAME))
}

/// Adds the image, unless it is there, and gives it its names.
fn publish(connection: &mut Connection, record: &ImageRecord) -> Result<(), StoreError> {
    let act = "record an image";
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(sql(act))?;
    let (key, manifest) = (record.id.as_str(), to_json("the manifest", &record.manifest)?);
    transaction
        .execute(
            "INSERT INTO images (id, name, manifest_json, created_at_ms) VALUES (?1, ?1, ?2, ?3)
             ON CONFLICT (id) DO UPDATE SET manifest_json = excluded.manifest_json",
            params![key, manifest, int(record.created_at_ms)],
        )
        .map_err(sql(act))?;
    for name in std::iter::once(&record.name).chain(&record.also) {
        give(&transaction, name, key)?;
    }
    transaction.commit().map_err(sql(act))
}

/// Takes a publication back: the image goes if it was not on record before, else the name that it got; whoever was called
/// so is so again.
fn unpublish(
    connection: &mut Connection,
    image: &str,
    was_there: bool,
    (name, replaced): (&str, Option<&str>),
) -> Result<(), StoreError> {
    let act = "take back an image";
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(sql(act))?;
    if !was_there {
        transaction.execute("DELETE FROM images WHERE id = ?1", [image]).map_err(sql(act))?;
    } else if replaced != Some(image) {
        take(&transaction, name, image)?;
    }
    if let Some(replaced) = replaced.filter(|replaced| *replaced != image) {
        give(&transaction, name, replaced)?;
        transaction
            .execute("DELETE FROM image_names WHERE name = ?1 AND image = ?2", [&kept_name(name, replaced), replaced])
            .map_err(sql(act))?;
    }
    transaction.commit().map_err(sql(act))
}

fn users(connection: &Connection, image: &str) -> Result<Vec<String>, StoreError> {
    connection
        .prepare("SELECT name FROM vms WHERE image_id = ?1 ORDER BY name")
        .and_then(|mut statement| statement.query_map([image], |row| row.get(0))?.collect())
        .map_err(sql("list the users of an image"))
}

impl Store {
    /// All of them, by name.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn images(&self) -> Result<Vec<ImageRecord>, StoreError> {
        let mut images = self.read(|connection| select(connection, "?1 = ''", "")).await?;
        images.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(images)
    }

    /// The one of that name, id, or unambiguous beginning of an id. The name of a registry's image may be written in every
    /// way it can be: `alpine` for `alpine:latest`.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Ambiguous`], or when the database cannot be read.
    pub async fn find_image(&self, key: &str) -> Result<ImageRecord, StoreError> {
        let key = key.to_owned();
        self.read(move |connection| find(connection, &key)).await
    }

    /// Records it under its names; another that has one of them loses it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn publish_image(&self, record: ImageRecord) -> Result<(), StoreError> {
        self.write(move |connection| publish(connection, &record)).await
    }

    /// Takes back what publishing `image` as `name` did: `was_there` is whether it was on record before, and `replaced` who
    /// had the name before. Idempotent.
    ///
    /// # Errors
    /// When a VM uses it already, or it cannot be written.
    pub async fn unpublish_image(
        &self,
        image: &ImageId,
        was_there: bool,
        name: &str,
        replaced: Option<ImageId>,
    ) -> Result<(), StoreError> {
        let (image, name) = (image.clone(), name.to_owned());
        self.write(move |connection| {
            let replaced = replaced.as_ref().map(ImageId::as_str);
            unpublish(connection, image.as_str(), was_there, (&name, replaced))
        })
        .await
    }

    /// Gives an image one more name; another that has it loses it.
    ///
    /// # Errors
    /// When it is not there, or it cannot be written.
    pub async fn name_image(&self, image: &ImageId, name: &str) -> Result<(), StoreError> {
        let (image, name) = (image.clone(), name.to_owned());
        self.write(move |connection| {
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(sql(NAME))?;
            find(&transaction, image.as_str())?;
            give(&transaction, &name, image.as_str())?;
            transaction.commit().map_err(sql(NAME))
        })
        .await
    }

    /// Takes one of several names from an image: false when it is the only one.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn unname_image(&self, image: &ImageId, name: &str) -> Result<bool, StoreError> {
        let (image, name) = (image.clone(), name.to_owned());
        self.write(move |connection| {
            let others = "EXISTS (SELECT 1 FROM image_names WHERE image = ?2 AND name <> ?1)";
            let statement = format!("DELETE FROM image_names WHERE name = ?1 AND image = ?2 AND {others}");
            let taken = connection.execute(&statement, [name.as_str(), image.as_str()]).map_err(sql(NAME))?;
            Ok(taken > 0)
        })
        .await
    }

    /// Changes what is known about it.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], or when it cannot be written.
    pub async fn describe_image(&self, image: &ImageId, manifest: ImageManifest) -> Result<(), StoreError> {
        let (image, manifest) = (image.clone(), to_json("the manifest", &manifest)?);
        self.write(move |connection| {
            let statement = "UPDATE images SET manifest_json = ?2 WHERE id = ?1";
            let changed = connection.execute(statement, [image.as_str(), manifest.as_str()]);
            match changed.map_err(sql("record an image"))? {
                0 => Err(StoreError::NotFound { what: "image", key: image.to_string() }),
                _ => Ok(()),
            }
        })
        .await
    }

    /// The VMs that use it, by name.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn image_users(&self, image: &ImageId) -> Result<Vec<String>, StoreError> {
        let image = image.clone();
        self.read(move |connection| users(connection, image.as_str())).await
    }

    /// Removes it and all its names. Idempotent.
    ///
    /// # Errors
    /// [`StoreError::InUse`] with the VMs, or when it cannot be written.
    pub async fn delete_image(&self, image: &ImageId, name: &str) -> Result<(), StoreError> {
        let (image, name) = (image.clone(), name.to_owned());
        let act = "remove an image";
        self.write(move |connection| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(sql(act))?;
            let users = users(&transaction, image.as_str())?;
            if !users.is_empty() {
                return Err(StoreError::InUse { what: "image", name, users });
            }
            transaction.execute("DELETE FROM images WHERE id = ?1", [image.as_str()]).map_err(sql(act))?;
            transaction.commit().map_err(sql(act))
        })
        .await
    }
}
