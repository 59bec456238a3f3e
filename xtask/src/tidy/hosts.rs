//! Nothing in the tree depends on one machine or one mirror: no path of a developer's machine in any text, no host
//! name of a package registry in a document.

use std::path::Path;

use super::Finding;
use super::rules::Rules;
use super::source::line_of;
use super::tree::Tree;

/// Labels that make a host name one of a package registry.
const REGISTRY_LABELS: [&str; 6] = ["deb", "registry", "pypi", "npmjs", "crates", "pythonhosted"];
const TOP_LABELS: [&str; 4] = ["com", "io", "net", "org"];

/// Directories that hold many things: a checkout directly below one says nothing about the machine.
const COMMON_PARENTS: [&str; 8] = ["/", "/tmp", "/root", "/home", "/srv", "/opt", "/usr/src", "/var/tmp"];

/// Where toolchains and home directories are on one machine and not on the next; split so that this file passes.
const MACHINE_PATHS: [&str; 3] = [concat!("/Use", "rs/"), concat!("/root/", ".cargo"), concat!("/root/", ".rustup")];

pub(super) fn check(tree: &Tree, _: &Rules) -> Vec<Finding> {
    let mut machine_paths: Vec<String> = MACHINE_PATHS.iter().map(|path| (*path).to_owned()).collect();
    machine_paths.push(tree.root.display().to_string());
    let parent = tree.root.parent().unwrap_or(Path::new("/"));
    if !COMMON_PARENTS.iter().any(|common| parent == Path::new(common)) {
        machine_paths.push(format!("{}/", parent.display()));
    }

    let mut findings = Vec::new();
    for file in &tree.files {
        for path in &machine_paths {
            for (at, _) in file.text.match_indices(path.as_str()) {
                let before = file.text[..at].chars().next_back();
                if before.is_some_and(|char| char.is_alphanumeric() || "/._-}".contains(char)) {
                    continue;
                }
                let message = format!("a path of a developer's machine: {path}");
                findings.push(Finding::new(&file.path, line_of(&file.text, at), message));
            }
        }
    }
    for file in tree.markdown() {
        for (number, line) in file.text.lines().enumerate() {
            if let Some(host) = registry_host(line) {
                let message = format!("the host name of a package registry: {host}");
                findings.push(Finding::new(&file.path, number + 1, message));
            }
        }
    }
    findings
}

fn registry_host(line: &str) -> Option<&str> {
    line.split(|char: char| !char.is_ascii_alphanumeric() && char != '.' && char != '-')
        .map(|word| word.trim_matches('.'))
        .find(|word| {
            let labels: Vec<&str> = word.split('.').collect();
            labels.len() > 1
                && labels.last().is_some_and(|last| TOP_LABELS.contains(last))
                && labels.iter().any(|label| REGISTRY_LABELS.contains(label))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_a_machine_are_found_in_any_text() {
        for bad in ["/srv/checkouts/banger/x", "see /srv/checkouts/other.md", concat!("`/Use", "rs/jo/src`")] {
            for path in ["a.rs", "docs/a.md", "Makefile"] {
                let found = check(&Tree::of(&[(path, bad)]), &Rules::of(""));
                assert!(!found.is_empty(), "{path}: {bad}");
            }
        }
        let good = "/srv/data /home/dev/x /var/lib/banger https://x/srv/checkouts/ docs/srv/checkouts/a";
        assert_eq!(check(&Tree::of(&[("a.md", good)]), &Rules::of("")), []);
    }

    #[test]
    fn registries_are_found_in_documents() {
        let host = ["registry", "example", "org"].join(".");
        for bad in [format!("from https://{host}/x"), format!("`{}`.", ["crates", "io"].join("."))] {
            assert_eq!(check(&Tree::of(&[("a.md", &bad)]), &Rules::of("")).len(), 1, "{bad}");
            assert_eq!(check(&Tree::of(&[("a.lock", &bad)]), &Rules::of("")), []);
        }
        let good = "a kernel.deb file, crates.toml, docs of example.org, the registry";
        assert_eq!(check(&Tree::of(&[("a.md", good)]), &Rules::of("")), []);
    }
}
