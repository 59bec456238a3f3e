//! A file fits in one's head and a function on a screen; what does not is listed with its reason, and what is listed
//! without need is a finding too.

use super::Finding;
use super::rules::Rules;
use super::source::{Source, is_identifier, line_of, word_offsets};
use super::tree::Tree;

const RULES: &str = "xtask/tidy.toml";

pub(super) fn check(tree: &Tree, rules: &Rules) -> Vec<Finding> {
    let mut findings = Vec::new();
    let (file_max, function_max) = (rules.limits.file_lines, rules.limits.function_lines);
    let mut long_files = Vec::new();
    let mut long_functions = Vec::new();

    for (path, source) in tree.sources() {
        let lines = source.code.lines().count();
        if lines > file_max {
            long_files.push(path);
            if !rules.long_file.iter().any(|entry| entry.path == path) {
                let message = format!("{lines} lines, and a file has at most {file_max}");
                findings.push(Finding::new(path, 1, message));
            }
        }
        for function in functions(source) {
            if function.lines <= function_max {
                continue;
            }
            long_functions.push((path, function.name.clone()));
            let is_listed = rules.long_function.iter().any(|entry| entry.path == path && entry.name == function.name);
            if !is_listed {
                let message = format!(
                    "fn {} has {} lines, and a function has at most {function_max}",
                    function.name, function.lines
                );
                findings.push(Finding::new(path, function.line, message));
            }
        }
    }

    for entry in &rules.long_file {
        if !long_files.contains(&entry.path.as_str()) {
            let message = format!("long_file: {} is not too long; remove the entry", entry.path);
            findings.push(Finding::new(RULES, 1, message));
        }
    }
    for entry in &rules.long_function {
        let is_needed = long_functions.iter().any(|(path, name)| *path == entry.path && *name == entry.name);
        if !is_needed {
            let message = format!("long_function: {} of {} is not too long; remove the entry", entry.name, entry.path);
            findings.push(Finding::new(RULES, 1, message));
        }
    }
    let reasons =
        rules.long_file.iter().map(|entry| &entry.reason).chain(rules.long_function.iter().map(|entry| &entry.reason));
    if reasons.into_iter().any(|reason| reason.trim().is_empty()) {
        findings.push(Finding::new(RULES, 1, "an exception has an empty reason"));
    }
    findings
}

struct Function {
    name: String,
    /// Where `fn` stands.
    line: usize,
    /// From the line of `fn` to that of the closing brace, both included.
    lines: usize,
}

fn functions(source: &Source) -> Vec<Function> {
    let code = source.code.as_str();
    word_offsets(code, "fn")
        .filter_map(|at| {
            let after = &code[at + 2..];
            let name: String =
                after.trim_start().bytes().take_while(|&byte| is_identifier(byte)).map(char::from).collect();
            // `fn(u8) -> u8` is a type.
            if name.is_empty() {
                return None;
            }
            let end = at + 2 + body_end(after)?;
            let line = line_of(code, at);
            Some(Function { name, line, lines: line_of(code, end) - line + 1 })
        })
        .collect()
}

/// The offset of the brace that closes the first body in `code`; nothing for a declaration that ends in `;`.
fn body_end(code: &str) -> Option<usize> {
    let mut parentheses = 0_i32;
    let mut braces = 0_i32;
    for (at, byte) in code.bytes().enumerate() {
        match byte {
            b'(' | b'[' => parentheses += 1,
            b')' | b']' => parentheses -= 1,
            b';' if parentheses == 0 && braces == 0 => return None,
            b'{' => braces += 1,
            b'}' => {
                braces -= 1;
                if braces == 0 {
                    return Some(at);
                }
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(tree: &Tree, rules: &str) -> Vec<(usize, String)> {
        check(tree, &Rules::of(rules)).into_iter().map(|finding| (finding.line, finding.message)).collect()
    }

    #[test]
    fn long_files_and_functions_are_found_where_they_start() {
        let tree = Tree::of(&[
            ("ok.rs", "fn a(x: [u8; 2]) {\n    x;\n}\ntrait T { fn b(&self); }\n"),
            ("long.rs", "type F = fn(u8);\n\nfn a() {\n    {\n    }\n}\n\n"),
        ]);
        let expected = [
            (1, "7 lines, and a file has at most 6".to_owned()),
            (3, "fn a has 4 lines, and a function has at most 3".to_owned()),
        ];
        assert_eq!(messages(&tree, ""), expected);
    }

    #[test]
    fn an_exception_with_a_reason_passes_and_one_too_many_does_not() {
        let tree = Tree::of(&[("long.rs", "\n\n\n\nfn a() {\n\n\n}\n")]);
        let needed = "long_file = [{ path = 'long.rs', reason = 'one table' }]\n\
                      long_function = [{ path = 'long.rs', name = 'a', reason = 'one match' }]";
        assert_eq!(messages(&tree, needed), []);

        let short = Tree::of(&[("long.rs", "fn a() {}\n")]);
        assert_eq!(messages(&short, needed).len(), 2);

        let unreasoned = needed.replace("one table", " ");
        assert_eq!(messages(&tree, &unreasoned), [(1, "an exception has an empty reason".to_owned())]);
    }
}
