//! How `banger run` leaves things: a VM that did not get as far as its command, one that is to go, one that stays.

use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

use wire::api::{Begun, ErrorCode, ExportFormat, ExportQuery, Vm, VmState, WorkspaceStatus};

use crate::client::{path, within};
use crate::clock;
use crate::cmd::App;
use crate::cmd::vm::attached::Terminal;
use crate::cmd::vm::defaults::TIDY_TIMEOUT;
use crate::cmd::vm::workspace::export::{self, To};
use crate::cmd::vm::workspace::source::count;
use crate::error::{Failure, Io};
use crate::interrupt::Since;
use crate::keep::NewFile;
use crate::operation::{self, OnInterrupt};

/// A VM on its way: what becomes of it if the rest fails.
pub(super) enum Broken {
    /// It is not what was asked for.
    Remove(Failure),
    /// Somebody will want to look at it.
    Keep(Failure),
}

impl Broken {
    /// A workspace that did not arrive: a guest that does not answer is one to be looked at.
    pub(super) fn of_workspace(failure: Failure) -> Broken {
        match failure.code() {
            Some(ErrorCode::Timeout | ErrorCode::GuestUnreachable) => Broken::Keep(failure),
            _ => Broken::Remove(failure),
        }
    }
}

/// How a command's VM ends.
#[derive(Debug, Clone, Copy)]
pub(super) struct End {
    /// It goes.
    pub(super) removes: bool,
    /// So do changes in its workspace.
    pub(super) discards: bool,
    /// It has one.
    pub(super) has_workspace: bool,
}

/// What becomes of a VM that did not get as far as its command.
pub(super) async fn give_up(app: &App, vm: &str, broken: Broken) -> Failure {
    let failure = match broken {
        Broken::Remove(failure) => failure,
        Broken::Keep(failure) => {
            return failure
                .hint(format!("{vm} is kept: banger logs {vm} shows its console, banger delete {vm} removes it"));
        }
    };
    // Nothing was done in it yet.
    match delete(app, vm, true).await {
        Ok(()) => {
            app.out.note(&format!("{vm} is deleted again"));
            failure
        }
        Err(Failure::Told(error)) => {
            app.out.tell(&error);
            failure
        }
        Err(_) => failure,
    }
}

/// Deletes `vm` after its command, once the changes in its workspace are safe here.
///
/// # Errors
/// When that cannot be made safe, and the VM is kept for it; when the VM cannot be deleted.
pub(super) async fn remove(app: &App, vm: &str, end: End) -> Result<(), Failure> {
    if end.has_workspace && !end.discards {
        let since = app.interrupts.now();
        return match app.interrupts.guard_twice(since, save(app, vm, since)).await {
            Ok(Work::Safe) => delete(app, vm, true).await,
            Ok(Work::Unknown) => {
                delete(app, vm, false).await.map_err(|failure| failure.during(&format!("delete {vm}"), vm))
            }
            Err(failure) => Err(kept(app, vm, failure)),
        };
    }
    delete(app, vm, end.has_workspace).await
}

/// What is known of the work in a VM.
enum Work {
    /// There is none, or all of it is here.
    Safe,
    /// Its guest does not tell; the daemon may know how it was left.
    Unknown,
}

/// Why a VM is kept that was to go, and what can be done about it.
fn kept(app: &App, vm: &str, failure: Failure) -> Failure {
    let how = format!(
        "it is kept; look at it with: banger workspace status {vm}\nbring it back with: banger workspace export {vm}\ndrop it with: banger delete --discard {vm}"
    );
    match failure {
        Failure::Told(mut error) => {
            error.message = format!("cannot delete {vm}, as its work is not safe here: {}", error.message);
            error.hint = Some(error.hint.map_or_else(|| how.clone(), |hint| format!("{hint}\n{how}")));
            Failure::Told(error)
        }
        other => {
            app.out.warn(&format!("{vm} is kept, as its work is not safe: banger workspace export {vm}"));
            other
        }
    }
}

/// Exports the changes in the workspace of `vm` that never were to a file of this user's, and says where.
async fn save(app: &App, vm: &str, since: Since) -> Result<Work, Failure> {
    let mut track = app.progress.track(vm);
    track.stage("look at the workspace");
    let status: Result<WorkspaceStatus, Failure> = track.during(app.client.get(&path("vms", vm, "/workspace"))).await;
    track.finish();
    let status = match status {
        Err(failure) if failure.code() == Some(ErrorCode::NotFound) => return Ok(Work::Unknown),
        status => status?,
    };
    let Some(guest) = status.guest.filter(|guest| guest.problem.is_none()) else { return Ok(Work::Unknown) };
    if guest.changes == 0 || guest.exported {
        return Ok(Work::Safe);
    }
    let place = place(app, vm)?;
    let mut file = NewFile::private(&place)?;
    let base_commit = status.workspace.base_commit.clone();
    let query = ExportQuery { format: ExportFormat::Patch, base_commit, guest_path: None };
    let brought = export::stream(app, vm, &query, To::File, since, |bytes| file.write(bytes)).await?;
    if brought.bytes > 0 {
        file.keep()?;
        let files = count(brought.exported.files.unwrap_or(guest.changes), "changed file");
        app.out.warn(&format!("{files} in {vm} never exported; saved as {}", place.display()));
    }
    match brought.exported.fingerprint {
        Some(_) => Ok(Work::Safe),
        None => Err(Failure::new(ErrorCode::OperationFailed, "not all of its changes can be in a patch")),
    }
}

/// Where its patch goes.
fn place(app: &App, vm: &str) -> Result<PathBuf, Failure> {
    let directory = app.client.daemon().state().join("exports");
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory);
    made.map_err(|error| {
        let message = format!("cannot make the directory {}: {}", directory.display(), Io(error));
        Failure::new(ErrorCode::OperationFailed, message)
    })?;
    Ok(directory.join(format!("{vm}-{}.patch", clock::stamp(clock::unix_ms()))))
}

/// Deletes `vm` with a deadline of its own, and the changes in its workspace with it where it `discards`; Ctrl-C does not
/// reach it, a second one gives up waiting.
pub(super) async fn delete(app: &App, vm: &str, discards: bool) -> Result<(), Failure> {
    let since = app.interrupts.now();
    let mut track = app.progress.track(vm);
    track.stage("delete");
    let deleted = async {
        let begun: Begun = app.client.delete(&path("vms", vm, if discards { "?discard=true" } else { "" })).await?;
        operation::follow(app, &begun.operation, &mut track, since, OnInterrupt::Ignore).await.map(drop)
    };
    let deleted = app.interrupts.guard_twice(since, deleted);
    let left = || format!("delete it with: banger delete {vm}");
    match within(TIDY_TIMEOUT, deleted).await {
        Some(Ok(())) => {
            track.finish();
            Ok(())
        }
        Some(Err(failure)) if failure.code() == Some(ErrorCode::NotFound) => Ok(()),
        Some(Err(failure)) => Err(failure.hint(left())),
        None => {
            let message = format!("cannot delete {vm}: it took more than {} s", TIDY_TIMEOUT.as_secs());
            Err(Failure::new(ErrorCode::Timeout, message).hint(left()))
        }
    }
}

/// Says that `vm` still runs; after a shell in it, when it does.
pub(super) async fn remind(app: &App, vm: &str, terminal: Terminal) {
    if terminal == Terminal::Own && !app.out.quiet {
        // Who cannot be asked is believed to run: the reminder does no harm.
        let asked = within(TIDY_TIMEOUT, app.client.get::<Vm>(&path("vms", vm, ""))).await;
        match asked {
            Some(Ok(record)) if matches!(record.state, VmState::Created | VmState::Stopped | VmState::Stopping) => {
                app.out.aside(&format!("{vm} is off; on again: banger start {vm}, gone: banger delete {vm}"));
                return;
            }
            Some(Err(failure)) if failure.code() == Some(ErrorCode::NotFound) => return,
            _ => {}
        }
    }
    say_how_to_go_on(app, vm);
}

/// Says how to come back to `vm`, and how to be rid of it.
pub(super) fn say_how_to_go_on(app: &App, vm: &str) {
    app.out.aside(&format!("{vm} is still running; a shell in it: banger exec -it {vm}"));
    app.out.aside(&format!("off: banger stop {vm}, gone: banger delete {vm}"));
}
