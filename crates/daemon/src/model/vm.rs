//! What a VM is doing: a state machine whose states carry what is then true.
//!
//! ```text
//!            CreateFinished            StartBegun              GuestReady
//! Creating ────────────────► Created ────────────► Starting ─────────────► Running
//!     │  └─────────(create with start)───────────────▲  │ ▲                 │    │
//!     ▼ (undone: the row goes)                       │  │ │StopUnwound      │    │BootEnded
//!                                                    │  │ └───────────┐     │StopBegun
//!                             StartBegun             │  │StartUnwound │     ▼    │
//! Deleting ◄────── Stopped ──────────────────────────┘  │         Stopping ◄┘    │
//!   DeleteBegun      ▲ ▲ └──────────────────────────────┘             │BootEnded │
//!                    │ └──────────────────────────────────────────────┴──────────┘
//! ```
//!
//! `Running` and `Paused` change into each other by `PauseDone` and `ResumeDone`; what is paused is stopped, deleted and
//! ended as what runs is. An operation on it that is taken back leaves it running. `Stopping` becomes `Suspended` by
//! `SuspendDone`, which is off as `Stopped` is but for its memory, kept on the disk: a start from it that is taken back before the
//! guest went on leaves it so (`WakeUnwound`).
//!
//! Events that belong to a boot name it; the late end of an earlier boot changes nothing.

use serde::{Deserialize, Serialize};
use wire::id::BootId;

/// What a VM is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum VmState {
    /// Being made; not yet the user's.
    Creating,
    /// Made, never started.
    Created,
    /// On its way up.
    Starting {
        /// This run.
        boot: BootId,
    },
    /// Its guest answers.
    Running {
        /// This run.
        boot: BootId,
    },
    /// Its processors stand still.
    Paused {
        /// This run.
        boot: BootId,
    },
    /// On its way down.
    Stopping {
        /// This run.
        boot: BootId,
    },
    /// Off.
    Stopped,
    /// Off, its memory and devices on the disk: it goes on from there.
    Suspended,
    /// Being removed.
    Deleting,
}

/// What happens to a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VmEvent {
    /// Its parts are there.
    CreateFinished,
    /// A start took it.
    StartBegun {
        /// The new run.
        boot: BootId,
    },
    /// The guest answers and is configured.
    GuestReady {
        /// Whose guest.
        boot: BootId,
    },
    /// A start was taken back.
    StartUnwound {
        /// The run that did not come to be.
        boot: BootId,
    },
    /// Its processors were stopped.
    PauseDone {
        /// Whose.
        boot: BootId,
    },
    /// Its processors run again.
    ResumeDone {
        /// Whose.
        boot: BootId,
    },
    /// A stop took it.
    StopBegun {
        /// The run to end.
        boot: BootId,
    },
    /// A stop was taken back while the guest still ran.
    StopUnwound {
        /// The run that goes on.
        boot: BootId,
    },
    /// Its memory and devices are on the disk.
    SuspendDone {
        /// The run whose they are.
        boot: BootId,
    },
    /// The memory of what was suspended is given up.
    MemoryGivenUp,
    /// A start of what was suspended was taken back before the guest went on.
    WakeUnwound {
        /// The run that did not come to be.
        boot: BootId,
    },
    /// The VMM of a run is gone.
    BootEnded {
        /// Which run.
        boot: BootId,
    },
    /// A deletion took it.
    DeleteBegun,
    /// A deletion was taken back.
    DeleteUnwound {
        /// The run that goes on, when it was not ended yet.
        boot: Option<BootId>,
    },
}

/// Why an event is refused; shown to people after the VM's name: `web is …`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Its creation is not over.
    #[error("still being created")]
    BeingCreated,
    /// It runs or is on its way.
    #[error("already running")]
    AlreadyRunning,
    /// Its processors stand still.
    #[error("paused")]
    Paused,
    /// It is off, its memory on the disk.
    #[error("suspended")]
    Suspended,
    /// There is nothing to stop.
    #[error("not running")]
    NotRunning,
    /// It is on its way down.
    #[error("already stopping")]
    AlreadyStopping,
    /// Its guest wants a new boot, which is about to begin.
    #[error("rebooting")]
    Rebooting,
    /// It is going away.
    #[error("being deleted")]
    BeingDeleted,
    /// The event belongs to a run that is not the present one.
    #[error("on another boot already")]
    OtherBoot,
}

impl VmState {
    /// The state after `event`. Saying the same twice is saying it once, for steps that run again after a crash.
    ///
    /// # Errors
    /// When the event cannot happen in this state; nothing changed.
    pub fn after(&self, event: &VmEvent) -> Result<VmState, Refused> {
        use VmEvent as E;
        use VmState as S;
        let ours = |own: &BootId, named: &BootId, next: VmState| {
            if own == named { Ok(next) } else { Err(Refused::OtherBoot) }
        };
        match (self, event) {
            (S::Creating | S::Created, E::CreateFinished) => Ok(S::Created),
            (S::Starting { .. } | S::Running { .. } | S::Paused { .. } | S::Stopping { .. }, E::CreateFinished) => {
                Err(Refused::AlreadyRunning)
            }
            (S::Stopped | S::Suspended, E::CreateFinished) => Ok(self.clone()),
            (S::Deleting, E::CreateFinished) => Err(Refused::BeingDeleted),

            (S::Creating | S::Created | S::Stopped | S::Suspended, E::StartBegun { boot }) => {
                Ok(S::Starting { boot: boot.clone() })
            }
            (S::Starting { boot: own }, E::StartBegun { boot }) if own == boot => Ok(self.clone()),
            (S::Starting { .. } | S::Running { .. }, E::StartBegun { .. }) => Err(Refused::AlreadyRunning),
            (S::Paused { .. }, E::StartBegun { .. } | E::GuestReady { .. }) => Err(Refused::Paused),
            (S::Stopping { .. }, E::StartBegun { .. }) => Err(Refused::AlreadyStopping),
            (S::Deleting, E::StartBegun { .. }) => Err(Refused::BeingDeleted),

            (S::Starting { boot: own } | S::Running { boot: own }, E::GuestReady { boot }) => {
                ours(own, boot, S::Running { boot: own.clone() })
            }
            (S::Stopping { .. }, E::GuestReady { .. }) => Err(Refused::AlreadyStopping),
            (S::Creating | S::Created | S::Stopped | S::Suspended, E::GuestReady { .. }) => Err(Refused::NotRunning),
            (S::Deleting, E::GuestReady { .. }) => Err(Refused::BeingDeleted),

            (S::Starting { boot: own }, E::StartUnwound { boot }) => ours(own, boot, S::Stopped),
            // A create with start that failed before or after its start: its own undo removes the row.
            (S::Creating | S::Created | S::Stopped | S::Suspended, E::StartUnwound { .. } | E::WakeUnwound { .. }) => {
                Ok(self.clone())
            }
            (S::Running { boot: own } | S::Paused { boot: own }, E::StartUnwound { boot }) => {
                ours(own, boot, S::Stopped)
            }
            (
                S::Starting { boot: own } | S::Running { boot: own } | S::Paused { boot: own },
                E::WakeUnwound { boot },
            ) => ours(own, boot, S::Suspended),
            (S::Stopping { .. }, E::StartUnwound { .. } | E::WakeUnwound { .. }) => Err(Refused::AlreadyStopping),
            (S::Deleting, E::StartUnwound { .. } | E::WakeUnwound { .. }) => Err(Refused::BeingDeleted),

            (S::Running { boot: own } | S::Paused { boot: own }, E::PauseDone { boot }) => {
                ours(own, boot, S::Paused { boot: own.clone() })
            }
            (S::Running { boot: own } | S::Paused { boot: own }, E::ResumeDone { boot }) => {
                ours(own, boot, S::Running { boot: own.clone() })
            }
            (
                S::Creating | S::Created | S::Stopped | S::Starting { .. },
                E::PauseDone { .. } | E::ResumeDone { .. },
            ) => Err(Refused::NotRunning),
            (S::Suspended, E::PauseDone { .. } | E::ResumeDone { .. } | E::StopBegun { .. }) => Err(Refused::Suspended),
            (S::Stopping { .. }, E::PauseDone { .. } | E::ResumeDone { .. }) => Err(Refused::AlreadyStopping),
            (S::Deleting, E::PauseDone { .. } | E::ResumeDone { .. }) => Err(Refused::BeingDeleted),

            // A start that is stuck leaves `Starting` behind; one that goes on holds the VM, and no stop begins.
            (
                S::Starting { boot: own }
                | S::Running { boot: own }
                | S::Paused { boot: own }
                | S::Stopping { boot: own },
                E::StopBegun { boot },
            ) => ours(own, boot, S::Stopping { boot: own.clone() }),
            (S::Creating, E::StopBegun { .. }) => Err(Refused::BeingCreated),
            (S::Created | S::Stopped, E::StopBegun { .. }) => Err(Refused::NotRunning),
            (S::Deleting, E::StopBegun { .. }) => Err(Refused::BeingDeleted),

            (
                S::Stopping { boot: own } | S::Running { boot: own } | S::Paused { boot: own },
                E::StopUnwound { boot },
            ) => ours(own, boot, S::Running { boot: own.clone() }),
            (S::Suspended, E::StopUnwound { boot }) => Ok(S::Running { boot: boot.clone() }),
            (S::Starting { .. }, E::StopUnwound { .. }) => Err(Refused::AlreadyRunning),
            (S::Creating, E::StopUnwound { .. }) => Err(Refused::BeingCreated),
            (S::Created | S::Stopped, E::StopUnwound { .. }) => Err(Refused::NotRunning),
            (S::Deleting, E::StopUnwound { .. }) => Err(Refused::BeingDeleted),

            (
                S::Stopping { boot: own } | S::Running { boot: own } | S::Paused { boot: own },
                E::SuspendDone { boot },
            ) => ours(own, boot, S::Suspended),
            (S::Suspended | S::Stopped, E::MemoryGivenUp) => Ok(S::Stopped),
            (S::Creating | S::Created, E::MemoryGivenUp) => Err(Refused::NotRunning),
            (S::Starting { .. } | S::Running { .. } | S::Paused { .. }, E::MemoryGivenUp) => {
                Err(Refused::AlreadyRunning)
            }
            (S::Stopping { .. }, E::MemoryGivenUp) => Err(Refused::AlreadyStopping),
            (S::Deleting, E::MemoryGivenUp) => Err(Refused::BeingDeleted),
            (S::Suspended, E::SuspendDone { .. }) => Ok(S::Suspended),
            (S::Creating, E::SuspendDone { .. }) => Err(Refused::BeingCreated),
            (S::Created | S::Stopped | S::Starting { .. }, E::SuspendDone { .. }) => Err(Refused::NotRunning),
            (S::Deleting, E::SuspendDone { .. }) => Err(Refused::BeingDeleted),

            (
                S::Starting { boot: own }
                | S::Running { boot: own }
                | S::Paused { boot: own }
                | S::Stopping { boot: own },
                E::BootEnded { boot },
            ) => Ok(if own == boot { S::Stopped } else { self.clone() }),
            (S::Creating | S::Created | S::Stopped | S::Suspended | S::Deleting, E::BootEnded { .. }) => {
                Ok(self.clone())
            }

            // A deletion holds the VM and ends its run itself, so it may begin anywhere, also where a stuck operation
            // left the VM.
            (
                S::Creating
                | S::Created
                | S::Stopped
                | S::Suspended
                | S::Deleting
                | S::Starting { .. }
                | S::Running { .. }
                | S::Paused { .. }
                | S::Stopping { .. },
                E::DeleteBegun,
            ) => Ok(S::Deleting),

            (S::Deleting, E::DeleteUnwound { boot: Some(boot) }) => Ok(S::Running { boot: boot.clone() }),
            (S::Deleting, E::DeleteUnwound { boot: None }) => Ok(S::Stopped),
            (
                S::Creating
                | S::Created
                | S::Stopped
                | S::Starting { .. }
                | S::Running { .. }
                | S::Paused { .. }
                | S::Stopping { .. }
                | S::Suspended,
                E::DeleteUnwound { .. },
            ) => Ok(self.clone()),
        }
    }

    /// The run it is in.
    #[must_use]
    pub fn boot(&self) -> Option<&BootId> {
        match self {
            VmState::Starting { boot }
            | VmState::Running { boot }
            | VmState::Paused { boot }
            | VmState::Stopping { boot } => Some(boot),
            VmState::Creating | VmState::Created | VmState::Stopped | VmState::Suspended | VmState::Deleting => None,
        }
    }

    /// The same for the API.
    #[must_use]
    pub fn to_wire(&self) -> wire::api::VmState {
        match self {
            VmState::Creating => wire::api::VmState::Creating,
            VmState::Created => wire::api::VmState::Created,
            VmState::Starting { .. } => wire::api::VmState::Starting,
            VmState::Running { .. } => wire::api::VmState::Running,
            VmState::Paused { .. } => wire::api::VmState::Paused,
            VmState::Stopping { .. } => wire::api::VmState::Stopping,
            VmState::Stopped => wire::api::VmState::Stopped,
            VmState::Suspended => wire::api::VmState::Suspended,
            VmState::Deleting => wire::api::VmState::Deleting,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn boot(n: u8) -> BootId {
        BootId::from_random([n; 8])
    }

    fn states() -> Vec<VmState> {
        vec![
            VmState::Creating,
            VmState::Created,
            VmState::Starting { boot: boot(1) },
            VmState::Running { boot: boot(1) },
            VmState::Paused { boot: boot(1) },
            VmState::Stopping { boot: boot(1) },
            VmState::Stopped,
            VmState::Suspended,
            VmState::Deleting,
        ]
    }

    fn events(b: u8) -> Vec<VmEvent> {
        vec![
            VmEvent::CreateFinished,
            VmEvent::StartBegun { boot: boot(b) },
            VmEvent::GuestReady { boot: boot(b) },
            VmEvent::StartUnwound { boot: boot(b) },
            VmEvent::StopBegun { boot: boot(b) },
            VmEvent::StopUnwound { boot: boot(b) },
            VmEvent::BootEnded { boot: boot(b) },
            VmEvent::DeleteBegun,
            VmEvent::DeleteUnwound { boot: Some(boot(b)) },
            VmEvent::DeleteUnwound { boot: None },
            VmEvent::PauseDone { boot: boot(b) },
            VmEvent::ResumeDone { boot: boot(b) },
            VmEvent::SuspendDone { boot: boot(b) },
            VmEvent::WakeUnwound { boot: boot(b) },
            VmEvent::MemoryGivenUp,
        ]
    }

    /// A letter a pair: the state after it, or `-` refused.
    fn table(b: u8) -> Vec<String> {
        let letter = |result: Result<VmState, Refused>| match result {
            Ok(VmState::Creating) => 'c',
            Ok(VmState::Created) => 'C',
            Ok(VmState::Starting { .. }) => 's',
            Ok(VmState::Running { .. }) => 'R',
            Ok(VmState::Paused { .. }) => 'H',
            Ok(VmState::Stopping { .. }) => 'p',
            Ok(VmState::Stopped) => 'P',
            Ok(VmState::Suspended) => 'S',
            Ok(VmState::Deleting) => 'd',
            Err(_) => '-',
        };
        states().iter().map(|state| events(b).iter().map(|event| letter(state.after(event))).collect()).collect()
    }

    #[test]
    fn every_pair() {
        // Columns: CreateFinished StartBegun GuestReady StartUnwound StopBegun StopUnwound BootEnded DeleteBegun
        //          DeleteUnwound with a boot, DeleteUnwound without, PauseDone ResumeDone SuspendDone WakeUnwound
        //          MemoryGivenUp
        let own_boot = [
            "Cs-c--cdcc---c-",
            "Cs-C--CdCC---C-",
            "-sRPp-Pdss---S-",
            "--RPpRPdRRHRSS-",
            "---PpRPdHHHRSS-",
            "----pRPdpp--S--",
            "Ps-P--PdPP---PP",
            "Ss-S-RSdSS--SSP",
            "------ddRP-----",
        ];
        let other_boot = [
            "Cs-c--cdcc---c-",
            "Cs-C--CdCC---C-",
            "------sdss-----",
            "------RdRR-----",
            "------HdHH-----",
            "------pdpp-----",
            "Ps-P--PdPP---PP",
            "Ss-S-RSdSS--SSP",
            "------ddRP-----",
        ];
        assert_eq!(table(1), own_boot);
        assert_eq!(table(2), other_boot);
    }

    proptest! {
        #[test]
        fn a_foreign_boot_changes_nothing_that_runs(sequence in proptest::collection::vec((0_usize..15, 1_u8..4), 0..40)) {
            let mut state = VmState::Creating;
            for (event, b) in sequence {
                let event = &events(b)[event];
                if let Ok(next) = state.after(event) {
                    if let (Some(own), VmEvent::BootEnded { boot }) = (state.boot(), event) {
                        prop_assert_eq!(own != boot, next == state);
                    }
                    // What runs is only replaced by another run after it was off.
                    if let (Some(own), Some(new)) = (state.boot(), next.boot()) {
                        prop_assert_eq!(own, new);
                    }
                    prop_assert_eq!(next.after(event).unwrap_or_else(|_| next.clone()), next.clone());
                    state = next;
                }
            }
        }
    }
}
