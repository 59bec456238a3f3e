//! Handlers: validate, record, begin; never long. What they speak is `wire::api`.
//!
//! | file | resource |
//! |---|---|
//! | [`vms`] | VMs: list, show, create, start, stop, restart, kill, pause, resume, reset, delete, wait |
//! | [`changes`] | what is changed about a VM: its name, what it has |
//! | [`guests`] | commands in a running guest |
//! | [`figures`] | what a VM uses, and where it can be reached |
//! | [`logs`] | the boots of a VM and what each printed |
//! | [`saved`] | machines that are saved: suspend, snapshots, forks |
//! | [`sessions`] | commands of a guest that go on without a client |
//! | [`trees`] | files into a running guest and out of it |
//! | [`differences`] | what a guest changed of its image |
//! | [`workspaces`] | a project's files in a guest |
//! | [`artifacts`] | images and kernels |
//! | [`templates`] | machines that fresh VMs go on from |
//! | [`operations`] | operations: list, show, watch, cancel |
//! | [`system`] | the daemon itself: status, doctor, shutdown |
//! | `activation` | commands run with the tools that a workspace pins |
//! | `attach` | the relay of one exec, and of one client of a session |
//! | `view`, `error` | records and failures as clients see them |
//!
//! A request that lasts (an exec, a watched log) holds the daemon awake; none of them holds anything else.

mod activation;
pub mod artifacts;
mod attach;
pub mod changes;
pub mod differences;
mod error;
pub mod figures;
pub mod guests;
pub mod logs;
pub mod operations;
pub mod save;
pub mod saved;
pub mod sessions;
pub mod system;
pub mod templates;
pub mod trees;
mod view;
pub mod vms;
pub mod workspaces;

use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::HeaderValue;
use axum::http::header::{CONTENT_TYPE, SERVER};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tokio_util::sync::CancellationToken;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use wire::api::{Configuration, DoctorReport, ErrorCode, VersionInfo};

use crate::ops::failure::caused;
use crate::ops::{Engine, Host};
use crate::supervise::activity::Activity;

/// What every handler works with.
#[derive(Clone)]
pub struct Api {
    /// Store, drivers, supervisors.
    pub host: Arc<Host>,
    /// Begins and watches operations.
    pub engine: Arc<Engine>,
    /// Who is at work.
    pub activity: Activity,
    /// This daemon.
    pub about: Arc<About>,
}

/// What the daemon says of itself.
pub struct About {
    /// Which build.
    pub version: VersionInfo,
    /// The API's socket.
    pub socket: PathBuf,
    /// When it began, on the monotonic clock.
    pub started: std::time::Instant,
    /// Looks at the host; run on a thread that may block.
    pub doctor: Box<dyn Fn(crate::doctor::Known) -> DoctorReport + Send + Sync>,
    /// Its settings.
    pub configuration: Configuration,
    /// Cancelled when a client asks the daemon to end.
    pub shutdown: CancellationToken,
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "bangerd",
        description = "The API between banger and its daemon: HTTP/1.1 with JSON bodies over a Unix socket."
    ),
    components(schemas(wire::api::VmLines))
)]
struct Document;

fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(system::status))
        .routes(routes!(system::config))
        .routes(routes!(system::doctor))
        .routes(routes!(system::shutdown))
        .routes(routes!(vms::list, vms::create))
        .routes(routes!(vms::show, vms::delete))
        .routes(routes!(vms::start))
        .routes(routes!(vms::stop))
        .routes(routes!(vms::restart))
        .routes(routes!(vms::kill))
        .routes(routes!(vms::pause))
        .routes(routes!(vms::resume))
        .routes(routes!(vms::reset))
        .routes(routes!(saved::suspend))
        .routes(routes!(saved::fork))
        .routes(routes!(saved::list, saved::take))
        .routes(routes!(saved::restore))
        .routes(routes!(saved::delete))
        .routes(routes!(vms::wait))
        .routes(routes!(changes::rename))
        .routes(routes!(changes::set))
        .routes(routes!(figures::stats))
        .routes(routes!(figures::ports))
        .routes(routes!(logs::boots))
        .routes(routes!(logs::logs))
        .routes(routes!(guests::exec))
        .routes(routes!(sessions::list, sessions::start))
        .routes(routes!(sessions::show, sessions::delete))
        .routes(routes!(sessions::attach))
        .routes(routes!(sessions::input))
        .routes(routes!(sessions::stop))
        .routes(routes!(sessions::signal))
        .routes(routes!(trees::put_tree, trees::get_tree))
        .routes(routes!(trees::file))
        .routes(routes!(differences::list))
        .routes(routes!(workspaces::inspect))
        .routes(routes!(workspaces::prepare, workspaces::status))
        .routes(routes!(workspaces::export))
        .routes(routes!(workspaces::branch))
        .routes(routes!(workspaces::exported))
        .routes(routes!(artifacts::list_images))
        .routes(routes!(artifacts::available_images))
        .routes(routes!(artifacts::show_image, artifacts::delete_image))
        .routes(routes!(artifacts::build_image))
        .routes(routes!(artifacts::pull_image))
        .routes(routes!(artifacts::commit))
        .routes(routes!(save::archive))
        .routes(routes!(artifacts::load_image))
        .routes(routes!(artifacts::register_image))
        .routes(routes!(artifacts::promote_image))
        .routes(routes!(artifacts::prune_images))
        .routes(routes!(artifacts::name_image))
        .routes(routes!(artifacts::list_kernels))
        .routes(routes!(artifacts::available_kernels))
        .routes(routes!(artifacts::show_kernel, artifacts::delete_kernel))
        .routes(routes!(artifacts::import_kernel))
        .routes(routes!(templates::list, templates::prune))
        .routes(routes!(templates::delete))
        .routes(routes!(operations::list))
        .routes(routes!(operations::show, operations::cancel))
        .routes(routes!(operations::events))
}

/// The API as a service.
pub fn router(api: Api) -> Router {
    let (router, _document) = routes().split_for_parts();
    router.fallback(unknown).layer(middleware::from_fn_with_state(api.clone(), awake)).with_state(api)
}

/// The API's description, as checked in at `docs/openapi.json`.
#[must_use]
pub fn openapi_json() -> String {
    let (_router, mut document) = routes().split_for_parts();
    // The description versions with the API, whose version is in its paths, not with the build.
    "1".clone_into(&mut document.info.version);
    let mut json = document.to_pretty_json().expect("a description of plain types has a form in JSON");
    json.push('\n');
    json
}

/// A request is work: the daemon does not end under it. Every answer says whose it is, so that a client of another version
/// notices.
async fn awake(State(api): State<Api>, request: Request, next: Next) -> Response {
    let _busy = api.activity.begin();
    let mut response = next.run(request).await;
    response.headers_mut().insert(SERVER, HeaderValue::from_static(concat!("bangerd/", env!("CARGO_PKG_VERSION"))));
    response
}

/// A record as the body of an answer. For long ones: [`axum::Json`] writes each word of it by itself.
fn answer(record: &impl Serialize) -> Result<Response, error::Refusal> {
    let bytes = serde_json::to_vec(record).map_err(|error| caused(ErrorCode::Internal, &error))?;
    Ok(([(CONTENT_TYPE, HeaderValue::from_static("application/json"))], bytes).into_response())
}

async fn unknown(request: Request) -> error::Refusal {
    error::Refusal::bad(format!("the daemon has no {} {}", request.method(), request.uri().path()))
}

#[cfg(test)]
mod tests {
    /// Set to write the description instead of comparing it.
    const UPDATE: &str = "BANGER_UPDATE_OPENAPI";

    #[test]
    fn the_description_is_the_one_checked_in() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/openapi.json");
        let now = super::openapi_json();
        if std::env::var_os(UPDATE).is_some() {
            std::fs::write(path, &now).unwrap();
        }
        let then = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            now == then,
            "docs/openapi.json is out of date: run this test with {UPDATE}=1 and look at what changed"
        );
    }
}
