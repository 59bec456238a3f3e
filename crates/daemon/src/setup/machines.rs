//! What runs machines here: which VMM, and in whose jails.

use std::path::Path;
use std::sync::Arc;

use daemon::config::{ModeChoice, VmmChoice};
use daemon::doctor;
use daemon::network::user::Nics;
use daemon::vmm::VmmDriver;
use daemon::vmm::firecracker::Firecracker;
use daemon::vmm::firecracker::features::{Feature, Version};
use daemon::vmm::firecracker::jailer::Jailer;
use daemon::vmm::fleet::Fleet;
use daemon::vmm::qemu::Qemu;
use daemon::vmm::sim::Sim;

use super::{Asked, Surroundings};

/// What runs machines here.
pub(super) struct Machines {
    pub(super) vmm: Arc<dyn VmmDriver>,
    pub(super) nics: Nics,
    pub(super) words: doctor::Firecracker,
    pub(super) mode: doctor::Mode,
}

/// Chooses the VMM of new boots; the others are there for boots that an earlier daemon began with them.
pub(super) fn machines(surroundings: &Surroundings, qemu: Qemu, choice: VmmChoice, mode: ModeChoice) -> Machines {
    let unused = |why: &str| doctor::Firecracker::Unused { why: why.to_owned() };
    if surroundings.vmm == Some(Asked::Sim) {
        let vmm = Arc::new(Sim::new(surroundings.install.agent()));
        let mode = doctor::Mode::Session { why: None };
        return Machines { vmm, nics: Nics::Streams, words: unused("BANGER_VMM=sim"), mode };
    }
    let jailer = jailer(surroundings, choice, mode);
    let firecracker = Firecracker::probe(Some(&surroundings.path), surroundings.install.daemon());
    let (is_jailers, mode) = match (mode, jailer.usable()) {
        (_, Ok(_)) => (true, doctor::Mode::System),
        (ModeChoice::System, Err(why)) => (true, doctor::Mode::Refused { why }),
        (ModeChoice::Auto | ModeChoice::Session, Err(why)) => (false, doctor::Mode::Session { why: Some(why) }),
    };
    let usable = if is_jailers { jailer.usable() } else { firecracker.usable() };
    let (is_chosen, words) = match (choice, usable) {
        (VmmChoice::Qemu, _) => (false, unused("the configuration says vmm = \"qemu\"")),
        (VmmChoice::Auto, Err(why)) if !is_jailers => (false, doctor::Firecracker::Unused { why }),
        (VmmChoice::Auto, Ok((_, version))) if !is_jailers && !version.has(Feature::Acpi) => {
            (false, unused(&version.why_unasked()))
        }
        (VmmChoice::Auto | VmmChoice::Firecracker, Err(why)) => (true, doctor::Firecracker::Unusable { why }),
        (VmmChoice::Auto | VmmChoice::Firecracker, Ok((program, version))) => {
            (true, used(program, version, is_jailers))
        }
    };
    let jailer: Arc<dyn VmmDriver> = Arc::new(jailer);
    let (firecracker, qemu): (Arc<dyn VmmDriver>, Arc<dyn VmmDriver>) = (Arc::new(firecracker), Arc::new(qemu));
    let (vmm, nics) = match (is_chosen, is_jailers) {
        (true, true) => (Fleet::new(jailer, vec![firecracker, qemu]), Nics::Taps),
        (true, false) => (Fleet::new(firecracker, vec![jailer, qemu]), Nics::Taps),
        (false, _) => (Fleet::new(qemu, vec![firecracker, jailer]), Nics::Streams),
    };
    Machines { vmm: Arc::new(vmm), nics, words, mode }
}

/// The driver of jails that the helper makes; it is asked only where it could be used.
fn jailer(surroundings: &Surroundings, choice: VmmChoice, mode: ModeChoice) -> Jailer {
    let socket = Path::new(wire::naming::HELPER_SOCKET);
    match (mode, choice) {
        (ModeChoice::Session, _) => Jailer::unused(socket, "the configuration says mode = \"session\"".to_owned()),
        (_, VmmChoice::Qemu) => Jailer::unused(socket, "QEMU runs without the helper".to_owned()),
        (ModeChoice::Auto | ModeChoice::System, VmmChoice::Auto | VmmChoice::Firecracker) => {
            Jailer::probe(socket, &surroundings.dirs.state, &surroundings.dirs.cache)
        }
    }
}

fn used(program: &Path, version: Version, is_jailers: bool) -> doctor::Firecracker {
    let news = version.lacks().into_iter().map(|feature| (feature.since().to_string(), feature.brings())).collect();
    let jail = if is_jailers { "under its jailer" } else { "in a jail without root" };
    doctor::Firecracker::Used { program: program.to_path_buf(), version: version.to_string(), news, jail }
}
