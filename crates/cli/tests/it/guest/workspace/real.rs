//! What people have: the sources of crates as cargo has unpacked them on this machine, among them C, documents, and binary
//! files to test with.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::repository::Source;
use super::roundtrip::Case;
use super::state::{files_of, shell};
use crate::guest::host::Host;

/// Crates with so many files and more are taken along.
const LARGE: usize = 100;
/// A crate that every checkout has, because it is what this is built of: some hundred files.
const EVERY_DAY: &str = "tokio-1";

/// Sources of crates, the large ones first.
fn crates() -> Vec<PathBuf> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(Path::new(&std::env::var_os("HOME")?).join(".cargo"))).unwrap();
    let registries = fs::read_dir(home.join("registry/src")).unwrap().map(|entry| entry.unwrap().path());
    let crates = registries.flat_map(|path| fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
    let mut crates: Vec<(usize, PathBuf)> = crates.map(|path| (files_of(&path).len(), path)).collect();
    crates.sort_by(|one, other| other.cmp(one));
    crates.into_iter().filter(|(files, _)| *files >= LARGE).map(|(_, path)| path).collect()
}

/// Puts crates into a repository, commits them, and takes it there and back.
fn there_and_back(crates: &[PathBuf], files_min: usize) {
    let host = Host::new();
    let directory = host.home().join("real");
    let root = directory.join("repo");
    fs::create_dir_all(&root).unwrap();
    for path in crates {
        let copied = Command::new("cp").arg("-a").arg(path).arg(&root).output().unwrap();
        assert!(copied.status.success(), "{copied:?}");
    }
    let files = files_of(&root).len();
    assert!(files >= files_min, "only {files} files in {crates:?}");
    let first = fs::read_dir(&root).unwrap().next().unwrap().unwrap().file_name();
    let links = format!("ln -s '{}' newest; ln -s newest/src/lib.rs lib.rs; ln -s gone dangling", first.display());
    let commit = "git init -q -b trunk; git -c core.safecrlf=false add -A -f .; git commit -qm 'all of it'";
    shell(&root, format!("{links}; {commit}; [ -z \"$(git status --porcelain)\" ]").as_bytes());
    host.ok(&["run", "--name", "web", "-d", "--wait", "agent"]);
    Case::of(&host, 0, directory, Source::at(root)).run();
    host.ok(&["delete", "--discard", "web"]);
    host.ends_clean();
}

#[test]
fn a_crate_goes_in_and_comes_back() {
    let is_it = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().starts_with(EVERY_DAY);
    let found = crates().into_iter().find(is_it).expect("cargo has unpacked what this is built of");
    there_and_back(&[found], LARGE);
}

#[test]
#[ignore = "it is part of `make soak`"]
fn thousands_of_files_go_in_and_come_back() {
    there_and_back(&crates(), 2000);
}
