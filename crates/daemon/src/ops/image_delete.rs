//! Deletes an image that no VM uses: the row first, so that no VM can come to use what is going away. Of several names the
//! one that it was called by goes, and the image stays.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use wire::api::ErrorCode;

use super::failure::refused;
use super::staging::remove_tree;
use super::world::{Host, blocking};
use crate::model::image::familiar;
use crate::saga::{Cause, Cx, Saga, Step, Undo};
use crate::store::StoreError;
use crate::store::records::ImageRecord;

/// The list.
#[must_use]
pub fn image_delete() -> Saga<ImageDeletePlan, Host> {
    Saga::named("image.delete")
        .commit(ForgetImage) // refused while a VM uses it; undo: put it back, with its names
        .then(RemoveImageFiles) // unless a name is left; only forward: a directory without a row is swept
}

/// One deletion, decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageDeletePlan {
    /// The image as it is on record.
    pub record: ImageRecord,
    /// The one of its names that goes; absent: the image.
    #[serde(default)]
    pub only: Option<String>,
}

/// Decides to delete what is called `key`.
///
/// # Errors
/// When a VM uses it, by name.
pub async fn plan(host: &Host, record: &ImageRecord, key: &str) -> Result<ImageDeletePlan, Cause> {
    let named = |key: &str| record.name == key || record.also.iter().any(|name| name == key);
    let only = if record.also.is_empty() {
        None
    } else {
        [Some(key.to_owned()), familiar(key)].into_iter().flatten().find(|key| named(key))
    };
    if only.is_some() {
        return Ok(ImageDeletePlan { record: record.clone(), only });
    }
    let users = host.store.image_users(&record.id).await?;
    if !users.is_empty() {
        return Err(StoreError::InUse { what: "image", name: record.name.clone(), users }.into());
    }
    Ok(ImageDeletePlan { record: record.clone(), only })
}

/// Removes the row.
struct ForgetImage;

#[async_trait]
impl Step<ImageDeletePlan, Host> for ForgetImage {
    fn name(&self) -> &'static str {
        "forget_image"
    }

    async fn run(&self, cx: &Cx<'_, ImageDeletePlan, Host>) -> Result<(), Cause> {
        let (store, image) = (&cx.world.store, &cx.plan.record);
        if let Some(name) = &cx.plan.only {
            let has_others = store.unname_image(&image.id, name).await?;
            if has_others {
                return Ok(());
            }
            // Taken already by a run that died before it could say so, or the others went in the meantime.
            return match store.find_image(image.id.as_str()).await {
                Ok(now) if now.name == *name => {
                    Err(refused(ErrorCode::WrongState, format!("{name} has become the image's only name"))
                        .with_hint("the same command once more deletes the image"))
                }
                Ok(_) | Err(StoreError::NotFound { .. }) => Ok(()),
                Err(error) => Err(error.into()),
            };
        }
        Ok(store.delete_image(&image.id, &image.name).await?)
    }

    async fn undo(&self, cx: &Cx<'_, ImageDeletePlan, Host>) -> Result<(), Cause> {
        Ok(cx.world.store.publish_image(cx.plan.record.clone()).await?)
    }
}

/// Removes the files, and the templates that need them.
struct RemoveImageFiles;

#[async_trait]
impl Step<ImageDeletePlan, Host> for RemoveImageFiles {
    fn name(&self) -> &'static str {
        "remove_image_files"
    }

    fn undo_policy(&self) -> Undo {
        Undo::Nothing { because: "the files were to go" }
    }

    async fn run(&self, cx: &Cx<'_, ImageDeletePlan, Host>) -> Result<(), Cause> {
        match cx.world.store.find_image(cx.plan.record.id.as_str()).await {
            // The same content was made again since: the files are that one's.
            Ok(_) => Ok(()),
            Err(StoreError::NotFound { .. }) => {
                let (templates, id) = (cx.world.templates.clone(), cx.plan.record.id.clone());
                blocking(move || Ok(templates.remove_where(|of| of.image == id)?)).await?;
                remove_tree(cx.world.image_dir(&cx.plan.record.id)).await
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn undo(&self, _: &Cx<'_, ImageDeletePlan, Host>) -> Result<(), Cause> {
        Ok(())
    }
}
