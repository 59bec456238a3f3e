//! What others wrote: every crate of `Cargo.lock` comes from the registry, none is banned, and every crate that is
//! built on Linux has a licence that may be combined with ours.
//!
//! Licences and banned crates are `[third_party]` of `xtask/tidy.toml`. Licences come from `cargo metadata`; an
//! expression passes when the listed licences alone satisfy it.

use std::process::Command;

use serde::Deserialize;

use super::Finding;
use super::rules::Rules;
use super::tree::Tree;

const LOCK: &str = "Cargo.lock";
const PLATFORM: &str = "x86_64-unknown-linux-gnu";

#[derive(Deserialize)]
struct Lock {
    package: Vec<Locked>,
}

#[derive(Deserialize)]
struct Locked {
    name: String,
    /// Absent for crates of the workspace.
    source: Option<String>,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    license: Option<String>,
}

pub(super) fn check(tree: &Tree, rules: &Rules) -> Vec<Finding> {
    let mut findings = check_lock(tree.text(LOCK).unwrap_or_default(), rules);
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(&tree.root)
        .args(["metadata", "--locked", "--format-version", "1", "--filter-platform", PLATFORM])
        .output();
    match output {
        Ok(output) if output.status.success() => match serde_json::from_slice::<Metadata>(&output.stdout) {
            Ok(metadata) => findings.extend(check_licences(&metadata.packages, rules)),
            Err(err) => findings.push(Finding::new(LOCK, 1, format!("cannot read cargo metadata: {err}"))),
        },
        Ok(output) => {
            let cause = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            findings.push(Finding::new(LOCK, 1, format!("cargo metadata failed: {cause}")));
        }
        Err(err) => findings.push(Finding::new(LOCK, 1, format!("cannot run cargo metadata: {err}"))),
    }
    findings
}

fn check_lock(text: &str, rules: &Rules) -> Vec<Finding> {
    let lock: Lock = match toml::from_str(text) {
        Ok(lock) => lock,
        Err(err) => return vec![Finding::new(LOCK, 1, format!("not a lock file: {err}"))],
    };
    let mut findings = Vec::new();
    for package in &lock.package {
        let name = &package.name;
        let line = 1 + text.lines().position(|line| line == format!("name = \"{name}\"")).unwrap_or(0);
        if let Some(reason) = rules.third_party.banned.get(name) {
            findings.push(Finding::new(LOCK, line, format!("crate {name} is banned: {reason}")));
        }
        if package.source.as_ref().is_some_and(|source| !source.starts_with("registry+")) {
            findings.push(Finding::new(LOCK, line, format!("crate {name} does not come from the registry")));
        }
    }
    findings
}

fn check_licences(packages: &[Package], rules: &Rules) -> Vec<Finding> {
    let allowed = &rules.third_party.licences;
    packages
        .iter()
        .filter_map(|package| {
            let name = &package.name;
            let message = match &package.license {
                None => format!("crate {name} names no licence"),
                Some(licence) if !is_satisfied(licence, allowed) => {
                    format!("crate {name} has a licence that is not listed: {licence}")
                }
                Some(_) => return None,
            };
            Some(Finding::new(LOCK, 1, message))
        })
        .collect()
}

/// Whether the allowed licences satisfy an SPDX expression; a slash is the old spelling of `OR`.
fn is_satisfied(expression: &str, allowed: &[String]) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    let satisfied = any_of(&words, &mut at, allowed);
    satisfied && at == words.len()
}

fn any_of(words: &[&str], at: &mut usize, allowed: &[String]) -> bool {
    let mut satisfied = all_of(words, at, allowed);
    while words.get(*at) == Some(&"OR") {
        *at += 1;
        satisfied |= all_of(words, at, allowed);
    }
    satisfied
}

fn all_of(words: &[&str], at: &mut usize, allowed: &[String]) -> bool {
    let mut satisfied = one(words, at, allowed);
    while words.get(*at) == Some(&"AND") {
        *at += 1;
        satisfied &= one(words, at, allowed);
    }
    satisfied
}

fn one(words: &[&str], at: &mut usize, allowed: &[String]) -> bool {
    let first = words.get(*at).copied().unwrap_or_default();
    *at += 1;
    if first == "(" {
        let satisfied = any_of(words, at, allowed);
        *at += 1;
        return satisfied;
    }
    let mut licence = first.to_owned();
    if words.get(*at) == Some(&"WITH") {
        licence = format!("{licence} WITH {}", words.get(*at + 1).unwrap_or(&""));
        *at += 2;
    }
    allowed.contains(&licence)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> Rules {
        Rules::of("third_party = { licences = ['MIT', 'Apache-2.0', 'Zlib'], banned = { openssl-sys = 'use rustls' } }")
    }

    #[test]
    fn licences_are_expressions() {
        let allowed = rules().third_party.licences;
        let good = ["MIT", "MIT/GPL-3.0", "GPL-2.0 OR (MIT AND Zlib)", "(MIT OR X) AND Zlib"];
        let bad = ["", "GPL-3.0", "MIT AND GPL-3.0", "Apache-2.0 WITH x", "MIT )", "(MIT OR X) AND Y"];
        for expression in good {
            assert!(is_satisfied(expression, &allowed), "{expression}");
        }
        for expression in bad {
            assert!(!is_satisfied(expression, &allowed), "{expression}");
        }
        let package = |license: Option<&str>| Package { name: "a".into(), license: license.map(str::to_owned) };
        assert_eq!(check_licences(&[package(Some("MIT"))], &rules()), []);
        assert_eq!(check_licences(&[package(None), package(Some("X"))], &rules()).len(), 2);
    }

    #[test]
    fn banned_crates_and_other_sources_are_found() {
        let good = "[[package]]\nname = \"cli\"\n[[package]]\nname = \"serde\"\nsource = \"registry+x\"\n";
        assert_eq!(check_lock(good, &rules()), []);
        for bad in ["name = \"openssl-sys\"", "name = \"a\"\nsource = \"git+https://x\""] {
            assert_eq!(check_lock(&format!("[[package]]\n{bad}\n"), &rules()).len(), 1, "{bad}");
        }
        assert_eq!(check_lock("package = 1", &rules()).len(), 1);
    }
}
