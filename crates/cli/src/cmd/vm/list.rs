//! `banger list`: which VMs there are: all, or those asked for.

use std::borrow::Cow;
use std::str::FromStr;

use wire::api::{
    BASE, FilterTerm, ListVms, Publish, STATES, VmFilter, VmLine, VmLines, VmList, VmSort, VmState, parse_state,
};
use wire::size::human;

use crate::args::Records;
use crate::client::encode;
use crate::clock;
use crate::cmd::App;
use crate::complete;
use crate::error::Failure;
use crate::output::{self, Format};
use crate::table::{age, table_within};
use crate::terminal;

/// Digits of an id in a table.
const SHORT_ID_LEN: usize = 8;

/// Columns that are there even when empty.
const ALWAYS: usize = 8;

/// Columns that may be cut where the terminal is narrow: name, image, ports, workspace.
const MAY_SHRINK: [usize; 4] = [1, 3, 8, 9];

const EXAMPLES: &str = "\
Examples:
  banger list
  banger ps --state running
  banger ps --filter name=web --filter image=debian-bookworm --sort disk
  banger stop $(banger ps -q --state running)
  banger list --format json | jq -r '.vms[].name'";

/// Which ones, and how to print them.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Only those in this state: running, stopped, ...; may be repeated
    #[arg(long, value_name = "STATE", value_parser = parse_state, add = complete::states(), value_delimiter = ',')]
    state: Vec<VmState>,
    /// Only those that fit: state=, name= (a part of it), image=, id=; of one key any, of several all; may be repeated
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = FilterTerm::from_str)]
    filter: Vec<FilterTerm>,
    /// Only the one created last
    #[arg(short, long)]
    latest: bool,
    /// In which order
    #[arg(long, value_enum, default_value_t, value_name = "KEY")]
    sort: Sort,
    /// The other way round
    #[arg(short, long)]
    reverse: bool,
    /// List those that are off too: always so, and accepted for habit's sake
    #[arg(short, long)]
    all: bool,
    #[command(flatten)]
    pub(crate) records: Records,
}

/// (Comments on the variants are no docs: `--help` would show them.)
#[derive(Debug, Clone, Copy, Default, clap::ValueEnum)]
enum Sort {
    #[default]
    Created,
    Name,
    State,
    Memory,
    Disk,
}

impl Args {
    fn query(&self) -> ListVms {
        let states = self.state.iter().map(|state| FilterTerm::State(*state));
        let terms: Vec<FilterTerm> = states.chain(self.filter.iter().cloned()).collect();
        let sort = match self.sort {
            Sort::Created => VmSort::Created,
            Sort::Name => VmSort::Name,
            Sort::State => VmSort::State,
            Sort::Memory => VmSort::Memory,
            Sort::Disk => VmSort::Disk,
        };
        let filter = (!terms.is_empty()).then_some(VmFilter(terms));
        ListVms { filter, latest: self.latest, sort, reverse: self.reverse, brief: false }
    }
}

/// What is asked, as a path; what goes without saying is left out.
fn target(query: ListVms) -> String {
    let mut words = Vec::new();
    if let Some(filter) = query.filter {
        words.push(format!("filter={}", encode(&String::from(filter))));
    }
    if query.sort != VmSort::default() {
        let sort = serde_json::to_value(query.sort).expect("a word is plain data");
        words.push(format!("sort={}", sort.as_str().unwrap_or_default()));
    }
    let flags = [(query.latest, "latest=true"), (query.reverse, "reverse=true"), (query.brief, "brief=true")];
    for (is_asked, word) in flags {
        if is_asked {
            words.push(word.to_owned());
        }
    }
    let question = if words.is_empty() { "" } else { "?" };
    format!("{BASE}/vms{question}{}", words.join("&"))
}

/// Prints them.
pub(crate) async fn run(app: &App, args: Args) -> Result<u8, Failure> {
    if app.out.format == Format::Json && !args.records.quiet {
        let target = target(args.query());
        let list: VmList = app.interrupts.guard(app.interrupts.start(), app.client.get(&target)).await?;
        app.out.json(&list)?;
        return Ok(0);
    }
    let target = target(ListVms { brief: true, ..args.query() });
    let list: VmLines = app.interrupts.guard(app.interrupts.start(), app.client.get(&target)).await?;
    let text = match app.out.format {
        _ if args.records.quiet => list.vms.iter().map(|vm| format!("{}\n", vm.id)).collect(),
        Format::Name => list.vms.iter().map(|vm| format!("{}\n", vm.name)).collect(),
        Format::Table | Format::Json => render(&list.vms, clock::unix_ms()),
    };
    app.out.text(&text)?;
    Ok(0)
}

/// A VM's state in one word.
pub(crate) fn state(state: VmState) -> &'static str {
    STATES.iter().find(|(_, named)| *named == state).map_or("unknown", |(name, _)| name)
}

/// A VM's published ports.
pub(crate) fn ports(publish: &[Publish]) -> String {
    publish.iter().map(|port| format!("{}:{}", port.host_port, port.guest_port)).collect::<Vec<_>>().join(",")
}

fn row(vm: &VmLine, now_ms: u64) -> Vec<Cow<'_, str>> {
    let workspace = vm.workspace.as_ref().map_or("", |workspace| workspace.host_path.as_str());
    vec![
        vm.id.as_str()[..SHORT_ID_LEN].into(),
        vm.name.as_str().into(),
        state(vm.state).into(),
        vm.image.as_str().into(),
        vm.vcpus.to_string().into(),
        human(vm.memory_mib << 20).into(),
        human(vm.disk_bytes).into(),
        age(vm.created_at_ms, now_ms).into(),
        ports(&vm.publish).into(),
        workspace.into(),
    ]
}

fn render(vms: &[VmLine], now_ms: u64) -> String {
    let header = ["ID", "NAME", "STATE", "IMAGE", "VCPU", "MEM", "DISK", "CREATED", "PORTS", "WORKSPACE"];
    let rows = vms.iter().map(|vm| row(vm, now_ms)).collect();
    // Whoever reads a pipe or a file gets the whole.
    let width = if output::stdout_is_terminal() { usize::from(terminal::size().cols) } else { usize::MAX };
    table_within(width, &MAY_SHRINK, &header, rows, ALWAYS)
}
