//! `cargo xtask tidy`: house rules that rustc and clippy cannot know.
//!
//! A check is one file of `tidy/`: a pure function from the tree (every text file that git knows of) and the rules
//! (`xtask/tidy.toml`) to findings, each with the file, the line and what is wrong. `CHECKS` is the whole list.
//! Any finding makes the exit status non-zero. `source.rs` splits a Rust file into code, comments and strings, so
//! that no check takes a word in a string for code.

mod crates;
mod decisions;
mod helper_dependencies;
mod hosts;
mod layers;
mod links;
mod module_docs;
mod rules;
mod size;
mod source;
mod sql;
mod test_files;
mod third_party;
mod tree;
mod unsafe_code;
mod words;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;

use self::rules::Rules;
use self::tree::Tree;
use crate::root;

/// One thing that is wrong, and where.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Finding {
    path: String,
    /// Counted from 1; a finding about the whole file is on line 1.
    line: usize,
    message: String,
}

impl Finding {
    fn new(path: &str, line: usize, message: impl Into<String>) -> Self {
        Finding { path: path.to_owned(), line, message: message.into() }
    }
}

type Check = fn(&Tree, &Rules) -> Vec<Finding>;

/// Every check, with the name it is known by.
const CHECKS: [(&str, Check); 13] = [
    ("module_docs", module_docs::check),
    ("size", size::check),
    ("layers", layers::check),
    ("crates", crates::check),
    ("helper_dependencies", helper_dependencies::check),
    ("third_party", third_party::check),
    ("sql", sql::check),
    ("unsafe_code", unsafe_code::check),
    ("words", words::check),
    ("hosts", hosts::check),
    ("test_files", test_files::check),
    ("decisions", decisions::check),
    ("links", links::check),
];

pub(crate) fn run() -> Result<ExitCode> {
    let from = Instant::now();
    let root = root::repository();
    let tree = Tree::read(&root)?;
    let rules = Rules::parse(tree.text("xtask/tidy.toml").unwrap_or_default())?;
    let mut findings: Vec<(Finding, &str)> = CHECKS
        .iter()
        .flat_map(|(name, check)| check(&tree, &rules).into_iter().map(move |finding| (finding, *name)))
        .collect();
    findings.sort();
    for (finding, name) in &findings {
        println!("{}:{}: {} [{name}]", finding.path, finding.line, finding.message);
    }
    let elapsed_ms = from.elapsed().as_millis();
    let (files, checks, count) = (tree.files.len(), CHECKS.len(), findings.len());
    println!("tidy: {checks} checks, {files} files, {count} findings, {elapsed_ms} ms");
    Ok(if findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
