//! Work in a guest that was never exported, and who may delete it.

use wire::api::{ApiError, ErrorCode, PrepareWorkspace, VmState, WorkspaceSource};

use crate::fake::{Daemon, World};

impl Daemon {
    async fn with_workspace(self) -> Daemon {
        self.create("web", true).await;
        let source = WorkspaceSource { host_path: "/src/app".into(), ..WorkspaceSource::default() };
        let request = PrepareWorkspace { source: Some(source), guest_path: None, force: false };
        let prepared = self.ended(self.engine.prepare("web", request).await.unwrap()).await;
        assert_eq!(prepared.state, wire::api::OperationState::Succeeded, "{prepared:?}");
        self
    }

    async fn refusal(&self) -> Option<String> {
        let refused = self.engine.check_exported("web").await.err().map(ApiError::from)?;
        assert_eq!(refused.code, ErrorCode::WrongState);
        assert!(refused.hint.is_some_and(|hint| hint.contains("banger rm --discard web")));
        Some(refused.message)
    }

    fn holds(&self, work: Result<u64, ErrorCode>) {
        *self.world.work.lock().unwrap() = work;
    }
}

#[tokio::test]
async fn a_guest_that_runs_is_asked() {
    let world = World::new();
    let daemon = Daemon::start(&world, "").await.with_artifacts().await;
    daemon.create("other", false).await;
    daemon.engine.check_exported("other").await.unwrap();
    let daemon = daemon.with_workspace().await;
    assert_eq!(daemon.refusal().await, None);
    daemon.holds(Ok(2));
    let message = "web holds work that was never exported: changes in 2 files";
    assert_eq!(daemon.refusal().await.as_deref(), Some(message));
    daemon.holds(Err(ErrorCode::OperationFailed));
    let message = "web may hold work that was never exported: git in the guest failed";
    assert_eq!(daemon.refusal().await.as_deref(), Some(message));
    // Somebody removed it in the guest.
    daemon.holds(Err(ErrorCode::NotFound));
    assert_eq!(daemon.refusal().await, None);
    daemon.holds(Ok(2));
    let id = daemon.host.store.find_vm("web").await.unwrap().id;
    daemon.host.store.note_exported(&id, "all of it".into()).await.unwrap().unwrap();
    assert_eq!(daemon.refusal().await, None);
}

#[tokio::test]
async fn one_that_is_off_was_asked_when_it_was_stopped() {
    let world = World::new();
    let daemon = Daemon::start(&world, "").await.with_artifacts().await.with_workspace().await;
    daemon.holds(Ok(1));
    daemon.ended(daemon.engine.stop("web", None).await.unwrap()).await;
    assert_eq!(daemon.state("web").await, VmState::Stopped);
    let message = "web holds work that was never exported: changes in 1 file";
    assert_eq!(daemon.refusal().await.as_deref(), Some(message));
    daemon.ended(daemon.engine.start("web").await.unwrap()).await;
    daemon.holds(Ok(0));
    daemon.ended(daemon.engine.stop("web", None).await.unwrap()).await;
    assert_eq!(daemon.refusal().await, None);
    // What it did in a boot that ended otherwise, nobody knows.
    daemon.ended(daemon.engine.start("web").await.unwrap()).await;
    let begun = daemon.engine.kill("web", wire::api::KillSignal::Kill).await.unwrap();
    daemon.ended(begun).await;
    let message = "web may hold work that was never exported: it was not stopped in order";
    assert_eq!(daemon.refusal().await.as_deref(), Some(message));
}
