//! The step of a start that lets a guest go on from what was saved, and makes it the machine it is to be before anything else
//! is asked of it.
//!
//! A template that cannot be gone on from is dropped, and the VM boots: nobody but the count notices.

use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;
use wire::agent::renewal::{Renewal, SERVICES};
use wire::api::ErrorCode;

use super::failure::{caused, refused};
use super::origin::{Origin, OriginKind};
use super::start::{Booting, await_guest, boot_config, with_console};
use super::world::Host;
use crate::guest::Guest;
use crate::saga::{Cause, Cx, Step};
use crate::supervise;
use crate::vmm::{Snapshots, Vmm};

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
        let (OriginKind::Template { key }, host) = (&origin.kind, cx.world);
        let boot = plan.boot_ref();
        if host.supervisors.adopt(&boot).await? {
            // An earlier daemon got this far. Whoever owns it has the connection to its guest.
            snapshots(host)?.go_on(&origin.launch).await?;
            let guest = await_guest(cx).await?;
            become_this(cx, origin, &guest).await?;
        } else {
            match tokio::time::timeout(TEMPLATE_WITHIN, go_on(cx, origin)).await {
                Ok(Ok((vmm, guest))) => host.supervisors.take_over(&boot, vmm, guest),
                Ok(Err(cause)) if cause.is_cancellation() => return Err(cause),
                Ok(Err(cause)) => return fall_back(cx, key, &cause.message).await,
                Err(_) => {
                    let why = format!("it did not answer within {} s", TEMPLATE_WITHIN.as_secs());
                    return fall_back(cx, key, &why).await;
                }
            }
        }
        Ok(host.templates.note_use(key)?)
    }

    async fn undo(&self, cx: &Cx<'_, P, Host>) -> Result<(), Cause> {
        let plan = cx.plan.booting();
        if plan.origin.is_none() {
            return Ok(());
        }
        cx.world.supervisors.ensure_gone(&plan.boot_ref()).await?;
        make_fresh(cx).await
    }
}

/// From the disk to a guest with the names, the NIC and the time of this VM. Nobody owns the VMM before that: one that fails
/// leaves no trace of an end of the boot.
async fn go_on<P: Booting + Sync>(cx: &Cx<'_, P, Host>, origin: &Origin) -> Result<(Box<dyn Vmm>, Guest), Cause> {
    let (plan, host) = (cx.plan.booting(), cx.world);
    if let Some(disk) = &origin.disk {
        host.storage.replace(&plan.vm, disk).await?;
    }
    let vmm = host.vmm.spawn(&origin.launch).await?;
    snapshots(host)?.go_on(&origin.launch).await?;
    let guest = tokio::select! {
        guest = supervise::meet(&origin.launch, Instant::now() + TEMPLATE_WITHIN) => {
            guest.map_err(|error| caused(ErrorCode::GuestUnreachable, &error))?
        }
        () = cx.cancelled() => return Err(Cause::cancelled()),
    };
    become_this(cx, origin, &guest).await?;
    Ok((vmm, guest))
}

/// Makes the guest that has gone on this VM's, unless it is that already, and plugs its NIC in.
async fn become_this<P: Booting + Sync>(cx: &Cx<'_, P, Host>, origin: &Origin, guest: &Guest) -> Result<(), Cause> {
    let (plan, host) = (cx.plan.booting(), cx.world);
    if guest.hello().boot != plan.boot.as_str() {
        if !origin.is_of(guest.hello()) {
            return Err(with_console(plan, ErrorCode::GuestUnreachable, "another guest answered".to_owned()));
        }
        renew(cx, guest).await?;
    }
    snapshots(host)?.plug(&origin.launch).await?;
    Ok(host.store.set_boot_init(&plan.boot, origin.init.clone()).await?)
}

async fn renew<P: Booting + Sync>(cx: &Cx<'_, P, Host>, guest: &Guest) -> Result<(), Cause> {
    let (plan, store) = (cx.plan.booting(), &cx.world.store);
    let (config, mut warnings) = boot_config(cx.world, plan).await?;
    let renewal = Renewal {
        vm: plan.vm.to_string(),
        boot: plan.boot.to_string(),
        boot_uuid: uuid(sys::rand::bytes()),
        config,
        disk_bytes: None,
        services: SERVICES.map(str::to_owned).to_vec(),
    };
    let renewed = tokio::select! {
        renewed = guest.renew(renewal) => renewed.map_err(|error| caused(ErrorCode::OperationFailed, &error))?,
        () = cx.cancelled() => return Err(Cause::cancelled()),
    };
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
    host.templates.give_up(key)?;
    make_fresh(cx).await?;
    // Whoever carried the frames of one VMM does not of another.
    let machine = &plan.machine;
    host.network.ensure_detached(&plan.attachment, &machine.boot_dir).await?;
    Ok(host.network.ensure_attached(&machine.nic, &plan.attachment, &machine.boot_dir).await?)
}

/// Makes the disk a new one again: the VM's user has had no word with its guest.
async fn make_fresh<P: Booting + Sync>(cx: &Cx<'_, P, Host>) -> Result<(), Cause> {
    let (plan, host) = (cx.plan.booting(), cx.world);
    host.storage.ensure_deleted(&plan.vm).await?;
    host.storage.ensure_disk(&plan.vm, plan.disk_bytes).await?;
    Ok(())
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
