//! What a VM uses, and where it can be reached. One look each; what a guest does not say in time is left out.

use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use wire::agent::message::{Failure, Health, ListeningSocket};
use wire::api::{ErrorBody, Listener, Traffic, VmPorts, VmStats};

use super::Api;
use super::error::Refusal;
use crate::guest::{Guest, GuestError};
use crate::model::vm::VmState;
use crate::store::records::VmRecord;

/// How long a guest may take to say how it is: a look must not wait for one that hangs.
const HEALTH_WITHIN: Duration = Duration::from_secs(1);
/// How long it may take to say what listens.
const LISTENERS_WITHIN: Duration = Duration::from_secs(5);

/// The guest of a VM that runs and answers. A paused one is not asked.
fn guest(api: &Api, record: &VmRecord) -> Option<Guest> {
    match record.state {
        VmState::Running { .. } => api.host.supervisors.guest(&record.id),
        VmState::Creating
        | VmState::Created
        | VmState::Starting { .. }
        | VmState::Paused { .. }
        | VmState::Stopping { .. }
        | VmState::Stopped
        | VmState::Suspended
        | VmState::Deleting => None,
    }
}

/// What a VM uses
#[utoipa::path(
    get, path = "/v1/vms/{vm}/stats", params(("vm" = String, Path, description = "name, id or beginning of an id")),
    responses((status = 200, body = VmStats), (status = "default", body = ErrorBody))
)]
pub async fn stats(State(api): State<Api>, Path(vm): Path<String>) -> Result<Json<VmStats>, Refusal> {
    let host = &api.host;
    let record = host.store.find_vm(&vm).await?;
    let health = match guest(&api, &record) {
        Some(guest) => tokio::time::timeout(HEALTH_WITHIN, guest.health()).await.ok().and_then(Result::ok),
        None => None,
    };
    let usage = host.supervisors.usage(&record.id);
    Ok(Json(VmStats {
        state: record.state.to_wire(),
        at_ms: (host.now_ms)(),
        vcpus: record.spec.vcpus,
        cpu_ms: usage.map(|usage| u64::try_from(usage.cpu.as_millis()).unwrap_or(u64::MAX)),
        memory_bytes: usage.map(|usage| usage.resident_bytes),
        memory_limit_bytes: record.spec.memory_mib.saturating_mul(1 << 20),
        guest_available_bytes: health.as_ref().map(|health| health.memory_available_kib.saturating_mul(1024)),
        disk_allocated_bytes: host.storage.allocated_bytes(&record.id),
        disk_bytes: record.spec.disk_bytes,
        network: health.as_ref().and_then(traffic),
        id: record.id,
        name: record.name,
    }))
}

fn traffic(health: &Health) -> Option<Traffic> {
    Some(Traffic { received_bytes: health.received_bytes?, sent_bytes: health.sent_bytes? })
}

/// Published ports, and what listens in the guest
#[utoipa::path(
    get, path = "/v1/vms/{vm}/ports", params(("vm" = String, Path, description = "name, id or beginning of an id")),
    responses((status = 200, body = VmPorts), (status = "default", body = ErrorBody))
)]
pub async fn ports(State(api): State<Api>, Path(vm): Path<String>) -> Result<Json<VmPorts>, Refusal> {
    let record = api.host.store.find_vm(&vm).await?;
    let (listening, note) = match guest(&api, &record) {
        Some(guest) => listening(&guest).await,
        None => (None, Some("its guest is not running".to_owned())),
    };
    let state = record.state.to_wire();
    Ok(Json(VmPorts { id: record.id, name: record.name, state, published: record.spec.publish, listening, note }))
}

/// What listens in a guest, and why that is not known, or not all of it.
async fn listening(guest: &Guest) -> (Option<Vec<Listener>>, Option<String>) {
    let why = match tokio::time::timeout(LISTENERS_WITHIN, guest.listeners()).await {
        Ok(Ok(found)) => {
            let socket = |s: ListeningSocket| Listener { protocol: s.protocol, port: s.port, address: s.address };
            let note = found.is_cut.then(|| "there are more than these".to_owned());
            return (Some(found.sockets.into_iter().map(socket).collect()), note);
        }
        Ok(Err(GuestError::Failed(Failure::Unsupported))) => {
            "the guest's agent is too old to say: it knows after a restart".to_owned()
        }
        Ok(Err(error)) => wire::api::chain(&error),
        Err(_) => "the guest's agent does not answer".to_owned(),
    };
    (None, Some(why))
}
