//! Comments describe the code as it is: no first person, no history, no plans. Those belong in commits and decisions.

use super::Finding;
use super::rules::Rules;
use super::source::{line_of, word_offsets};
use super::tree::Tree;

/// Each is looked for as whole words, in small letters, except the capital ones.
const WORDS: [(&str, &str); 10] = [
    ("I", "first person"),
    ("we now", "history"),
    ("previously", "history"),
    ("formerly", "history"),
    ("was changed", "history"),
    ("issue #", "history"),
    ("in the future", "a plan"),
    ("TODO", "a plan"),
    ("FIXME", "a plan"),
    ("HACK", "a plan"),
];

pub(super) fn check(tree: &Tree, _: &Rules) -> Vec<Finding> {
    let mut findings = Vec::new();
    // This file spells the words.
    let sources = tree.sources().filter(|(path, _)| *path != "xtask/src/tidy/words.rs");
    for (path, source) in sources {
        let small = source.comments.to_ascii_lowercase();
        for (word, why) in WORDS {
            let is_exact = word.starts_with(|first: char| first.is_ascii_uppercase());
            let text = if is_exact { &source.comments } else { &small };
            for at in word_offsets(text, word) {
                // Input/output, and a generic parameter in a doc example.
                let after = text.as_bytes().get(at + word.len());
                if word == "I" && !matches!(after, Some(b' ' | b'\'')) {
                    continue;
                }
                let message = format!("\"{word}\" in a comment: {why}");
                findings.push(Finding::new(path, line_of(text, at), message));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_person_history_and_plans_are_found() {
        let bad = [
            "// I think so",
            "/// Previously a Vec.",
            "/* see issue #12 */",
            "//! Here we now retry.",
            "// TODO: x",
            "let a = 1; // FIXME later",
        ];
        for text in bad {
            let text = format!("\n{text}\n");
            let found = check(&Tree::of(&[("a.rs", &text)]), &Rules::of(""));
            assert_eq!(found.iter().map(|finding| finding.line).collect::<Vec<_>>(), [2], "{text}");
        }
    }

    #[test]
    fn ordinary_comments_and_code_pass() {
        let good = "// I/O errors; an iterator over I. A todo list.\nlet todo = \"TODO\";\nfn previously() {}\n";
        assert_eq!(check(&Tree::of(&[("a.rs", good)]), &Rules::of("")), []);
    }
}
