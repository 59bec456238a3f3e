//! Repositories of all shapes.

use wire::api::{ErrorCode, WorkspaceMode};

use super::*;

/// One commit after the other, each changing a file.
fn history(bench: &Bench, commits: std::ops::Range<u32>) {
    for number in commits {
        bench.write("f", format!("{number}\n"));
        bench.commit(&format!("c{number}"));
    }
}

fn subjects(bench: &Bench) -> String {
    bench.there(&["log", "--format=%s"]).replace('\n', " ")
}

#[test]
fn history_goes_to_a_depth() {
    let mut bench = Bench::new();
    history(&bench, 0..15);
    bench.git(&["tag", "light"]);
    bench.git(&["tag", "-a", "-m", "x", "heavy", "HEAD~9"]);
    bench.git(&["tag", "old", "HEAD~10"]);
    bench.send().unwrap();
    sound(&bench.guest());
    assert_eq!(subjects(&bench), "c14 c13 c12 c11 c10 c9 c8 c7 c6 c5 ");
    assert_eq!(bench.there(&["tag"]), "heavy\nlight\n");
    assert_eq!(bench.there(&["rev-parse", "--is-shallow-repository"]), "true\n");
    let objects = bench.there(&["rev-list", "--all", "--objects", "--count"]);
    let counted = bench.there(&["count-objects", "-v"]);
    assert_eq!(counted.lines().find_map(|line| line.strip_prefix("in-pack: ")), Some(objects.trim()));

    let mut whole =
        Bench { dir: tempfile::tempdir().unwrap(), source: bench.source.clone(), notes: None, force: false, sent: 0 };
    std::fs::create_dir(whole.guest()).unwrap();
    whole.source.mode = WorkspaceMode::FullCopy;
    whole.arrives();
    assert_eq!(subjects(&whole).split(' ').count(), 16);
    assert_eq!(whole.there(&["tag"]), "heavy\nlight\nold\n");
    assert_eq!(whole.there(&["rev-parse", "--is-shallow-repository"]), "false\n");
}

#[test]
fn merges_are_followed_both_ways() {
    let mut bench = Bench::new();
    history(&bench, 0..4);
    bench.git(&["checkout", "-q", "-b", "side", "HEAD~2"]);
    bench.write("side", "x");
    bench.commit("side");
    bench.git(&["checkout", "-q", "main"]);
    bench.git(&["merge", "-q", "--no-edit", "side"]);
    bench.source.depth = Some(3);
    bench.send().unwrap();
    sound(&bench.guest());
    let log = bench.there(&["log", "--format=%s", "--topo-order"]);
    let mut log: Vec<&str> = log.lines().collect();
    log.sort_unstable();
    // Three deep: the merge; c3 and side; c2 and c1, one of which the other leads to.
    assert_eq!(log, ["Merge branch 'side'", "c1", "c2", "c3", "side"]);
    assert_eq!(bench.there(&["branch", "-a"]), "* main\n");
}

#[test]
fn replacements_are_not_seen() {
    let mut bench = Bench::new();
    history(&bench, 0..3);
    bench.git(&["replace", "HEAD", "HEAD~1"]);
    bench.send().unwrap();
    assert_eq!(subjects(&bench), "c2 c1 c0 ");
    assert_eq!(bench.there(&["for-each-ref", "refs/replace"]), "");
    assert_eq!(bench.there(&["status", "--porcelain"]), "");
}

#[test]
fn a_detached_head_arrives() {
    let mut bench = Bench::new();
    history(&bench, 0..3);
    bench.git(&["checkout", "-q", "HEAD~1"]);
    bench.arrives();
    let told = bench.inspect().unwrap().told(false);
    assert_eq!((told.branch, bench.there(&["symbolic-ref", "-q", "HEAD"]).is_empty()), (None, true));
}

#[test]
fn no_commit_yet() {
    let mut bench = Bench::new();
    bench.arrives();
    assert_eq!(bench.there(&["status", "--porcelain=v2", "--branch"]), "# branch.oid (initial)\n# branch.head main\n");
    let mut bench = Bench::new();
    bench.write("staged", "x");
    bench.git(&["add", "."]);
    bench.write("staged", "edited");
    bench.arrives();
    assert_eq!(bench.there(&["status", "--porcelain"]), "AM staged\n");
    assert_eq!(bench.there(&["show", ":staged"]), "x");
}

#[test]
fn a_shallow_host() {
    let bench = Bench::new();
    history(&bench, 0..8);
    let mut clone = Bench::bare_bench();
    let url = format!("file://{}", bench.host().display());
    git(clone.dir.path(), &["clone", "-q", "--depth=3", &url, "host"]);
    clone.source.mode = WorkspaceMode::FullCopy;
    clone.arrives();
    assert_eq!(subjects(&clone), "c7 c6 c5 ");
    assert_eq!(clone.there(&["config", "remote.origin.url"]), format!("{url}\n"));
    clone.notes = None;
    std::fs::remove_dir_all(clone.guest()).unwrap();
    std::fs::create_dir(clone.guest()).unwrap();
    clone.source.mode = WorkspaceMode::Overlay;
    clone.source.depth = Some(2);
    clone.send().unwrap();
    sound(&clone.guest());
    assert_eq!(subjects(&clone), "c7 c6 ");
    // What the host follows is one of the commits that travel.
    assert!(clone.there(&["status", "--porcelain=v2", "--branch"]).contains("# branch.ab +0 -0"));
}

#[test]
fn a_linked_work_tree() {
    let mut bench = Bench::new();
    history(&bench, 0..2);
    let main = bench.host();
    bench.write(".git/info/exclude", "ours\n");
    let path = bench.dir.path().join("linked\ntree");
    bench.git(&["worktree", "add", "-q", "-b", "linked", path.to_str().unwrap()]);
    bench.source.host_path = path.to_str().unwrap().to_owned();
    bench.write("f", "edited");
    bench.write("ours", "x");
    bench.arrives();
    assert!(bench.guest().join(".git").is_dir());
    assert_eq!(bench.there(&["branch", "--show-current"]), "linked\n");
    assert_eq!(bench.there(&["branch"]), "* linked\n");
    assert_eq!(bench.there(&["check-ignore", "ours"]), "ours\n");
    assert!(main.is_dir());
}

#[test]
fn objects_elsewhere() {
    let bench = Bench::new();
    history(&bench, 0..3);
    bench.git(&["repack", "-q", "-a", "-d"]);
    let mut clone = Bench::bare_bench();
    let from = bench.host();
    git(clone.dir.path(), &["clone", "-q", "--shared", from.to_str().unwrap(), "host"]);
    history(&clone, 3..4);
    clone.arrives();
    assert!(!clone.guest().join(".git/objects/info/alternates").exists());
    assert_eq!(subjects(&clone), "c3 c2 c1 c0 ");
}

#[test]
fn other_hashes_and_indexes() {
    let mut bench = Bench::with(&["--object-format=sha256"]);
    history(&bench, 0..3);
    bench.write("staged", "x");
    bench.git(&["add", "."]);
    bench.arrives();
    assert_eq!(bench.there(&["rev-parse", "--show-object-format"]), "sha256\n");
    for version in ["2", "3", "4"] {
        let mut bench = Bench::new();
        history(&bench, 0..1);
        bench.write("d/e/f", "x");
        bench.git(&["add", "."]);
        bench.git(&["update-index", "--index-version", version]);
        bench.git(&["update-index", "--split-index"]);
        bench.write("d/g", "y");
        bench.git(&["add", "."]);
        bench.arrives();
    }
}

#[test]
fn the_index_knows_its_trees() {
    let mut bench = Bench::new();
    for name in ["a/b/c", "a/d", "e/f", "top", "aa/x", "b/y"] {
        bench.write(name, name);
    }
    bench.commit("one");
    let size = |bench: &Bench| std::fs::metadata(bench.guest().join(".git/index")).unwrap().len();
    bench.arrives();
    // git checks it against the entries as it writes a tree of them, and takes what is valid as it is.
    assert_eq!(bench.there(&["write-tree"]), bench.git(&["rev-parse", "HEAD^{tree}"]));
    assert!(size(&bench) > 0);
    let mut bench = bench;
    bench.write("a/b/c", "changed");
    bench.git(&["rm", "-q", "e/f"]);
    bench.write("new/x", "x");
    bench.git(&["add", "."]);
    bench.arrives();
    assert_eq!(bench.there(&["write-tree"]), bench.git(&["write-tree"]));
}

fn with_submodules() -> Bench {
    let bench = Bench::new();
    // Beside it, and there as long as it is.
    let beside = |name: &str| {
        let host_path = bench.dir.path().join(name).to_str().unwrap().to_owned();
        let dir = tempfile::tempdir().unwrap();
        let other = Bench { dir, source: WorkspaceSource { host_path, ..bench.source.clone() }, ..Bench::new() };
        std::fs::create_dir(other.host()).unwrap();
        other.git(&["init", "-q", "-b", "main"]);
        history(&other, 0..2);
        other
    };
    let (inner, middle) = (beside("inner"), beside("middle"));
    let add = |bench: &Bench, url: &Path, path: &str| {
        bench.git(&["-c", "protocol.file.allow=always", "submodule", "-q", "add", url.to_str().unwrap(), path]);
    };
    add(&middle, &inner.host(), "deep/inner");
    middle.commit("inner");
    history(&bench, 0..2);
    add(&bench, &middle.host(), "middle");
    add(&bench, &inner.host(), "left");
    bench.commit("modules");
    bench.git(&["-c", "protocol.file.allow=always", "submodule", "-q", "update", "--init", "--recursive"]);
    bench.git(&["submodule", "-q", "deinit", "-f", "left"]);
    bench
}

#[test]
fn submodules_arrive_with_those_in_them() {
    let mut bench = with_submodules();
    bench.write("middle/f", "edited");
    bench.write("middle/deep/inner/f", "edited");
    git(&bench.host().join("middle/deep/inner"), &["add", "f"]);
    let told = bench.inspect().unwrap().told(false);
    assert_eq!(told.submodules, ["left", "middle", "middle/deep/inner"]);
    assert_eq!(told.warnings.len(), 1);
    bench.arrives();
    bench.compare("middle");
    bench.compare("middle/deep/inner");
    assert!(bench.guest().join("middle/.git").is_dir() && bench.guest().join("left").is_dir());
    let status = |at: &Path| {
        let said = git(at, &["submodule", "status", "--recursive"]);
        // What is behind the path names other branches, which stay.
        said.lines().map(|line| line.split(" (").next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(status(&bench.guest()), status(&bench.host()));
    let paths: Vec<Vec<u8>> = bench.notes.as_ref().unwrap().repositories().into_iter().map(|(path, _)| path).collect();
    assert_eq!(paths, [&b""[..], b"middle", b"middle/deep/inner"]);

    let again = bench.arrives();
    assert!(again.is_empty() && again.settle().is_empty());
    bench.write("middle/deep/inner/f", "edited again");
    let again = bench.arrives();
    assert_eq!((again.totals().0, again.settle().len()), (1, 1));
    bench.compare("middle/deep/inner");
}

#[test]
fn submodules_of_a_linked_work_tree() {
    let mut bench = with_submodules();
    let path = bench.dir.path().join("linked");
    bench.git(&["worktree", "add", "-q", "--detach", path.to_str().unwrap()]);
    bench.source.host_path = path.to_str().unwrap().to_owned();
    assert_eq!(bench.inspect().unwrap().told(false).warnings.len(), 1);
    bench.arrives();
    bench.git(&["-c", "protocol.file.allow=always", "submodule", "-q", "update", "--init", "--recursive"]);
    let told = bench.inspect().unwrap().told(false);
    assert_eq!((told.submodules.len(), told.warnings.len()), (3, 0), "{told:?}");
    bench.arrives();
    bench.compare("middle/deep/inner");
}

#[test]
fn a_submodule_that_goes_is_none_any_more() {
    let mut bench = with_submodules();
    bench.arrives();
    bench.git(&["rm", "-q", "-f", "middle"]);
    bench.arrives();
    assert!(!bench.guest().join("middle/f").exists());
    assert_eq!(bench.there(&["status", "--porcelain", "-uno"]), bench.git(&["status", "--porcelain", "-uno"]));
    assert_eq!(bench.notes.as_ref().unwrap().repositories().len(), 1);
}

#[test]
fn a_host_that_lacks_old_contents() {
    let bench = Bench::new();
    history(&bench, 0..4);
    bench.git(&["config", "uploadpack.allowFilter", "true"]);
    let mut clone = Bench::bare_bench();
    let url = format!("file://{}", bench.host().display());
    git(clone.dir.path(), &["clone", "-q", "--filter=blob:none", &url, "host"]);
    clone.write("f", "edited");
    clone.arrives();
    assert_eq!(subjects(&clone), "c3 c2 c1 c0 ");
    // The guest may ask where the host would.
    assert_eq!(clone.there(&["show", "HEAD~2:f"]), "1\n");
}

#[test]
fn a_repository_of_somebody_else_is_gits_to_refuse() {
    let bench = Bench::new();
    if std::os::unix::fs::chown(bench.host(), Some(12345), None).is_err() {
        // Only root can give a directory away.
        assert!(!rustix::process::geteuid().is_root());
        return;
    }
    let refused = bench.inspect().unwrap_err();
    assert!(refused.to_string().contains("dubious ownership"), "{refused}");
    assert!(refused.hint().unwrap().contains("safe.directory"));
}

#[test]
fn only_what_git_has() {
    let mut bench = with_submodules();
    bench.write("f", "edited");
    bench.source.mode = WorkspaceMode::MetadataOnly;
    bench.send().unwrap();
    sound(&bench.guest());
    assert!(!bench.guest().join("f").exists());
    assert_eq!(bench.there(&["show", "HEAD:f"]), "1\n");
    bench.there(&["restore", "f"]);
    assert_eq!(bench.inspect().unwrap().told(true).files, 0);
}

#[test]
fn another_commit() {
    let mut bench = with_submodules();
    bench.write(".gitattributes", "*.txt eol=crlf\n");
    bench.write("x.txt", "line\n");
    bench.write("run me", "#!/bin/sh\n");
    std::os::unix::fs::symlink("f", bench.host().join("link")).unwrap();
    bench.commit("asked for");
    bench.git(&["rm", "-q", ".gitattributes", "x.txt"]);
    bench.commit("later");
    bench.write("f", "edited");
    bench.write("staged", "x");
    bench.git(&["add", "staged"]);
    bench.source.from = Some("HEAD~1".to_owned());
    bench.source.branch = Some("work".to_owned());
    let told = bench.inspect().unwrap().told(true);
    assert_eq!(told.branch.as_deref(), Some("work"));
    bench.send().unwrap();
    sound(&bench.guest());
    sound(&bench.guest().join("middle"));
    assert_eq!(bench.there(&["status", "--porcelain=v2", "--branch"]).lines().count(), 2);
    assert_eq!(bench.there(&["log", "-1", "--format=%s %D"]), "asked for HEAD -> work\n");
    assert_eq!(std::fs::read(bench.guest().join("x.txt")).unwrap(), b"line\r\n");
    assert_eq!(std::fs::read(bench.guest().join("f")).unwrap(), b"1\n");
    assert_eq!(std::fs::read_link(bench.guest().join("link")).unwrap(), Path::new("f"));
    assert!(bench.guest().join("middle/deep/inner/f").exists());
    let again = bench.send().unwrap();
    assert!(again.is_empty(), "{again:?}");
    let side = bench.notes.as_ref().unwrap().host_side(&bench.host());
    assert_eq!((side.head_moved, side.changes), (false, 0));
}

#[test]
fn a_new_branch_from_where_the_host_is() {
    let mut bench = Bench::new();
    history(&bench, 0..2);
    bench.write("f", "edited");
    bench.source.branch = Some("work".to_owned());
    bench.send().unwrap();
    assert_eq!(bench.there(&["status", "--porcelain", "--branch"]), "## work\n M f\n");
    for (branch, from) in [(Some("a..b"), None), (Some("-x"), None), (None, Some("nothing")), (None, Some("-x"))] {
        bench.source.branch = branch.map(str::to_owned);
        bench.source.from = from.map(str::to_owned);
        let refused = bench.inspect().unwrap_err();
        assert_eq!(refused.code(), ErrorCode::BadRequest, "{refused}");
    }
}

#[test]
fn what_is_no_work_tree_is_refused() {
    let mut bench = Bench::bare_bench();
    let dir = bench.dir.path().to_owned();
    let missing = bench.inspect().unwrap_err();
    assert!(matches!(missing, WorkspaceError::Path { .. }));
    std::fs::create_dir(bench.host()).unwrap();
    assert!(matches!(bench.inspect().unwrap_err(), WorkspaceError::NotWorkTree { .. }));
    std::fs::write(dir.join("file"), "").unwrap();
    bench.source.host_path = dir.join("file").to_str().unwrap().to_owned();
    assert!(matches!(bench.inspect().unwrap_err(), WorkspaceError::NotDirectory { .. }));
    git(&dir, &["init", "-q", "--bare", "bare"]);
    for path in ["bare", "bare/objects"] {
        bench.source.host_path = dir.join(path).to_str().unwrap().to_owned();
        let refused = bench.inspect().unwrap_err();
        assert!(matches!(refused, WorkspaceError::Bare { .. }), "{refused}");
        assert!(refused.hint().is_some());
    }
}

#[test]
fn a_path_inside_means_all_of_it() {
    let mut bench = Bench::new();
    bench.write("a/b", "x");
    bench.write("c", "y");
    bench.commit("one");
    let top = bench.host();
    bench.source.host_path = top.join("a").to_str().unwrap().to_owned();
    let repository = bench.inspect().unwrap();
    assert_eq!(repository.root(), top.canonicalize().unwrap());
    assert_eq!(repository.told(true).paths.unwrap(), ["a/b", "c"]);
}
