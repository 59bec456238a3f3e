//! The rules as data: `xtask/tidy.toml`. Every table of it is described there, beside its rows.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rules {
    pub(super) limits: Limits,
    #[serde(default)]
    pub(super) long_file: Vec<LongFile>,
    #[serde(default)]
    pub(super) long_function: Vec<LongFunction>,
    /// A crate of the workspace → the crates of the workspace it may depend on.
    pub(super) crates: BTreeMap<String, Vec<String>>,
    /// A module of the daemon → what it may use.
    pub(super) layers: BTreeMap<String, Vec<String>>,
    /// Modules of the daemon that only `main.rs` and their own layer may name.
    #[serde(default)]
    pub(super) concrete: Vec<String>,
    #[serde(default)]
    pub(super) third_party: ThirdParty,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ThirdParty {
    /// SPDX names, with their `WITH` exceptions.
    pub(super) licences: Vec<String>,
    /// A crate → why it may not be used.
    pub(super) banned: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Limits {
    pub(super) file_lines: usize,
    pub(super) function_lines: usize,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LongFile {
    pub(super) path: String,
    pub(super) reason: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LongFunction {
    pub(super) path: String,
    pub(super) name: String,
    pub(super) reason: String,
}

impl Rules {
    pub(super) fn parse(text: &str) -> Result<Self> {
        toml::from_str(text).context("cannot read xtask/tidy.toml")
    }

    /// Small rules for a test of one check.
    #[cfg(test)]
    pub(super) fn of(text: &str) -> Self {
        let limits = "limits = { file_lines = 6, function_lines = 3 }\n";
        let tables = ["crates", "layers"]
            .iter()
            .filter(|table| !text.contains(&format!("[{table}]")))
            .map(|table| format!("[{table}]\n"))
            .collect::<String>();
        let text = format!("{limits}{text}\n{tables}");
        Self::parse(&text).expect("the test's rules are well formed")
    }
}
