//! `banger list`: which VMs there are.

use wire::api::{Vm, VmList, VmState};
use wire::size::human;

use crate::args::Records;
use crate::clock;
use crate::cmd::App;
use crate::cmd::vm::list_all;
use crate::error::Failure;
use crate::table::{age, table_without_empty};

/// Digits of an id in a table.
const SHORT_ID_LEN: usize = 8;

/// Columns that are there even when empty.
const ALWAYS: usize = 8;

const EXAMPLES: &str = "\
Examples:
  banger list
  banger ps -q                          ids, for other commands
  banger list --format json | jq -r '.vms[].name'";

/// How to print them.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) records: Records,
}

/// Prints them.
pub(crate) async fn run(app: &App, args: Args) -> Result<u8, Failure> {
    let list = VmList { vms: list_all(app).await? };
    if args.records.quiet {
        app.out.text(&list.vms.iter().map(|vm| format!("{}\n", vm.id)).collect::<String>())?;
        return Ok(0);
    }
    let names = |list: &VmList| list.vms.iter().map(|vm| format!("{}\n", vm.name)).collect();
    app.out.record(&list, |list| render(&list.vms, clock::unix_ms()), names)?;
    Ok(0)
}

/// A VM's state in one word.
pub(crate) fn state(state: VmState) -> &'static str {
    match state {
        VmState::Creating => "creating",
        VmState::Created => "created",
        VmState::Starting => "starting",
        VmState::Running => "running",
        VmState::Stopping => "stopping",
        VmState::Stopped => "stopped",
        VmState::Deleting => "deleting",
    }
}

/// A VM's published ports.
pub(crate) fn ports(vm: &Vm) -> String {
    vm.publish.iter().map(|port| format!("{}:{}", port.host_port, port.guest_port)).collect::<Vec<_>>().join(",")
}

fn render(vms: &[Vm], now_ms: u64) -> String {
    let header = ["ID", "NAME", "STATE", "IMAGE", "VCPU", "MEM", "DISK", "CREATED", "PORTS", "WORKSPACE"];
    let row = |vm: &Vm| {
        vec![
            vm.id.as_str()[..SHORT_ID_LEN].to_owned(),
            vm.name.to_string(),
            state(vm.state).to_owned(),
            vm.image.clone(),
            vm.vcpus.to_string(),
            human(vm.memory_mib << 20),
            human(vm.disk_bytes),
            age(vm.created_at_ms, now_ms),
            ports(vm),
            vm.workspace.as_ref().map_or_else(String::new, |workspace| workspace.host_path.clone()),
        ]
    };
    table_without_empty(&header, vms.iter().map(row).collect(), ALWAYS)
}
