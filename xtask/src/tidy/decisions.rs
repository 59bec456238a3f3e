//! Every decision of `docs/adr/` is listed in its README, which is how a reader finds it.

use super::Finding;
use super::rules::Rules;
use super::tree::Tree;

const FOLDER: &str = "docs/adr/";
const README: &str = "docs/adr/README.md";

pub(super) fn check(tree: &Tree, _: &Rules) -> Vec<Finding> {
    let readme = tree.text(README).unwrap_or_default();
    tree.markdown()
        .filter(|file| file.path != README)
        .filter_map(|file| {
            let name = file.path.strip_prefix(FOLDER)?;
            let is_listed = readme.contains(&format!("]({name})"));
            (!is_listed).then(|| Finding::new(&file.path, 1, format!("{README} does not list it")))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unlisted_decision_is_found() {
        let readme = ("docs/adr/README.md", "- [One](0001-one.md)\n");
        let good = [readme, ("docs/adr/0001-one.md", ""), ("docs/other.md", "")];
        assert_eq!(check(&Tree::of(&good), &Rules::of("")), []);
        let bad = [readme, ("docs/adr/0002-two.md", "")];
        assert_eq!(check(&Tree::of(&bad), &Rules::of("")).len(), 1);
    }
}
