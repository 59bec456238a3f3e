//! The daemon's settings, each with where it comes from.

use serde::{Deserialize, Serialize};

/// `GET /v1/config`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Configuration {
    /// The file, whether it exists or not.
    pub path: String,
    /// It was there when the daemon started.
    pub exists: bool,
    /// Every key, in the order of the documentation.
    pub settings: Vec<Setting>,
}

/// One key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Setting {
    /// As the file spells it: `vm_defaults.vcpu`.
    pub key: String,
    /// What holds, as the file would say it; `-` where nothing is set, and of a list how long it is.
    pub value: String,
    /// Where that comes from.
    pub origin: Origin,
    /// How the origin came to it, where that is not plain.
    pub why: Option<String>,
}

/// Where a setting comes from, the strongest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// An environment variable of the daemon.
    Environment,
    /// `config.toml`.
    Config,
    /// How large this host is.
    Host,
    /// Nobody said anything.
    Default,
}

impl Origin {
    /// As it is written for people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Origin::Environment => "environment",
            Origin::Config => "config",
            Origin::Host => "host",
            Origin::Default => "default",
        }
    }
}
