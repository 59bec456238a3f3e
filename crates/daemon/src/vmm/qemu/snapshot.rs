//! Machines saved, and going on from what was saved.
//!
//! Devices are written by `xen-save-devices-state`, which needs nothing of Xen: the device part of a migration stream, without
//! memory. Memory is written by `pmemsave`. A machine goes on in a new QEMU that maps the memory copy-on-write and reads the
//! devices as a migration that comes in; the stream says nothing of memory, so that QEMU leaves it as it found it. Whether the
//! saved machine's own memory was mapped from a file makes no difference.

use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::json;

use super::{Accel, Qemu, argv, qmp};
use crate::model::machine::{MachineShape, MachineSpec, NicAttachment, SavedMachine};
use crate::vmm::{Launch, Snapshots, VmmError, qmp_socket};

/// How long saving may take: a GiB is written in less than a second, a busy disk is slow.
const SAVED_WITHIN: Duration = Duration::from_secs(300);
/// How long reading what was saved may take; a few hundredths of a second on an idle host.
const LOADED_WITHIN: Duration = Duration::from_secs(60);
/// How often QEMU is asked whether it has: it tells no one by itself.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// `microvm` has memory in one piece up to here (`microvm_memory_init`); what is above lies beyond 4 GiB.
const MEMORY_MIB_MAX: u64 = 3 << 10;

fn failed(act: &'static str) -> impl FnOnce(String) -> VmmError {
    move |why| VmmError::Control { act, why }
}

#[async_trait]
impl Snapshots for Qemu {
    fn shape(&self, spec: &MachineSpec, nic: &NicAttachment) -> Result<MachineShape, VmmError> {
        check_memory(spec.memory_mib)?;
        Ok(MachineShape {
            driver: Qemu::NAME.to_owned(),
            vmm: self.version(),
            cpu: match self.accel() {
                Accel::Tcg => "tcg".to_owned(),
                Accel::Kvm => sys::kvm::processor(),
            },
            machine: argv::shape(spec, nic, &self.host()),
        })
    }

    async fn save(&self, launch: &Launch, memory_mib: u64, to: &SavedMachine) -> Result<(), VmmError> {
        check_memory(memory_mib)?;
        let memory = json!({"val": 0, "size": memory_mib << 20, "filename": to.memory});
        let devices = json!({"filename": to.devices, "live": false});
        let saved = qmp::within(SAVED_WITHIN, async {
            let mut qemu = qmp::Session::open(&qmp_socket(&launch.boot_dir)).await?;
            qemu.ask(&json!({"execute": "pmemsave", "arguments": memory})).await?;
            qemu.ask(&json!({"execute": "xen-save-devices-state", "arguments": devices})).await
        });
        saved.await.map(drop).map_err(failed("save the machine"))
    }

    async fn go_on(&self, launch: &Launch) -> Result<(), VmmError> {
        let gone_on = qmp::within(LOADED_WITHIN, async {
            let mut qemu = qmp::Session::open(&qmp_socket(&launch.boot_dir)).await?;
            loop {
                let status = qemu.ask(&json!({"execute": "query-status"})).await?;
                match status.get("status").and_then(serde_json::Value::as_str) {
                    Some("inmigrate") => tokio::time::sleep(LOOK_EVERY).await,
                    // It has gone on: a daemon died before it could say so.
                    Some("running") => return Ok(()),
                    Some("paused" | "prelaunch") => break,
                    other => return Err(format!("the machine is {}", other.unwrap_or("in no state"))),
                }
            }
            qemu.ask(&link(false)).await?;
            qemu.ask(&json!({"execute": "cont"})).await.map(drop)
        });
        gone_on.await.map_err(failed("let the saved machine go on"))
    }

    async fn plug(&self, launch: &Launch) -> Result<(), VmmError> {
        let plugged = qmp::execute(&qmp_socket(&launch.boot_dir), &link(true)).await;
        plugged.map_err(failed("plug in the machine's NIC"))
    }
}

/// The command that plugs the NIC in, or out.
fn link(up: bool) -> serde_json::Value {
    json!({"execute": "set_link", "arguments": {"name": "nic", "up": up}})
}

fn check_memory(memory_mib: u64) -> Result<(), VmmError> {
    if memory_mib <= MEMORY_MIB_MAX {
        return Ok(());
    }
    let why = format!("a machine of {memory_mib} MiB is not saved, {MEMORY_MIB_MAX} MiB are the most");
    Err(VmmError::Refused { driver: Qemu::NAME, why })
}

impl Qemu {
    /// The program's file, told from others: asking it for its version would start it.
    fn version(&self) -> String {
        let Some(program) = &self.program else {
            return "none".to_owned();
        };
        match std::fs::metadata(program) {
            Ok(meta) => format!("{} {} {}.{}", program.display(), meta.len(), meta.mtime(), meta.mtime_nsec()),
            Err(_) => format!("{} unreadable", program.display()),
        }
    }
}
