//! `banger fork`: new VMs that go on from where a VM is now.

use std::cell::RefCell;

use wire::api::{Begun, ForkVm, Forked};
use wire::naming::VmName;

use crate::args::Act;
use crate::client::path;
use crate::clock;
use crate::cmd::App;
use crate::complete;
use crate::error::Failure;
use crate::operation;
use crate::output::Format;
use crate::table::elapsed;
use crate::values;

const EXAMPLES: &str = "\
Examples:
  banger fork web                        a second web, called web-1
  banger fork web --name try -n 8        try-1 to try-8, all from the same moment
  for vm in $(banger fork -q web -n 4); do banger exec $vm -- make test; done";

/// Of which VM.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The VM, by name or id; it goes on
    #[arg(value_parser = values::reference, add = complete::vms())]
    pub(crate) vm: String,
    /// What the new VM is called; with -n, what their names begin with
    #[arg(long)]
    name: Option<VmName>,
    /// How many new VMs
    #[arg(short = 'n', long, default_value_t = 1, value_name = "N")]
    count: u32,
    #[command(flatten)]
    pub(crate) act: Act,
}

/// Makes them and prints their names.
pub(crate) async fn run(app: &App, args: Args) -> Result<u8, Failure> {
    let (since, began) = (app.interrupts.start(), clock::now());
    let request = ForkVm { name: args.name, count: args.count };
    let forked: RefCell<Option<Forked>> = RefCell::default();
    let begin = async {
        let answer: Forked = app.client.send(&path("vms", &args.vm, "/fork"), &request).await?;
        let begun = Begun { operation: answer.operation.clone(), vm: None, subject: args.vm.clone() };
        forked.replace(Some(answer));
        Ok(begun)
    };
    operation::perform(app, &args.vm, since, begin).await?;
    app.out.aside(&format!("ready in {}", elapsed(clock::now().duration_since(began))));
    let forked = forked.into_inner();
    match app.out.format {
        Format::Json => app.out.json(&forked)?,
        _ => {
            for name in forked.iter().flat_map(|forked| &forked.vms) {
                app.out.line(name.as_str())?;
            }
        }
    }
    Ok(0)
}
