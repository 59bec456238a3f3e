//! The repository that `banger run PATH` takes along: looked at before there is a VM, sent while its system boots.

use std::path::Path;

use wire::api::{Inspection, PrepareWorkspace, WorkspaceSource};

use super::{Args, Attached, refused};
use crate::cmd::App;
use crate::cmd::vm::workspace::source::{self, names};
use crate::error::Failure;
use crate::interrupt::Since;
use crate::output::printable;

/// A repository, looked at.
#[derive(Debug)]
pub(super) struct Workspace {
    source: WorkspaceSource,
    pub(super) found: Inspection,
}

impl Workspace {
    /// Looks at the repository around `path`, and says what a person should know.
    ///
    /// # Errors
    /// When there is none, or it cannot travel.
    pub(super) async fn inspect(app: &App, args: &Args, path: &Path, since: Since) -> Result<Workspace, Failure> {
        let source = args.choice.source(path)?;
        let found = source::inspect(app, &source, args.dry_run, since).await?;
        source::remark(app, &found);
        Ok(Workspace { source, found })
    }

    /// Prints what would travel.
    pub(super) fn print(&self, app: &App) -> Result<(), Failure> {
        source::print(app, &self.found)
    }

    /// Tools are installed for who works in the VM, not for one command; they come from outside.
    ///
    /// # Errors
    /// When they are to be installed and the VM is closed.
    pub(super) fn check_tools(&self, args: &Args, attached: &Attached) -> Result<(), Failure> {
        let is_one_command = matches!(attached, Attached::Command(_));
        if is_one_command || args.no_bootstrap || args.machine.nat || self.found.tooling.is_empty() {
            return Ok(());
        }
        let (root, files) = (printable(&self.found.root), names(&self.found.tooling));
        let message = format!("cannot run {root}: {files} pins tools, and a closed VM cannot get them");
        Err(refused(message).hint("let it reach the outside with --nat, or leave the tools out with --no-bootstrap"))
    }

    /// Sends it into `vm`.
    ///
    /// # Errors
    /// When that fails or is cancelled.
    pub(super) async fn send(&self, app: &App, vm: &str, since: Since) -> Result<(), Failure> {
        let request = PrepareWorkspace { source: Some(self.source.clone()), guest_path: None, force: false };
        source::prepare(app, vm, &request, since).await
    }
}
