//! Deletes a kernel that no VM uses: the row first, so that no VM can come to use what is going away.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::staging::remove_tree;
use super::world::{Host, blocking};
use crate::saga::{Cause, Cx, Saga, Step, Undo};
use crate::store::StoreError;
use crate::store::records::KernelRecord;

/// The list.
#[must_use]
pub fn kernel_delete() -> Saga<KernelDeletePlan, Host> {
    Saga::named("kernel.delete")
        .commit(ForgetKernel) // refused while a VM uses it; undo: put it back
        .then(RemoveKernelFiles) // only forward: a directory without a row is swept
}

/// One deletion, decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelDeletePlan {
    /// The kernel as it is on record.
    pub record: KernelRecord,
}

/// Decides a deletion.
///
/// # Errors
/// When a VM uses it, by name.
pub async fn plan(host: &Host, record: &KernelRecord) -> Result<KernelDeletePlan, Cause> {
    let users = host.store.kernel_users(&record.id).await?;
    if !users.is_empty() {
        return Err(StoreError::InUse { what: "kernel", name: record.name.clone(), users }.into());
    }
    Ok(KernelDeletePlan { record: record.clone() })
}

/// Removes the row.
struct ForgetKernel;

#[async_trait]
impl Step<KernelDeletePlan, Host> for ForgetKernel {
    fn name(&self) -> &'static str {
        "forget_kernel"
    }

    async fn run(&self, cx: &Cx<'_, KernelDeletePlan, Host>) -> Result<(), Cause> {
        Ok(cx.world.store.delete_kernel(&cx.plan.record.id, &cx.plan.record.name).await?)
    }

    async fn undo(&self, cx: &Cx<'_, KernelDeletePlan, Host>) -> Result<(), Cause> {
        Ok(cx.world.store.publish_kernel(cx.plan.record.clone()).await?)
    }
}

/// Removes the files, and the templates that need them.
struct RemoveKernelFiles;

#[async_trait]
impl Step<KernelDeletePlan, Host> for RemoveKernelFiles {
    fn name(&self) -> &'static str {
        "remove_kernel_files"
    }

    fn undo_policy(&self) -> Undo {
        Undo::Nothing { because: "the files were to go" }
    }

    async fn run(&self, cx: &Cx<'_, KernelDeletePlan, Host>) -> Result<(), Cause> {
        match cx.world.store.find_kernel(cx.plan.record.id.as_str()).await {
            // The same content was made again since: the files are that one's.
            Ok(_) => Ok(()),
            Err(StoreError::NotFound { .. }) => {
                let (templates, id) = (cx.world.templates.clone(), cx.plan.record.id.clone());
                blocking(move || Ok(templates.remove_where(|of| of.kernel == id)?)).await?;
                remove_tree(cx.world.kernel_dir(&cx.plan.record.id)).await
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn undo(&self, _: &Cx<'_, KernelDeletePlan, Host>) -> Result<(), Cause> {
        Ok(())
    }
}
