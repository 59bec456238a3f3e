//! Versions of Go, Node, Python and Rust that a repository's own files pin, in mise's words. Pure: text in, versions out.
//! What leaves a choice (`>=18`) pins nothing.

use serde_json::Value;

/// A kind of file that pins a tool.
pub(super) struct Manifest {
    /// Its name, at the top of the repository.
    pub(super) file: &'static str,
    /// The tool, as mise calls it.
    pub(super) tool: &'static str,
    /// Reads it.
    pub(super) read: fn(&str) -> Option<String>,
}

/// Those that are read; of one tool the first that pins it counts.
pub(super) const MANIFESTS: [Manifest; 7] = [
    Manifest { file: "go.mod", tool: "go", read: go_mod },
    Manifest { file: ".nvmrc", tool: "node", read: node_file },
    Manifest { file: ".node-version", tool: "node", read: node_file },
    Manifest { file: "package.json", tool: "node", read: package_json },
    Manifest { file: ".python-version", tool: "python", read: python_version },
    Manifest { file: "rust-toolchain.toml", tool: "rust", read: rust_toolchain_toml },
    Manifest { file: "rust-toolchain", tool: "rust", read: rust_toolchain },
];

/// Longest version.
const VERSION_LEN_MAX: usize = 64;

/// The tools that a file of mise's own pins, as mise calls them.
pub(super) fn pinned_by_mise(file: &str, text: &str) -> Vec<String> {
    let words: Vec<String> = if file.ends_with(".toml") {
        let parsed: Option<toml::Table> = toml::from_str(text).ok();
        let tools = parsed.as_ref().and_then(|table| table.get("tools")).and_then(toml::Value::as_table);
        tools.into_iter().flat_map(|tools| tools.keys().cloned()).collect()
    } else {
        lines(text).filter_map(|line| line.split_whitespace().next().map(str::to_owned)).collect()
    };
    words.into_iter().map(|word| mises_name(&word).to_owned()).collect()
}

/// asdf's names, and mise's own with their backend, lead to the same tools.
fn mises_name(word: &str) -> &str {
    match word.strip_prefix("core:").unwrap_or(word) {
        "golang" => "go",
        "nodejs" => "node",
        name => name,
    }
}

/// Lines that say something; `#` begins a comment.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(|line| line.split('#').next().unwrap_or_default().trim()).filter(|line| !line.is_empty())
}

/// A word that can be a version: it begins with a letter or a digit, and nothing in it means anything to anybody.
fn version(word: &str) -> Option<String> {
    let is_version = word.len() <= VERSION_LEN_MAX
        && word.starts_with(|first: char| first.is_ascii_alphanumeric())
        && word.chars().all(|letter| letter.is_ascii_alphanumeric() || ".+-_".contains(letter));
    is_version.then(|| word.to_owned())
}

/// The same, of one that begins with a digit.
fn number(word: &str) -> Option<String> {
    version(word).filter(|word| word.starts_with(|first: char| first.is_ascii_digit()))
}

/// The toolchain, else the language (go.dev/ref/mod, "toolchain directive", "go directive").
fn go_mod(text: &str) -> Option<String> {
    let directive = |name: &str| {
        text.lines().find_map(|line| {
            let mut words = line.split("//").next().unwrap_or_default().split_whitespace();
            (words.next() == Some(name)).then(|| words.next()).flatten()
        })
    };
    let toolchain = directive("toolchain").and_then(|name| name.strip_prefix("go")).and_then(number);
    toolchain.or_else(|| directive("go").and_then(number))
}

/// As nvm and its kin read it: a version with or without `v`, `lts/*`, `lts/NAME`.
fn node_file(text: &str) -> Option<String> {
    node(lines(text).next()?)
}

fn node(word: &str) -> Option<String> {
    match word.strip_prefix("lts/") {
        Some("*") => Some("lts".to_owned()),
        Some(name) => version(&format!("lts-{}", name.to_ascii_lowercase())),
        None => number(word.strip_prefix('v').unwrap_or(word)),
    }
}

/// `engines.node`, where it is one version or one line of versions: `20`, `20.x`, `^20.1.0`, `~20.1.0` (semver ranges of npm).
fn package_json(text: &str) -> Option<String> {
    let parsed: Value = serde_json::from_str(text).ok()?;
    let range = parsed.get("engines")?.get("node")?.as_str()?.trim();
    let parts = |text: &str, count: usize| {
        let text = text.trim().trim_start_matches('v');
        let numbers: Vec<&str> = text.split('.').take_while(|part| !matches!(*part, "x" | "X" | "*")).collect();
        let kept = numbers.len().min(count);
        let is_plain =
            kept > 0 && numbers.iter().all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()));
        is_plain.then(|| numbers[..kept].join("."))
    };
    match range.chars().next()? {
        '^' => parts(&range[1..], 1),
        '~' => parts(&range[1..], 2),
        '=' => parts(&range[1..], 3),
        _ => parts(range, 3),
    }
}

/// As pyenv reads it: the first line; a name of an environment or of another Python pins nothing.
fn python_version(text: &str) -> Option<String> {
    number(lines(text).next()?)
}

/// The channel (rust-lang.github.io/rustup, "The toolchain file").
fn rust_toolchain_toml(text: &str) -> Option<String> {
    let parsed: toml::Table = toml::from_str(text).ok()?;
    version(parsed.get("toolchain")?.get("channel")?.as_str()?)
}

/// The older form, which is the channel alone; or the same as the other.
fn rust_toolchain(text: &str) -> Option<String> {
    rust_toolchain_toml(text).or_else(|| version(text.trim()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(file: &str, text: &str) -> Option<String> {
        let manifest = MANIFESTS.iter().find(|manifest| manifest.file == file).unwrap();
        (manifest.read)(text)
    }

    #[test]
    fn versions_that_are_pinned() {
        for (file, text, expected) in [
            ("go.mod", "module x\n\ngo 1.25\n", "1.25"),
            ("go.mod", "module x\ngo 1.25.0 // newest\ntoolchain go1.25.3\n", "1.25.3"),
            ("go.mod", "module x\r\ngo 1.24.1\r\ntoolchain default\r\n", "1.24.1"),
            (".nvmrc", "v20.11.1\n", "20.11.1"),
            (".nvmrc", "# ours\n\n22 # current\n", "22"),
            (".nvmrc", "lts/*", "lts"),
            (".nvmrc", "lts/Iron\n", "lts-iron"),
            (".node-version", "20.11.1", "20.11.1"),
            ("package.json", r#"{"engines": {"node": "20"}}"#, "20"),
            ("package.json", r#"{"engines": {"node": "20.x"}}"#, "20"),
            ("package.json", r#"{"engines": {"node": "v20.1.*"}}"#, "20.1"),
            ("package.json", r#"{"engines": {"node": "^20.1.2"}}"#, "20"),
            ("package.json", r#"{"engines": {"node": "~20.1.2"}}"#, "20.1"),
            ("package.json", r#"{"engines": {"node": "= 20.1.2"}}"#, "20.1.2"),
            (".python-version", "3.12.1\n3.11\n", "3.12.1"),
            ("rust-toolchain.toml", "[toolchain]\nchannel = \"1.85\"\nprofile = \"minimal\"", "1.85"),
            ("rust-toolchain", "nightly-2026-01-01\n", "nightly-2026-01-01"),
            ("rust-toolchain", "[toolchain]\nchannel = \"stable\"", "stable"),
        ] {
            assert_eq!(read(file, text).as_deref(), Some(expected), "{file}: {text}");
        }
    }

    #[test]
    fn what_pins_nothing() {
        for (file, text) in [
            ("go.mod", "module x\n"),
            ("go.mod", "module x\ngo $(reboot)\n"),
            (".nvmrc", ""),
            (".nvmrc", "node\n"),
            (".nvmrc", "--help"),
            (".nvmrc", "20;reboot"),
            ("package.json", "{}"),
            ("package.json", "not json"),
            ("package.json", r#"{"engines": {"node": ">=18"}}"#),
            ("package.json", r#"{"engines": {"node": "18 || 20"}}"#),
            ("package.json", r#"{"engines": {"node": "18 - 20"}}"#),
            ("package.json", r#"{"engines": {"node": "*"}}"#),
            ("package.json", r#"{"engines": {"node": ""}}"#),
            (".python-version", "my-env\n"),
            (".python-version", "pypy3.10-7.3.12\n"),
            ("rust-toolchain.toml", "channel = \"1.85\""),
            ("rust-toolchain.toml", "[toolchain]\npath = \"/opt/rust\""),
            ("rust-toolchain", "../toolchain"),
        ] {
            assert_eq!(read(file, text), None, "{file}: {text}");
        }
    }

    #[test]
    fn files_of_mise_pin_by_their_names() {
        let toml = "[tools]\nnode = \"22\"\n\"core:go\" = [\"1.25\"]\n\"npm:prettier\" = \"3\"\n[env]\nA = \"b\"";
        assert_eq!(pinned_by_mise(".mise.toml", toml), ["go", "node", "npm:prettier"]);
        assert_eq!(
            pinned_by_mise(".tool-versions", "golang 1.25\n# rust 1\n\nnodejs 22 20\npython"),
            ["go", "node", "python"]
        );
        assert_eq!(pinned_by_mise("mise.toml", "broken = ["), [""; 0]);
        assert_eq!(pinned_by_mise("mise.toml", "tools = 3"), [""; 0]);
    }

    proptest! {
        #[test]
        fn nothing_read_is_more_than_a_version(text in ".{0,200}", inner in "[\\PC\"{}:.^~ 0-9v\n]{0,40}") {
            let package = format!("{{\"engines\": {{\"node\": {}}}}}", Value::String(inner.clone()));
            for manifest in &MANIFESTS {
                for text in [text.as_str(), inner.as_str(), package.as_str()] {
                    if let Some(version) = (manifest.read)(text) {
                        prop_assert!(version.len() <= VERSION_LEN_MAX + 4);
                        prop_assert!(version.chars().all(|c| c.is_ascii_alphanumeric() || ".+-_".contains(c)), "{version}");
                        prop_assert!(!version.starts_with('-'));
                    }
                }
            }
            pinned_by_mise("mise.toml", &text);
            pinned_by_mise(".tool-versions", &text);
        }
    }
}
