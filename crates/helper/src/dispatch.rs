//! One line per verb: from a request to the bytes of its answer.

use std::os::fd::OwnedFd;

use wire::helper::{Answer, Call, Failure, Request, Rule};

use crate::policy;
use crate::serve::Helper;
use crate::verbs::{jail, sweep, tap, vmm};

/// What goes back.
pub(crate) struct Outcome {
    pub(crate) packet: Vec<u8>,
    pub(crate) fd: Option<OwnedFd>,
    pub(crate) refused: Option<Failure>,
}

/// Does what is asked. [`Request::Hello`] belongs to the connection and is no verb here.
pub(crate) fn dispatch(helper: &mut Helper, request: Request, fds: Vec<OwnedFd>) -> Outcome {
    if !fds.is_empty() && !matches!(request, Request::SpawnVmm(_)) {
        return refused(Failure::Denied { rule: Rule::Descriptors });
    }
    match request {
        Request::Hello(_) => refused(Failure::Malformed),
        Request::CreateJail(wanted) => answer(&wanted, jail::create(&helper.config, &wanted)),
        Request::DestroyJail(wanted) => answer(&wanted, jail::destroy(&helper.config.run, &wanted.boot)),
        Request::SpawnVmm(wanted) => match vmm::spawn(helper, &wanted, &fds) {
            Ok((runs, pidfd)) => Outcome { fd: Some(pidfd), ..answer(&wanted, Ok(runs)) },
            Err(failure) => answer(&wanted, Err(failure)),
        },
        Request::KillVmm(wanted) => answer(&wanted, vmm::kill(&helper.config.run, &wanted.boot)),
        Request::EnsureTap(wanted) => answer(&wanted, tap::ensure(&wanted)),
        Request::DeleteTap(wanted) => answer(&wanted, tap::delete(wanted.slot)),
        Request::Sweep(wanted) => answer(&wanted, sweep::all_but(&helper.config.run, &wanted.live)),
    }
}

/// Says which build this is, and whether it could start a VMM.
pub(crate) fn welcome(helper: &Helper, hello: &wire::helper::Hello) -> Outcome {
    let build = crate::serve::build();
    if hello.build != build {
        return refused(Failure::Build { helper: build });
    }
    let config = &helper.config;
    let (state, cache, run) = (config.state.clone(), config.cache.clone(), config.run.clone());
    let (unfit, firecracker) = (policy::check_programs(config).err(), config.firecracker.clone());
    answer(hello, Ok(wire::helper::Welcome { build, unfit, state, cache, firecracker, run }))
}

/// A refusal, whatever was asked.
pub(crate) fn refused(failure: Failure) -> Outcome {
    let packet = serde_json::to_vec(&Answer::<()>::Refused(failure.clone())).unwrap_or_default();
    Outcome { packet, fd: None, refused: Some(failure) }
}

/// The type of the request says what its answer is.
fn answer<C: Call>(_: &C, result: Result<C::Reply, Failure>) -> Outcome {
    match result {
        Ok(reply) => match serde_json::to_vec(&Answer::Done(reply)) {
            Ok(packet) => Outcome { packet, fd: None, refused: None },
            Err(_) => refused(Failure::Malformed),
        },
        Err(failure) => refused(failure),
    }
}
