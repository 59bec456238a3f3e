//! Completion of names as they are at this moment. The daemon is asked, never started, and given little time: without an
//! answer there is nothing to offer, and no files instead.

use std::ffi::{OsStr, OsString};
use std::sync::OnceLock;
use std::time::Duration;

use clap_complete::engine::{
    ArgValueCandidates, ArgValueCompleter, CompletionCandidate, PathCompleter, ValueCompleter,
};
use clap_complete::env::CompleteEnv;
use serde::de::DeserializeOwned;
use wire::agent::session::is_session_name;
use wire::api::{
    BASE, ImageList, KernelList, KillSignal, OperationList, RestartPolicy, STATES, SessionList, SnapshotList, VmList,
    WorkspaceMode,
};

use crate::client::{Client, encode, within};
use crate::cmd::runtime;
use crate::daemon::{Daemon, Start};
use crate::output::printable;
use crate::settings::Settings;

/// The variable by which a completion script calls back.
pub(crate) const VARIABLE: &str = "BANGER_COMPLETE";

/// How long a shell may be kept waiting for names.
const PATIENCE: Duration = Duration::from_millis(500);

/// The command line that is being completed, for candidates that depend on another word of it.
static WORDS: OnceLock<Vec<String>> = OnceLock::new();

/// Answers a completion script's call: the exit status, or none when this is an ordinary run.
pub(crate) fn answer(arguments: &[OsString]) -> Option<u8> {
    let directory = std::env::current_dir().ok();
    WORDS.get_or_init(|| arguments.iter().map(|word| word.to_string_lossy().into_owned()).collect());
    let completed = CompleteEnv::with_factory(crate::command)
        .var(VARIABLE)
        .try_complete(arguments.iter().cloned(), directory.as_deref());
    match completed {
        Ok(false) => None,
        Ok(true) => Some(0),
        Err(_) => Some(1),
    }
}

/// Names of VMs.
pub(crate) fn vms() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        let vms = ask::<VmList>("vms").map_or_else(Vec::new, |list| list.vms);
        vms.into_iter().map(|vm| candidate(vm.name.as_str(), vm.image)).collect()
    })
}

/// States of VMs: no daemon is needed to know them.
pub(crate) fn states() -> ArgValueCandidates {
    ArgValueCandidates::new(|| STATES.iter().map(|(name, _)| CompletionCandidate::new(name)).collect())
}

/// Signals of `banger kill`.
pub(crate) fn signals() -> ArgValueCandidates {
    ArgValueCandidates::new(|| KillSignal::ALL.iter().map(|(name, _)| CompletionCandidate::new(name)).collect())
}

/// When a VM is started again.
pub(crate) fn restarts() -> ArgValueCandidates {
    ArgValueCandidates::new(|| RestartPolicy::ALL.iter().map(|(name, _)| CompletionCandidate::new(name)).collect())
}

/// What of a repository goes into a guest.
pub(crate) fn modes() -> ArgValueCandidates {
    ArgValueCandidates::new(|| WorkspaceMode::ALL.iter().map(|(name, _)| CompletionCandidate::new(name)).collect())
}

/// Paths of this host, and names of VMs with the colon behind which a path in them is typed.
pub(crate) fn vm_paths() -> ArgValueCompleter {
    ArgValueCompleter::new(|typed: &OsStr| {
        let mut candidates = PathCompleter::any().complete(typed);
        let typed = typed.to_string_lossy();
        if !typed.contains([':', '/']) {
            let vms = ask::<VmList>("vms").map_or_else(Vec::new, |list| list.vms);
            let fitting = vms.into_iter().filter(|vm| vm.name.as_str().starts_with(&*typed));
            candidates.extend(fitting.map(|vm| candidate(&format!("{}:", vm.name), vm.image)));
        }
        candidates
    })
}

/// Names of images.
pub(crate) fn images() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        let images = ask::<ImageList>("images").map_or_else(Vec::new, |list| list.images);
        images.into_iter().map(|image| candidate(&image.name, image.source)).collect()
    })
}

/// Names of kernels.
pub(crate) fn kernels() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        let kernels = ask::<KernelList>("kernels").map_or_else(Vec::new, |list| list.kernels);
        kernels.into_iter().map(|kernel| candidate(&kernel.name, kernel.release)).collect()
    })
}

/// Ids of operations.
pub(crate) fn operations() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        let operations = ask::<OperationList>("operations").map_or_else(Vec::new, |list| list.operations);
        operations.into_iter().map(|op| candidate(op.id.as_str(), format!("{} {}", op.kind, op.subject))).collect()
    })
}

/// Names of sessions of the VM that was named before them.
pub(crate) fn sessions() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        let Some(vm) = WORDS.get().and_then(|words| vm_of(words)) else { return Vec::new() };
        let sessions = ask::<SessionList>(&format!("vms/{}/sessions", encode(vm)));
        let sessions = sessions.map_or_else(Vec::new, |list| list.sessions);
        // A guest made them up, and a shell will read them.
        let sessions = sessions.into_iter().filter(|session| is_session_name(&session.name));
        sessions.map(|session| candidate(&session.name, printable(&session.command))).collect()
    })
}

/// Names of snapshots of the VM that was named before them.
pub(crate) fn snapshots() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        let Some(vm) = WORDS.get().and_then(|words| vm_of(words)) else { return Vec::new() };
        let list = ask::<SnapshotList>(&format!("vms/{}/snapshots", encode(vm)));
        let snapshots = list.map_or_else(Vec::new, |list| list.snapshots);
        snapshots.into_iter().map(|one| candidate(&one.name, wire::size::human(one.bytes))).collect()
    })
}

/// The VM in a command line about sessions or snapshots: the first word behind the verb that is neither an option nor its value.
fn vm_of(words: &[String]) -> Option<&str> {
    const WITH_VALUE: [&str; 9] =
        ["--tail", "-n", "--detach-keys", "--format", "--timeout", "-t", "--signal", "-s", "--name"];
    let noun =
        words.iter().position(|word| ["session", "sessions", "snapshot", "snapshots"].contains(&word.as_str()))?;
    let mut rest = words.iter().skip(noun + 2);
    while let Some(word) = rest.next() {
        if WITH_VALUE.contains(&word.as_str()) {
            rest.next();
        } else if !word.starts_with('-') {
            return Some(word);
        }
    }
    None
}

fn candidate(name: &str, about: String) -> CompletionCandidate {
    CompletionCandidate::new(name).help(Some(about.into()))
}

fn ask<T: DeserializeOwned>(kind: &str) -> Option<T> {
    let client = Client::new(Daemon::of(&Settings::read(), Start::Never).ok()?);
    let path = format!("{BASE}/{kind}");
    runtime().ok()?.block_on(within(PATIENCE, client.get(&path)))?.ok()
}
