//! What the daemon does to VMs without being asked each time: it stops the idle and starts the fallen again.

use serde::{Deserialize, Serialize};

/// When a VM that is off is started without being asked. What was switched off on purpose stays off: by a stop, a kill,
/// its guest's own poweroff, or for being idle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    /// Never.
    #[default]
    No,
    /// When it failed: its VMM crashed, or ended while nobody looked.
    OnFailure,
    /// Then too, and when the host went down under it.
    Always,
}

impl RestartPolicy {
    /// All of them, by their names.
    pub const ALL: [(&'static str, RestartPolicy); 3] =
        [("no", RestartPolicy::No), ("on-failure", RestartPolicy::OnFailure), ("always", RestartPolicy::Always)];

    /// As in `ALL`.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, policy)| *policy == self).map_or("no", |(name, _)| name)
    }
}

/// What came of a restart policy since somebody last started the VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Restarts {
    /// Why the VM had to be started again.
    pub why: String,
    /// Starts that were begun for it.
    pub tries: u32,
    /// After so many it is given up.
    pub tries_max: u32,
    /// When the next start begins; absent when it runs again, or was given up.
    pub next_at_ms: Option<u64>,
}

/// A VM that nobody uses, with a policy to stop it then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Idle {
    /// Since when, as far as it counts: the time that a host sleeps does not.
    pub since_ms: u64,
    /// When it is stopped if nobody comes.
    pub stops_at_ms: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_spelled_alike_everywhere() {
        for (name, policy) in RestartPolicy::ALL {
            assert_eq!(policy.name(), name);
            assert_eq!(serde_json::to_value(policy).unwrap(), name);
        }
    }
}
