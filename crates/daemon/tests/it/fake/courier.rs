//! A courier that carries nothing but notes, and guests that say of their work what a test tells them to.

use std::path::Path;

use async_trait::async_trait;
use daemon::guest::Guest;
use daemon::ops::courier::{Courier, Delivered, Delivery, Looked, Outgoing};
use daemon::ops::failure::refused;
use daemon::saga::Cause;
use wire::api::{
    ErrorCode, ExportBranch, ExportQuery, Exported, GuestSide, HostSide, Inspection, Workspace, WorkspaceSource,
};

use super::Drivers;

/// Where a delivery is noted.
const RECORD: &str = "delivered.json";

#[async_trait]
impl Courier for Drivers {
    fn inspect(&self, source: &WorkspaceSource, _: bool) -> Result<Inspection, Cause> {
        if source.host_path.starts_with('/') {
            return Ok(Inspection { root: source.host_path.clone(), ..Inspection::default() });
        }
        Err(refused(ErrorCode::BadRequest, "no such repository"))
    }

    async fn deliver(&self, guest: &Guest, delivery: Delivery) -> Result<(), Cause> {
        guest.health().await?;
        let workspace = Workspace {
            guest_path: delivery.guest_path,
            host_path: delivery.source.host_path,
            head_commit: Some("c0ffee00".into()),
            base_commit: Some("c0ffee00".into()),
            branch: Some("main".into()),
            mode: delivery.source.mode,
            include_untracked: false,
            made_branch: None,
            from: None,
            depth: None,
            prepared_at_ms: Some(delivery.now_ms),
            exported: None,
            last_look: None,
            mise: None,
            env: Vec::new(),
        };
        std::fs::write(delivery.dir.join(RECORD), serde_json::to_vec(&workspace).unwrap()).unwrap();
        Ok(())
    }

    fn delivered(&self, dir: &Path) -> Result<Option<Workspace>, Cause> {
        Ok(std::fs::read(dir.join(RECORD)).ok().map(|bytes| serde_json::from_slice(&bytes).unwrap()))
    }

    fn host_side(&self, _: &Path, _: &Workspace) -> HostSide {
        HostSide::default()
    }

    async fn look(&self, delivered: &Delivered) -> Result<Looked, Cause> {
        let side = *self.0.work.lock().unwrap();
        let exported = delivered.workspace.exported.is_some();
        match side {
            Ok(changes) => {
                let side = GuestSide { changes, exported, ..GuestSide::default() };
                Ok(Looked { side, is_unchanged: changes == 0 })
            }
            Err(code) => Err(refused(code, "git in the guest failed")),
        }
    }

    async fn export(&self, _: &Delivered, _: &ExportQuery) -> Result<Box<dyn Outgoing>, Cause> {
        Err(refused(ErrorCode::Unsupported, "nothing is exported from here"))
    }

    async fn branch(&self, _: &Delivered, _: &ExportBranch) -> Result<Exported, Cause> {
        Err(refused(ErrorCode::Unsupported, "nothing is exported from here"))
    }
}
