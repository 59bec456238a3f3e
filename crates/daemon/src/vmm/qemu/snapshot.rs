//! Machines saved, and going on from what was saved.
//!
//! Devices are written by `xen-save-devices-state`, which needs nothing of Xen: the device part of a migration stream, without
//! memory. Memory is written by `pmemsave`. A machine goes on in a new QEMU that maps the memory copy-on-write and reads the
//! devices as a migration that comes in; the stream says nothing of memory, so that QEMU leaves it as it found it. Whether the
//! saved machine's own memory was mapped from a file makes no difference.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::json;
use tokio::task::JoinHandle;

use super::{Accel, Qemu, argv, qmp};
use crate::model::machine::{MachineShape, MachineSpec, NicAttachment, SavedMachine};
use crate::vmm::{Launch, Snapshots, VmmError, qmp_socket};

/// How long saving may take: a GiB is written in less than a second, a busy disk is slow.
const SAVED_WITHIN: Duration = Duration::from_secs(300);
/// How long reading what was saved may take; a few hundredths of a second on an idle host.
const LOADED_WITHIN: Duration = Duration::from_secs(60);
/// How often QEMU is asked whether it has: it tells no one by itself.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// `microvm` has this much memory from address 0 on, and the rest from [`HIGH`] on (`microvm_memory_init`).
const LOW_BYTES: u64 = 3 << 30;
/// Where the rest is.
const HIGH: u64 = 4 << 30;
/// Memory is written in pieces of this size: while one is, the zeros of the one before are left out.
const PIECE_BYTES: u64 = 64 << 20;

fn failed(act: &'static str) -> impl FnOnce(String) -> VmmError {
    move |why| VmmError::Control { act, why }
}

/// A piece of a guest's memory: where the guest sees it, where it is in the file, how long it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Piece {
    address: u64,
    offset: u64,
    bytes: u64,
}

fn pieces(memory_bytes: u64) -> impl Iterator<Item = Piece> {
    let step = usize::try_from(PIECE_BYTES).expect("a constant that fits");
    (0..memory_bytes).step_by(step).map(move |offset| Piece {
        // The border between the two parts is one between two pieces.
        address: if offset < LOW_BYTES { offset } else { HIGH + (offset - LOW_BYTES) },
        offset,
        bytes: PIECE_BYTES.min(memory_bytes - offset),
    })
}

/// Has QEMU write the memory of a machine that stands still.
async fn save_memory(qemu: &mut qmp::Session, memory_mib: u64, to: &Path) -> Result<(), String> {
    let told = |error: sys::fs::FsError| wire::api::chain(&error);
    let file = Arc::new(sys::fs::create_new(to, 0o600).map_err(told)?);
    file.set_len(memory_mib << 20).map_err(|error| wire::api::plain(&error.to_string()))?;
    let mut under_way: Option<JoinHandle<Result<(), sys::fs::FsError>>> = None;
    for (index, piece) in pieces(memory_mib << 20).enumerate() {
        // Two take turns.
        let part = to.with_extension(format!("part{}", index % 2));
        let arguments = json!({"val": piece.address, "size": piece.bytes, "filename": part});
        let written = qemu.ask(&json!({"execute": "pmemsave", "arguments": arguments})).await;
        settled(under_way.take()).await.map_err(told)?;
        written?;
        let file = Arc::clone(&file);
        under_way = Some(tokio::task::spawn_blocking(move || {
            sys::holes::write_sparsely(&part, &file, piece.offset)?;
            sys::fs::remove_file(&part)
        }));
    }
    settled(under_way).await.map_err(told)
}

async fn settled(work: Option<JoinHandle<Result<(), sys::fs::FsError>>>) -> Result<(), sys::fs::FsError> {
    match work {
        Some(work) => work.await.unwrap_or_else(|panicked| std::panic::resume_unwind(panicked.into_panic())),
        None => Ok(()),
    }
}

/// Whether the QEMU behind `socket` has read what was saved.
pub(super) async fn is_loaded(socket: &Path) -> bool {
    let asked = async {
        let mut qemu = qmp::Session::open(socket).await?;
        qemu.ask(&json!({"execute": "query-status"})).await
    };
    asked.await.is_ok_and(|status| status.get("status").is_some_and(|status| status != "inmigrate"))
}

#[async_trait]
impl Snapshots for Qemu {
    fn shape(&self, spec: &MachineSpec, nic: &NicAttachment) -> Result<MachineShape, VmmError> {
        Ok(MachineShape {
            driver: Qemu::NAME.to_owned(),
            vmm: self.version(),
            // Translated code keeps to the host's processor in one thing: its time stamp counter is the guest's clock.
            cpu: match self.accel() {
                Accel::Tcg => format!("translated on {}", sys::kvm::processor()),
                Accel::Kvm => sys::kvm::processor(),
            },
            machine: argv::shape(spec, nic, &self.host()),
        })
    }

    async fn save(&self, launch: &Launch, memory_mib: u64, to: &SavedMachine) -> Result<(), VmmError> {
        let devices = json!({"filename": to.devices, "live": false});
        let saved = qmp::within(SAVED_WITHIN, async {
            let mut qemu = qmp::Session::open(&qmp_socket(&launch.boot_dir)).await?;
            save_memory(&mut qemu, memory_mib, &to.memory).await?;
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
                    // One that an earlier daemon had just started.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_one_file_in_two_places() {
        let small: Vec<Piece> = pieces(96 << 20).collect();
        let piece = |address, offset, mib: u64| Piece { address, offset, bytes: mib << 20 };
        assert_eq!(small, [piece(0, 0, 64), piece(64 << 20, 64 << 20, 32)]);
        let large: Vec<Piece> = pieces(LOW_BYTES + (65 << 20)).collect();
        let high = &large[large.len() - 3..];
        assert_eq!(high[0], piece(LOW_BYTES - (64 << 20), LOW_BYTES - (64 << 20), 64));
        assert_eq!(high[1], piece(HIGH, LOW_BYTES, 64));
        assert_eq!(high[2], piece(HIGH + (64 << 20), LOW_BYTES + (64 << 20), 1));
        assert_eq!(large.iter().map(|piece| piece.bytes).sum::<u64>(), LOW_BYTES + (65 << 20));
    }
}
