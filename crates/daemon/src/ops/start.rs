//! Starts a VM: from a frozen plan to a guest that answers. Where the plan has an origin, the guest goes on from what was saved
//! ([`super::go_on`]) and the steps of a boot find that there is nothing left to do.
//! Every id, path and number is fixed in [`StartPlan`] before the first step; host names follow from ids alone.

use std::time::Duration;

use async_trait::async_trait;
use wire::agent::message::{Configured, Stage};
use wire::agent::{CONFIGURES_AGAIN, SAYS_SECRET};
use wire::api::ErrorCode;

pub(super) use super::start_plan::{
    Booting, boot_config, entropy_hex, guest_settings, machine_of, parts_of, plan_cold, plan_with,
};
pub use super::start_plan::{StartPlan, plan};

use super::console;
use super::failure::{caused, refused};
use super::go_on::GoOn;
use super::origin::OriginKind;
use super::world::{Host, blocking};
use crate::guest::secret::Secret;
use crate::guest::{Guest, GuestError};
use crate::model::vm::VmEvent;
use crate::saga::{Cause, Cx, Saga, Step, Undo};
use crate::snapshot::{Snapshot, suspended_dir};
use crate::store::StoreError;
use crate::store::records::BootRecord;
use crate::supervise::BootView;

/// The list.
#[must_use]
pub fn start() -> Saga<StartPlan, Host> {
    with_steps(Saga::named("vm.start"))
}

/// The steps of a boot behind those of `saga`; the last is its commit point.
pub(super) fn with_steps<P: Booting + Send + Sync + 'static>(saga: Saga<P, Host>) -> Saga<P, Host> {
    saga.then(MarkStarting) // undo: mark the VM stopped, keep the reason
        .then(EnsureInitramfs) // undo: nothing, it is a cache
        .then(EnsureDisk) // undo: nothing, the disk is the VM's and not the boot's
        .then(MakeBootDir) // undo: remove it
        .then(AttachNetwork) // undo: detach
        .then(GoOn) // undo: kill, wait until it is gone
        .then(SpawnVmm) // undo: kill, wait until it is gone
        .then(AwaitAgent) // undo: nothing, observation only
        .then(Configure) // undo: nothing, it lives in the guest
        .commit(MarkRunning)
}

/// Marks the VM starting and records the boot.
struct MarkStarting;

#[async_trait]
impl<P: Booting + Sync> Step<P, Host> for MarkStarting {
    fn name(&self) -> &'static str {
        "mark_starting"
    }

    async fn run(&self, cx: &Cx<'_, P, Host>) -> Result<(), Cause> {
        let plan = cx.plan.booting();
        let launch = serde_json::to_value(&plan.launch).map_err(|error| caused(ErrorCode::Internal, &error))?;
        let record = BootRecord {
            id: plan.boot.clone(),
            vm: plan.vm.clone(),
            launch,
            attachment: plan.attachment.clone(),
            host_boot: Some(cx.world.supervisors.host_boot().to_owned()),
            started_at_ms: (cx.world.now_ms)(),
            ready_at_ms: None,
            ended_at_ms: None,
            ended: None,
            init: None,
            warnings: Vec::new(),
        };
        Ok(cx.world.store.begin_boot(record, plan.reason.is_none()).await?)
    }

    async fn undo(&self, cx: &Cx<'_, P, Host>) -> Result<(), Cause> {
        let (plan, store) = (cx.plan.booting(), &cx.world.store);
        store.end_boot(&plan.boot, "failed", (cx.world.now_ms)()).await?;
        match store.happen(&plan.vm, unwound(cx.world, plan)).await {
            // A run that was refused changed nothing: the VM is on another boot, or on none.
            Ok(_) | Err(StoreError::NotFound { .. }) => {}
            Err(StoreError::Refused { .. }) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        if plan.reason.is_some() {
            store.restart_undone(&plan.vm, (cx.world.now_ms)()).await?;
        }
        let error = cx.cause.map(|cause| cause.message.clone());
        Ok(store.set_last_error(&plan.vm, error).await?)
    }
}

/// What happens to a VM whose start is taken back. One that was suspended is so again, unless its guest has gone on: its disk has
/// moved on then.
fn unwound(host: &Host, plan: &StartPlan) -> VmEvent {
    let boot = plan.boot.clone();
    let was_suspended = plan.origin.as_ref().is_some_and(|origin| origin.kind == OriginKind::Suspended);
    if was_suspended && Snapshot::at(&suspended_dir(&host.dirs.state, &plan.vm)).is_some() {
        return VmEvent::WakeUnwound { boot };
    }
    VmEvent::StartUnwound { boot }
}

/// Makes sure that the initramfs the plan names is there.
struct EnsureInitramfs;

#[async_trait]
impl<P: Booting + Sync> Step<P, Host> for EnsureInitramfs {
    fn name(&self) -> &'static str {
        "ensure_initramfs"
    }

    fn undo_policy(&self) -> Undo {
        Undo::Nothing { because: "it is a cache, kept by content" }
    }

    async fn run(&self, cx: &Cx<'_, P, Host>) -> Result<(), Cause> {
        let plan = cx.plan.booting();
        if plan.machine.initramfs.exists() {
            return Ok(());
        }
        let kernel = cx.world.store.find_kernel(plan.kernel.as_str()).await?;
        let (maker, dir) = (cx.world.maker.clone(), cx.world.kernel_dir(&plan.kernel));
        let made = blocking(move || maker.ensure_initramfs(&dir, &kernel.manifest)).await?;
        if made == plan.machine.initramfs {
            return Ok(());
        }
        // Only after an update of the agent between the plan and a recovery.
        Err(refused(ErrorCode::WrongState, "the guest agent is another one than when this start began").retryable())
    }

    async fn undo(&self, _: &Cx<'_, P, Host>) -> Result<(), Cause> {
        Ok(())
    }
}

/// Makes sure that the VM's disk is there.
struct EnsureDisk;

#[async_trait]
impl<P: Booting + Sync> Step<P, Host> for EnsureDisk {
    fn name(&self) -> &'static str {
        "ensure_disk"
    }

    fn undo_policy(&self) -> Undo {
        Undo::Nothing { because: "the disk is the VM's, not the boot's" }
    }

    async fn run(&self, cx: &Cx<'_, P, Host>) -> Result<(), Cause> {
        let plan = cx.plan.booting();
        cx.world.storage.ensure_disk(&plan.vm, plan.disk_bytes).await?;
        Ok(())
    }

    async fn undo(&self, _: &Cx<'_, P, Host>) -> Result<(), Cause> {
        Ok(())
    }
}

/// Makes the private directory of the boot's sockets, and the one of its logs.
struct MakeBootDir;

#[async_trait]
impl<P: Booting + Sync> Step<P, Host> for MakeBootDir {
    fn name(&self) -> &'static str {
        "make_boot_dir"
    }

    async fn run(&self, cx: &Cx<'_, P, Host>) -> Result<(), Cause> {
        let machine = &cx.plan.booting().machine;
        sys::fs::create_private_dir(&machine.boot_dir)?;
        for log in [&machine.console_log, &machine.vmm_log] {
            if let Some(dir) = log.parent() {
                sys::fs::create_private_dir(dir)?;
            }
        }
        Ok(())
    }

    async fn undo(&self, cx: &Cx<'_, P, Host>) -> Result<(), Cause> {
        Ok(sys::fs::remove_tree(&cx.plan.booting().machine.boot_dir)?)
    }
}

/// Makes the NIC's host side ready.
struct AttachNetwork;

#[async_trait]
impl<P: Booting + Sync> Step<P, Host> for AttachNetwork {
    fn name(&self) -> &'static str {
        "attach_network"
    }

    async fn run(&self, cx: &Cx<'_, P, Host>) -> Result<(), Cause> {
        let plan = cx.plan.booting();
        let (machine, network) = (&plan.machine, &cx.world.network);
        network.ensure_attached(&machine.nic, &plan.attachment, &machine.boot_dir).await?;
        // One that goes on from a saved machine is not itself yet.
        if plan.origin.is_none() {
            network.ensure_plugged(&plan.attachment, &machine.boot_dir).await?;
        }
        Ok(())
    }

    async fn undo(&self, cx: &Cx<'_, P, Host>) -> Result<(), Cause> {
        let plan = cx.plan.booting();
        Ok(cx.world.network.ensure_detached(&plan.attachment, &plan.machine.boot_dir).await?)
    }
}

/// Starts the VMM, or finds the one that an earlier daemon started.
struct SpawnVmm;

#[async_trait]
impl<P: Booting + Sync> Step<P, Host> for SpawnVmm {
    fn name(&self) -> &'static str {
        "spawn_vmm"
    }

    async fn run(&self, cx: &Cx<'_, P, Host>) -> Result<(), Cause> {
        Ok(cx.world.supervisors.ensure_running(&cx.plan.booting().cold_ref()).await?)
    }

    async fn undo(&self, cx: &Cx<'_, P, Host>) -> Result<(), Cause> {
        Ok(cx.world.supervisors.ensure_gone(&cx.plan.booting().boot_ref()).await?)
    }
}

/// Waits for the guest's first words.
struct AwaitAgent;

#[async_trait]
impl<P: Booting + Sync> Step<P, Host> for AwaitAgent {
    fn name(&self) -> &'static str {
        "await_agent"
    }

    fn undo_policy(&self) -> Undo {
        Undo::Nothing { because: "observation only" }
    }

    async fn run(&self, cx: &Cx<'_, P, Host>) -> Result<(), Cause> {
        let plan = cx.plan.booting();
        let guest = await_guest(cx).await?;
        let hello = guest.hello();
        let is_ours = |said: &str, ours: &str| said.is_empty() || said == ours;
        let has_gone_on = plan.origin.as_ref().is_some_and(|origin| origin.is_of(hello));
        if !has_gone_on && (!is_ours(&hello.vm, plan.vm.as_str()) || !is_ours(&hello.boot, plan.boot.as_str())) {
            return Err(with_console(plan, ErrorCode::GuestUnreachable, "another guest answered".to_owned()));
        }
        Ok(())
    }

    async fn undo(&self, _: &Cx<'_, P, Host>) -> Result<(), Cause> {
        Ok(())
    }
}

/// The guest as soon as its agent answers.
pub(super) async fn await_guest<P: Booting + Sync>(cx: &Cx<'_, P, Host>) -> Result<Guest, Cause> {
    await_guest_that(cx, |_| true).await
}

/// The same over a connection that is as wanted.
async fn await_guest_that<P: Booting + Sync>(
    cx: &Cx<'_, P, Host>,
    is_wanted: impl Fn(&Guest) -> bool + Send,
) -> Result<Guest, Cause> {
    let plan = cx.plan.booting();
    let is_there = |view: &BootView| view.guest.as_ref().is_some_and(&is_wanted);
    let gone = || with_console(plan, ErrorCode::OperationFailed, "the VM ended before its guest answered".to_owned());
    let mut view = cx.world.supervisors.view(&plan.vm, &plan.boot).ok_or_else(gone)?;
    let answer = async {
        match view.wait_for(|view| is_there(view) || view.ended.is_some()).await {
            Ok(view) => view.guest.clone().filter(|_| view.ended.is_none()),
            Err(_) => None,
        }
    };
    let timeout = Duration::from_millis(plan.boot_timeout_ms);
    tokio::select! {
        guest = answer => guest.ok_or_else(gone),
        () = cx.cancelled() => Err(Cause::cancelled()),
        () = tokio::time::sleep(timeout) => {
            let late = format!("the guest did not answer within {} s", timeout.as_secs());
            Err(with_console(plan, ErrorCode::Timeout, late).with_hint("boot_timeout_s in config.toml gives it longer"))
        }
    }
}

/// A failure of the guest, with where its console is and the end of it.
pub(super) fn with_console(plan: &StartPlan, code: ErrorCode, what: String) -> Cause {
    let console = console::tail(&plan.machine.console_log);
    let vmm = console::tail(&plan.machine.vmm_log);
    let mut message = what;
    if !vmm.is_empty() {
        message.push_str(&format!("; the end of what the VMM printed:{vmm}"));
    }
    if console.is_empty() {
        message.push_str("; the guest's console is empty");
    } else {
        let kept = plan.console_after_failure.display();
        message.push_str(&format!("; the end of the guest's console ({kept}):{console}"));
    }
    refused(code, message)
}

/// Gives the guest its identity and network; its init begins then.
struct Configure;

#[async_trait]
impl<P: Booting + Sync> Step<P, Host> for Configure {
    fn name(&self) -> &'static str {
        "configure"
    }

    fn undo_policy(&self) -> Undo {
        Undo::Nothing { because: "it lives in the guest, which goes with its VMM" }
    }

    async fn run(&self, cx: &Cx<'_, P, Host>) -> Result<(), Cause> {
        let (plan, store) = (cx.plan.booting(), &cx.world.store);
        let timeout = Duration::from_millis(plan.boot_timeout_ms);
        let answered = tokio::select! {
            answered = configure(cx) => answered?,
            () = cx.cancelled() => return Err(Cause::cancelled()),
            () = tokio::time::sleep(timeout) => {
                let what = format!("the guest did not build its root within {timeout:?}");
                return Err(with_console(plan, ErrorCode::Timeout, what));
            }
        };
        let Some((configured, warnings)) = answered else {
            return Ok(());
        };
        tracing::info!(boot = %plan.boot, timeline = ?configured.timeline, "configured");
        for warning in warnings.iter().chain(&configured.warnings) {
            cx.warning(warning);
            store.warn_boot(&plan.boot, warning).await?;
        }
        Ok(store.set_boot_init(&plan.boot, configured.init).await?)
    }

    async fn undo(&self, _: &Cx<'_, P, Host>) -> Result<(), Cause> {
        Ok(())
    }
}

/// Asks until there is an answer: where the channel breaks meanwhile and the VM goes on, the guest is met again. What it did
/// already it does not do twice. Tells what it answered and what it could not be given; none when it is configured and cannot
/// say how any more.
async fn configure<P: Booting + Sync>(cx: &Cx<'_, P, Host>) -> Result<Option<(Configured, Vec<String>)>, Cause> {
    let plan = cx.plan.booting();
    let failed = |error: &GuestError| {
        with_console(plan, ErrorCode::OperationFailed, caused(ErrorCode::OperationFailed, error).message)
    };
    let secret = Secret::fresh();
    let mut guest = await_guest(cx).await?;
    // An earlier daemon got this far and died before it could say so.
    let mut is_done = guest.hello().stage == Stage::Serving;
    while !is_done {
        let settings = guest_settings(cx.world).await?;
        let (config, warnings) = boot_config(cx.world, plan, &secret, settings);
        match guest.configure(config).await {
            Ok(configured) => {
                keep(&secret, &guest, plan)?;
                return Ok(Some((configured, warnings)));
            }
            Err(error @ (GuestError::Closed | GuestError::Channel(_))) => {
                tracing::warn!(boot = %plan.boot, %error, "the channel broke while the guest was configured");
                let lost = guest;
                guest = await_guest_that(cx, |guest| !guest.is_same(&lost)).await?;
            }
            Err(error) => return Err(failed(&error)),
        }
        let hello = guest.hello();
        is_done = hello.stage == Stage::Serving && hello.generation < CONFIGURES_AGAIN;
    }
    Ok(None)
}

/// From now on nobody but the agent of `guest`, which was told `secret`, is taken for it.
pub(super) fn keep(secret: &Secret, guest: &Guest, plan: &StartPlan) -> Result<(), Cause> {
    if guest.hello().generation < SAYS_SECRET {
        return Ok(());
    }
    Ok(secret.keep(&plan.machine.boot_dir)?)
}

/// Marks the VM running: the commit point.
struct MarkRunning;

#[async_trait]
impl<P: Booting + Sync> Step<P, Host> for MarkRunning {
    fn name(&self) -> &'static str {
        "mark_running"
    }

    fn undo_policy(&self) -> Undo {
        Undo::Nothing { because: "taking back `mark_starting` marks the VM stopped" }
    }

    async fn run(&self, cx: &Cx<'_, P, Host>) -> Result<(), Cause> {
        let plan = cx.plan.booting();
        cx.world.store.boot_ready(&plan.vm, &plan.boot, (cx.world.now_ms)()).await?;
        // The owner leaves a VM alone that is still starting, so a VMM that ended until now is noticed here.
        if cx.world.supervisors.is_live(&plan.vm, &plan.boot) {
            return Ok(());
        }
        Err(with_console(plan, ErrorCode::OperationFailed, "the VM ended as soon as its guest had answered".to_owned()))
    }

    async fn undo(&self, _: &Cx<'_, P, Host>) -> Result<(), Cause> {
        Ok(())
    }
}
