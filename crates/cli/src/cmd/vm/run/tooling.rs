//! A guest set up for its workspace once that is there: the tools it pins are installed by mise, its development container's
//! `postCreateCommand` is run. Each is a session of the guest, so that it outlives us and its output is kept. What fails is
//! warned of: a VM without its tools is of use all the same.

use wire::api::{Inspection, POST_CREATE_SESSION, TOOLING_SESSION, Vm, WORKSPACE_PATH};
use wire::attach::ExecSpec;

use super::ending::Broken;
use super::{Args, Attached};
use crate::client::path;
use crate::clock;
use crate::cmd::App;
use crate::cmd::vm::session::tooling;
use crate::cmd::vm::workspace::source::names;
use crate::error::Failure;
use crate::interrupt::Since;
use crate::table::elapsed;

/// Installs what the workspace pins: `$1` is mise, `$2` where the workspace is, the rest versions that mise's own files do
/// not name.
const INSTALL: &str = r#"exec </dev/null
mise=$1 at=$2 status=0
shift 2
cd -- "$at" || exit
export MISE_YES=1
"$mise" trust --quiet --all
echo '+ mise install'
"$mise" install || status=$?
for pin do
    echo "+ mise use -g --pin $pin"
    "$mise" use -g --pin "$pin" || status=$?
done
exit "$status""#;

/// Runs shell commands one after the other.
const COMMANDS: &str = r#"exec </dev/null
status=0
for command do
    printf '+ %s\n' "$command"
    /bin/sh -c "$command" || status=$?
done
exit "$status""#;

/// Sets up `vm` for what was `found` in its workspace. Tools are installed behind a shell's back, unless something that may
/// want them is to run before it.
///
/// # Errors
/// When a person interrupts.
pub(super) async fn set_up(
    app: &App,
    args: &Args,
    attached: &Attached,
    vm: &str,
    found: &Inspection,
    since: Since,
) -> Result<(), Broken> {
    if args.no_bootstrap {
        return Ok(());
    }
    let commands = found.container.as_ref().map_or(&[][..], |container| &container.post_create);
    if !found.tooling.is_empty() && !matches!(attached, Attached::Command(_)) {
        let waits = matches!(attached, Attached::Nothing) || !commands.is_empty();
        let what = format!("the tools of {}", names(&found.tooling));
        match install(app, args, vm, found, waits, since).await {
            Ok(Installed::InTime) => {}
            Ok(Installed::Later) => app.out.aside(&format!(
                "{what} are being installed; a new shell has them then: banger logs -f --tooling {vm}"
            )),
            Ok(Installed::NoMise) => app.out.warn(&format!(
                "{what} are not installed: there is no mise in {vm}; an image of banger image build --variant full has it"
            )),
            Ok(Installed::Not(status)) => app.out.warn(&format!(
                "{what} are not all installed: mise ended with status {status}; again: banger logs --tooling {vm}"
            )),
            Err(failure) => warn(app, &format!("install {what}"), failure)?,
        }
    }
    if !commands.is_empty() {
        let mut argv = shell(COMMANDS);
        argv.extend(commands.iter().cloned());
        match perform(app, args, vm, POST_CREATE_SESSION, "run postCreateCommand", argv, since).await {
            Ok(0) => {}
            Ok(status) => app.out.warn(&format!("postCreateCommand ended with status {status} in {vm}")),
            Err(failure) => warn(app, "run postCreateCommand", failure)?,
        }
    }
    Ok(())
}

/// Tells of a failure that keeps nobody from going on; an interrupt does.
fn warn(app: &App, act: &str, failure: Failure) -> Result<(), Broken> {
    match failure {
        Failure::Told(error) => {
            app.out.warn(&format!("cannot {act}: {}", error.message));
            Ok(())
        }
        other => Err(Broken::Remove(other)),
    }
}

/// What became of the tools.
enum Installed {
    InTime,
    Later,
    NoMise,
    /// Some were not: with this status.
    Not(u8),
}

async fn install(
    app: &App,
    args: &Args,
    vm: &str,
    found: &Inspection,
    waits: bool,
    since: Since,
) -> Result<Installed, Failure> {
    let record: Vm = app.interrupts.guard(since, app.client.get(&path("vms", vm, ""))).await?;
    let Some(mise) = record.workspace.and_then(|workspace| workspace.mise) else { return Ok(Installed::NoMise) };
    let mut argv = shell(INSTALL);
    argv.extend([mise, WORKSPACE_PATH.to_owned()]);
    argv.extend(found.pins.iter().map(|pin| format!("{}@{}", pin.tool, pin.version)));
    if !waits {
        tooling::begin(app, vm, TOOLING_SESSION, command(args, argv, "/"), since).await?;
        return Ok(Installed::Later);
    }
    let status = perform(app, args, vm, TOOLING_SESSION, "install tools", argv, since).await?;
    Ok(if status == 0 { Installed::InTime } else { Installed::Not(status) })
}

/// Runs `argv` as the session `name` to its end; its status.
async fn perform(
    app: &App,
    args: &Args,
    vm: &str,
    name: &str,
    stage: &str,
    argv: Vec<String>,
    since: Since,
) -> Result<u8, Failure> {
    // What mise does is not to be run by mise again: outside the workspace it is not.
    let cwd = if name == TOOLING_SESSION { "/" } else { WORKSPACE_PATH };
    app.out.aside(&format!("{vm}: {stage}"));
    let began = clock::now();
    tooling::begin(app, vm, name, command(args, argv, cwd), since).await?;
    let status = tooling::follow(app, vm, name).await?;
    app.out.aside(&format!("{vm}: {stage} {}", elapsed(clock::now().duration_since(began))));
    Ok(status)
}

/// A shell that runs `script` with the arguments that follow.
fn shell(script: &str) -> Vec<String> {
    ["/bin/sh", "-c", script, "banger"].map(str::to_owned).to_vec()
}

/// `argv`, by the user and with the environment that the command line gives.
fn command(args: &Args, argv: Vec<String>, cwd: &str) -> ExecSpec {
    ExecSpec { cwd: Some(cwd.to_owned()), ..args.context.spec(argv) }
}
