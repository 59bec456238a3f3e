//! What stays on the host, and what is not run there.

use super::*;

/// All bytes of all files below.
fn everything(top: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut waiting = vec![top.to_owned()];
    while let Some(path) = waiting.pop() {
        if path.is_dir() {
            waiting.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            bytes.extend(std::fs::read(&path).unwrap_or_default());
            bytes.extend(path.as_os_str().as_bytes());
        }
    }
    bytes
}

fn has(bytes: &[u8], needle: &str) -> bool {
    memchr::memmem::find(bytes, needle.as_bytes()).is_some()
}

#[test]
fn nothing_else_travels() {
    let mut bench = Bench::new();
    bench.write("f", "1");
    bench.commit("one");
    bench.git(&["checkout", "-q", "-b", "private"]);
    bench.write("private-file", "private-content");
    bench.commit("private");
    let private = bench.git(&["rev-parse", "HEAD:private-file"]);
    bench.git(&["tag", "private-tag"]);
    bench.git(&["checkout", "-q", "main"]);
    bench.write("stashed", "stashed-content");
    bench.git(&["add", "."]);
    bench.git(&["stash", "-q"]);
    bench.write(".git/hooks/post-checkout", "#!/bin/sh\nhook-content");
    bench.write(".git/included", "[user]\n\tname = included-name\n\temail = included@example.org\n");
    let settings = [
        ("include.path", "included"),
        ("includeIf.gitdir:/.path", "included"),
        ("user.name", "Own"),
        ("remote.origin.url", "https://me:s3cret@example.org/a.git"),
        ("remote.origin.pushurl", "https://me:s3cret@example.org/a.git"),
        ("remote.private.url", "https://private.example.org/"),
        ("http.extraHeader", "Authorization: s3cret"),
        ("credential.helper", "store --file=s3cret"),
        ("core.sshCommand", "evil-ssh"),
        ("core.fsmonitor", "evil-monitor"),
        ("core.attributesFile", "/evil"),
        ("filter.evil.clean", "evil-filter"),
        ("alias.x", "!evil-alias"),
    ];
    for (key, value) in settings {
        bench.git(&["config", key, value]);
    }
    bench.send().unwrap();
    sound(&bench.guest());
    let there = everything(&bench.guest());
    for needle in ["s3cret", "private", "evil", "hook-content", "stash", "included"] {
        assert!(!has(&there, needle), "{needle}");
    }
    assert!(has(&there, "https://example.org/a.git") && has(&there, "Own"));
    assert!(!command(&bench.guest(), &["cat-file", "-e", private.trim()]).status().unwrap().success());
    assert_eq!(bench.there(&["for-each-ref", "--format=%(refname)"]), "refs/heads/main\n");
}

#[test]
fn nothing_is_run_or_written() {
    let mut bench = Bench::new();
    let proof = bench.dir.path().join("it ran");
    bench.write(".gitattributes", "*.evil filter=evil diff=evil merge=evil working-tree-encoding=UTF-16\n* -text\n");
    bench.write(".gitattributes", "*.evil filter=evil diff=evil\n");
    bench.write("f.evil", "1");
    bench.commit("one");
    let run = format!("touch '{}'; cat", proof.display());
    for key in
        ["filter.evil.clean", "filter.evil.smudge", "filter.evil.process", "core.fsmonitor", "diff.evil.textconv"]
    {
        bench.git(&["config", key, &run]);
    }
    bench.git(&["config", "filter.evil.required", "true"]);
    for hook in ["post-index-change", "post-checkout", "reference-transaction"] {
        let path = format!(".git/hooks/{hook}");
        bench.write(&path, format!("#!/bin/sh\n{run}"));
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(bench.host().join(path), mode).unwrap();
    }
    bench.write("f.evil", "2");
    let state = |bench: &Bench| {
        let mut names = Vec::new();
        let mut waiting = vec![bench.host().join(".git")];
        while let Some(path) = waiting.pop() {
            let meta = path.symlink_metadata().unwrap();
            names.push((path.clone(), meta.modified().unwrap()));
            if meta.is_dir() {
                waiting.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            }
        }
        names.sort();
        names
    };
    let before = state(&bench);
    bench.send().unwrap();
    bench.source.from = Some("HEAD".to_owned());
    bench.send().unwrap();
    assert_eq!(bench.notes.as_ref().unwrap().host_side(&bench.host()).problem, None);
    assert!(state(&bench) == before, "the repository is only read");
    bench.git(&[
        "-c",
        "core.fsmonitor=",
        "-c",
        "core.hooksPath=/",
        "-c",
        "filter.evil.required=false",
        "-c",
        "filter.evil.clean=",
        "-c",
        "filter.evil.process=",
        "commit",
        "-q",
        "-a",
        "-m",
        "two",
    ]);
    bench.source.from = Some("HEAD~1".to_owned());
    bench.force = true;
    bench.send().unwrap();
    assert!(!proof.exists());
    assert_eq!(std::fs::read(bench.guest().join("f.evil")).unwrap(), b"1");
}

#[test]
fn a_filtered_file_is_clean_when_the_host_says_so() {
    let mut bench = Bench::new();
    bench.git(&["config", "filter.lfs.clean", "sed s/content/pointer/"]);
    bench.git(&["config", "filter.lfs.smudge", "sed s/pointer/content/"]);
    bench.write(".gitattributes", "*.big filter=lfs\n");
    bench.write("a.big", "content\n");
    std::thread::sleep(std::time::Duration::from_millis(250));
    bench.commit("one");
    std::thread::sleep(std::time::Duration::from_millis(250));
    assert_eq!(bench.git(&["show", ":a.big"]), "pointer\n");
    let transfer = bench.send().unwrap();
    assert_eq!(std::fs::read(bench.guest().join("a.big")).unwrap(), b"content\n");
    let settled = &transfer.settle()[0].1;
    let state = settled.iter().find(|one| one.path == b"a.big").unwrap().state;
    assert_eq!(state, wire::agent::workspace::State::Clean);
    // One that has another content is not.
    bench.write("a.big", "edited!\n");
    let transfer = bench.send().unwrap();
    let settled = &transfer.settle()[0].1;
    let state = settled.iter().find(|one| one.path == b"a.big").unwrap().state;
    assert_eq!(state, wire::agent::workspace::State::Modified);
}

#[test]
fn a_pointer_tells_what_is_clean() {
    let mut bench = Bench::new();
    let content = b"large content\n";
    let hash: String = Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect();
    let pointer = format!("version https://git-lfs.github.com/spec/v1\noid sha256:{hash}\nsize 14\n");
    bench.write(".gitattributes", "*.big filter=lfs\n");
    for name in ["same.big", "other.big"] {
        bench.write(name, &pointer);
    }
    bench.commit("one");
    bench.git(&["config", "filter.lfs.clean", "false"]);
    bench.write("same.big", content);
    bench.write("other.big", "another\n");
    let states = |transfer: &Transfer| -> Vec<_> {
        let settled = transfer.settle();
        let big = settled[0].1.iter().filter(|one| one.path.ends_with(b".big"));
        big.map(|one| (one.path.clone(), one.state)).collect()
    };
    use wire::agent::workspace::State::{Clean, Modified};
    let expected = vec![(b"other.big".to_vec(), Modified), (b"same.big".to_vec(), Clean)];
    let transfer = bench.send().unwrap();
    assert_eq!(states(&transfer), expected);
    bench.write("new", "x");
    bench.git(&["add", "new"]);
    let transfer = bench.send().unwrap();
    assert_eq!(states(&transfer), expected);
}
