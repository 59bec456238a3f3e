//! Every file of an integration test binary is a part of it: a file in `tests/it/` that `main.rs` does not declare
//! would never be compiled, and its tests would seem to pass.

use super::Finding;
use super::rules::Rules;
use super::tree::Tree;

pub(super) fn check(tree: &Tree, _: &Rules) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, _) in tree.sources() {
        let Some((crate_directory, inside)) = path.split_once("/tests/it/") else {
            continue;
        };
        let module = match inside.split_once('/') {
            Some((folder, _)) => folder,
            None => inside.strip_suffix(".rs").unwrap_or(inside),
        };
        if module == "main" {
            continue;
        }
        let main = format!("{crate_directory}/tests/it/main.rs");
        let declared = tree.sources().any(|(path, source)| {
            path == main
                && source.code.lines().any(|line| line.trim().trim_start_matches("pub ") == format!("mod {module};"))
        });
        if !declared {
            let message = format!("{main} does not declare `mod {module};`");
            findings.push(Finding::new(path, 1, message));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forgotten_file_is_found() {
        let main = ("crates/x/tests/it/main.rs", "mod exec;\nmod fixture;\n// mod lost;\n");
        let good = [main, ("crates/x/tests/it/exec.rs", ""), ("crates/x/tests/it/fixture/vm.rs", "")];
        assert_eq!(check(&Tree::of(&good), &Rules::of("")), []);
        for lost in ["crates/x/tests/it/lost.rs", "crates/x/tests/it/lost/a.rs", "crates/y/tests/it/exec.rs"] {
            let found = check(&Tree::of(&[main, (lost, "")]), &Rules::of(""));
            assert_eq!(found.len(), 1, "{lost}");
        }
    }
}
