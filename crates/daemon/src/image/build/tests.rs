//! What mmdebstrap is told, and builds that fail before it runs. A real build is a component test.

use super::*;
use crate::image::recipe::{Download, Registry};
use crate::model::digest::Digest;

fn recipe() -> Recipe {
    Recipe {
        name: "tiny".to_owned(),
        description: String::new(),
        variant: "minimal".to_owned(),
        suite: "bookworm".to_owned(),
        components: vec!["main".to_owned(), "contrib".to_owned()],
        packages: vec!["less".to_owned(), "g++".to_owned()],
        hooks: vec![PathBuf::from("/r/hooks/a.sh")],
        mask: vec!["getty@tty1.service".to_owned(), "a\\x2db.mount".to_owned()],
        downloads: Vec::new(),
        exec: Default::default(),
        digest: Digest::of(b""),
    }
}

#[test]
fn arguments_name_packages_and_mode() {
    let arguments = arguments(&recipe(), Mode::Unshare);
    for wanted in ["--mode=unshare", "--components=main,contrib", "--include=less,g++"] {
        assert!(arguments.iter().any(|argument| argument == wanted), "{wanted} in {arguments:?}");
    }
    let none = Recipe { packages: Vec::new(), ..recipe() };
    assert!(!super::arguments(&none, Mode::Root).iter().any(|argument| argument.starts_with("--include")));
}

#[test]
fn hooks_run_in_order_after_the_cache_is_filled() {
    let download = Download {
        registry: Registry::Npm,
        package: "p".to_owned(),
        version: "1".to_owned(),
        sha256: Digest::of(b""),
        member: "m".to_owned(),
        target: "/usr/local/bin/tool".to_owned(),
        mode: 0o755,
    };
    let files = [(PathBuf::from("/w/with space"), &download)];
    let hooks = hooks(&recipe(), Path::new("/c/debs"), &files).unwrap();
    let at =
        |part: &str| hooks.iter().position(|hook| hook.contains(part)).unwrap_or_else(|| panic!("{part}: {hooks:?}"));
    assert!(at("sync-in '/c/debs'") < at("sync-out"));
    assert!(at("sync-out") < at("upload '/w/with space' /usr/local/bin/tool"));
    assert!(at("upload") < at("chmod 755"));
    assert!(at("chmod 755") < at("/r/hooks/a.sh"));
    assert!(at("/r/hooks/a.sh") < at("'getty@tty1.service' 'a\\x2db.mount'"));
}

#[test]
fn a_path_that_would_end_a_quote_is_refused() {
    let err = hooks(&recipe(), Path::new("/c/it's"), &[]).unwrap_err();
    assert!(err.to_string().contains("/c/it's"), "{err}");
}

#[test]
fn failure_names_stage_and_log_and_clears_a_damaged_cache() {
    let dir = tempfile::tempdir().unwrap();
    let (log_path, packages) = (dir.path().join("log"), dir.path().join("debs"));
    sys::fs::create_private_dir(&packages).unwrap();
    let mut log = sys::fs::create_new(&log_path, 0o600).unwrap();
    let mut attempt = |script: &str| {
        let mut command = sys::process::command("sh");
        command.args(["-c", script]);
        run((&mut command, Ending::Group), &mut log, &log_path, &packages, Watcher::none()).unwrap_err()
    };
    let err = attempt("echo 'I: running apt-get update...'; echo 'E: no such suite'; exit 25");
    assert!(packages.exists());
    let said = err.to_string();
    for wanted in ["exit status: 25", "fetch package lists", "E: no such suite", "log"] {
        assert!(said.contains(wanted), "{said}");
    }
    attempt("echo 'dpkg-deb: error: archive is damaged'; seq 100; exit 1");
    assert!(!packages.exists());
    let err = attempt("echo 'cannot write: No space left on device'; exit 1");
    assert!(err.hint().unwrap().contains("room"));
}

/// `BANGER_TEST_IMAGE_BUILD` names a directory for the packages that builds keep; this one needs the network the first time.
#[test]
fn a_real_recipe_becomes_an_image() {
    let Some(cache) = std::env::var_os("BANGER_TEST_IMAGE_BUILD") else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../images/debian-bookworm");
    let log = dir.path().join("build.log");
    let staging = dir.path().join("staging");
    sys::fs::create_private_dir(&staging).unwrap();
    let begun = sys::clock::monotonic();
    let stages = std::sync::Mutex::new(Vec::new());
    let report = |progress| {
        if let crate::model::progress::Progress::Stage(name) = progress {
            println!("{:6.1} s {name}", begun.elapsed().as_secs_f32());
            stages.lock().unwrap().push(name.to_string());
        }
    };
    let never = std::sync::atomic::AtomicBool::new(false);
    let request = Request {
        recipe_dir: &recipe,
        variant: Some("minimal"),
        name: None,
        staging: &staging,
        cache: Path::new(&cache),
        log: &log,
    };
    let manifest = build(request, Watcher::new(&report, &never)).expect("a build");
    println!("{:6.1} s done: {manifest:?}", begun.elapsed().as_secs_f32());
    assert_eq!(manifest.init.as_deref(), Some("/sbin/init"));
    assert!(manifest.packages.unwrap() > 100);
    let mut fsck = sys::process::command("/usr/sbin/e2fsck");
    sys::process::run(fsck.arg("-fn").arg(staging.join("rootfs.ext4"))).expect("a clean filesystem");
    let stages = stages.into_inner().unwrap();
    for stage in ["fetch package lists", "install packages", "run boot.sh", "write root filesystem"] {
        assert!(stages.iter().any(|seen| seen == stage), "{stage} in {stages:?}");
    }
    let mut left: Vec<_> = std::fs::read_dir(&staging).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["manifest.json", "rootfs.ext4"]);
}

#[test]
fn a_cancelled_build_leaves_nothing() {
    let Some(cache) = std::env::var_os("BANGER_TEST_IMAGE_BUILD") else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../images/debian-bookworm");
    let (log, staging) = (dir.path().join("build.log"), dir.path().join("staging"));
    sys::fs::create_private_dir(&staging).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let report = |progress| {
        if matches!(progress, crate::model::progress::Progress::Percent(20)) {
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        }
    };
    let request = Request {
        recipe_dir: &recipe,
        variant: Some("minimal"),
        name: None,
        staging: &staging,
        cache: Path::new(&cache),
        log: &log,
    };
    let err = build(request, Watcher::new(&report, &stop)).unwrap_err();
    assert!(crate::model::progress::is_cancelled(&err), "{err:?}");
    assert_eq!(std::fs::read_dir(&staging).unwrap().count(), 0);
    let place = dir.path().to_str().unwrap();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(place), "{mounts}");
    for process in std::fs::read_dir("/proc").unwrap() {
        let arguments = std::fs::read(process.unwrap().path().join("cmdline")).unwrap_or_default();
        let arguments = String::from_utf8_lossy(&arguments).into_owned();
        assert!(!arguments.contains(place), "{arguments}");
    }
}
