//! Which VMs a list shows, and in which order. Pure, so that every client filters alike.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::vm::{Publish, Vm, VmState};
use super::workspace::Workspace;
use crate::id::VmId;
use crate::naming::VmName;

/// The query of `GET /v1/vms`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ListVms {
    /// Which ones; absent: all.
    #[serde(default)]
    pub filter: Option<VmFilter>,
    /// The newest of them only.
    #[serde(default)]
    pub latest: bool,
    /// By what; absent: by creation time.
    #[serde(default)]
    pub sort: VmSort,
    /// The other way round.
    #[serde(default)]
    pub reverse: bool,
    /// As far as a table shows them: the answer is a [`VmLines`].
    #[serde(default)]
    pub brief: bool,
}

impl ListVms {
    /// `vms` as this query wants them. Places are sorted: a VM is large to move about.
    #[must_use]
    pub fn apply(&self, vms: Vec<Vm>) -> Vec<Vm> {
        let fits = |vm: &Vm| self.filter.as_ref().is_none_or(|filter| filter.fits(vm));
        let mut places: Vec<usize> = (0..vms.len()).filter(|place| fits(&vms[*place])).collect();
        places.sort_by(|a, b| VmSort::Created.order(&vms[*a], &vms[*b]));
        if self.latest {
            places = places.pop().into_iter().collect();
        }
        // Stable: what is alike stays in the order of creation.
        places.sort_by(|a, b| self.sort.order(&vms[*a], &vms[*b]));
        if self.reverse {
            places.reverse();
        }
        let mut vms: Vec<Option<Vm>> = vms.into_iter().map(Some).collect();
        places.into_iter().filter_map(|place| vms[place].take()).collect()
    }
}

/// A list of VMs as far as a table shows it: a fraction of the whole to make, send and read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct VmLines {
    /// The VMs.
    pub vms: Vec<VmLine>,
}

/// A [`Vm`] as far as a table shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct VmLine {
    /// Its id.
    pub id: VmId,
    /// Its name.
    pub name: VmName,
    /// What it is doing.
    pub state: VmState,
    /// The image's name when it was created.
    pub image: String,
    /// Virtual processors.
    pub vcpus: u16,
    /// Guest memory.
    pub memory_mib: u64,
    /// The disk's size as the guest sees it.
    pub disk_bytes: u64,
    /// Published ports.
    pub publish: Vec<Publish>,
    /// The workspace put into it.
    pub workspace: Option<Workspace>,
    /// When it was created.
    pub created_at_ms: u64,
}

impl From<Vm> for VmLine {
    fn from(vm: Vm) -> VmLine {
        VmLine {
            id: vm.id,
            name: vm.name,
            state: vm.state,
            image: vm.image,
            vcpus: vm.vcpus,
            memory_mib: vm.memory_mib,
            disk_bytes: vm.disk_bytes,
            publish: vm.publish,
            workspace: vm.workspace,
            created_at_ms: vm.created_at_ms,
        }
    }
}

/// By what VMs are sorted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum VmSort {
    /// The oldest first.
    #[default]
    Created,
    /// By the alphabet.
    Name,
    /// What runs first.
    State,
    /// The largest memory first.
    Memory,
    /// The disk that takes most on the host first.
    Disk,
}

impl VmSort {
    fn order(self, a: &Vm, b: &Vm) -> Ordering {
        match self {
            VmSort::Created => (a.created_at_ms, &a.id).cmp(&(b.created_at_ms, &b.id)),
            VmSort::Name => a.name.cmp(&b.name),
            VmSort::State => rank(a.state).cmp(&rank(b.state)),
            VmSort::Memory => b.memory_mib.cmp(&a.memory_mib),
            VmSort::Disk => b.disk_allocated_bytes.cmp(&a.disk_allocated_bytes),
        }
    }
}

fn rank(state: VmState) -> u8 {
    match state {
        VmState::Running => 0,
        VmState::Paused => 1,
        VmState::Starting => 2,
        VmState::Stopping => 3,
        VmState::Creating => 4,
        VmState::Created => 5,
        VmState::Suspended => 6,
        VmState::Stopped => 7,
        VmState::Deleting => 8,
    }
}

/// One condition: `state=running`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FilterTerm {
    /// It is in this state: `state=running`, and `status=` for those who know docker.
    State(VmState),
    /// Its name contains this: `name=web`.
    Name(String),
    /// Its image has this name or id: `image=debian-bookworm`.
    Image(String),
    /// Its id begins with this: `id=12ab`.
    Id(String),
}

/// Conditions, as `KEY=VALUE,KEY=VALUE`: of one key any may hold, of different keys all have to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(value_type = String))]
pub struct VmFilter(pub Vec<FilterTerm>);

impl VmFilter {
    /// Whether `vm` is meant.
    #[must_use]
    pub fn fits(&self, vm: &Vm) -> bool {
        self.0.iter().all(|term| self.0.iter().filter(|other| other.key() == term.key()).any(|term| term.fits(vm)))
    }
}

impl FilterTerm {
    fn key(&self) -> &'static str {
        match self {
            FilterTerm::State(_) => "state",
            FilterTerm::Name(_) => "name",
            FilterTerm::Image(_) => "image",
            FilterTerm::Id(_) => "id",
        }
    }

    fn fits(&self, vm: &Vm) -> bool {
        match self {
            FilterTerm::State(state) => vm.state == *state,
            FilterTerm::Name(part) => vm.name.as_str().contains(part.as_str()),
            FilterTerm::Image(image) => vm.image == *image || vm.image_id.as_str() == image,
            FilterTerm::Id(beginning) => vm.id.as_str().starts_with(beginning.as_str()),
        }
    }
}

/// Text that is no condition.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// No `KEY=VALUE`.
    #[error("expected KEY=VALUE, as in state=running, not {found:?}")]
    Form {
        /// What was given.
        found: String,
    },
    /// A key there is none of.
    #[error("there is no {found:?} to filter by: expected state, name, image or id")]
    Key {
        /// What was given.
        found: String,
    },
    /// A state there is none of.
    #[error("there is no state {found:?}: expected {}", STATES.map(|(name, _)| name).join(", "))]
    State {
        /// What was given.
        found: String,
    },
}

/// The states, as they are written everywhere.
pub const STATES: [(&str, VmState); 9] = [
    ("creating", VmState::Creating),
    ("created", VmState::Created),
    ("starting", VmState::Starting),
    ("running", VmState::Running),
    ("paused", VmState::Paused),
    ("stopping", VmState::Stopping),
    ("stopped", VmState::Stopped),
    ("suspended", VmState::Suspended),
    ("deleting", VmState::Deleting),
];

/// The state called `text`; docker's `exited` is ours `stopped`.
///
/// # Errors
/// When there is none.
pub fn parse_state(text: &str) -> Result<VmState, FilterError> {
    let text = if text == "exited" { "stopped" } else { text };
    let found = STATES.iter().find(|(name, _)| *name == text).map(|(_, state)| *state);
    found.ok_or_else(|| FilterError::State { found: short(text) })
}

fn short(text: &str) -> String {
    text.chars().take(80).collect()
}

impl FromStr for FilterTerm {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<FilterTerm, FilterError> {
        let form = || FilterError::Form { found: short(text) };
        let (key, value) = text.split_once('=').ok_or_else(form)?;
        if value.is_empty() || value.contains(',') {
            return Err(form());
        }
        match key {
            "state" | "status" => parse_state(value).map(FilterTerm::State),
            "name" => Ok(FilterTerm::Name(value.to_owned())),
            "image" => Ok(FilterTerm::Image(value.to_owned())),
            "id" => Ok(FilterTerm::Id(value.to_owned())),
            _ => Err(FilterError::Key { found: short(key) }),
        }
    }
}

impl fmt::Display for FilterTerm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = match self {
            FilterTerm::State(state) => STATES.iter().find(|(_, s)| s == state).map_or("", |(name, _)| name),
            FilterTerm::Name(value) | FilterTerm::Image(value) | FilterTerm::Id(value) => value,
        };
        write!(f, "{}={value}", self.key())
    }
}

impl TryFrom<String> for VmFilter {
    type Error = FilterError;

    fn try_from(text: String) -> Result<VmFilter, FilterError> {
        text.split(',').map(str::parse).collect::<Result<_, _>>().map(VmFilter)
    }
}

impl From<VmFilter> for String {
    fn from(filter: VmFilter) -> String {
        filter.0.iter().map(FilterTerm::to_string).collect::<Vec<_>>().join(",")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vm(name: &str, state: VmState, created_at_ms: u64, memory_mib: u64) -> Vm {
        Vm {
            id: format!("{created_at_ms:016x}").parse().unwrap(),
            name: name.parse().unwrap(),
            state,
            image: "debian".to_owned(),
            image_id: "1111111111111111".parse().unwrap(),
            kernel: "k".to_owned(),
            kernel_id: "2222222222222222".parse().unwrap(),
            vcpus: 1,
            memory_mib,
            disk_bytes: 1,
            disk_allocated_bytes: memory_mib,
            nat: false,
            publish: Vec::new(),
            stop_after_ms: None,
            idle: None,
            restart: super::super::RestartPolicy::No,
            restarts: None,
            boot: None,
            last_error: None,
            operation: None,
            workspace: None,
            reset_pending: false,
            created_at_ms,
        }
    }

    #[test]
    fn a_line_is_read_from_a_whole_vm() {
        let publish = vec![Publish { host_port: 8080, guest_port: 80 }];
        let vm = Vm { publish: publish.clone(), ..vm("web", VmState::Running, 2, 512) };
        let json = serde_json::json!({ "vms": [vm] }).to_string();
        let lines: VmLines = serde_json::from_str(&json).unwrap();
        let line = VmLine {
            id: vm.id,
            name: vm.name,
            state: VmState::Running,
            image: vm.image,
            vcpus: 1,
            memory_mib: 512,
            disk_bytes: 1,
            publish,
            workspace: None,
            created_at_ms: 2,
        };
        assert_eq!(lines.vms, [line]);
    }

    fn names(filter: &str, query: ListVms) -> String {
        let vms = vec![
            vm("web", VmState::Running, 2, 512),
            vm("db", VmState::Stopped, 1, 1024),
            vm("web-2", VmState::Created, 3, 512),
        ];
        let filter = (!filter.is_empty()).then(|| VmFilter::try_from(filter.to_owned()).unwrap());
        let found = ListVms { filter, ..query }.apply(vms);
        found.iter().map(|vm| vm.name.as_str()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn filters() {
        for (filter, expected) in [
            ("", "db web web-2"),
            ("state=running", "web"),
            ("status=exited", "db"),
            ("state=running,state=stopped", "db web"),
            ("name=web", "web web-2"),
            ("name=web,state=created", "web-2"),
            ("name=web,state=stopped", ""),
            ("image=debian", "db web web-2"),
            ("image=1111111111111111,id=0000000000000003", "web-2"),
            ("image=deb", ""),
        ] {
            assert_eq!(names(filter, ListVms::default()), expected, "{filter}");
        }
        for bad in ["state", "state=", "state=on", "colour=red", "name=a,", "=x"] {
            assert!(VmFilter::try_from(bad.to_owned()).is_err(), "{bad}");
        }
        let text = "state=running,name=web,image=x,id=12";
        assert_eq!(String::from(VmFilter::try_from(text.to_owned()).unwrap()), text);
    }

    #[test]
    fn orders() {
        let by = |sort| ListVms { sort, ..ListVms::default() };
        assert_eq!(names("", by(VmSort::Name)), "db web web-2");
        assert_eq!(names("", by(VmSort::State)), "web web-2 db");
        assert_eq!(names("", by(VmSort::Memory)), "db web web-2");
        assert_eq!(names("", ListVms { reverse: true, ..by(VmSort::Created) }), "web-2 web db");
        assert_eq!(names("", ListVms { latest: true, ..ListVms::default() }), "web-2");
        assert_eq!(names("state=stopped", ListVms { latest: true, ..ListVms::default() }), "db");
    }

    #[test]
    fn every_state_has_a_name_and_it_is_the_one_on_the_wire() {
        for (name, state) in STATES {
            assert_eq!(serde_json::to_value(state).unwrap(), name);
            assert_eq!(parse_state(name), Ok(state));
        }
    }
}
