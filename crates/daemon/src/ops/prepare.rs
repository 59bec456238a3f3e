//! Puts a repository into a guest that runs, or brings what is there up to date.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use wire::api::{Begun, ErrorCode, PrepareWorkspace, WORKSPACE_PATH, Workspace, WorkspaceSource};
use wire::id::VmId;
use wire::naming::{self, VmName};

use super::courier::Delivery;
use super::engine::Engine;
use super::failure::refused;
use super::plan::Plan;
use super::staging::translate;
use super::world::{Host, blocking};
use crate::guest::Guest;
use crate::model::vm::VmState;
use crate::saga::{Cause, Cx, Saga, Step, Undo};
use crate::store::records::VmRecord;

/// The list.
#[must_use]
pub fn prepare() -> Saga<PreparePlan, Host> {
    Saga::named("vm.prepare")
        .then(SendFiles) // undo: nothing, what has arrived stays and is gone on with
        .commit(RecordWorkspace) // undo: what was on record before
}

/// How long an agent that is not connected may take to be so.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// One delivery, decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreparePlan {
    /// The VM.
    pub vm: VmId,
    /// Its name.
    pub name: VmName,
    /// Which repository, and what of it.
    pub source: WorkspaceSource,
    /// Where in the guest.
    pub guest_path: String,
    /// Changes made in the guest may be overwritten.
    pub force: bool,
    /// What was sent before, of the same repository to the same place.
    pub before: Option<Workspace>,
    /// What is on record, whatever it is.
    pub replaces: Option<Workspace>,
}

/// Decides what is sent to `vm`. All refusals that need no guest are here.
///
/// # Errors
/// A VM that does not run, a place that is none, or a repository that cannot be sent.
pub async fn plan(host: &Host, vm: &VmRecord, request: PrepareWorkspace) -> Result<PreparePlan, Cause> {
    check_runs(vm)?;
    let before = vm.workspace.as_ref();
    let source = match (request.source, before) {
        (Some(source), _) => source,
        (None, Some(before)) => same_again(before),
        (None, None) => {
            let message = format!("{} has no workspace yet, and no path was given", vm.name);
            let hint = format!("banger vm workspace prepare {} PATH", vm.name);
            return Err(refused(ErrorCode::BadRequest, message).with_hint(hint));
        }
    };
    let guest_path = request.guest_path.or_else(|| before.map(|before| before.guest_path.clone()));
    let guest_path = checked(guest_path.as_deref().unwrap_or(WORKSPACE_PATH))?;
    let (courier, asked) = (Arc::clone(&host.courier), source.clone());
    let inspection = blocking(move || courier.inspect(&asked, false)).await?;
    let source = WorkspaceSource { host_path: inspection.root, ..source };
    let same = |before: &&Workspace| before.host_path == source.host_path && before.guest_path == guest_path;
    let before = before.filter(same).cloned();
    Ok(PreparePlan {
        vm: vm.id.clone(),
        name: vm.name.clone(),
        source,
        guest_path,
        force: request.force,
        before,
        replaces: vm.workspace.clone(),
    })
}

/// What was asked for the last time.
fn same_again(before: &Workspace) -> WorkspaceSource {
    WorkspaceSource {
        host_path: before.host_path.clone(),
        mode: before.mode,
        include_untracked: before.include_untracked,
        branch: before.made_branch.clone(),
        from: before.from.clone(),
        depth: before.depth,
    }
}

/// Refuses a VM whose guest cannot be asked.
pub(super) fn check_runs(vm: &VmRecord) -> Result<(), Cause> {
    let name = &vm.name;
    match vm.state {
        VmState::Running { .. } => Ok(()),
        VmState::Paused { .. } | VmState::Suspended => {
            let is = if matches!(vm.state, VmState::Suspended) { "suspended" } else { "paused" };
            let refusal = refused(ErrorCode::WrongState, format!("{name} is {is}"));
            Err(refusal.with_hint(format!("banger resume {name}")))
        }
        VmState::Creating
        | VmState::Created
        | VmState::Starting { .. }
        | VmState::Stopping { .. }
        | VmState::Stopped
        | VmState::Deleting => {
            let refusal = refused(ErrorCode::WrongState, format!("{name} is not running"));
            Err(refusal.with_hint(format!("banger start {name}")))
        }
    }
}

/// An absolute path of a directory that is not the root, without a slash at its end.
fn checked(path: &str) -> Result<String, Cause> {
    let trimmed = path.trim_end_matches('/');
    let is_fine = trimmed.starts_with('/')
        && !trimmed.contains('\0')
        && trimmed.len() < 1024
        && trimmed[1..].split('/').all(|part| !matches!(part, "" | "." | ".."));
    if is_fine {
        return Ok(trimmed.to_owned());
    }
    let message =
        format!("{path:?} cannot hold a workspace: an absolute path below the root is needed, without . and ..");
    Err(refused(ErrorCode::BadRequest, message))
}

impl Engine {
    /// Puts a repository into the VM that `key` stands for, or brings what is there up to date.
    ///
    /// # Errors
    /// Every refusal; nothing has begun then.
    pub async fn prepare(self: &Arc<Self>, key: &str, request: PrepareWorkspace) -> Result<Begun, Cause> {
        let (vm, _planning) = self.hold_free(key).await?;
        let plan = plan(self.host(), &vm, request).await?;
        self.begin(Plan::Prepare(Box::new(plan))).await
    }
}

/// The guest; just after the daemon's start its agent may not be connected yet.
pub(super) async fn answering(host: &Host, vm: &VmId, name: &VmName) -> Result<Guest, Cause> {
    if let Some((_, mut view)) = host.supervisors.present(vm) {
        let known = view.wait_for(|view| view.guest.is_some() || view.ended.is_some());
        if let Ok(Ok(view)) = tokio::time::timeout(ANSWER_TIMEOUT, known).await
            && let Some(guest) = view.guest.clone()
        {
            return Ok(guest);
        }
    }
    let refusal = refused(ErrorCode::GuestUnreachable, format!("the agent in {name} does not answer"));
    Err(refusal.with_hint(format!("banger logs {name} shows its console")).retryable())
}

/// Streams what the guest lacks.
struct SendFiles;

#[async_trait]
impl Step<PreparePlan, Host> for SendFiles {
    fn name(&self) -> &'static str {
        "send_files"
    }

    fn undo_policy(&self) -> Undo {
        Undo::Nothing { because: "what has arrived is the guest's, and preparing again goes on with it" }
    }

    async fn run(&self, cx: &Cx<'_, PreparePlan, Host>) -> Result<(), Cause> {
        let (plan, host) = (cx.plan, cx.world);
        let guest = answering(host, &plan.vm, &plan.name).await?;
        let (sender, mut reports) = mpsc::unbounded_channel();
        let cancelled = Arc::new(AtomicBool::new(false));
        let delivery = Delivery {
            source: plan.source.clone(),
            guest_path: plan.guest_path.clone(),
            force: plan.force,
            before: plan.before.clone(),
            dir: naming::vm_dir(&host.dirs.state, &plan.vm),
            now_ms: (host.now_ms)(),
            // A step that has given up hears no more reports.
            report: Arc::new(move |progress| drop(sender.send(progress))),
            cancelled: Arc::clone(&cancelled),
        };
        let mut delivering = std::pin::pin!(host.courier.deliver(&guest, delivery));
        let mut stage = None;
        loop {
            tokio::select! {
                delivered = &mut delivering => {
                    while let Ok(report) = reports.try_recv() {
                        cx.progress(translate(&mut stage, report));
                    }
                    return if cx.is_cancelled() { delivered.map_err(|_| Cause::cancelled()) } else { delivered };
                }
                Some(report) = reports.recv() => cx.progress(translate(&mut stage, report)),
                () = cx.cancelled() => {
                    cancelled.store(true, Ordering::Relaxed);
                    return Err(Cause::cancelled());
                }
            }
        }
    }

    async fn undo(&self, _: &Cx<'_, PreparePlan, Host>) -> Result<(), Cause> {
        Ok(())
    }
}

/// Records what is in the guest now.
struct RecordWorkspace;

#[async_trait]
impl Step<PreparePlan, Host> for RecordWorkspace {
    fn name(&self) -> &'static str {
        "record_workspace"
    }

    async fn run(&self, cx: &Cx<'_, PreparePlan, Host>) -> Result<(), Cause> {
        let (plan, host) = (cx.plan, cx.world);
        let (courier, dir) = (Arc::clone(&host.courier), naming::vm_dir(&host.dirs.state, &plan.vm));
        let lost = || refused(ErrorCode::Internal, "the notes of what was sent are gone");
        let workspace = blocking(move || courier.delivered(&dir)).await?.ok_or_else(lost)?;
        Ok(host.store.set_workspace(&plan.vm, Some(&workspace)).await?)
    }

    async fn undo(&self, cx: &Cx<'_, PreparePlan, Host>) -> Result<(), Cause> {
        Ok(cx.world.store.set_workspace(&cx.plan.vm, cx.plan.replaces.as_ref()).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        for (path, place) in [("/root/repo", "/root/repo"), ("/srv/app/", "/srv/app"), ("/a/..b", "/a/..b")] {
            assert_eq!(checked(path).unwrap(), place);
        }
        for path in ["", "/", "//", "repo", "/a/../b", "/a//b", "/a/./b", "/a\0b"] {
            assert!(checked(path).is_err(), "{path:?}");
        }
    }
}
