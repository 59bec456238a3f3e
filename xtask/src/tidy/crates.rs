//! The crates: which of the workspace may depend on which. Programs never depend on programs.
//!
//! The table is `[crates]` of `xtask/tidy.toml`, `"*"` standing for every crate. Dependencies are read from each
//! `Cargo.toml`: of every kind and for every target.

use toml::{Table, Value};

use super::Finding;
use super::rules::Rules;
use super::tree::Tree;

const KINDS: [&str; 3] = ["dependencies", "dev-dependencies", "build-dependencies"];

pub(super) fn check(tree: &Tree, rules: &Rules) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.files.iter().filter(|file| file.path.ends_with("/Cargo.toml")) {
        let manifest: Table = match file.text.parse() {
            Ok(manifest) => manifest,
            Err(err) => {
                findings.push(Finding::new(&file.path, 1, format!("not a manifest: {err}")));
                continue;
            }
        };
        let name =
            manifest.get("package").and_then(|package| package.get("name")).and_then(Value::as_str).unwrap_or_default();
        let Some(may_depend) = rules.crates.get(name) else {
            let message = format!("crate {name} has no row in the table of crates");
            findings.push(Finding::new(&file.path, 1, message));
            continue;
        };
        for dependency in &dependencies(&manifest) {
            let is_ours = rules.crates.contains_key(dependency);
            let is_allowed = may_depend.iter().any(|allowed| allowed == "*" || allowed == dependency);
            if is_ours && !is_allowed {
                let line = 1 + file
                    .text
                    .lines()
                    .position(|line| line.trim_start().starts_with(dependency.as_str()))
                    .unwrap_or(0);
                let message = format!("crate {name} may not depend on {dependency}");
                findings.push(Finding::new(&file.path, line, message));
            }
        }
    }
    findings
}

fn dependencies(manifest: &Table) -> Vec<String> {
    let of = |table: &'_ Table| -> Vec<String> {
        KINDS
            .iter()
            .filter_map(|kind| table.get(*kind)?.as_table())
            .flat_map(|dependencies| dependencies.keys().cloned())
            .collect()
    };
    let mut names = of(manifest);
    if let Some(targets) = manifest.get("target").and_then(Value::as_table) {
        names.extend(targets.values().filter_map(Value::as_table).flat_map(of));
    }
    names.sort();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "[crates]\nwire = []\ncli = ['wire']\ndaemon = ['wire']\nxtask = ['*']";

    fn findings(manifests: &[(&str, &str)]) -> Vec<Finding> {
        check(&Tree::of(manifests), &Rules::of(TABLE))
    }

    #[test]
    fn allowed_dependencies_and_those_of_others_pass() {
        let manifests = [
            ("Cargo.toml", "[workspace]\n"),
            ("cli/Cargo.toml", "package.name = 'cli'\n[dependencies]\nwire.workspace = true\nserde = '1'\n"),
            ("xtask/Cargo.toml", "package.name = 'xtask'\n[dev-dependencies]\ndaemon.workspace = true\n"),
        ];
        assert_eq!(findings(&manifests), []);
    }

    #[test]
    fn a_forbidden_dependency_of_any_kind_is_found_and_so_is_a_crate_without_a_row() {
        for kind in ["dependencies", "dev-dependencies", "target.'cfg(unix)'.build-dependencies"] {
            let manifest = format!("package.name = 'cli'\n[{kind}]\ndaemon.workspace = true\n");
            let expected = Finding::new("cli/Cargo.toml", 3, "crate cli may not depend on daemon");
            assert_eq!(findings(&[("cli/Cargo.toml", &manifest)]), [expected]);
        }
        assert_eq!(findings(&[("new/Cargo.toml", "package.name = 'new'\n")]).len(), 1);
        assert_eq!(findings(&[("bad/Cargo.toml", "package = [")]).len(), 1);
    }
}
