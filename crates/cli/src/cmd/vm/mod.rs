//! Verbs about VMs, one file each; here are the options several of them share.

use wire::api::{BASE, CreateVm, ErrorCode, Publish, Ready, RestartPolicy, StartVm, Vm, VmList, VmState, Wait, WaitVm};
use wire::naming::VmName;

use crate::client::path;
use crate::cmd::App;
use crate::cmd::each::Thing;
use crate::complete;
use crate::error::Failure;
use crate::interrupt::Since;
use crate::operation;
use crate::output::printable;
use crate::values;

pub(crate) mod attached;
pub(crate) mod commit;
pub(crate) mod cp;
pub(crate) mod create;
pub(crate) mod defaults;
pub(crate) mod delete;
pub(crate) mod diff;
pub(crate) mod exec;
pub(crate) mod fork;
pub(crate) mod kill;
pub(crate) mod list;
pub(crate) mod logs;
pub(crate) mod pause;
pub(crate) mod ports;
pub(crate) mod prune;
pub(crate) mod rename;
pub(crate) mod reset;
pub(crate) mod restart;
pub(crate) mod run;
pub(crate) mod session;
pub(crate) mod set;
pub(crate) mod show;
pub(crate) mod snapshot;
pub(crate) mod start;
pub(crate) mod stats;
pub(crate) mod stop;
pub(crate) mod wait;
pub(crate) mod workspace;

/// Below `banger vm --help`.
pub(crate) const EXAMPLES: &str = "\
Most of the time:
  banger vm run . -- make test        this repository in a new VM, and a command

Examples:
  banger vm run --name web -d         a VM that stays, nothing attached
  banger vm exec -it web              a shell in it
  banger vm exec web -- hostname      one command in it
  banger vm stop web                  off; its disk stays
  banger vm start web                 on again
  banger vm exec -d web -- CMD        a command that goes on without you
  banger vm session list web          those that do
  banger vm cp web:/root/x .          a file out of it
  banger vm workspace export web      what was done in its repository, as a patch
  banger vm logs -f web               its console, as it goes on
  banger vm delete web                gone, with its disk";

/// What a new VM is like.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "The new VM")]
pub(crate) struct Machine {
    /// Its name: a-z, 0-9 and -; a generated one when left out
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<VmName>,
    /// The image it is made of, instead of the default one: one that is here, or any of a registry (alpine)
    #[arg(long, value_name = "IMAGE", value_parser = values::reference, add = complete::images())]
    pub(crate) image: Option<String>,
    /// Pull the image: missing (when it is not here), always (when it changed), never
    #[arg(
        long,
        value_enum,
        value_name = "WHEN",
        default_value_t,
        hide_default_value = true,
        hide_possible_values = true
    )]
    pub(crate) pull: Pull,
    /// The kernel it boots, instead of the default one
    #[arg(long, value_name = "KERNEL", value_parser = values::reference, add = complete::kernels())]
    pub(crate) kernel: Option<String>,
    /// Virtual processors
    #[arg(long, value_name = "N", value_parser = values::vcpus)]
    pub(crate) vcpu: Option<u16>,
    /// Memory: 2G, 512M; a bare number counts MiB
    #[arg(short, long, value_name = "SIZE", value_parser = values::memory_mib)]
    pub(crate) memory: Option<u64>,
    /// Disk: 8G; takes room on the host as it fills
    #[arg(long, value_name = "SIZE", value_parser = values::disk_bytes)]
    pub(crate) disk_size: Option<u64>,
    /// Let it reach the outside; closed otherwise
    #[arg(long)]
    pub(crate) nat: bool,
    /// Lead a port of this host's 127.0.0.1 into it; may be repeated
    #[arg(short, long, value_name = "HOST:GUEST", value_parser = values::publish)]
    pub(crate) publish: Vec<Publish>,
    /// Stop it once nobody has used it for so long: 30m, 2h; off: never
    #[arg(long, value_name = "TIME", value_parser = values::stop_after_ms)]
    pub(crate) stop_after: Option<u64>,
    /// Start it again after a reboot of this host or a crash: always, on-failure (a crash only), no
    #[arg(long, value_name = "WHEN", value_parser = values::restart, add = complete::restarts(), default_value = "no", hide_default_value = true)]
    pub(crate) restart: RestartPolicy,
}

impl Machine {
    /// `failure`, said to have happened while this VM was being created.
    pub(crate) fn not_created(&self, failure: Failure) -> Failure {
        let name = self.name.as_ref().map_or("a VM", |name| name.as_str());
        failure.during(&format!("create {name}"), name)
    }

    /// As the API wants it.
    pub(crate) fn request(&self, start: bool) -> CreateVm {
        CreateVm {
            name: self.name.clone(),
            image: self.image.clone(),
            kernel: self.kernel.clone(),
            vcpus: self.vcpu,
            memory_mib: self.memory,
            disk_bytes: self.disk_size,
            nat: self.nat,
            publish: self.publish.clone(),
            stop_after_ms: self.stop_after,
            restart: self.restart,
            start,
        }
    }
}

/// When an image is pulled. (Comments on the variants are no docs: `--help` would show them.)
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum Pull {
    // When it is not here.
    #[default]
    Missing,
    // Each time: only what changed is fetched.
    Always,
    // Never: it must be here.
    Never,
}

/// How ready is ready, on the command line. (Comments on the variants are no docs: `--help` would show them.)
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum Level {
    // The earliest moment a command can run.
    Agent,
    // The guest says that it finished booting.
    #[default]
    System,
    // SSH answers.
    Ssh,
}

impl Level {
    fn wire(self) -> Wait {
        match self {
            Level::Agent => Wait::Agent,
            Level::System => Wait::System,
            Level::Ssh => Wait::Ssh,
        }
    }

    /// What is waited for, for progress.
    fn stage(self) -> &'static str {
        match self {
            Level::Agent => "wait for the agent",
            Level::System => "wait until the system is up",
            Level::Ssh => "wait for ssh",
        }
    }
}

/// Waits until `vm` is ready to `level`, and warns of what failed on the way.
///
/// # Errors
/// When it is not reached in time, or a person interrupts.
pub(crate) async fn wait_until_ready(
    app: &App,
    vm: &str,
    level: Level,
    timeout_ms: Option<u64>,
    since: Since,
) -> Result<Ready, Failure> {
    let mut track = app.progress.track(vm);
    track.stage(level.stage());
    let target = path("vms", vm, "/wait");
    let request = WaitVm { level: level.wire(), timeout_ms };
    let asked = track.during(app.client.send::<_, Ready>(&target, &request));
    let ready =
        app.interrupts.guard(since, asked).await.map_err(|failure| failure.during(&format!("wait for {vm}"), vm))?;
    if !ready.failed_units.is_empty() {
        let units: Vec<String> = ready.failed_units.iter().map(|unit| printable(unit)).collect();
        track.warn(&format!("booted, but {} failed: see banger exec {vm} -- systemctl status", units.join(", ")));
    }
    if let Some(note) = &ready.note {
        app.out.aside(&format!("{vm}: {note}"));
    }
    track.finish();
    Ok(ready)
}

/// Starts `vm` when it is off.
///
/// # Errors
/// When it cannot be started.
pub(crate) async fn started(app: &App, vm: &str, since: Since) -> Result<(), Failure> {
    let seen: Vm = app.interrupts.guard(since, app.client.get(&path("vms", vm, ""))).await?;
    if is_off(&seen) {
        let target = path("vms", seen.id.as_str(), "/start");
        operation::perform(app, seen.name.as_str(), since, app.client.send(&target, &StartVm {})).await?;
        app.out.aside(&format!("started {}", seen.name));
    }
    Ok(())
}

/// `failure`, with `--start` as the way out when it is that `vm` is off.
pub(crate) async fn offer_start(app: &App, failure: Failure, vm: &str, since: Since) -> Failure {
    let Failure::Told(error) = failure else { return failure };
    if error.code != ErrorCode::WrongState {
        return Failure::Told(error);
    }
    match app.interrupts.guard(since, app.client.get::<Vm>(&path("vms", vm, ""))).await {
        Ok(seen) if is_off(&seen) => {
            Failure::Told(Box::new(error.with_hint(format!("add --start, or start it: banger start {}", seen.name))))
        }
        // One that is paused, say, has another way out and says so itself.
        _ => Failure::Told(error),
    }
}

fn is_off(vm: &Vm) -> bool {
    matches!(vm.state, VmState::Created | VmState::Stopped | VmState::Suspended)
}

/// All VMs, as they are.
pub(crate) async fn list_all(app: &App) -> Result<Vec<Vm>, Failure> {
    let list: VmList = app.interrupts.guard(app.interrupts.start(), app.client.get(&format!("{BASE}/vms"))).await?;
    Ok(list.vms)
}

/// All VMs, to be referred to.
pub(crate) async fn things(app: &App) -> Result<Vec<Thing>, Failure> {
    let named = |vm: Vm| Thing { id: vm.id.to_string(), name: vm.name.to_string() };
    Ok(list_all(app).await?.into_iter().map(named).collect())
}

/// One VM's page for people and its name.
pub(crate) fn print_one(app: &App, vm: &Vm) -> Result<(), Failure> {
    app.out.record(vm, show::render, |vm| format!("{}\n", vm.name))
}
