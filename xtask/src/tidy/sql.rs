//! Only `store/` of the daemon contains SQL, and only it names the library for it.

use super::Finding;
use super::rules::Rules;
use super::source::{line_of, word_offsets};
use super::tree::Tree;

/// The store, and the tests that look at its files from outside.
const STORE: [&str; 3] = ["crates/daemon/src/store/", "crates/daemon/src/store.rs", "crates/daemon/tests/it/store"];

/// How a statement of SQL starts. Statements are written in capitals, so prose in a message is not one.
const STATEMENTS: [&str; 12] = [
    "SELECT ",
    "INSERT INTO ",
    "INSERT OR ",
    "UPDATE ",
    "DELETE FROM ",
    "REPLACE INTO ",
    "CREATE TABLE ",
    "CREATE INDEX ",
    "CREATE UNIQUE ",
    "ALTER TABLE ",
    "DROP TABLE ",
    "PRAGMA ",
];

pub(super) fn check(tree: &Tree, _: &Rules) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, source) in tree.sources() {
        let is_store = STORE.iter().any(|store| path.starts_with(store));
        if is_store || !path.starts_with("crates/") {
            continue;
        }
        for at in word_offsets(&source.code, "rusqlite") {
            let line = line_of(&source.code, at);
            findings.push(Finding::new(path, line, "only store/ may use rusqlite"));
        }
        for statement in STATEMENTS {
            for (at, _) in source.strings.match_indices(statement) {
                let opens = source.strings[..at].trim_end().ends_with(['"', ';']);
                if opens {
                    let line = line_of(&source.strings, at);
                    findings.push(Finding::new(path, line, "SQL outside store/"));
                }
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sql_and_its_library_belong_to_the_store() {
        let sql = "fn a() {\n    db.execute(\"\n        DELETE FROM vm\", []);\n}\n";
        let bad = [sql, "use rusqlite::Connection;", "let q = \"SELECT 1\";", "r#\"PRAGMA x\"#"];
        for text in bad {
            let tree = Tree::of(&[("crates/daemon/src/api/vms.rs", text)]);
            assert_eq!(check(&tree, &Rules::of("")).len(), 1, "{text}");
            for home in ["crates/daemon/src/store/vms.rs", "crates/daemon/src/store.rs", "xtask/src/a.rs"] {
                assert_eq!(check(&Tree::of(&[(home, text)]), &Rules::of("")), [], "{home}");
            }
        }
        let good = "// SELECT nothing\nlet hint = \"please SELECT one\";\nlet s = \"select an image\";\n";
        let tree = Tree::of(&[("crates/cli/src/main.rs", good)]);
        assert_eq!(check(&tree, &Rules::of("")), []);
    }
}
