//! Whether a workspace in a guest is behind its repository, for whoever is about to run something in it. It is no reason
//! to wait long, and none to fail.

use std::path::Path;
use std::time::Duration;

use wire::api::WorkspaceStatus;

use super::source::count;
use crate::client::{path, within};
use crate::cmd::App;
use crate::output::printable;

/// How long a command's output may wait for it.
const PATIENCE: Duration = Duration::from_secs(1);

/// What there is to say about the workspace of `vm`; nothing when it has none, is up to date, or nobody can tell in time.
pub(crate) async fn remark(app: &App, vm: &str) -> Option<String> {
    let target = path("vms", vm, "/workspace?host_only=true");
    let status: WorkspaceStatus = within(PATIENCE, app.client.get(&target)).await?.ok()?;
    words(&status, vm)
}

fn words(status: &WorkspaceStatus, vm: &str) -> Option<String> {
    let (host, place) = (&status.host, &status.workspace.host_path);
    if Path::new(place).try_exists().is_ok_and(|there| !there) {
        return Some(format!("the repository of {vm} is gone from this host: {}", printable(place)));
    }
    if host.problem.is_some() {
        return None;
    }
    let moved = host.head_moved.then(|| "another commit".to_owned());
    let changed = (host.changes > 0).then(|| count(host.changes, "changed file"));
    let what: Vec<String> = moved.into_iter().chain(changed).collect();
    (!what.is_empty()).then(|| {
        let (place, what) = (printable(place), what.join(", "));
        format!("{place} is ahead of {vm} ({what}): banger workspace prepare {vm}, or exec --auto-prepare")
    })
}
