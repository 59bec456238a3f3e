//! The scenarios. A suite is a file; this is the whole list, in the order in which they begin.

mod black_box;
mod crash;
mod firecracker;
mod helper;
mod host;
mod saved;
mod session;

use crate::scenario::{Class, Scenario};

/// Tag of what CI runs on every change.
const SMOKE: &[&str] = &["smoke"];
/// Tag of what boots guests of the product. CI does not decide by them: where KVM is emulated, one in a few dozen guests stands
/// still or ends before its kernel has said anything, whatever else the host does.
const BOOTS: &[&str] = &["boots"];

/// Tag of the product's own tests, which take long here.
const BLACK_BOX: &[&str] = &["black-box"];

/// One file of the black-box tests.
macro_rules! black_box {
    ($file:literal, $about:literal) => {
        Scenario {
            name: concat!("black_box.", $file),
            about: concat!("the black-box tests on Firecracker: ", $about),
            tags: BLACK_BOX,
            class: Class::Parallel(|| black_box::run($file)),
        }
    };
}

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
        name: "saved.refused",
        about: "a snapshot of another Firecracker or another processor is refused with the reason, and nothing is lost",
        tags: BOOTS,
        class: Class::Parallel(saved::refused),
    },
    Scenario {
        name: "saved.fork_killed",
        about: "the daemon is killed around each step of a fork on Firecracker: the source goes on, forks are whole or not there",
        tags: BOOTS,
        class: Class::Parallel(saved::fork_killed),
    },
    black_box!("saved", "suspension, snapshots, and eight forks under write load, checked by sums and fsck"),
    black_box!("template", "what goes on from templates, and what boots when one is no good"),
    black_box!("run", "`banger run` on a fresh VM: output, status, signals, workspaces"),
    black_box!("lifecycle", "create, start, stop, delete; the daemon killed in between"),
    black_box!("verbs", "pause, kill, reset, grow, policies"),
    black_box!("stdio", "bytes through standard input and output"),
    black_box!("copy", "files and trees in and out"),
    black_box!("sessions", "commands that outlive the daemon"),
    black_box!("network", "closed, published and open networks"),
    black_box!("crash", "VMMs and daemons that die"),
    black_box!("idle", "VMs that stop when nobody uses them"),
    Scenario {
        name: "helper.session",
        about: "system mode: a guest under the real jailer answers an ordinary user, starts anew by itself, and leaves nothing",
        tags: BOOTS,
        class: Class::Alone(helper::session),
    },
    Scenario {
        name: "helper.survives",
        about: "system mode: the VM outlives the daemon, the helper, their restarts and SIGTERM to every process group",
        tags: BOOTS,
        class: Class::Alone(helper::survives),
    },
    Scenario {
        name: "helper.walls",
        about: "system mode: each VMM has a user id of its own, no capability, and nothing of the host that it could write",
        tags: BOOTS,
        class: Class::Alone(helper::walls),
    },
    Scenario {
        name: "helper.swept",
        about: "system mode: SIGKILL for VMM and daemon leaves no jail, interface, mount or cgroup once anybody looks",
        tags: BOOTS,
        class: Class::Alone(helper::swept),
    },
    Scenario {
        name: "helper.crashes",
        about: "system mode: the daemon dies around each step that the helper has a part in, and the start ends well or is undone",
        tags: BOOTS,
        class: Class::Alone(helper::crashes),
    },
    Scenario {
        name: "helper.saved",
        about: "system mode: a VM is suspended and resumed, brought back to a snapshot, and forked; every fork maps one file",
        tags: BOOTS,
        class: Class::Alone(helper::saved::saved),
    },
    Scenario {
        name: "helper.fork_killed",
        about: "system mode: the daemon is killed around steps of a fork: the source goes on, forks are whole or not there",
        tags: BOOTS,
        class: Class::Alone(helper::saved::fork_killed),
    },
    Scenario {
        name: "helper.template",
        about: "system mode: a template is made of a machine that leaves nothing, and VMs go on from it",
        tags: BOOTS,
        class: Class::Alone(helper::saved::template),
    },
    Scenario {
        name: "host.full_disk",
        about: "on a disk without a free byte a VM is stopped and deleted",
        tags: &[],
        class: Class::Alone(host::full_disk),
    },
];
