//! The step of a start that lets a guest go on from what was saved, and makes it the machine it is to be before anything else
//! is asked of it.
//!
//! A template that cannot be gone on from is dropped, and the VM boots: nobody but the count notices.

use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;
use wire::agent::renewal::{Renewal, SERVICES};
use wire::api::{ErrorCode, chain};

use super::failure::{caused, refused};
use super::origin::{Origin, OriginKind};
use super::start::{Booting, StartPlan, await_guest, boot_config, guest_settings, keep, with_console};
use super::world::{GuestSettings, Host};
use crate::guest::Guest;
use crate::guest::secret::Secret;
use crate::saga::{Cause, Cx, Step};
use crate::snapshot::{spent_dir, suspended_dir};
use crate::store::StoreError;
use crate::supervise;
use crate::vmm::{AgentChannel, Launch, Snapshots, Vmm};

/// How long a guest that goes on from a template may take to answer and to be another: many times what it takes, and less than
/// anybody waits for a boot.
const TEMPLATE_WITHIN: Duration = Duration::from_secs(30);

/// Lets the guest go on, if there is something to go on from.
pub(super) struct GoOn;

#[async_trait]
impl<P: Booting + Sync> Step<P, Host> for GoOn {
    fn name(&self) -> &'static str {
        "go_on"
    }

    async fn run(&self, cx: &Cx<'_, P, Host>) -> Result<(), Cause> {
        let plan = cx.plan.booting();
        let Some(origin) = &plan.origin else {
            return Ok(());
        };
        let (host, boot) = (cx.world, plan.boot_ref());
        if host.supervisors.adopt(&boot).await? {
            // An earlier daemon got this far. Whoever owns it has the connection to its guest.
            if origin.kind == OriginKind::Suspended {
                spend(host, plan)?;
            }
            snapshots(host)?.go_on(&origin.launch).await?;
            let guest = await_guest(cx).await?;
            become_this(cx, origin, &guest, guest_settings(host).await?).await?;
        } else {
            let within = within(plan, origin);
            let gone_on = tokio::time::timeout(within, go_on(cx, origin, Instant::now() + within)).await;
            let late = || refused(ErrorCode::Timeout, format!("it did not answer within {} s", within.as_secs()));
            match (gone_on.unwrap_or_else(|_| Err(late())), &origin.kind) {
                (Ok((vmm, guest)), _) => host.supervisors.take_over(&boot, vmm, guest),
                // A boot would lack the same room, and the template is not to blame.
                (Err(cause), OriginKind::Template { key })
                    if !cause.is_cancellation() && !cause.is(ErrorCode::Exhausted) =>
                {
                    return fall_back(cx, key, &cause.message).await;
                }
                (Err(cause), _) => return Err(cause),
            }
        }
        settle(cx, origin)
    }

    async fn undo(&self, cx: &Cx<'_, P, Host>) -> Result<(), Cause> {
        let (plan, host) = (cx.plan.booting(), cx.world);
        let Some(origin) = &plan.origin else {
            return Ok(());
        };
        host.supervisors.ensure_gone(&plan.boot_ref()).await?;
        match origin.kind {
            OriginKind::Template { .. } => unmake(cx).await,
            OriginKind::Suspended => Ok(sys::fs::remove_tree(&spent_dir(&host.dirs.state, &plan.vm))?),
            // The next try begins with the disk that was saved. A fork goes with its disk.
            OriginKind::Snapshot | OriginKind::Fork => Ok(()),
        }
    }
}

fn within(plan: &StartPlan, origin: &Origin) -> Duration {
    let a_boot = Duration::from_millis(plan.boot_timeout_ms);
    match origin.kind {
        OriginKind::Template { .. } => TEMPLATE_WITHIN.min(a_boot),
        OriginKind::Suspended | OriginKind::Snapshot | OriginKind::Fork => a_boot,
    }
}

/// What is left to do once the guest is this VM's.
fn settle<P: Booting>(cx: &Cx<'_, P, Host>, origin: &Origin) -> Result<(), Cause> {
    let (plan, host) = (cx.plan.booting(), cx.world);
    match &origin.kind {
        OriginKind::Template { key } => {
            if let Err(error) = host.templates.note_use(key) {
                tracing::warn!(template = key, %error, "a use of a template is not counted");
            }
            Ok(())
        }
        // Its VMM has it mapped; nobody else may go on from it.
        OriginKind::Suspended => Ok(sys::fs::remove_tree(&spent_dir(&host.dirs.state, &plan.vm))?),
        OriginKind::Snapshot | OriginKind::Fork => Ok(()),
    }
}

/// Keeps everybody from going on from what a suspended VM's guest is about to: its disk is about to change. Idempotent.
fn spend(host: &Host, plan: &StartPlan) -> Result<(), Cause> {
    let (saved, spent) = (suspended_dir(&host.dirs.state, &plan.vm), spent_dir(&host.dirs.state, &plan.vm));
    if saved.exists() {
        sys::fs::remove_tree(&spent)?;
        sys::fs::rename(&saved, &spent)?;
    }
    Ok(())
}

/// From the disk to a guest with the names, the NIC and the time of this VM. Nobody owns the VMM before that: one that fails
/// leaves no trace of an end of the boot.
async fn go_on<P: Booting + Sync>(
    cx: &Cx<'_, P, Host>,
    origin: &Origin,
    deadline: Instant,
) -> Result<(Box<dyn Vmm>, Guest), Cause> {
    let (plan, host) = (cx.plan.booting(), cx.world);
    if let Some(disk) = &origin.disk {
        host.storage.replace(&plan.vm, disk).await?;
    }
    let vmm = host.vmm.spawn(&origin.launch).await?;
    if origin.kind == OriginKind::Suspended {
        spend(host, plan)?;
    }
    // What it is to be told is gathered while it comes up.
    let met = async { tokio::try_join!(go_on_and_meet(host, &origin.launch, deadline), guest_settings(host)) };
    let (guest, settings) = tokio::select! {
        met = met => met?,
        () = cx.cancelled() => return Err(Cause::cancelled()),
    };
    become_this(cx, origin, &guest, settings).await?;
    Ok((vmm, guest))
}

/// Lets the machine go on, and meets its guest.
async fn go_on_and_meet(host: &Host, launch: &Launch, deadline: Instant) -> Result<Guest, Cause> {
    let power = snapshots(host)?;
    let met = async {
        let met = supervise::meet(launch, deadline).await;
        met.map_err(|error| caused(ErrorCode::GuestUnreachable, &error))
    };
    match launch.agent {
        AgentChannel::Dial => {
            power.go_on(launch).await?;
            met.await
        }
        // It is listened for first: an agent that finds nobody waits before it tries again.
        AgentChannel::Await => {
            let gone_on = async { Ok(power.go_on(launch).await?) };
            tokio::try_join!(biased; met, gone_on).map(|(guest, ())| guest)
        }
    }
}

/// Makes the guest that has gone on this VM's, unless it is that already, and plugs its NIC in.
async fn become_this<P: Booting + Sync>(
    cx: &Cx<'_, P, Host>,
    origin: &Origin,
    guest: &Guest,
    settings: GuestSettings,
) -> Result<(), Cause> {
    let (plan, host) = (cx.plan.booting(), cx.world);
    if guest.hello().boot != plan.boot.as_str() {
        if !origin.is_of(guest.hello()) {
            return Err(with_console(plan, ErrorCode::GuestUnreachable, "another guest answered".to_owned()));
        }
        renew(cx, origin, guest, settings).await?;
    }
    host.network.ensure_plugged(&plan.attachment, &plan.machine.boot_dir).await?;
    snapshots(host)?.plug(&origin.launch).await?;
    Ok(host.store.set_boot_init(&plan.boot, origin.init.clone()).await?)
}

async fn renew<P: Booting + Sync>(
    cx: &Cx<'_, P, Host>,
    origin: &Origin,
    guest: &Guest,
    settings: GuestSettings,
) -> Result<(), Cause> {
    let (plan, store) = (cx.plan.booting(), &cx.world.store);
    let is_same = origin.kind == OriginKind::Suspended;
    // The machine it was goes on elsewhere, or may.
    let secret = Secret::fresh();
    let (config, mut warnings) = boot_config(cx.world, plan, &secret, settings);
    let renewal = Renewal {
        vm: plan.vm.to_string(),
        boot: plan.boot.to_string(),
        // A machine that was suspended goes on as what it was.
        boot_uuid: if is_same { None } else { Some(uuid(sys::rand::bytes())) },
        config,
        disk_bytes: None,
        services: if is_same { Vec::new() } else { SERVICES.map(str::to_owned).to_vec() },
    };
    let renewed = tokio::select! {
        renewed = guest.renew(renewal) => renewed.map_err(|error| {
            with_console(plan, ErrorCode::OperationFailed, format!("it did not become a machine of its own: {}", chain(&error)))
        })?,
        () = cx.cancelled() => return Err(Cause::cancelled()),
    };
    keep(&secret, guest, plan)?;
    tracing::info!(boot = %plan.boot, timeline = ?renewed.timeline, "renewed");
    warnings.extend(renewed.warnings);
    for warning in &warnings {
        cx.warning(warning);
        store.warn_boot(&plan.boot, warning).await?;
    }
    Ok(())
}

/// The driver's power to save machines.
pub(super) fn snapshots(host: &Host) -> Result<&dyn Snapshots, Cause> {
    let why = || refused(ErrorCode::Unsupported, format!("the {} driver cannot save a machine", host.vmm.name()));
    host.vmm.snapshots().ok_or_else(why)
}

/// A random UUID (RFC 9562, version 4) of these bytes.
fn uuid(mut bytes: [u8; 16]) -> String {
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// Drops the template, and leaves everything as a boot finds it. Idempotent.
async fn fall_back<P: Booting + Sync>(cx: &Cx<'_, P, Host>, key: &str, why: &str) -> Result<(), Cause> {
    let (plan, host) = (cx.plan.booting(), cx.world);
    tracing::warn!(boot = %plan.boot, template = key, why, "a template is given up, the VM boots");
    host.vmm.ensure_gone(&plan.boot_ref().launch).await?;
    if let Err(error) = host.templates.give_up(key) {
        tracing::error!(template = key, %error, "a template that is given up is not removed, or not counted");
    }
    make_fresh(cx).await?;
    Secret::forget(&plan.machine.boot_dir)?;
    // Whoever carried the frames of one VMM does not of another.
    let machine = &plan.machine;
    host.network.ensure_detached(&plan.attachment, &machine.boot_dir).await?;
    host.network.ensure_attached(&machine.nic, &plan.attachment, &machine.boot_dir).await?;
    Ok(host.network.ensure_plugged(&plan.attachment, &machine.boot_dir).await?)
}

/// Takes the template's disk away again, on the way back.
async fn unmake<P: Booting + Sync>(cx: &Cx<'_, P, Host>) -> Result<(), Cause> {
    let (plan, host) = (cx.plan.booting(), cx.world);
    // Once it was up the disk is its user's, however short that was.
    let was_up = match host.store.boot(&plan.boot).await {
        Ok(boot) => boot.ready_at_ms.is_some(),
        Err(StoreError::NotFound { .. }) => false,
        Err(error) => return Err(error.into()),
    };
    // Where there is no disk either, the VM is gone already.
    if was_up || host.storage.length_bytes(&plan.vm) == 0 {
        return Ok(());
    }
    match make_fresh(cx).await {
        // The disk stays what the template had, which boots as well: a way back needs no room.
        Err(cause) if cause.is(ErrorCode::Exhausted) => {
            tracing::warn!(vm = %plan.vm, error = %cause, "a VM keeps the disk of a template");
            Ok(())
        }
        done => done,
    }
}

/// Makes the disk a new one again: the VM's user has had no word with its guest. In one: there always is a disk.
async fn make_fresh<P: Booting + Sync>(cx: &Cx<'_, P, Host>) -> Result<(), Cause> {
    let (plan, storage) = (cx.plan.booting(), &cx.world.storage);
    Ok(storage.blank(&storage.path(&plan.vm), plan.disk_bytes).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_has_its_form() {
        assert_eq!(uuid([0xff; 16]), "ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_eq!(uuid([0; 16]), "00000000-0000-4000-8000-000000000000");
    }
}
