//! The sessions in which a guest is set up for its workspace: started and followed by `banger run`, printed by
//! `banger logs --tooling`.

use wire::api::{AttachSession, ErrorCode, POST_CREATE_SESSION, Session, SessionList, StartSession, TOOLING_SESSION};
use wire::attach::{Ended, ExecSpec};

use super::attach::{Watched, ended, watch};
use super::{One, logs};
use crate::attach::{Ending, Escape};
use crate::client::path;
use crate::cmd::App;
use crate::cmd::vm::logs::escaped;
use crate::error::Failure;
use crate::interrupt::Since;
use crate::output::{self, Outlet};

/// Starts `command` in `vm` as the session `name`.
///
/// # Errors
/// When it does not run, or a person interrupts.
pub(crate) async fn begin(app: &App, vm: &str, name: &str, command: ExecSpec, since: Since) -> Result<(), Failure> {
    let request = StartSession { name: Some(name.to_owned()), command };
    let target = path("vms", vm, "/sessions");
    app.interrupts.guard(since, app.client.send::<_, Session>(&target, &request)).await.map(drop)
}

/// Shows on standard error what the session prints, unless quiet, until it ends; its status.
///
/// # Errors
/// When it cannot be followed, or a person interrupts.
pub(crate) async fn follow(app: &App, vm: &str, name: &str) -> Result<u8, Failure> {
    let one = One { vm: vm.to_owned(), session: name.to_owned() };
    let request = AttachSession { stdin: false, follow: true, tail: None, terminal: None };
    let escape: Option<Escape> = output::stderr_is_terminal().then_some(escaped);
    let outlet = if app.out.quiet { Outlet::None } else { Outlet::Error };
    match watch(app, &one, &request, Watched { keys: None, outlet, escape, is_typed: false }).await? {
        Ending::Told(Ended::Exited { status }) => Ok(status.shell_code()),
        other => ended(&one, other),
    }
}

/// Prints what these sessions of `vm` printed, one after the other.
///
/// # Errors
/// When there are none, or the guest does not answer.
pub(crate) async fn print(app: &App, vm: &str, follow: bool, raw: bool) -> Result<u8, Failure> {
    let target = path("vms", vm, "/sessions");
    let list: SessionList = app.interrupts.guard(app.interrupts.start(), app.client.get(&target)).await?;
    let is_there = |name: &&str| list.sessions.iter().any(|session| session.name == **name);
    let names: Vec<&str> = [TOOLING_SESSION, POST_CREATE_SESSION].into_iter().filter(is_there).collect();
    if names.is_empty() {
        let failure =
            Failure::new(ErrorCode::NotFound, format!("no tools were installed in {vm} since it was started"));
        return Err(failure.hint("banger run PATH --nat installs those that .mise.toml or .tool-versions pin"));
    }
    for name in names {
        logs::print(app, &One { vm: vm.to_owned(), session: name.to_owned() }, follow, None, raw).await?;
    }
    Ok(0)
}
