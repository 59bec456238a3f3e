//! The boots of a VM, and the logs of each: the guest's console, and what the VMM printed.

use std::time::Duration;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use futures_util::{Stream, stream};
use tokio::io::AsyncReadExt;
use wire::api::{ApiError, BootChoice, BootList, ErrorBody, ErrorCode, LogSource, LogsQuery};
use wire::id::{BootId, VmId};
use wire::naming;

use super::error::Refusal;
use super::{Api, view};
use crate::store::records::{BootRecord, VmRecord};

/// How often a followed log is looked at.
const FOLLOW: Duration = Duration::from_millis(200);
/// Bytes of a log sent at once.
const LOG_CHUNK: usize = 64 * 1024;

/// The boots that are kept of a VM, newest first
#[utoipa::path(
    get, path = "/v1/vms/{vm}/boots", params(("vm" = String, Path, description = "name, id or beginning of an id")),
    responses((status = 200, body = BootList), (status = "default", body = ErrorBody))
)]
pub async fn boots(State(api): State<Api>, Path(vm): Path<String>) -> Result<Json<BootList>, Refusal> {
    let record = api.host.store.find_vm(&vm).await?;
    let pid = api.host.supervisors.pid(&record.id);
    let boots = api.host.store.boots(&record.id).await?;
    Ok(Json(BootList { boots: boots.into_iter().map(|boot| view::boot_status(boot.into(), pid)).collect() }))
}

/// The boot that `choice` means, of `boots`, newest first.
fn choose(vm: &VmRecord, boots: &[BootRecord], choice: &BootChoice) -> Result<BootId, ApiError> {
    let name = &vm.name;
    if boots.is_empty() {
        return Err(ApiError::new(ErrorCode::WrongState, format!("{name} was never started")));
    }
    let fitting: Vec<&BootRecord> = match choice {
        BootChoice::Back(back) => boots.iter().skip(usize::from(*back)).take(1).collect(),
        BootChoice::Id(id) => boots.iter().filter(|boot| boot.id.as_str().starts_with(id)).collect(),
    };
    let hint = format!("banger logs --list-boots {name} shows which there are");
    match fitting[..] {
        [boot] => Ok(boot.id.clone()),
        [] => Err(ApiError::new(ErrorCode::NotFound, format!("{name} has no boot {choice}")).with_hint(hint)),
        _ => {
            let message = format!("{choice} begins the ids of several boots of {name}");
            Err(ApiError::new(ErrorCode::Ambiguous, message).with_hint(hint))
        }
    }
}

/// The log of a boot
#[utoipa::path(
    get, path = "/v1/vms/{vm}/logs",
    params(("vm" = String, Path), ("source" = Option<LogSource>, Query), ("boot" = Option<String>, Query, description = "0 is the last one, -1 the one before; or its id"), ("follow" = Option<bool>, Query)),
    responses((status = 200, content_type = "application/octet-stream"), (status = "default", body = ErrorBody))
)]
pub async fn logs(
    State(api): State<Api>,
    Path(vm): Path<String>,
    Query(query): Query<LogsQuery>,
) -> Result<Body, Refusal> {
    let record = api.host.store.find_vm(&vm).await?;
    let boots = api.host.store.boots(&record.id).await?;
    let choice = query.boot.unwrap_or(BootChoice::Back(0));
    let boot = choose(&record, &boots, &choice)?;
    let state = &api.host.dirs.state;
    let path = match query.source {
        LogSource::Console => naming::console_log(state, &record.id, &boot),
        LogSource::Vmm => naming::vmm_log(state, &record.id, &boot),
    };
    let file = tokio::fs::File::open(&path).await.map_err(|error| {
        let name = &record.name;
        if error.kind() == std::io::ErrorKind::NotFound {
            let missing = ApiError::new(ErrorCode::NotFound, format!("{name} has no log of a boot {boot}"));
            return Refusal(missing.with_hint(format!("banger show {name} names its last boot")));
        }
        let text = format!("cannot read the log of boot {boot} of {name}: {}", error.kind());
        Refusal(ApiError::new(ErrorCode::OperationFailed, text))
    })?;
    let follow = query.follow.then(|| Following { api, vm: record.id, boot });
    Ok(Body::from_stream(log_chunks(file, follow)))
}

/// A log is followed until this boot ends.
struct Following {
    api: Api,
    vm: VmId,
    boot: BootId,
}

fn log_chunks(file: tokio::fs::File, follow: Option<Following>) -> impl Stream<Item = std::io::Result<Bytes>> {
    stream::try_unfold((file, follow), |(mut file, follow)| async move {
        loop {
            // Asked before reading: what is written before the end is read after it.
            let goes_on = follow.as_ref().is_some_and(|f| f.api.host.supervisors.is_live(&f.vm, &f.boot));
            let mut chunk = vec![0; LOG_CHUNK];
            let count = file.read(&mut chunk).await?;
            if count > 0 {
                chunk.truncate(count);
                return Ok(Some((Bytes::from(chunk), (file, follow))));
            }
            if !goes_on {
                return Ok(None);
            }
            tokio::time::sleep(FOLLOW).await;
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::machine::NicAttachment;
    use crate::model::vm::VmState;
    use crate::store::records::{GuestIdentity, VmSpec};

    fn boot(id: &str) -> BootRecord {
        BootRecord {
            id: id.parse().unwrap(),
            vm: "00000000000000aa".parse().unwrap(),
            launch: serde_json::Value::Null,
            attachment: NicAttachment::QemuUser { publish: Vec::new() },
            host_boot: None,
            started_at_ms: 1,
            ready_at_ms: None,
            ended_at_ms: None,
            ended: None,
            init: None,
            warnings: Vec::new(),
        }
    }

    fn vm() -> VmRecord {
        VmRecord {
            id: "00000000000000aa".parse().unwrap(),
            name: "web".parse().unwrap(),
            state: VmState::Stopped,
            spec: VmSpec {
                image: String::new(),
                kernel: String::new(),
                vcpus: 1,
                memory_mib: 1,
                disk_bytes: 1,
                nat: false,
                publish: Vec::new(),
                stop_after_ms: None,
                restart: wire::api::RestartPolicy::No,
            },
            image_id: "00000000000000aa".parse().unwrap(),
            kernel_id: "00000000000000aa".parse().unwrap(),
            identity: GuestIdentity { machine_id: String::new(), ssh_host_keys: Vec::new() },
            workspace: None,
            reset_pending: false,
            last_error: None,
            restarting: None,
            created_at_ms: 1,
        }
    }

    #[test]
    fn a_boot_is_found_by_how_long_ago_or_by_its_id() {
        let boots = ["cccc000000000000", "bbbb200000000000", "bbbb100000000000"].map(boot);
        let found = |boots: &[BootRecord], choice: &str| {
            let found = choose(&vm(), boots, &choice.parse().unwrap());
            found.map(|id| id.as_str()[..5].to_owned()).map_err(|error| error.code)
        };
        for (choice, expected) in [
            ("0", Ok("cccc0")),
            ("-2", Ok("bbbb1")),
            ("-3", Err(ErrorCode::NotFound)),
            ("bbbb2", Ok("bbbb2")),
            ("bbbb", Err(ErrorCode::Ambiguous)),
            ("dddd", Err(ErrorCode::NotFound)),
        ] {
            assert_eq!(found(&boots, choice), expected.map(str::to_owned), "{choice}");
        }
        assert_eq!(found(&[], "0"), Err(ErrorCode::WrongState));
    }
}
