//! Every Rust file opens with a module doc: the reader meets the whole before the parts.

use super::Finding;
use super::rules::Rules;
use super::tree::Tree;

/// Shorter than this is a title at best.
const DOC_BYTES_MIN: usize = 10;

pub(super) fn check(tree: &Tree, _: &Rules) -> Vec<Finding> {
    tree.files
        .iter()
        .filter(|file| file.is_rust())
        .filter_map(|file| {
            let first = file.text.lines().next().unwrap_or_default();
            let message = match first.strip_prefix("//!") {
                None => "the first line is not a module doc (`//! …`)",
                Some(doc) if doc.trim().len() < DOC_BYTES_MIN => {
                    "the module doc's first line does not say what the module is"
                }
                Some(_) => return None,
            };
            Some(Finding::new(&file.path, 1, message))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_doc_must_open_the_file_and_say_something() {
        let tree = Tree::of(&[
            ("a.rs", "//! Starts a VM: from a plan to a guest.\n"),
            ("b.rs", "use x;\n//! Late doc, which is one all the same.\n"),
            ("c.rs", "//! m\n"),
            ("d.rs", ""),
            ("e.txt", "not Rust"),
        ]);
        let found: Vec<_> = check(&tree, &Rules::of("")).into_iter().map(|finding| finding.path).collect();
        assert_eq!(found, ["b.rs", "c.rs", "d.rs"]);
    }
}
