//! The daemon, a VMM or the whole machine dies, or its state is that of an hour ago: what must hold afterwards, whatever runs
//! the guests.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::guest::host::{Host, end, eventually, kill};

/// A command works again so soon after a daemon's death, the next daemon's start included.
const BACK_WITHIN: Duration = Duration::from_secs(1);
/// The same on a host so busy that the command alone takes long: so many times that.
const BACK_WITHIN_COMMANDS: u32 = 10;
/// Daemons one after the other over the same VMs.
const DAEMONS: usize = 6;

pub(crate) const CREATE: &[&str] = &["create", "--name", "web", "--wait", "agent"];

/// Puts something into the guest that is not yet on its disk. A simulated guest's files are the host's.
fn put_in(host: &Host, vm: &str) {
    if host.is_real() {
        host.ok(&["exec", vm, "--", "sh", "-c", "echo kept >/root/kept"]);
    }
}

/// What [`put_in`] put there.
#[track_caller]
fn is_in(host: &Host, vm: &str, when: &str) {
    if host.is_real() {
        assert_eq!(host.ok(&["exec", vm, "--", "cat", "/root/kept"]), "kept", "{when}");
    }
}

/// Kills the daemon at every step of `kind`, which `verb` runs on the VM `web` that `arrange` prepares.
pub(crate) fn of_the_daemon_at_every_step(host: Host, kind: &str, arrange: &[&[&str]], verb: &[&str]) {
    let prepare = || {
        host.run(&["rm", "web"]);
        for args in arrange {
            host.ok(args);
        }
        if host.guests() > 0 {
            put_in(&host, "web");
        }
    };
    prepare();
    host.ok(verb);
    let steps = host.steps_of(kind);
    assert!(steps.len() >= 2, "{kind}: {steps:?}");
    for step in &steps {
        for point in ["kill-before", "kill-after"] {
            prepare();
            let had_content = host.guests() > 0;
            let fault = format!("{kind}/{step}:{point}");
            let doomed = host.daemon_that_dies_at(&fault);
            let told = host.run(verb);
            assert_ne!(host.daemon_pid(), Some(doomed), "the daemon did not die at {fault}: {}", told.stderr);
            let running = match host.settled("web") {
                None => 0,
                Some(vm) => usize::from(vm["state"] == "running"),
            };
            eventually(&format!("as many guests run as the records say, after {fault}"), || host.guests() == running);
            if host.settled("web").is_some() {
                if running == 0 {
                    host.ok(&["start", "web", "--wait", "agent"]);
                }
                assert_eq!(host.ok(&["exec", "web", "--", "echo", "alive"]), "alive", "after {fault}");
                // Nothing that was written before a stop began is lost; a kill promises nothing.
                if had_content && kind != "vm.kill" {
                    is_in(&host, "web", &fault);
                }
                host.ok(&["rm", "web"]);
            }
            assert_eq!(host.guests(), 0, "a guest is left after {fault}");
        }
    }
    host.ends_clean();
}

/// Daemons that end and are killed under VMs that run: each of the next takes every VM over, once, and at once.
pub(crate) fn of_the_daemon_again_and_again(host: Host, vms: &[&str]) {
    for name in vms {
        host.ok(&["run", "--name", name, "-d", "--wait", "agent"]);
    }
    let pids: Vec<u32> = vms.iter().map(|name| host.vmm_pid(name)).collect();
    let adoptions = || {
        let log = std::fs::read_to_string(host.state().join("bangerd.log")).unwrap();
        log.matches("took over a running VM").count()
    };
    let before = adoptions();
    let alive = || {
        let began = Instant::now();
        assert_eq!(host.ok(&["exec", vms[0], "--", "echo", "alive"]), "alive");
        began.elapsed()
    };
    let (mut soonest, mut undisturbed) = (Duration::MAX, Duration::MAX);
    for daemon in 1..=DAEMONS {
        if daemon % 2 == 0 {
            host.ok(&["daemon", "stop"]);
            eventually("the daemon has ended", || host.daemon_pid().is_none());
        } else {
            host.kill_daemon();
        }
        soonest = soonest.min(alive());
        undisturbed = undisturbed.min(alive());
        for name in vms {
            assert_eq!(host.ok(&["exec", name, "--", "echo", name]), *name);
        }
        assert_eq!(vms.iter().map(|name| host.vmm_pid(name)).collect::<Vec<_>>(), pids, "the same machines");
        assert_eq!(host.guests(), vms.len());
        assert_eq!(adoptions() - before, daemon * vms.len(), "each VM is taken over once by each daemon");
    }
    // Others use the processor too: one of the daemons had it for itself, or they slow everything down.
    let within = BACK_WITHIN.max(undisturbed * BACK_WITHIN_COMMANDS);
    assert!(soonest < within, "a command worked again after {soonest:?} at the soonest, else after {undisturbed:?}");
    host.leaves_nothing();
}

/// A VMM that somebody kills: beside a daemon, without one, and in the middle of a start.
pub(crate) fn of_a_vmm(host: Host) {
    host.ok(CREATE);
    put_in(&host, "web");
    if host.is_real() {
        host.ok(&["exec", "web", "--", "sync"]);
    }
    // It waits for its input, which ends with the guest.
    let mut waiting = host.command(&["exec", "web", "--", "sh", "-c", "echo up; read -r x"]);
    let mut waiting = waiting.stdin(Stdio::piped()).spawn().unwrap();
    let mut first = [0; 3];
    waiting.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    assert_eq!(&first, b"up\n");
    kill(host.vmm_pid("web"), Signal::KILL);
    let told = waiting.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&told.stderr);
    assert!(told.status.code() == Some(125) && !said.is_empty(), "whoever waits for a command is told: {told:?}");
    // Whoever waits for the command may hear of the end before the VM's owner does.
    let stopped = || host.settled("web").filter(|vm| vm["state"] == "stopped");
    eventually("the VM is known to be off", || stopped().is_some());
    let vm = stopped().expect("it stays off");
    assert_eq!(vm["last_error"], "the last boot ended badly: the VMM was ended by signal 9");
    assert!(host.ok(&["logs", "--list-boots", "web"]).contains("signal 9"));
    starts_again(&host);

    let pid = host.vmm_pid("web");
    host.kill_daemon();
    end(&[pid]);
    let vm = host.show("web");
    assert_eq!((&vm["state"], &vm["boot"]["ended"]), (&"stopped".into(), &"gone while the daemon was away".into()));
    starts_again(&host);

    host.ok(&["stop", "web"]);
    if host.is_real() {
        // A machine takes a while to boot.
        let start = host.command(&["start", "web", "--wait", "agent"]).spawn().unwrap();
        let mut vmm = None;
        eventually("its VMM runs", || {
            vmm = host.vmms().first().copied();
            vmm.is_some()
        });
        kill(vmm.unwrap(), Signal::KILL);
        let told = start.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&told.stderr);
        assert!(told.status.code() == Some(1) && said.starts_with("banger: cannot start web: "), "{said}");
        assert_eq!(host.settled("web").unwrap()["state"], "stopped");
        starts_again(&host);
    }
    host.leaves_nothing();
}

/// `web`, which is off, starts and is whole, and nothing is left of what ran before.
#[track_caller]
fn starts_again(host: &Host) {
    assert_eq!(host.guests(), 0);
    eventually("nothing is left of the boot", || boots(host).is_empty());
    host.ok(&["start", "web", "--wait", "agent"]);
    assert_eq!(host.ok(&["exec", "web", "--", "echo", "alive"]), "alive");
    is_in(host, "web", "after the VMM's death");
    assert_eq!((host.guests(), boots(host).len()), (1, 1));
}

/// The directories of boots.
fn boots(host: &Host) -> BTreeSet<String> {
    let entries = std::fs::read_dir(host.home().join("run/boots")).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().into_string().unwrap()).collect()
}

/// A power cut while VMs run, and one in the middle of a start.
pub(crate) fn of_the_machine(host: Host) {
    host.ok(CREATE);
    put_in(&host, "web");
    if host.is_real() {
        host.ok(&["exec", "web", "--", "sync"]);
    }
    host.ok(&["create", "--name", "other", "--wait", "agent"]);
    host.ok(&["create", "--name", "off", "--no-start"]);
    let boot = host.show("web")["boot"]["id"].clone();
    host.lose_power();
    let names = host.ok(&["list", "--format", "name"]);
    assert_eq!(names.lines().collect::<BTreeSet<_>>(), BTreeSet::from(["off", "other", "web"]));
    for name in ["web", "other"] {
        let vm = host.show(name);
        assert_eq!((&vm["state"], &vm["boot"]["ended"]), (&"stopped".into(), &"gone while the daemon was away".into()));
    }
    assert_eq!(host.show("off")["state"], "created");
    assert_eq!((host.guests(), boots(&host).len()), (0, 0));
    for name in ["web", "other", "off"] {
        host.ok(&["start", name, "--wait", "agent"]);
        assert_eq!(host.ok(&["exec", name, "--", "echo", name]), name);
    }
    is_in(&host, "web", "after a power cut");
    assert_ne!(host.show("web")["boot"]["id"], boot, "a new boot");
    host.ok(&["stop", "web", "other", "off"]);

    let mut start = host.command(&["start", "web", "--wait", "agent"]).spawn().unwrap();
    eventually("its VMM runs", || host.guests() == 1);
    host.lose_power();
    start.wait().unwrap();
    let vm = host.settled("web").expect("it is there");
    assert_eq!(host.guests(), usize::from(vm["state"] == "running"), "{vm}");
    if vm["state"] != "running" {
        host.ok(&["start", "web", "--wait", "agent"]);
    }
    is_in(&host, "web", "after a power cut during a start");
    host.leaves_nothing();
}

/// A process of somebody else, whose number is in pid files of ours.
struct Bystander(Child);

impl Bystander {
    fn new() -> Bystander {
        let mut command = Command::new("sleep");
        Bystander(command.arg("1000").stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap())
    }

    /// Writes the pid files that a boot would have whose processes had this one's number before it.
    fn is_named_in(&self, boot_dir: &Path) {
        let pid = self.0.id();
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let start_ticks: u64 = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(19).unwrap().parse().unwrap();
        let host_boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        std::fs::create_dir_all(boot_dir).unwrap();
        for file in ["vmm.pid", "net.pid", "carrier.pid"] {
            std::fs::write(boot_dir.join(file), format!("{pid} {} {host_boot}", start_ticks - 1)).unwrap();
        }
    }

    #[track_caller]
    fn lives(&mut self) {
        assert_eq!(self.0.try_wait().unwrap(), None, "a process that is none of ours was signalled");
    }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        kill(self.0.id(), Signal::KILL);
        self.0.wait().unwrap();
    }
}

/// What comes back of an hour ago.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Back {
    /// The whole state directory.
    Everything,
    /// The database alone: the disks are today's.
    Database,
}

/// The state of an hour ago is put back, while what was started since still runs (`VMMs go on`) or after all has ended.
pub(crate) fn of_the_last_hour(host: Host, back: Back, vmms_go_on: bool) {
    for name in ["kept", "doomed", "cycled"] {
        host.ok(&["create", "--name", name, "--wait", "agent"]);
    }
    put_in(&host, "cycled");
    if host.is_real() {
        host.ok(&["exec", "cycled", "--", "sync"]);
    }
    let doomed_boot = host.show("doomed")["boot"]["id"].as_str().unwrap().to_owned();
    let kept_pid = host.vmm_pid("kept");
    let copy = host.copy_state();
    // An hour passes.
    host.ok(&["rm", "doomed"]);
    host.ok(&["restart", "cycled", "--wait", "agent"]);
    host.ok(&["create", "--name", "young", "--wait", "agent"]);
    let mut bystander = Bystander::new();
    if vmms_go_on {
        host.kill_daemon();
    } else {
        host.kill_everything();
    }
    bystander.is_named_in(&host.home().join("run/boots").join(doomed_boot));
    bystander.is_named_in(&host.home().join("run/boots/0123456789abcdef"));
    put_back(&host, &copy, back);

    // Whoever gets an answer meets nothing any more that the records do not know.
    let names = host.ok(&["list", "--format", "name"]);
    assert_eq!(names.lines().collect::<BTreeSet<_>>(), BTreeSet::from(["cycled", "doomed", "kept"]));
    assert_eq!(host.guests(), usize::from(vmms_go_on), "only a boot that is on record goes on");
    bystander.lives();
    let gone = "gone while the daemon was away";
    for name in ["doomed", "cycled"] {
        let vm = host.show(name);
        assert_eq!((&vm["state"], &vm["boot"]["ended"]), (&"stopped".into(), &gone.into()), "{name}");
    }
    if vmms_go_on {
        assert_eq!(host.vmm_pid("kept"), kept_pid);
        assert_eq!(host.ok(&["exec", "kept", "--", "echo", "alive"]), "alive");
        // It goes on with a disk that is nobody's now, and says so.
        let warnings = host.show("kept")["boot"]["warnings"].to_string();
        let is_told = warnings.contains("was replaced or removed while the VM ran");
        assert_eq!(is_told, host.is_real() && back == Back::Everything, "{warnings}");
        host.ok(&["stop", "kept"]);
    }
    eventually("the sweep has removed what no row owns", || boots(&host).is_empty() && vm_dirs(&host) <= 3);
    if back == Back::Database {
        // Its disk went with it.
        let refused = host.run(&["start", "doomed"]).code(1);
        assert!(refused.stderr.contains("cannot start doomed: the disk of doomed is missing"), "{}", refused.stderr);
        assert!(refused.stderr.contains("hint: ") && refused.stderr.contains("banger rm doomed"), "{}", refused.stderr);
        host.ok(&["rm", "doomed"]);
    } else {
        host.ok(&["start", "doomed", "--wait", "agent"]);
    }
    for name in ["kept", "cycled"] {
        host.ok(&["start", name, "--wait", "agent"]);
        assert_eq!(host.ok(&["exec", name, "--", "echo", name]), name);
    }
    is_in(&host, "cycled", "after the state of an hour ago came back");
    bystander.lives();
    host.leaves_nothing();
}

/// How many VMs have files.
fn vm_dirs(host: &Host) -> usize {
    std::fs::read_dir(host.state().join("vms")).map_or(0, Iterator::count)
}

fn put_back(host: &Host, copy: &Path, back: Back) {
    match back {
        Back::Everything => {
            std::fs::remove_dir_all(host.state()).unwrap();
            std::fs::rename(copy, host.state()).unwrap();
        }
        Back::Database => {
            for file in ["state.db", "state.db-wal"] {
                std::fs::copy(copy.join(file), host.state().join(file)).unwrap();
            }
        }
    }
}
