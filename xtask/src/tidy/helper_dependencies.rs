//! The helper runs as root, so every crate that is linked into it is reviewed: the list is checked in, and a crate
//! that comes or goes is a finding until the list says so.
//!
//! The truth is `cargo tree` (normal and build dependencies on this platform, whole closure); the list is
//! `crates/helper/dependencies.txt`, one name a line, in order, without versions: those are in `Cargo.lock`.

use std::process::Command;

use super::Finding;
use super::rules::Rules;
use super::tree::Tree;

const LIST: &str = "crates/helper/dependencies.txt";

pub(super) fn check(tree: &Tree, _: &Rules) -> Vec<Finding> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(&tree.root)
        .args(["tree", "--locked", "--package", "helper", "--edges", "normal,build"])
        .args(["--prefix", "none", "--format", "{p}"])
        .output();
    let closure = match output {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).into_owned(),
        Ok(output) => {
            let cause = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return vec![Finding::new(LIST, 1, format!("cargo tree failed: {cause}"))];
        }
        Err(err) => {
            return vec![Finding::new(LIST, 1, format!("cannot run cargo tree: {err}"))];
        }
    };
    compare(tree.text(LIST).unwrap_or_default(), &closure)
}

fn compare(list: &str, closure: &str) -> Vec<Finding> {
    let mut linked: Vec<&str> =
        closure.lines().filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "helper").collect();
    linked.sort_unstable();
    linked.dedup();
    let listed: Vec<&str> = list.lines().collect();

    let mut findings = Vec::new();
    for (at, name) in listed.iter().enumerate() {
        if !linked.contains(name) {
            let message = format!("{name} is listed, but the helper does not depend on it");
            findings.push(Finding::new(LIST, at + 1, message));
        }
    }
    for name in linked.iter().filter(|name| !listed.contains(name)) {
        let message = format!("the helper depends on {name}, which is not listed: review it first");
        findings.push(Finding::new(LIST, 1, message));
    }
    if findings.is_empty() && listed != linked {
        findings.push(Finding::new(LIST, 1, "the names are not in order, or one stands twice"));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLOSURE: &str = "helper v0.1.0 (/x)\nwire v0.1.0 (/y)\nserde v1.0.0\nwire v0.1.0 (/y) (*)\n";

    #[test]
    fn the_list_must_be_the_closure() {
        assert_eq!(compare("serde\nwire\n", CLOSURE), []);
        for bad in ["", "wire\n", "serde\nwire\nzbus\n", "wire\nserde\n", "serde\nserde\nwire\n"] {
            assert!(!compare(bad, CLOSURE).is_empty(), "{bad:?} passed");
        }
    }
}
