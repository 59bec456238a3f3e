//! Relative links in documents lead somewhere. Links with a scheme are left alone: whether they answer is not a
//! property of the tree. Code blocks and code spans are not read.

use super::Finding;
use super::rules::Rules;
use super::tree::Tree;

pub(super) fn check(tree: &Tree, _: &Rules) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.markdown() {
        let folder = file.path.rsplit_once('/').map_or("", |(folder, _)| folder);
        let mut is_code = false;
        for (number, line) in file.text.lines().enumerate() {
            if line.trim_start().starts_with("```") {
                is_code = !is_code;
                continue;
            }
            if is_code {
                continue;
            }
            for link in links(line) {
                let path = link.split('#').next().unwrap_or_default();
                let has_scheme = link.contains("://") || link.starts_with("mailto:");
                if path.is_empty() || has_scheme {
                    continue;
                }
                let is_there = resolve(folder, path).is_some_and(|path| tree.has(&path));
                if !is_there {
                    let message = format!("the link leads nowhere: {link}");
                    findings.push(Finding::new(&file.path, number + 1, message));
                }
            }
        }
    }
    findings
}

/// The targets of `[text](target)` in a line, outside code spans.
fn links(line: &str) -> Vec<&str> {
    // Every second piece between backticks is code; `](` never is, so a link whose text is code is seen too.
    line.split('`')
        .step_by(2)
        .flat_map(|text| text.split("](").skip(1))
        .filter_map(|rest| rest.split_once(')').map(|(target, _)| target))
        .collect()
}

/// `path` as seen from `folder`, relative to the root; nothing when it climbs out of the tree.
fn resolve(folder: &str, path: &str) -> Option<String> {
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            name => parts.push(name),
        }
    }
    Some(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<usize> {
        let files = [("docs/a.md", text), ("docs/adr/0001.md", ""), ("README.md", "")];
        check(&Tree::of(&files), &Rules::of("")).into_iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn links_that_lead_somewhere_pass() {
        let good = "[a](adr/0001.md#x) [b](../README.md) [c](adr) [`d`](https://example.org/x) [e](#here)\n\
                    `[f](gone.md)`\n```\n[g](gone.md)\n```\n[`h`](adr/0001.md)\n";
        assert_eq!(lines(good), [0; 0]);
    }

    #[test]
    fn links_that_lead_nowhere_are_found() {
        let bad = "[a](adr/0002.md)\n[b](../../README.md)\n[`c`](gone.md) and [d](README.md)\n";
        assert_eq!(lines(bad), [1, 2, 3, 3]);
    }
}
