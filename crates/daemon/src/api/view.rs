//! Records as clients see them. Pure.

use std::collections::BTreeMap;

use wire::api::{BootStatus, Idle, Image, ImageExec, ImageOrigin, Kernel, KernelFacts, Restarts, Vm, VmState};
use wire::id::OpId;

use crate::model::kernel::OptionState;
use crate::model::restart::{Restarting, TRIES_MAX};
use crate::model::vm::VmState as State;
use crate::store::records::{BootSummary, ImageRecord, KernelRecord, VmSummary};

/// What is known of a VM beside its row.
pub(crate) struct Around {
    /// The boot that runs, or the last one.
    pub(crate) boot: Option<BootSummary>,
    /// The VMM's process, while it runs.
    pub(crate) pid: Option<u32>,
    /// What the disk takes on the host.
    pub(crate) disk_allocated_bytes: u64,
    /// The operation that holds it.
    pub(crate) operation: Option<OpId>,
    /// Since when nobody uses it.
    pub(crate) idle: Option<Idle>,
}

/// A VM.
pub(crate) fn vm(record: VmSummary, around: Around) -> Vm {
    Vm {
        state: vm_state(&record.state),
        id: record.id,
        name: record.name,
        image: record.spec.image,
        image_id: record.image_id,
        kernel: record.spec.kernel,
        kernel_id: record.kernel_id,
        vcpus: record.spec.vcpus,
        memory_mib: record.spec.memory_mib,
        disk_bytes: record.spec.disk_bytes,
        disk_allocated_bytes: around.disk_allocated_bytes,
        nat: record.spec.nat,
        publish: record.spec.publish,
        stop_after_ms: record.spec.stop_after_ms,
        idle: around.idle,
        restart: record.spec.restart,
        restarts: record.restarting.map(restarts),
        boot: around.boot.map(|boot| boot_status(boot, around.pid)),
        last_error: record.last_error,
        operation: around.operation,
        workspace: record.workspace,
        reset_pending: record.reset_pending,
        created_at_ms: record.created_at_ms,
    }
}

fn restarts(owed: Restarting) -> Restarts {
    Restarts { why: owed.why, tries: owed.tries, tries_max: TRIES_MAX, next_at_ms: owed.due_at_ms }
}

fn vm_state(state: &State) -> VmState {
    match state {
        State::Creating => VmState::Creating,
        State::Created => VmState::Created,
        State::Starting { .. } => VmState::Starting,
        State::Running { .. } => VmState::Running,
        State::Paused { .. } => VmState::Paused,
        State::Stopping { .. } => VmState::Stopping,
        State::Stopped => VmState::Stopped,
        State::Suspended => VmState::Suspended,
        State::Deleting => VmState::Deleting,
    }
}

/// A boot; `pid` is its VMM's, if it runs.
pub(crate) fn boot_status(boot: BootSummary, pid: Option<u32>) -> BootStatus {
    BootStatus {
        id: boot.id,
        vmm: boot.vmm,
        pid: if boot.ended_at_ms.is_none() { pid } else { None },
        started_at_ms: boot.started_at_ms,
        ready_at_ms: boot.ready_at_ms,
        ended_at_ms: boot.ended_at_ms,
        ended: boot.ended,
        init: boot.init,
        warnings: boot.warnings,
    }
}

/// An image; `allocated_bytes` is what its file takes.
pub(crate) fn image(record: ImageRecord, used_by: Vec<String>, allocated_bytes: u64) -> Image {
    let manifest = record.manifest;
    Image {
        id: record.id,
        name: record.name,
        also: record.also,
        variant: manifest.variant,
        digest: manifest.digest.to_string(),
        bytes: manifest.bytes,
        allocated_bytes,
        arch: manifest.arch,
        source: manifest.source,
        init: manifest.init,
        exec: ImageExec {
            env: manifest.exec.env,
            user: manifest.exec.user,
            workdir: manifest.exec.workdir,
            command: manifest.command,
        },
        origin: manifest.origin.map(|origin| ImageOrigin {
            reference: origin.reference,
            target: origin.target,
            manifest: origin.manifest,
            config: origin.config,
            kernel_ref: origin.kernel_ref,
        }),
        linked: manifest.linked.map(|linked| linked.path),
        created_at_ms: record.created_at_ms,
        used_by,
    }
}

/// A kernel.
pub(crate) fn kernel(record: KernelRecord, used_by: Vec<String>) -> Kernel {
    let manifest = record.manifest;
    let facts: BTreeMap<String, String> = manifest
        .options
        .iter()
        .map(|(name, state)| (name.trim_start_matches("CONFIG_").to_owned(), option(*state).to_owned()))
        .collect();
    Kernel {
        id: record.id,
        name: record.name,
        release: manifest.release,
        arch: manifest.arch,
        vmlinux_sha256: manifest.vmlinux_sha256.to_string(),
        vmlinux_bytes: manifest.vmlinux_bytes,
        module_count: manifest.modules.map_or(0, |drive| u32::try_from(drive.count).unwrap_or(u32::MAX)),
        source: manifest.source,
        facts: KernelFacts(facts),
        created_at_ms: record.created_at_ms,
        used_by,
    }
}

fn option(state: OptionState) -> &'static str {
    match state {
        OptionState::BuiltIn => "y",
        OptionState::Module => "m",
        OptionState::Absent => "n",
        OptionState::Unknown => "unknown",
    }
}
