//! The daemon itself: how it is, what its host can do, its end.

use axum::Json;
use axum::extract::State;
use wire::api::{Configuration, DaemonStatus, DoctorReport, ErrorBody, RestartPolicy};

use super::Api;
use super::error::Refusal;
use crate::doctor::{Known, TemplateFacts};
use crate::store::{OperationState, StoreError};
use crate::template::Templates;

/// How the daemon is
#[utoipa::path(get, path = "/v1/status", responses((status = 200, body = DaemonStatus)))]
pub async fn status(State(api): State<Api>) -> Json<DaemonStatus> {
    let about = &api.about;
    Json(DaemonStatus {
        version: about.version.clone(),
        pid: std::process::id(),
        mode: "session".to_owned(),
        socket: about.socket.display().to_string(),
        state_dir: api.host.dirs.state.display().to_string(),
        uptime_ms: u64::try_from(about.started.elapsed().as_millis()).unwrap_or(u64::MAX),
        running_vms: u32::try_from(api.host.supervisors.running()).unwrap_or(u32::MAX),
        defaults: api.host.settings.defaults.clone(),
    })
}

/// Every setting and where it comes from
#[utoipa::path(get, path = "/v1/config", responses((status = 200, body = Configuration)))]
pub async fn config(State(api): State<Api>) -> Json<Configuration> {
    Json(api.about.configuration.clone())
}

/// What this host can do, and what would improve it
#[utoipa::path(get, path = "/v1/doctor", responses((status = 200, body = DoctorReport), (status = "default", body = ErrorBody)))]
pub async fn doctor(State(api): State<Api>) -> Result<Json<DoctorReport>, Refusal> {
    let defaults = &api.host.settings.defaults;
    let image = is_there(api.host.store.find_image(&defaults.image).await)?;
    let kernel = is_there(api.host.store.find_kernel(&defaults.kernel).await)?;
    let stuck = api.host.store.operations().await?;
    let stuck = stuck.iter().filter(|op| op.state == OperationState::Stuck);
    let vms = api.host.store.vms().await?;
    let restarting = vms.iter().filter(|vm| vm.spec.restart != RestartPolicy::No);
    let known = Known {
        templates: None,
        state_dir: api.host.dirs.state.clone(),
        image: (defaults.image.clone(), image),
        kernel: (defaults.kernel.clone(), kernel),
        restarting: restarting.map(|vm| vm.name.to_string()).collect(),
        stuck: stuck.map(|op| format!("{} ({} {})", op.id, op.kind, op.subject)).collect(),
    };
    let (about, host) = (api.about, api.host);
    let look = move || {
        let templates = host.settings.templates.then(|| template_facts(&host.templates));
        (about.doctor)(Known { templates, ..known })
    };
    let report = tokio::task::spawn_blocking(look).await;
    report.map(Json).map_err(|_panicked| Refusal(super::error::internal("doctor ended early")))
}

/// Looks at the templates. Blocks.
fn template_facts(templates: &Templates) -> TemplateFacts {
    let all = templates.all();
    TemplateFacts {
        count: all.len(),
        bytes: all.iter().map(|template| template.bytes).sum(),
        uses: all.iter().map(|template| template.uses).sum(),
        fell_back: templates.fell_back(),
    }
}

fn is_there<T>(found: Result<T, StoreError>) -> Result<bool, StoreError> {
    match found {
        Ok(_) | Err(StoreError::Ambiguous { .. }) => Ok(true),
        Err(StoreError::NotFound { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Ends the daemon; VMs go on
#[utoipa::path(post, path = "/v1/shutdown", responses((status = 204)))]
pub async fn shutdown(State(api): State<Api>) -> axum::http::StatusCode {
    api.about.shutdown.cancel();
    axum::http::StatusCode::NO_CONTENT
}
