//! Only the crate `sys` contains `unsafe`, and only it may lift the lint that forbids it.

use super::Finding;
use super::rules::Rules;
use super::source::{line_of, word_offsets};
use super::tree::Tree;

const HOME: &str = "crates/sys/";

pub(super) fn check(tree: &Tree, _: &Rules) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, source) in tree.sources().filter(|(path, _)| !path.starts_with(HOME)) {
        for (word, message) in
            [("unsafe", "unsafe code outside sys"), ("unsafe_code", "the lint unsafe_code is lifted outside sys")]
        {
            for at in word_offsets(&source.code, word) {
                // A module or a path may bear the lint's name; an attribute lifts it.
                let is_lint = source.code[..at].rfind("#[").is_some_and(|open| !source.code[open..at].contains(']'))
                    || source.code[..at].rfind("#![").is_some_and(|open| !source.code[open..at].contains(']'));
                if word == "unsafe" || is_lint {
                    findings.push(Finding::new(path, line_of(&source.code, at), message));
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
    fn unsafe_belongs_to_sys() {
        let bad = [
            "fn a() { unsafe { b() } }",
            "unsafe fn a() {}",
            "#[expect(unsafe_code, reason = \"x\")]\nfn a() {}",
            "#![allow(unsafe_code)]",
        ];
        for text in bad {
            let found = check(&Tree::of(&[("crates/agent/src/a.rs", text)]), &Rules::of(""));
            assert_eq!(found.len(), 1, "{text}");
            assert_eq!(check(&Tree::of(&[("crates/sys/src/a.rs", text)]), &Rules::of("")), []);
        }
        let good = "// unsafe\nlet a = \"unsafe\";\nmod unsafe_code;\nfn is_unsafe() {}\n";
        assert_eq!(check(&Tree::of(&[("a.rs", good)]), &Rules::of("")), []);
    }
}
