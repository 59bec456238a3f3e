//! `banger set`: changes what VMs have.

use wire::api::{Publish, RestartPolicy, SetVm};

use crate::args::Act;
use crate::client::path;
use crate::cmd::App;
use crate::cmd::each;
use crate::cmd::vm::things;
use crate::complete;
use crate::error::Failure;
use crate::values;

const EXAMPLES: &str = "\
Examples:
  banger set web --disk-size 20G        at once, also while it runs
  banger stop web && banger set web --vcpu 4 --memory 4G && banger start web
  banger set web --nat -p 8080:80 -p 2222:22
  banger set web --no-nat --no-publish
  banger set web --stop-after 30m       at once, also while it runs; off again: off
  banger set web --restart always";

/// Which ones, and what.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, override_usage = "banger set [OPTIONS] <VM>...")]
pub(crate) struct Args {
    /// VMs, by name or id
    #[arg(required = true, value_name = "VM", value_parser = values::reference, add = complete::vms())]
    vms: Vec<String>,
    #[command(flatten)]
    change: Change,
    #[command(flatten)]
    pub(crate) act: Act,
}

/// What is to be otherwise.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = true)]
struct Change {
    /// Virtual processors
    #[arg(long, value_name = "N", value_parser = values::vcpus)]
    vcpu: Option<u16>,
    /// Memory: 2G, 512M; a bare number counts MiB
    #[arg(short, long, value_name = "SIZE", value_parser = values::memory_mib)]
    memory: Option<u64>,
    /// Disk: 20G; it only grows, also while the VM runs
    #[arg(long, value_name = "SIZE", value_parser = values::disk_bytes)]
    disk_size: Option<u64>,
    /// Let it reach the outside
    #[arg(long)]
    nat: bool,
    /// Close it
    #[arg(long, conflicts_with = "nat")]
    no_nat: bool,
    /// Lead a port of this host's 127.0.0.1 into it, instead of those that do; may be repeated
    #[arg(short, long, value_name = "HOST:GUEST", value_parser = values::publish)]
    publish: Vec<Publish>,
    /// Lead none into it
    #[arg(long, conflicts_with = "publish")]
    no_publish: bool,
    /// Stop it once nobody has used it for so long: 30m, 2h; off: never
    #[arg(long, value_name = "TIME", value_parser = values::stop_after_ms)]
    stop_after: Option<u64>,
    /// Start it again after a reboot of this host or a crash: always, on-failure (a crash only), no
    #[arg(long, value_name = "WHEN", value_parser = values::restart, add = complete::restarts())]
    restart: Option<RestartPolicy>,
}

impl Change {
    fn request(&self) -> SetVm {
        SetVm {
            vcpus: self.vcpu,
            memory_mib: self.memory,
            disk_bytes: self.disk_size,
            nat: (self.nat || self.no_nat).then_some(self.nat),
            publish: (self.no_publish || !self.publish.is_empty()).then(|| self.publish.clone()),
            stop_after_ms: self.stop_after,
            restart: self.restart,
        }
    }
}

/// Changes them, all at the same time.
pub(crate) async fn run(app: &App, args: Args) -> Result<u8, Failure> {
    let things = things(app).await?;
    let request = args.change.request();
    each::act(app, "change", "VM", things, &args.vms, async |vm| {
        let target = path("vms", &vm.id, "/set");
        each::operate(app, &vm, app.client.send(&target, &request)).await
    })
    .await
}
