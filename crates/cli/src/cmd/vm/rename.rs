//! `banger rename`: gives a VM another name.

use wire::api::{RenameVm, Vm, VmState};
use wire::naming::VmName;

use crate::args::Act;
use crate::client::path;
use crate::cmd::App;
use crate::cmd::vm::print_one;
use crate::complete;
use crate::error::Failure;
use crate::output::Format;
use crate::values;

const EXAMPLES: &str = "\
Examples:
  banger rename calm-otter web";

/// Which one, and its new name.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The VM, by name or id
    #[arg(value_name = "OLD", value_parser = values::reference, add = complete::vms())]
    pub(crate) vm: String,
    /// Its new name: a-z, 0-9 and -
    #[arg(value_name = "NEW")]
    name: VmName,
    #[command(flatten)]
    pub(crate) act: Act,
}

/// Renames it and prints its name.
pub(crate) async fn run(app: &App, args: Args) -> Result<u8, Failure> {
    let target = path("vms", &args.vm, "/rename");
    let request = RenameVm { name: args.name };
    let is_new = request.name.as_str() != args.vm;
    let renamed = app.client.send::<_, Vm>(&target, &request);
    let vm = app.interrupts.guard_twice(app.interrupts.start(), renamed).await?;
    if app.out.format == Format::Json {
        print_one(app, &vm)?;
    } else {
        app.out.line(vm.name.as_str())?;
    }
    if is_new && !matches!(vm.state, VmState::Created | VmState::Stopped) {
        app.out.aside(&format!("its guest takes the host name {} at its next boot", vm.name));
    }
    Ok(0)
}
