//! Begins operations, drives each in a task of its own, lets people watch and cancel them, and goes on with what an
//! earlier daemon left open.
//!
//! A client that goes away cancels nothing. What the daemon begins by itself is in [`super::unasked`].

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;
use wire::api::{ApiError, Begun, BuildImage, CreateVm, ErrorCode, ImportKernel, Operation, OperationState, PullImage};
use wire::id::{OpId, VmId};

use super::failure::caused;
use super::live::{Live, Watch, reports};
use super::plan::Plan;
use super::world::Host;
use super::{
    create, delete, image_build, image_delete, image_pull, kernel_delete, kernel_import, restart, start, stop,
};
use crate::model::vm::VmState;
use crate::saga::{Cause, Driven, Outcome, UndoFailure};
use crate::store::records::{OperationRecord, VmRecord};
use crate::store::{self, StoreError};
use crate::supervise::activity::Activity;
use crate::supervise::spawn;

/// Begins and drives operations.
pub struct Engine {
    host: Arc<Host>,
    activity: Activity,
    live: Mutex<HashMap<OpId, Arc<Live>>>,
    open: watch::Sender<usize>,
    /// The daemon is about to end: nothing is begun any more that nobody asked for.
    pub(super) ending: CancellationToken,
    /// Held while an operation on a VM is decided and begun: a plan is of a VM that nobody holds.
    pub(super) planning: tokio::sync::Mutex<()>,
}

impl Engine {
    /// An engine that drives nothing yet. Open operations and live VMs count as work in `activity`.
    #[must_use]
    pub fn new(host: Arc<Host>, activity: Activity) -> Arc<Engine> {
        let (live, open) = (Mutex::default(), watch::Sender::new(0));
        let ending = CancellationToken::new();
        Arc::new(Engine { host, activity, live, open, ending, planning: tokio::sync::Mutex::default() })
    }

    /// The world of its operations.
    #[must_use]
    pub fn host(&self) -> &Arc<Host> {
        &self.host
    }

    fn live(&self) -> MutexGuard<'_, HashMap<OpId, Arc<Live>>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Creates a VM, and boots it when asked.
    ///
    /// # Errors
    /// Every refusal; nothing has begun then.
    pub async fn create(self: &Arc<Self>, request: CreateVm) -> Result<Begun, Cause> {
        let plan = create::plan(&self.host, request).await?;
        self.begin(Plan::Create(Box::new(plan))).await
    }

    /// Starts the VM that `key` stands for.
    ///
    /// # Errors
    /// Every refusal; nothing has begun then.
    pub async fn start(self: &Arc<Self>, key: &str) -> Result<Begun, Cause> {
        let (vm, _planning) = self.hold_free(key).await?;
        self.start_free(&vm, None).await
    }

    /// Starts a VM that no operation holds, for `reason` when nobody asked for it.
    pub(super) async fn start_free(self: &Arc<Self>, vm: &VmRecord, reason: Option<String>) -> Result<Begun, Cause> {
        let probe = crate::model::vm::VmEvent::StartBegun { boot: wire::id::BootId::from_random(sys::rand::bytes()) };
        vm.state.after(&probe).map_err(|refused| StoreError::Refused { name: vm.name.to_string(), refused })?;
        let plan = start::plan(&self.host, vm).await?;
        self.begin(Plan::Start(Box::new(start::StartPlan { reason, ..plan }))).await
    }

    /// Stops the VM that `key` stands for; `grace` is how long its guest may take.
    ///
    /// # Errors
    /// Every refusal; nothing has begun then.
    pub async fn stop(self: &Arc<Self>, key: &str, grace: Option<Duration>) -> Result<Begun, Cause> {
        let (vm, _planning) = self.hold_free(key).await?;
        if vm.state == VmState::Suspended {
            return self.give_up(&vm).await;
        }
        let plan = stop::plan(&self.host, &vm, grace).await?;
        self.begin(Plan::Stop(Box::new(plan))).await
    }

    /// Restarts the VM that `key` stands for; one that is off is started.
    ///
    /// # Errors
    /// Every refusal; nothing has begun then.
    pub async fn restart(self: &Arc<Self>, key: &str, grace: Option<Duration>) -> Result<Begun, Cause> {
        let (vm, _planning) = self.hold_free(key).await?;
        if vm.state.boot().is_none() {
            return self.start_free(&vm, None).await;
        }
        let plan = restart::plan(&self.host, &vm, grace).await?;
        self.begin(Plan::Restart(Box::new(plan))).await
    }

    /// Deletes the VM that `key` stands for, running or not.
    ///
    /// # Errors
    /// Every refusal; nothing has begun then.
    pub async fn delete(self: &Arc<Self>, key: &str) -> Result<Begun, Cause> {
        let (vm, _planning) = self.hold_free(key).await?;
        let plan = delete::plan(&self.host, &vm).await?;
        self.begin(Plan::Delete(Box::new(plan))).await
    }

    /// Builds an image.
    ///
    /// # Errors
    /// Every refusal; nothing has begun then.
    pub async fn build_image(self: &Arc<Self>, request: BuildImage) -> Result<Begun, Cause> {
        let operation = OpId::from_random(sys::rand::bytes());
        let plan = image_build::plan(&self.host, request, operation.clone()).await?;
        self.begin_as(operation, Plan::ImageBuild(Box::new(plan))).await
    }

    /// Makes an image of what others built.
    ///
    /// # Errors
    /// Every refusal; nothing has begun then.
    pub async fn pull_image(self: &Arc<Self>, request: PullImage) -> Result<Begun, Cause> {
        let operation = OpId::from_random(sys::rand::bytes());
        let plan = image_pull::plan(&self.host, request, operation.clone()).await?;
        self.begin_as(operation, Plan::ImagePull(Box::new(plan))).await
    }

    /// Deletes the image that `key` stands for.
    ///
    /// # Errors
    /// Every refusal; nothing has begun then.
    pub async fn delete_image(self: &Arc<Self>, key: &str) -> Result<Begun, Cause> {
        let image = self.host.store.find_image(key).await?;
        let plan = image_delete::plan(&self.host, &image, key).await?;
        self.begin(Plan::ImageDelete(Box::new(plan))).await
    }

    /// Imports a kernel.
    ///
    /// # Errors
    /// Every refusal; nothing has begun then.
    pub async fn import_kernel(self: &Arc<Self>, request: ImportKernel) -> Result<Begun, Cause> {
        let operation = OpId::from_random(sys::rand::bytes());
        let plan = kernel_import::plan(&self.host, request, operation.clone()).await?;
        self.begin_as(operation, Plan::KernelImport(Box::new(plan))).await
    }

    /// Deletes the kernel that `key` stands for.
    ///
    /// # Errors
    /// Every refusal; nothing has begun then.
    pub async fn delete_kernel(self: &Arc<Self>, key: &str) -> Result<Begun, Cause> {
        let kernel = self.host.store.find_kernel(key).await?;
        let plan = kernel_delete::plan(&self.host, &kernel).await?;
        self.begin(Plan::KernelDelete(Box::new(plan))).await
    }

    /// Begins `plan` and returns at once.
    ///
    /// # Errors
    /// When another open operation holds the same, or the disk is full and `plan` makes no room.
    pub async fn begin(self: &Arc<Self>, plan: Plan) -> Result<Begun, Cause> {
        self.begin_as(OpId::from_random(sys::rand::bytes()), plan).await
    }

    /// Begins `plan` as the operation `id`, which a plan may name, and returns at once.
    ///
    /// # Errors
    /// As [`Engine::begin`].
    pub async fn begin_as(self: &Arc<Self>, id: OpId, plan: Plan) -> Result<Begun, Cause> {
        if !plan.makes_room() {
            self.host.check_room().map_err(|cause| explain(&plan, cause))?;
        }
        let record = OperationRecord {
            id: id.clone(),
            kind: plan.kind().to_owned(),
            subject: plan.subject(),
            holds: Some(plan.holds()),
            plan: serde_json::to_value(&plan).map_err(|error| caused(ErrorCode::Internal, &error))?,
            state: store::OperationState::Open,
            error: None,
            started_at_ms: (self.host.now_ms)(),
            ended_at_ms: None,
        };
        let begun = Begun { operation: id, vm: plan.vm().cloned(), subject: plan.subject() };
        let (engine, (told, recorded)) = (Arc::clone(self), oneshot::channel());
        // In a task of its own: a client that goes away takes its request with it, and what is on record must be driven.
        spawn(format!("begin {}", record.id), async move {
            let done = engine.host.store.begin_operation(record.clone()).await;
            if done.is_ok() {
                engine.drive_in_task(record, plan, &[]);
            }
            // Whoever asked may be gone.
            drop(told.send(done));
        });
        recorded.await.map_err(|_| StoreError::Closed)??;
        Ok(begun)
    }

    fn drive_in_task(self: &Arc<Self>, record: OperationRecord, plan: Plan, edges: &[crate::saga::Edge]) {
        let operation = to_wire(&record, &plan.step_names(), edges, plan.reason());
        let live = Live::new(operation, plan.vm().cloned());
        self.live().insert(record.id.clone(), Arc::clone(&live));
        self.open.send_modify(|open| *open += 1);
        let (engine, busy) = (Arc::clone(self), self.activity.begin());
        let name = format!("{} {}", record.kind, record.id);
        spawn(name, async move {
            engine.drive(&record, &plan, &live).await;
            engine.open.send_modify(|open| *open -= 1);
            engine.host.supervisors.stir();
            drop(busy);
        });
    }

    async fn drive(self: &Arc<Self>, record: &OperationRecord, plan: &Plan, live: &Live) {
        let (kind, subject, reason) = (&record.kind, &record.subject, plan.reason());
        tracing::info!(op = %record.id, kind, subject, reason, "an operation is driven");
        let journal = self.host.store.journal(record.id.clone());
        let with = Driven {
            journal: &journal,
            observer: live,
            cancel: &live.cancel,
            faults: &self.host.faults,
            now_ms: &self.host.now_ms,
        };
        let outcome = plan.drive(&self.host, &with).await;
        let wanted = plan.starting().filter(|start| start.wants.is_some());
        if let (Ok(Outcome::Succeeded), Some(start)) = (&outcome, wanted) {
            self.want_template(start);
        }
        let (state, cause) = match outcome {
            Ok(Outcome::Succeeded) => (OperationState::Succeeded, None),
            Ok(Outcome::Unwound { cause, .. }) => (OperationState::Unwound, Some(explain(plan, cause))),
            Ok(Outcome::Stuck { cause, failures, .. }) => {
                let cause = with_failures(&cause.message, explain(plan, cause.clone()), &failures);
                (OperationState::Stuck, Some(with_way_out(cause, &record.id)))
            }
            Err(error) => (OperationState::Stuck, Some(explain(plan, caused(ErrorCode::Internal, &error)))),
        };
        let error = cause.map(|cause| ApiError::from(cause).with_operation(record.id.clone()));
        if let Some(error) = &error {
            tracing::warn!(op = %record.id, kind = record.kind, error = error.message, "an operation did not succeed");
        }
        let ended_at_ms = (self.host.now_ms)();
        let stored = match state {
            OperationState::Succeeded => store::OperationState::Succeeded,
            OperationState::Unwound => store::OperationState::Unwound,
            OperationState::Stuck => store::OperationState::Stuck,
            OperationState::Running | OperationState::Unwinding => store::OperationState::Open,
        };
        if let Err(failure) = self.host.store.end_operation(&record.id, stored, error.clone(), ended_at_ms).await {
            // It stays open on record; the next daemon drives it again, which changes nothing.
            tracing::error!(op = %record.id, error = %failure, "the end of an operation is not recorded");
        }
        let ended = Operation { state, error, ended_at_ms: Some(ended_at_ms), ..live.operation() };
        // First, so that whoever is told of its end finds nothing held by it.
        self.live().remove(&record.id);
        live.finish(ended);
    }

    /// Goes on with every operation that an earlier daemon left open, and tries once more what is stuck: whatever was in
    /// the way may be gone. Call it once, after `Supervisors::adopt_all`.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn recover(self: &Arc<Self>) -> Result<(), StoreError> {
        for record in self.host.store.open_operations().await? {
            let edges = self.host.store.edges(&record.id).await?;
            match serde_json::from_value::<Plan>(record.plan.clone()) {
                Ok(plan) => self.drive_in_task(record, plan, &edges),
                Err(error) => {
                    let cause = caused(ErrorCode::Internal, &error);
                    let message = format!("another version began this operation: {}", cause.message);
                    let error = ApiError::new(ErrorCode::Internal, message).with_operation(record.id.clone());
                    let now_ms = (self.host.now_ms)();
                    self.host
                        .store
                        .end_operation(&record.id, store::OperationState::Stuck, Some(error), now_ms)
                        .await?;
                }
            }
        }
        self.retry_stuck().await
    }

    async fn retry_stuck(self: &Arc<Self>) -> Result<(), StoreError> {
        for record in self.host.store.stuck_operations().await? {
            // One that another version began stays as it is: its steps are not known here.
            let Ok(plan) = serde_json::from_value::<Plan>(record.plan.clone()) else { continue };
            let reopened = match self.host.store.reopen_operation(&record.id).await {
                Ok(reopened) => reopened,
                Err(error) => {
                    tracing::warn!(op = %record.id, %error, "a stuck operation is not tried again");
                    continue;
                }
            };
            if reopened {
                let edges = self.host.store.edges(&record.id).await?;
                let open =
                    OperationRecord { state: store::OperationState::Open, error: None, ended_at_ms: None, ..record };
                self.drive_in_task(open, plan, &edges);
            }
        }
        Ok(())
    }

    /// What happens to an operation, its present state first.
    ///
    /// # Errors
    /// When there is no such operation.
    pub async fn watch(&self, operation: &OpId) -> Result<Watch, Cause> {
        if let Some(live) = self.live().get(operation) {
            return Ok(Watch::of_live(Arc::clone(live)));
        }
        Ok(Watch::of_ended(self.operation(operation).await?))
    }

    /// Waits for the end of an operation.
    ///
    /// # Errors
    /// When there is no such operation.
    pub async fn wait(&self, operation: &OpId) -> Result<Operation, Cause> {
        let mut watch = self.watch(operation).await?;
        while let Some(event) = watch.next().await {
            if let wire::api::OperationEvent::Finished { operation } = event {
                return Ok(operation);
            }
        }
        self.operation(operation).await
    }

    /// Asks an operation to stop at its next edge and to take back what it did; one that has ended stays as it is.
    ///
    /// # Errors
    /// When there is no such operation.
    pub async fn cancel(&self, operation: &OpId) -> Result<Operation, Cause> {
        if let Some(live) = self.live().get(operation) {
            live.cancel.cancel();
        }
        self.operation(operation).await
    }

    /// The open operations of this kind.
    pub(super) fn open_of(&self, kind: &str) -> Vec<OpId> {
        let live = self.live();
        live.iter().filter(|(_, live)| live.operation().kind == kind).map(|(id, _)| id.clone()).collect()
    }

    /// An operation as it stands.
    ///
    /// # Errors
    /// When there is no such operation.
    pub async fn operation(&self, operation: &OpId) -> Result<Operation, Cause> {
        let live = self.live().get(operation).cloned();
        if let Some(live) = live {
            return Ok(live.operation());
        }
        let record = self.host.store.operation(operation).await?;
        self.describe(&record).await
    }

    /// All operations on record, newest first.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn operations(&self) -> Result<Vec<Operation>, Cause> {
        let mut operations = Vec::new();
        for record in self.host.store.operations().await? {
            let live = self.live().get(&record.id).cloned();
            operations.push(match live {
                Some(live) => live.operation(),
                None => self.describe(&record).await?,
            });
        }
        Ok(operations)
    }

    async fn describe(&self, record: &OperationRecord) -> Result<Operation, Cause> {
        let edges = self.host.store.edges(&record.id).await?;
        let plan = serde_json::from_value::<Plan>(record.plan.clone()).ok();
        let names: Vec<String> = match &plan {
            Some(plan) => plan.step_names().into_iter().map(str::to_owned).collect(),
            None => edges.iter().map(|edge| edge.step.clone()).collect(),
        };
        Ok(to_wire(record, &names, &edges, plan.as_ref().and_then(Plan::reason)))
    }

    /// The open operation that holds a VM.
    #[must_use]
    pub fn holder(&self, vm: &VmId) -> Option<OpId> {
        let live = self.live();
        live.iter().find(|(_, live)| live.vm() == Some(vm)).map(|(id, _)| id.clone())
    }

    /// Waits until no operation is open.
    pub async fn settled(&self) {
        // The sender lives in `self`.
        drop(self.open.subscribe().wait_for(|open| *open == 0).await);
    }

    /// Whether no VM runs and no operation is open.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.activity.is_idle()
    }
}

/// A cause with what could not be taken back. What is in the way of both, `first`, is told once.
fn with_failures(first: &str, mut cause: Cause, failures: &[UndoFailure]) -> Cause {
    for UndoFailure { step, cause: why } in failures {
        let why = if why.message == first { "for the same reason" } else { &why.message };
        cause.message.push_str(&format!("; {step} could not be taken back: {why}"));
    }
    cause
}

/// A cause with what a person can do about the operation that is stuck because of it.
fn with_way_out(mut cause: Cause, operation: &OpId) -> Cause {
    let way_out = format!(
        "put right what is in the way, then `banger daemon stop`: the next daemon tries once more \
         (`banger op show {operation}` lists the steps)"
    );
    cause.hint = Some(cause.hint.map_or_else(|| way_out.clone(), |hint| format!("{hint}; {way_out}")));
    cause
}

/// A cause with what failed because of it.
fn explain(plan: &Plan, cause: Cause) -> Cause {
    if cause.is_cancellation() {
        return Cause { message: format!("cancelled: {}", plan.act()), ..cause };
    }
    Cause { message: format!("cannot {}: {}", plan.act(), cause.message), ..cause }
}

fn to_wire(
    record: &OperationRecord,
    names: &[impl AsRef<str>],
    edges: &[crate::saga::Edge],
    reason: Option<&str>,
) -> Operation {
    let has_failed = edges.iter().any(|edge| matches!(edge.kind, crate::saga::EdgeKind::Failed { .. }));
    let state = match record.state {
        store::OperationState::Open if has_failed => OperationState::Unwinding,
        store::OperationState::Open => OperationState::Running,
        store::OperationState::Succeeded => OperationState::Succeeded,
        store::OperationState::Unwound => OperationState::Unwound,
        store::OperationState::Stuck => OperationState::Stuck,
    };
    Operation {
        id: record.id.clone(),
        kind: record.kind.clone(),
        subject: record.subject.clone(),
        state,
        reason: reason.map(str::to_owned),
        steps: reports(names, edges),
        error: record.error.clone(),
        started_at_ms: record.started_at_ms,
        ended_at_ms: record.ended_at_ms,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_told_once() {
        let cause = Cause::new("operation_failed", "no room");
        let failure = |step: &str, why: &str| UndoFailure { step: step.to_owned(), cause: Cause::new("internal", why) };
        let explained = Cause { message: format!("cannot delete web: {}", cause.message), ..cause.clone() };
        let told =
            with_failures(&cause.message, explained, &[failure("remove", "no room"), failure("mark", "no disk")]);
        assert_eq!(
            told.message,
            "cannot delete web: no room; remove could not be taken back: for the same reason; \
             mark could not be taken back: no disk"
        );
    }
}
