//! Deciding about a VM while nobody changes it: an operation is planned from what the VM is, so that nothing may begin
//! between the look and the operation's own begin.

use tokio::sync::MutexGuard;

use super::Engine;
use crate::saga::Cause;
use crate::store::StoreError;
use crate::store::records::VmRecord;

impl Engine {
    /// The VM that `key` stands for, as no operation is changing it, and what keeps others from beginning one until it is
    /// dropped.
    pub(super) async fn hold_free(&self, key: &str) -> Result<(VmRecord, MutexGuard<'_, ()>), Cause> {
        let planning = self.planning.lock().await;
        Ok((self.find_free(key).await?, planning))
    }

    /// The VM that `key` stands for, as no operation is changing it; a busy one is refused as that.
    async fn find_free(&self, key: &str) -> Result<VmRecord, Cause> {
        let found = self.host().store.find_vm(key).await?;
        let open = self.host().store.open_operations().await?;
        let Some(other) = open.into_iter().find(|other| other.holds.as_deref() == Some(found.id.as_str())) else {
            // An operation may have ended between the two looks.
            return match self.host().store.vm(&found.id).await {
                Err(StoreError::NotFound { what, .. }) => {
                    Err(StoreError::NotFound { what, key: key.to_owned() }.into())
                }
                other => Ok(other?),
            };
        };
        Err(StoreError::Busy {
            subject: other.subject,
            kind: other.kind.rsplit('.').next().unwrap_or_default().to_owned(),
            elapsed_ms: (self.host().now_ms)().saturating_sub(other.started_at_ms),
            operation: other.id,
        }
        .into())
    }
}
