//! Completion of names as they are at this moment. The daemon is asked, never started, and given little time: without an
//! answer there is nothing to offer, and no files instead.

use std::ffi::OsString;
use std::time::Duration;

use clap_complete::engine::{ArgValueCandidates, CompletionCandidate};
use clap_complete::env::CompleteEnv;
use serde::de::DeserializeOwned;
use wire::api::{BASE, ImageList, KernelList, KillSignal, OperationList, STATES, VmList};

use crate::client::{Client, within};
use crate::cmd::runtime;
use crate::daemon::{Daemon, Start};
use crate::settings::Settings;

/// The variable by which a completion script calls back.
pub(crate) const VARIABLE: &str = "BANGER_COMPLETE";

/// How long a shell may be kept waiting for names.
const PATIENCE: Duration = Duration::from_millis(500);

/// Answers a completion script's call: the exit status, or none when this is an ordinary run.
pub(crate) fn answer(arguments: &[OsString]) -> Option<u8> {
    let directory = std::env::current_dir().ok();
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

fn candidate(name: &str, about: String) -> CompletionCandidate {
    CompletionCandidate::new(name).help(Some(about.into()))
}

fn ask<T: DeserializeOwned>(kind: &str) -> Option<T> {
    let client = Client::new(Daemon::of(&Settings::read(), Start::Never).ok()?);
    let path = format!("{BASE}/{kind}");
    runtime().ok()?.block_on(within(PATIENCE, client.get(&path)))?.ok()
}
