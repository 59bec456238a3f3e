//! What a repository's own files ask of the machine.

use wire::api::{DevContainer, WorkspaceMode};

use super::*;

fn inspected(bench: &Bench) -> wire::api::Inspection {
    Repository::inspect(&bench.source).unwrap().told(false)
}

#[test]
fn files_of_mise_and_what_others_pin_beside_them() {
    let bench = Bench::new();
    bench.write("mise.toml", "[tools]\nnode = \"22\"\n");
    bench.write(".tool-versions", "ruby 3.3\n");
    bench.write(".config/mise/config.toml", "");
    bench.write("sub/.mise.toml", "");
    bench.write("package.json", "{\"engines\": {\"node\": \"20\"}}");
    bench.write("go.mod", "module x\ngo 1.25\n");
    bench.write("rust-toolchain", "1.85\n");
    bench.commit("one");
    bench.write("mise.local.toml", "[tools]\ngo = \"1.24\"\n");
    bench.write("go.mod", "module x\ngo 1.25.4\n");
    let found = inspected(&bench);
    assert_eq!(found.tooling, ["mise.toml", ".config/mise/config.toml", ".tool-versions"], "what stays says nothing");
    let pins: Vec<_> = found.pins.iter().map(|pin| (&*pin.tool, &*pin.version, &*pin.file)).collect();
    assert_eq!(pins, [("go", "1.25.4", "go.mod"), ("rust", "1.85", "rust-toolchain")], "node is mise's");
    assert_eq!((found.devcontainer, found.container), (None, None));
}

#[test]
fn of_another_commit_its_own_files_say() {
    let mut bench = Bench::new();
    bench.write(".tool-versions", "ruby 3.3\n");
    bench.write(".python-version", "3.11\n");
    bench.write(".devcontainer.json", "{\"image\": \"old\"}");
    bench.commit("one");
    bench.write(".python-version", "3.12\n");
    bench.write(".devcontainer.json", "{\"image\": \"new\"}");
    bench.commit("two");
    bench.source.branch = Some("try".into());
    bench.source.from = Some("HEAD^".into());
    let found = inspected(&bench);
    assert_eq!(found.pins[0].version, "3.11");
    assert_eq!(found.container.unwrap().image.as_deref(), Some("old"));
    bench.source.mode = WorkspaceMode::MetadataOnly;
    let found = inspected(&bench);
    assert!(found.tooling.is_empty() && found.pins.is_empty() && found.devcontainer.is_none(), "no files, no say");
}

#[test]
fn a_development_container_is_where_it_may_be() {
    let bench = Bench::new();
    bench.write(".devcontainer/one/devcontainer.json", "{\"image\": \"one\", \"features\": {}}");
    bench.write(".devcontainer/too/deep/devcontainer.json", "{}");
    bench.commit("one");
    let found = inspected(&bench);
    assert_eq!(found.devcontainer.as_deref(), Some(".devcontainer/one/devcontainer.json"));
    let expected = ".devcontainer/one/devcontainer.json: not supported and left out: features";
    assert_eq!(found.warnings, [expected]);
    bench.write(".devcontainer/two/devcontainer.json", "{}");
    bench.commit("two");
    let found = inspected(&bench);
    assert_eq!((found.devcontainer, found.container), (None, None));
    assert!(found.warnings[0].starts_with("several development containers"), "{:?}", found.warnings);
    bench.write(".devcontainer.json", "{\"containerEnv\": {\"AT\": \"${containerWorkspaceFolder}\"}}");
    bench.commit("three");
    let container = inspected(&bench).container.unwrap();
    assert_eq!(container.env, [("AT".to_owned(), "/root/repo".to_owned())]);
    bench.write(".devcontainer/devcontainer.json", "{");
    bench.commit("four");
    let found = inspected(&bench);
    assert_eq!((found.devcontainer.as_deref(), found.container), (Some(".devcontainer/devcontainer.json"), None));
    assert!(found.warnings[0].contains("it is left out"), "{:?}", found.warnings);
}

#[test]
fn links_and_huge_files_are_not_read() {
    let bench = Bench::new();
    std::fs::write(bench.dir.path().join("outside"), "{\"image\": \"outside\"}").unwrap();
    std::os::unix::fs::symlink("../outside", bench.host().join(".devcontainer.json")).unwrap();
    bench.write("go.mod", format!("go 1.25\n{}", " ".repeat(1 << 20)));
    bench.write(".mise.toml", "");
    bench.commit("one");
    let found = inspected(&bench);
    assert_eq!((found.container, found.pins), (None::<DevContainer>, vec![]));
    assert_eq!(found.warnings, [".devcontainer.json: it is left out: it is no file"]);
}
