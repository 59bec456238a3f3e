//! The scenarios. A suite is a file; this is the whole list, in the order in which they begin.

mod crash;
mod firecracker;
mod host;
mod session;

use crate::scenario::{Class, Scenario};

/// Tag of what CI runs on every change.
const SMOKE: &[&str] = &["smoke"];
/// Tag of what boots guests of the product. CI does not decide by them: on an emulated KVM one in several boots loses its channel
/// to the agent, for a reason that is not known.
const BOOTS: &[&str] = &["boots"];

/// Every scenario there is.
pub(crate) static ALL: &[Scenario] = &[
    Scenario {
        name: "session.run",
        about: "an ordinary user runs commands in fresh VMs; the status is the command's, and nothing stays",
        tags: BOOTS,
        class: Class::Parallel(session::run),
    },
    Scenario {
        name: "host.kvm",
        about: "`banger doctor` finds hardware-backed KVM that an ordinary user may use",
        tags: SMOKE,
        class: Class::Parallel(host::kvm),
    },
    Scenario {
        name: "host.system",
        about: "systemd is up, cgroups are version 2 and delegated to the user, names are resolved by systemd-resolved",
        tags: SMOKE,
        class: Class::Parallel(host::system),
    },
    Scenario {
        name: "firecracker.bare_boot",
        about: "Firecracker alone boots the product's kernel to the first instruction of an init, as an ordinary user",
        tags: SMOKE,
        class: Class::Parallel(firecracker::bare_boot),
    },
    Scenario {
        name: "crash.daemon_killed",
        about: "SIGKILL for the daemon: the VM runs on, and the next command finds it under a new daemon",
        tags: BOOTS,
        class: Class::InOrder(&session::VM, crash::daemon_killed),
    },
    Scenario {
        name: "session.stop_start",
        about: "the same VM is stopped and started: a new boot, the old disk",
        tags: &[],
        class: Class::InOrder(&session::VM, session::stop_start),
    },
    Scenario {
        name: "session.delete",
        about: "the same VM is deleted: its VMM ends and its files are gone",
        tags: BOOTS,
        class: Class::InOrder(&session::VM, session::delete),
    },
    Scenario {
        name: "crash.vmm_killed",
        about: "SIGKILL for the VMM: the VM is told to be off, and starts again",
        tags: &[],
        class: Class::Parallel(crash::vmm_killed),
    },
    Scenario {
        name: "host.full_disk",
        about: "on a disk without a free byte a VM is stopped and deleted",
        tags: &[],
        class: Class::Alone(host::full_disk),
    },
];
