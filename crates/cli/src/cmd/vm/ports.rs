//! `banger ports`: where VMs can be reached, and what listens in them.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use serde::Serialize;
use wire::agent::message::Protocol;
use wire::api::VmPorts;

use crate::args::Record;
use crate::client::path;
use crate::cmd::App;
use crate::cmd::each;
use crate::cmd::vm::things;
use crate::complete;
use crate::error::Failure;
use crate::output::Format;
use crate::table::table;
use crate::values;

const EXAMPLES: &str = "\
Examples:
  banger ports web
  banger ports web db --format json | jq '.ports[].listening'";

/// Of which ones.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// VMs, by name or id
    #[arg(required = true, value_name = "VM", value_parser = values::reference, add = complete::vms())]
    vms: Vec<String>,
    #[command(flatten)]
    pub(crate) record: Record,
}

#[derive(Debug, Serialize)]
struct All {
    ports: Vec<VmPorts>,
}

/// Prints them; those of the VMs there are, when one is missing.
pub(crate) async fn run(app: &App, args: Args) -> Result<u8, Failure> {
    let asked = each::resolve("VM", &things(app).await?, &args.vms).into_iter().map(async |(reference, thing)| {
        let ports = match thing {
            Ok(thing) => app.client.get::<VmPorts>(&path("vms", &thing.id, "/ports")).await,
            Err(error) => Err(error.into()),
        };
        ports.map_err(|failure| failure.during(&format!("list the ports of {reference}"), &reference))
    });
    let answers = app.interrupts.guard(app.interrupts.start(), async { Ok(join_all(asked).await) }).await?;
    let (ports, status) = each::those_that_came(app, answers)?;
    for one in &ports {
        if let Some(note) = &one.note {
            app.out.aside(&format!("{}: {note}", one.name));
        }
    }
    if ports.is_empty() && app.out.format == Format::Table {
        // What is wrong was said; a header above nothing says no more.
        return Ok(status);
    }
    let names = |all: &All| all.ports.iter().map(|one| format!("{}\n", one.name)).collect();
    app.out.record(&All { ports }, |all| render(&all.ports), names)?;
    Ok(status)
}

fn render(all: &[VmPorts]) -> String {
    let mut rows = Vec::new();
    for one in all {
        // By protocol and port: who listens there, and what leads there.
        let mut lines: BTreeMap<(Protocol, u16), (Vec<String>, Vec<String>)> = BTreeMap::new();
        for socket in one.listening.iter().flatten() {
            lines.entry((socket.protocol, socket.port)).or_default().0.push(socket.address.to_string());
        }
        for port in &one.published {
            let line = lines.entry((Protocol::Tcp, port.guest_port)).or_default();
            line.1.push(format!("127.0.0.1:{}", port.host_port));
        }
        for ((protocol, port), (addresses, hosts)) in lines {
            let protocol = match protocol {
                Protocol::Tcp => "tcp",
                Protocol::Udp => "udp",
            };
            let listens = match (&one.listening, addresses.is_empty()) {
                (None, _) => "?".to_owned(),
                (Some(_), true) => "nobody".to_owned(),
                (Some(_), false) => addresses.join(","),
            };
            rows.push(vec![one.name.to_string(), protocol.to_owned(), port.to_string(), listens, hosts.join(",")]);
        }
    }
    table(&["VM", "PROTO", "PORT", "LISTENS", "HOST"], &rows)
}
