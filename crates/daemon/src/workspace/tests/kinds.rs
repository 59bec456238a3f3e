//! Files of all kinds, and all that can be done to them before they are committed.

use std::os::unix::fs::{FileExt, PermissionsExt, symlink};

use wire::agent::workspace::{How, State};

use super::*;

fn executable(path: &Path) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn what_is_committed_arrives() {
    let mut bench = Bench::new();
    bench.write("src/main.rs", "fn main() {}\n");
    bench.write("run", "#!/bin/sh\n");
    executable(&bench.host().join("run"));
    bench.commit("one");
    bench.arrives();
    assert_eq!(bench.there(&["log", "--format=%s"]), "one\n");
    assert_eq!(bench.there(&["status", "--porcelain"]), "");
    assert!(bench.guest().join("run").metadata().unwrap().permissions().mode() & 0o111 == 0o111);
}

#[test]
fn odd_files_arrive() {
    let mut bench = Bench::new();
    let names: [&[u8]; 9] =
        [b"a b", b"line\nend", b"\"quoted\"", b"back\\slash", b"\xff\xfe", b"-dash", b"tab\there", b":colon", b"d/*?["];
    for name in names {
        bench.write(name, name);
    }
    bench.write([&b"long/"[..], &[b'n'; 200]].concat(), "long");
    bench.write("empty", "");
    bench.write("binary", (0..=255).collect::<Vec<u8>>());
    symlink("a b", bench.host().join("link")).unwrap();
    symlink("nowhere", bench.host().join("dangling")).unwrap();
    symlink("t".repeat(150), bench.host().join("far")).unwrap();
    let sparse = std::fs::File::create(bench.host().join("sparse")).unwrap();
    sparse.set_len(8 << 20).unwrap();
    sparse.write_all_at(b"end", (8 << 20) - 3).unwrap();
    bench.commit("odd");
    let transfer = bench.arrives();
    assert_eq!(transfer.totals().0, 16);
    use std::os::unix::fs::MetadataExt;
    let there = bench.guest().join("sparse").metadata().unwrap();
    assert!(there.len() == 8 << 20 && there.blocks() < 1024);
}

#[test]
fn what_is_not_committed_arrives() {
    let mut bench = Bench::new();
    for name in
        ["edited", "deleted", "renamed", "mode", "to-link", "to-directory", "staged", "both", "unstaged", "far/away"]
    {
        bench.write(name, format!("{name}\n"));
    }
    symlink("edited", bench.host().join("to-file")).unwrap();
    bench.commit("one");
    let host = bench.host();
    bench.write("edited", "other\n");
    std::fs::remove_file(host.join("deleted")).unwrap();
    bench.git(&["mv", "renamed", "new name"]);
    executable(&host.join("mode"));
    std::fs::remove_file(host.join("to-link")).unwrap();
    symlink("edited", host.join("to-link")).unwrap();
    std::fs::remove_file(host.join("to-file")).unwrap();
    bench.write("to-file", "edited");
    std::fs::remove_file(host.join("to-directory")).unwrap();
    bench.write("to-directory/x", "untracked");
    bench.write("staged", "staged");
    bench.write("both", "staged");
    bench.write("brand new", "staged");
    bench.git(&["add", "staged", "both", "brand new"]);
    bench.write("both", "edited");
    bench.git(&["rm", "-q", "--cached", "unstaged"]);
    bench.write("later", "later");
    bench.git(&["add", "-N", "later"]);
    // What is behind a link is not there, for git.
    std::fs::rename(host.join("far"), host.join("elsewhere")).unwrap();
    symlink("elsewhere", host.join("far")).unwrap();
    let inspection = bench.inspect().unwrap().told(true);
    assert_eq!(inspection.untracked_left_out, 4, "{inspection:?}");
    bench.arrives();
    assert_eq!(std::fs::read(bench.guest().join("both")).unwrap(), b"edited");
    assert!(!bench.guest().join("far").exists() && !bench.guest().join("unstaged").exists());
}

#[test]
fn untracked_files_arrive_when_they_are_asked_for() {
    let mut bench = Bench::new();
    bench.write(".gitignore", "ignored\n");
    bench.commit("one");
    bench.write("new/file", "new");
    bench.write("ignored", "x");
    bench.write(".env", "SECRET=1");
    bench.git(&["init", "-q", "inner"]);
    bench.write("inner/x", "another repository's");
    assert_eq!(bench.inspect().unwrap().told(false).untracked_left_out, 2);
    bench.source.include_untracked = true;
    let told = bench.inspect().unwrap().told(true);
    assert_eq!((told.untracked_left_out, told.secrets), (0, vec![".env".to_owned()]));
    assert_eq!(told.paths.unwrap(), [".env", ".gitignore", "new/file"]);
    let transfer = bench.arrives();
    let states: Vec<State> = transfer.settle()[0].1.iter().map(|one| one.state).collect();
    assert_eq!(states[0], State::Untracked);
    assert_eq!(bench.there(&["status", "--porcelain", "-uall"]), "?? .env\n?? new/file\n");
}

#[test]
fn a_conflict_arrives() {
    let mut bench = Bench::new();
    bench.write("f", "base\n");
    bench.write("gone", "base\n");
    bench.commit("base");
    bench.git(&["checkout", "-q", "-b", "other"]);
    bench.write("f", "theirs\n");
    bench.write("gone", "theirs\n");
    bench.commit("theirs");
    bench.git(&["checkout", "-q", "main"]);
    bench.write("f", "ours\n");
    std::fs::remove_file(bench.host().join("gone")).unwrap();
    bench.commit("ours");
    bench.git(&["merge", "-q", "other"]);
    let transfer = bench.arrives();
    let settled = &transfer.settle()[0].1;
    assert!(settled.iter().all(|one| one.state == State::Modified && one.how == How::Sent), "{settled:?}");
    assert_eq!(bench.there(&["show", ":3:f"]), "theirs\n");
}

#[test]
fn line_ends_arrive_as_they_are() {
    let mut bench = Bench::new();
    bench.write(".gitattributes", "*.txt text\n*.crlf text eol=crlf\n*.bin -text\n");
    bench.write("a.txt", "one\r\ntwo\r\n");
    bench.write("b.crlf", "one\r\ntwo\r\n");
    bench.write("c.bin", "one\r\ntwo\n");
    bench.commit("one");
    bench.arrives();
    assert_eq!(bench.there(&["status", "--porcelain"]), "");
    let mut bench = Bench::new();
    bench.git(&["config", "core.autocrlf", "true"]);
    bench.write("a.txt", "one\r\ntwo\r\n");
    bench.commit("one");
    bench.arrives();
    assert_eq!(bench.there(&["status", "--porcelain"]), "");
    assert_eq!(std::fs::read(bench.guest().join("a.txt")).unwrap(), b"one\r\ntwo\r\n");
}

#[test]
fn flags_of_the_index_arrive() {
    let mut bench = Bench::new();
    for name in ["in/a", "out/b", "assumed"] {
        bench.write(name, name);
    }
    bench.commit("one");
    bench.git(&["update-index", "--assume-unchanged", "assumed"]);
    bench.write("assumed", "changed, and nobody looks");
    bench.git(&["sparse-checkout", "set", "--sparse-index", "in"]);
    assert!(!bench.host().join("out/b").exists());
    bench.arrives();
    assert!(!bench.guest().join("out/b").exists());
    assert_eq!(bench.there(&["sparse-checkout", "list"]), "in\n");
    bench.there(&["sparse-checkout", "disable"]);
    assert_eq!(std::fs::read(bench.guest().join("out/b")).unwrap(), b"out/b");
}
