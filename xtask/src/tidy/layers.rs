//! The layers inside the daemon: which of its modules may use which, and `wire` and `sys`.
//!
//! The table is `[layers]` of `xtask/tidy.toml`. A module is a file or a folder directly below `crates/daemon/src/`;
//! `main.rs` and `lib.rs` wire everything and are not held to it. What a module uses is read from its paths:
//! `crate::…`, `wire::…`, `sys::…`, with nested braces, and `super::…` that climbs to the crate's root. Tests may use
//! what they like. A `concrete` module (one driver of several) is named by its own layer and by `main.rs` only.

use super::Finding;
use super::rules::Rules;
use super::source::{line_of, word_offsets};
use super::tree::Tree;

const DAEMON: &str = "crates/daemon/src/";
const EXEMPT: [&str; 2] = ["main.rs", "lib.rs"];

pub(super) fn check(tree: &Tree, rules: &Rules) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, source) in tree.sources() {
        let Some(inside) = path.strip_prefix(DAEMON) else {
            continue;
        };
        if EXEMPT.contains(&inside) || inside.ends_with("/tests.rs") || inside.contains("/tests/") {
            continue;
        }
        let module = module_of(inside);
        let Some(may_use) = rules.layers.get(module) else {
            let message = format!("module {module} has no row in the layer table");
            findings.push(Finding::new(path, 1, message));
            continue;
        };
        let code = source.code_without_tests();
        for (offset, used) in used_paths(code, depth_of(inside), rules) {
            let Some(message) = refusal(module, &used, may_use, rules) else {
                continue;
            };
            findings.push(Finding::new(path, line_of(code, offset), message));
        }
    }
    findings
}

/// `store` for `store.rs`, `store/mod.rs` and `store/journal.rs`.
fn module_of(inside: &str) -> &str {
    let first = inside.split('/').next().unwrap_or(inside);
    first.strip_suffix(".rs").unwrap_or(first)
}

/// How many `super` lead from a file to the crate's root.
fn depth_of(inside: &str) -> usize {
    let names = inside.split('/').count();
    if inside.ends_with("/mod.rs") { names - 1 } else { names }
}

fn refusal(module: &str, used: &str, may_use: &[String], rules: &Rules) -> Option<String> {
    let top = used.split("::").next().unwrap_or(used);
    if top == module {
        return None;
    }
    if rules.concrete.iter().any(|concrete| is_within(used, concrete)) {
        return Some(format!("{module} names {used}, which only main.rs may"));
    }
    // Macros and items of the crate's root belong to no layer.
    let is_layer = rules.layers.contains_key(top) || ["wire", "sys"].contains(&top);
    if !is_layer || may_use.iter().any(|allowed| is_within(used, allowed)) {
        return None;
    }
    let allowed = if may_use.is_empty() { "nothing of ours".to_owned() } else { may_use.join(", ") };
    Some(format!("{module} uses {used}; it may use {allowed}"))
}

/// Whether `path` is `prefix` or below it.
fn is_within(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// Every path in the code that starts at the crate's root, at `wire` or at `sys`, without `crate::`.
fn used_paths(code: &str, depth: usize, rules: &Rules) -> Vec<(usize, String)> {
    let mut paths = Vec::new();
    for head in ["crate", "wire", "sys"] {
        for at in word_offsets(code, head) {
            if code[..at].trim_end().ends_with("::") {
                continue;
            }
            let prefix = if head == "crate" { "" } else { head };
            if let Some(rest) = code[at + head.len()..].strip_prefix("::") {
                expand(rest, prefix, &mut |path| paths.push((at, path)));
            }
        }
    }
    let climb = "super::".repeat(depth);
    for (at, _) in code.match_indices(&climb) {
        if code[..at].ends_with("super::") {
            continue;
        }
        expand(&code[at + climb.len()..], "", &mut |path| {
            // Inside a nested module the same climb ends lower; only the name of a layer tells.
            if rules.layers.contains_key(path.split("::").next().unwrap_or_default()) {
                paths.push((at, path));
            }
        });
    }
    paths.sort();
    paths.dedup();
    paths
}

/// Reads one path or one braced group at the start of `rest`, and emits every path in it; returns what it consumed.
fn expand(rest: &str, prefix: &str, emit: &mut dyn FnMut(String)) -> usize {
    let start = rest.len() - rest.trim_start().len();
    let body = &rest[start..];
    if body.starts_with('{') {
        let mut at = 1;
        loop {
            let skipped = body[at..].len() - body[at..].trim_start_matches([' ', '\n', ',']).len();
            at += skipped;
            match body.as_bytes().get(at) {
                None => return start + at,
                Some(b'}') => return start + at + 1,
                Some(_) => at += expand(&body[at..], prefix, emit).max(1),
            }
        }
    }
    let name_length = body.bytes().take_while(|&byte| super::source::is_identifier(byte) || byte == b'*').count();
    let name = &body[..name_length];
    let path = match (prefix, name) {
        ("", _) => name.to_owned(),
        (_, "*" | "self" | "") => prefix.to_owned(),
        (_, _) => format!("{prefix}::{name}"),
    };
    if let Some(deeper) = body[name_length..].strip_prefix("::") {
        return start + name_length + 2 + expand(deeper, &path, emit);
    }
    if !path.is_empty() {
        emit(path);
    }
    // `name as other`: the rest of the entry is skipped up to the next separator.
    let entry_length = body[name_length..].find([',', '}', ';', '\n', '(', ')', '<', ' ']).map_or(0, |at| {
        match body[name_length..].get(at..at + 4) {
            Some(" as ") => 4 + body[name_length + at + 4..].find([',', '}', ';']).unwrap_or(0) + at,
            _ => at,
        }
    });
    start + name_length + entry_length
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "concrete = ['vmm::qemu']\n[layers]\nmodel = ['wire::id']\nsaga = []\n\
                         store = ['model', 'saga::journal']\nvmm = ['model', 'sys', 'wire']\nops = ['vmm', 'store']";

    fn lines(path: &str, code: &str) -> Vec<usize> {
        let text = format!("{DAEMON}{path}");
        check(&Tree::of(&[(&text, code)]), &Rules::of(TABLE)).into_iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn what_the_table_allows_passes() {
        let good = [
            ("model/vm.rs", "use wire::id::VmId;\nuse crate::model::boot;\nuse std::fmt;"),
            ("store/mod.rs", "use crate::{model::{Vm, Boot as B}, saga::journal::{self, Edge}};"),
            ("store/rows.rs", "use super::Store;\nuse super::super::model::Vm;\npub(crate) fn a() {}"),
            ("ops/start.rs", "// crate::api\nlet s = \"crate::api\";\ncrate::macro_of_ours!(x);"),
            ("main.rs", "use crate::vmm::qemu::Qemu;"),
            ("vmm/sim.rs", "use crate::vmm::qemu::Qemu;\nuse sys::fs;"),
            ("saga/mod.rs", "#[cfg(test)]\nmod tests { use crate::model::Vm; }"),
            ("saga/tests.rs", "use crate::model::Vm;"),
        ];
        for (path, code) in good {
            assert_eq!(lines(path, code), [0; 0], "{path}: {code}");
        }
    }

    #[test]
    fn what_the_table_does_not_allow_is_found() {
        let bad = [
            ("model/vm.rs", "use wire::api::Vm;"),
            ("model/vm.rs", "use sys::clock;"),
            ("saga/mod.rs", "use crate::{\n    model,\n};"),
            ("store/mod.rs", "use crate::{model::{Vm as V, Boot}, saga::drive};"),
            ("store/mod.rs", "use super::vmm::Vmm;"),
            ("store/a.rs", "use super::super::{model::Vm, ops};"),
            ("vmm/sim.rs", "fn f() { crate::store::open() }"),
            ("ops/start.rs", "use crate::vmm::{Vmm, qemu::Qemu};"),
            ("extra.rs", "fn a() {}"),
        ];
        for (path, code) in bad {
            assert_eq!(lines(path, code).len(), 1, "{path}: {code}");
        }
    }
}
