//! Preparing again: only changes travel, and the guest's own work stays.

use wire::api::{ChangeKind, ErrorCode};

use super::*;

fn prepared() -> Bench {
    let mut bench = Bench::new();
    for number in 0..12 {
        bench.write("f", format!("{number}\n"));
        bench.write(format!("d/{number}"), "x");
        bench.commit(&format!("c{number}"));
    }
    bench.arrives();
    bench
}

/// Until files of just now can be told from later ones.
fn let_the_clock_tick(bench: &Bench) {
    use std::os::unix::fs::MetadataExt;
    let last = bench.host().join("f").metadata().unwrap().ctime();
    while i64::try_from(sys::clock::unix_ms() / 1000).unwrap() < last + 3 {
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

fn guest_commit(bench: &Bench) {
    bench.there(&["add", "-A"]);
    bench.there(&["commit", "-q", "-m", "guest's"]);
}

fn conflict(bench: &mut Bench) -> (Vec<String>, Vec<String>) {
    match bench.send().unwrap_err() {
        WorkspaceError::Conflict { paths, reasons } => (paths, reasons),
        other => panic!("{other}"),
    }
}

#[test]
fn nothing_to_do() {
    let mut bench = prepared();
    assert!(bench.arrives().is_empty());
    let_the_clock_tick(&bench);
    bench.arrives();
    let known = bench.notes.as_ref().unwrap().repo(b"").unwrap().files.iter().all(|file| file.stamp.is_some());
    assert!(known, "by their state alone");
    assert!(bench.arrives().is_empty());
    // The same content with another state is not sent either.
    bench.write("f", "11\n");
    assert!(bench.arrives().is_empty());
}

#[test]
fn changes_travel_alone() {
    let mut bench = prepared();
    bench.write("f", "edited\n");
    bench.write("new", "x");
    bench.git(&["add", "new"]);
    std::fs::remove_file(bench.host().join("d/3")).unwrap();
    let transfer = bench.arrives();
    assert_eq!(transfer.totals().0, 2);
    assert_eq!(transfer.remove(), [b"d/3".to_vec()]);
    let settled = &transfer.settle()[0].1;
    assert_eq!(settled.iter().filter(|one| one.how == How::Sent).count(), 2);
    assert_eq!(settled.len(), 13);
    bench.git(&["checkout", "-q", "HEAD", "f"]);
    bench.arrives();
    assert_eq!(bench.there(&["status", "--porcelain"]), " D d/3\nA  new\n");
}

#[test]
fn a_directory_becomes_a_file_and_back() {
    let mut bench = prepared();
    std::fs::remove_dir_all(bench.host().join("d")).unwrap();
    bench.write("d", "file");
    bench.commit("file");
    bench.arrives();
    std::fs::remove_file(bench.host().join("d")).unwrap();
    bench.write("d/e/f", "directory");
    bench.commit("directory");
    bench.arrives();
    assert_eq!(bench.there(&["status", "--porcelain"]), "");
}

#[test]
fn new_commits_travel_without_the_old_ones() {
    let mut bench = prepared();
    let boundary = std::fs::read(bench.guest().join(".git/shallow")).unwrap();
    bench.write("f", "next\n");
    bench.commit("next");
    bench.git(&["tag", "-a", "-m", "x", "v1"]);
    bench.git(&["tag", "v0", "HEAD~5"]);
    bench.arrives();
    assert_eq!(bench.there(&["log", "--format=%s"]).lines().count(), 11);
    assert_eq!(std::fs::read(bench.guest().join(".git/shallow")).unwrap(), boundary);
    let packs = std::fs::read_dir(bench.guest().join(".git/objects/pack")).unwrap();
    let sizes: Vec<u64> = packs
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().extension().is_some_and(|end| end == "pack"))
        .map(|entry| entry.metadata().unwrap().len())
        .collect();
    assert!(sizes.len() == 2 && sizes.iter().min().unwrap() * 3 < *sizes.iter().max().unwrap(), "{sizes:?}");
    // The last commit again, another way.
    bench.git(&["commit", "-q", "--amend", "-m", "amended"]);
    bench.arrives();
    // And an old one, from before the window.
    bench.git(&["reset", "-q", "--hard", "HEAD~11"]);
    bench.arrives();
    assert_eq!(bench.there(&["log", "--format=%s"]), "c1\nc0\n");
}

#[test]
fn far_away_commits_begin_a_window_of_their_own() {
    let mut bench = prepared();
    for number in 20..40 {
        bench.write("f", format!("{number}\n"));
        bench.commit(&format!("c{number}"));
    }
    bench.arrives();
    assert_eq!(bench.there(&["log", "--format=%s"]).lines().count(), 10);
}

#[test]
fn another_history_is_sent_whole() {
    let mut bench = prepared();
    bench.git(&["checkout", "-q", "--orphan", "other"]);
    bench.git(&["commit", "-q", "-m", "orphan"]);
    bench.git(&["branch", "-q", "-D", "main"]);
    bench.git(&["reflog", "expire", "--expire=now", "--all"]);
    bench.git(&["gc", "-q", "--prune=now"]);
    bench.arrives();
    assert_eq!(bench.there(&["log", "--format=%s"]), "orphan\n");
    bench.source.depth = Some(3);
    bench.arrives();
}

#[test]
fn the_guests_own_work_stays() {
    let mut bench = prepared();
    let guest = bench.guest();
    write(&guest, "d/1", "guest's");
    write(&guest, "added", "guest's");
    std::fs::remove_file(guest.join("d/2")).unwrap();
    bench.write("f", "host's\n");
    bench.send().unwrap();
    assert_eq!(bench.there(&["status", "--porcelain"]), " M d/1\n D d/2\n M f\n?? added\n");
    // What both have changed is refused, and nothing is touched.
    bench.write("d/1", "host's");
    bench.write("d/2", "host's");
    std::fs::remove_file(bench.host().join("d/3")).unwrap();
    write(&guest, "d/3", "guest's");
    let (paths, reasons) = conflict(&mut bench);
    assert_eq!((paths.as_slice(), reasons.len()), (["d/1", "d/2", "d/3"].map(str::to_owned).as_slice(), 0));
    assert_eq!(std::fs::read(guest.join("d/1")).unwrap(), b"guest's");
    // But not when it is the same on both sides.
    write(&guest, "d/1", "host's");
    write(&guest, "d/2", "host's");
    std::fs::remove_file(guest.join("d/3")).unwrap();
    bench.send().unwrap();
    // Force takes what is the guest's, where the host has something.
    write(&guest, "d/5", "guest's");
    bench.force = true;
    bench.arrives();
    assert!(guest.join("added").exists());
}

#[test]
fn commits_of_both_sides_are_a_conflict() {
    let mut bench = prepared();
    write(&bench.guest(), "d/1", "guest's");
    guest_commit(&bench);
    // Files alone go past each other.
    bench.write("f", "edited\n");
    bench.send().unwrap();
    assert_eq!(bench.there(&["log", "-1", "--format=%s"]), "guest's\n");
    bench.commit("host's");
    let (paths, reasons) = conflict(&mut bench);
    assert!(paths.is_empty() && reasons.len() == 1, "{paths:?} {reasons:?}");
    bench.force = true;
    bench.arrives();
    assert_eq!(bench.there(&["log", "-1", "--format=%s"]), "host's\n");

    let mut bench = prepared();
    write(&bench.guest(), "new", "guest's");
    bench.there(&["add", "new"]);
    bench.commit("host's");
    let refused = bench.send().unwrap_err();
    assert_eq!(refused.code(), ErrorCode::WrongState);
    assert!(refused.to_string().contains("index") && refused.hint().unwrap().contains("--force"), "{refused}");
}

#[test]
fn what_nobody_sent_is_not_overwritten() {
    let mut bench = Bench::new();
    bench.commit("one");
    let scratch = bench.dir.path().join("scratch");
    std::fs::create_dir(&scratch).unwrap();
    let found = |found| {
        let guest = GuestFound { found, index_changed: false, head: None, differences: Vec::new() };
        BTreeMap::from([(Vec::new(), guest)])
    };
    let refused = bench.inspect().unwrap().plan(None, &found(Found::Foreign), false, &scratch).unwrap_err();
    assert!(matches!(refused, WorkspaceError::Foreign { .. }));
    bench.inspect().unwrap().plan(None, &found(Found::Foreign), true, &scratch.join("1")).unwrap();
    // Nor what somebody forgot to have sent.
    let refused = bench.inspect().unwrap().plan(None, &found(Found::Workspace), false, &scratch).unwrap_err();
    assert!(matches!(refused, WorkspaceError::Foreign { .. }));
    // What broke off is sent again whole.
    bench.send().unwrap();
    let notes = bench.notes.take();
    let again = bench.inspect().unwrap().plan(notes.as_ref(), &found(Found::Unfinished), false, &scratch.join("2"));
    assert!(!again.unwrap().is_empty());
}

#[test]
fn a_file_that_was_added_there_is_in_the_way() {
    let bench = prepared();
    bench.write("new", "host's");
    bench.write("way/in", "host's");
    bench.git(&["add", "."]);
    let added = |path: &str, hash: &[u8]| Surveyable {
        path: path.into(),
        difference: Difference::Added,
        mode: FileMode::Plain,
        hash: Sha256::digest(hash).into(),
    };
    let mut found = bench.survey();
    let scratch = bench.dir.path().join("scratch");
    found.get_mut(&Vec::new()).unwrap().differences =
        vec![added("new", b"guest's"), added("way", b""), added("free", b"")];
    let refused = bench.inspect().unwrap().plan(bench.notes.as_ref(), &found, false, &scratch).unwrap_err();
    let WorkspaceError::Conflict { paths, .. } = refused else { panic!("{refused}") };
    assert_eq!(paths, ["new", "way"]);
    let forced = bench.inspect().unwrap().plan(bench.notes.as_ref(), &found, true, &scratch.join("2")).unwrap();
    assert_eq!(forced.remove(), [b"way".to_vec()]);
    found.get_mut(&Vec::new()).unwrap().differences = vec![added("new", b"host's")];
    bench.inspect().unwrap().plan(bench.notes.as_ref(), &found, false, &scratch.join("3")).unwrap();
}

#[test]
fn the_hosts_side_is_compared() {
    let mut bench = prepared();
    let side = bench.notes.as_ref().unwrap().host_side(&bench.host());
    assert_eq!((side.head_moved, side.changes, side.problem), (false, 0, None));
    bench.write("f", "edited\n");
    bench.write("d/1", "x");
    std::fs::remove_file(bench.host().join("d/2")).unwrap();
    bench.write("new", "x");
    bench.git(&["add", "new"]);
    bench.git(&["commit", "-q", "-m", "new"]);
    let side = bench.notes.as_ref().unwrap().host_side(&bench.host());
    let changed: Vec<_> = side.changed.iter().map(|one| (one.change, one.path.as_str())).collect();
    let expected = [(ChangeKind::Modified, "f"), (ChangeKind::Added, "new"), (ChangeKind::Deleted, "d/2")];
    assert_eq!((changed.as_slice(), side.head_moved, side.changes), (expected.as_slice(), true, 3));
    bench.arrives();
    std::fs::remove_dir_all(bench.host()).unwrap();
    assert!(bench.notes.as_ref().unwrap().host_side(&bench.host()).problem.is_some());
}

#[test]
fn a_stream_can_be_cancelled() {
    let mut bench = prepared();
    bench.notes = None;
    let mut transfer = bench.plan().unwrap();
    let cancelled = std::sync::atomic::AtomicBool::new(true);
    let watcher = Watcher::new(&|_| {}, &cancelled);
    let ended = transfer.stream(std::io::sink(), watcher).unwrap_err();
    assert_eq!(ended.code(), ErrorCode::Cancelled);
}

#[test]
fn a_file_that_goes_meanwhile_is_not_sent() {
    let mut bench = prepared();
    bench.write("f", "edited");
    bench.write("new", "x");
    bench.git(&["add", "."]);
    let mut transfer = bench.plan().unwrap();
    std::fs::remove_file(bench.host().join("f")).unwrap();
    std::fs::remove_file(bench.host().join("new")).unwrap();
    transfer.stream(std::io::sink(), Watcher::none()).unwrap();
    let notes = transfer.notes();
    let files = &notes.repo(b"").unwrap().files;
    // The one the guest has is remembered, so that it goes the next time.
    assert!(files.iter().any(|file| file.path.0 == b"f" && file.stamp.is_none()));
    assert!(!files.iter().any(|file| file.path.0 == b"new"));
}

/// Numbers that are the same each time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }

    /// A file, or something in a directory that may be a file another time.
    fn path(&mut self) -> String {
        let name = ["a", "b", "c d", "e"][self.roll(4) as usize];
        if self.roll(2) == 0 { name.to_owned() } else { format!("{name}/{}", self.roll(3)) }
    }
}

fn change(bench: &Bench, dice: &mut Dice) {
    let path = dice.path();
    let file = bench.host().join(&path);
    let clear = |path: &Path| {
        for path in path.ancestors().take_while(|path| *path != bench.host()) {
            if path.is_symlink() || path.is_file() {
                std::fs::remove_file(path).unwrap();
            }
        }
        if path.is_dir() {
            std::fs::remove_dir_all(path).unwrap();
        }
    };
    match dice.roll(12) {
        0..=3 => {
            clear(&file);
            bench.write(&path, format!("{}\n", dice.roll(1000)));
        }
        4 => clear(&file),
        5 => {
            clear(&file);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::os::unix::fs::symlink(dice.path(), &file).unwrap();
        }
        6 if file.is_file() && !file.is_symlink() => {
            let mode = std::os::unix::fs::PermissionsExt::from_mode(if dice.roll(2) == 0 { 0o755 } else { 0o600 });
            std::fs::set_permissions(&file, mode).unwrap();
        }
        7 => drop(bench.git(&["add", "-A"])),
        8 => bench.commit("random"),
        9 => {
            let to = bench.git(&["rev-parse", "-q", "--verify", &format!("HEAD~{}", dice.roll(3))]);
            bench.git(&["reset", "-q", "--hard", if to.is_empty() { "HEAD" } else { to.trim() }]);
        }
        10 => drop(bench.git(&["checkout", "-q", "-f", "-B", ["main", "other"][dice.roll(2) as usize]])),
        11 => drop(bench.git(&["reset", "-q"])),
        _ => {}
    }
}

#[test]
fn whatever_happens_arrives() {
    for seed in 0..3 {
        let mut dice = Dice(seed);
        let mut bench = Bench::new();
        for number in 0..4 {
            bench.write("a", format!("{number}"));
            bench.commit("first");
        }
        bench.source.depth = Some(3);
        for _ in 0..12 {
            for _ in 0..dice.roll(8) {
                change(&bench, &mut dice);
            }
            bench.arrives();
        }
    }
}
