//! The pages people meet first.

use insta::assert_snapshot;

use crate::fake::Home;

#[test]
fn landing_pages() {
    let home = Home::empty();
    for (name, args) in [
        ("banger", &["--help"][..]),
        ("vm", &["vm", "--help"]),
        ("image", &["image", "--help"]),
        ("kernel", &["kernel", "--help"]),
        ("kernel_pull", &["kernel", "pull", "--help"]),
        ("internal", &["internal", "--help"]),
        ("internal_make_bundle", &["internal", "make-bundle", "--help"]),
        ("internal_publish", &["internal", "publish", "--help"]),
        ("internal_keygen", &["internal", "keygen", "--help"]),
        ("op", &["op", "--help"]),
        ("daemon", &["daemon", "--help"]),
        ("run", &["run", "--help"]),
        ("exec", &["exec", "--help"]),
        ("session", &["session", "--help"]),
        ("session_attach", &["session", "attach", "--help"]),
        ("session_logs", &["session", "logs", "--help"]),
        ("session_send", &["session", "send", "--help"]),
        ("session_stop", &["session", "stop", "--help"]),
        ("session_kill", &["session", "kill", "--help"]),
        ("cp", &["cp", "--help"]),
        ("reset", &["reset", "--help"]),
        ("diff", &["diff", "--help"]),
        ("workspace", &["workspace", "--help"]),
        ("workspace_prepare", &["workspace", "prepare", "--help"]),
        ("workspace_export", &["workspace", "export", "--help"]),
        ("workspace_diff", &["workspace", "diff", "--help"]),
        ("workspace_status", &["workspace", "status", "--help"]),
        ("delete", &["delete", "--help"]),
        ("prune", &["prune", "--help"]),
    ] {
        let output = home.banger(args).output().unwrap();
        assert!(output.status.success());
        let page = String::from_utf8(output.stdout).unwrap();
        assert!(page.lines().all(|line| line.chars().count() <= 80), "{name} is too wide");
        assert_snapshot!(format!("help_{name}"), page);
    }
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0, "help touched the file system");
}

#[test]
fn verbs_are_one_implementation_with_and_without_the_noun() {
    let home = Home::empty();
    let page = |args: &[&str]| String::from_utf8(home.banger(args).output().unwrap().stdout).unwrap();
    for verb in [
        "run",
        "create",
        "start",
        "stop",
        "restart",
        "kill",
        "pause",
        "resume",
        "set",
        "prune",
        "stats",
        "ports",
        "rename",
        "delete",
        "rm",
        "list",
        "ls",
        "ps",
        "show",
        "exec",
        "logs",
        "wait",
        "session",
        "cp",
        "copy",
        "reset",
        "diff",
        "workspace",
    ] {
        let long = page(&["vm", verb, "--help"]);
        assert!(!long.is_empty());
        assert_eq!(
            long.replace("banger vm ", "banger "),
            page(&[verb, "--help"]).replace("banger vm ", "banger "),
            "{verb}"
        );
    }
}

#[test]
fn the_settings_file_is_named_without_a_daemon() {
    let home = Home::empty();
    let output = home.banger(&["config", "path"]).output().unwrap();
    let path = String::from_utf8(output.stdout).unwrap();
    assert_eq!(path, format!("{}\n", home.path().join("config/config.toml").display()));
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0, "nothing was made");
}

#[test]
fn versions() {
    let home = Home::empty();
    let output = home.banger(&["--version"]).output().unwrap();
    let line = String::from_utf8(output.stdout).unwrap();
    let rest = line.strip_prefix(concat!("banger ", env!("CARGO_PKG_VERSION"), " (commit ")).unwrap();
    let commit = rest.strip_suffix(")\n").unwrap();
    assert!(commit == "unknown" || (commit.len() == 8 && commit.bytes().all(|b| b.is_ascii_hexdigit())), "{commit}");
    let output = home.banger(&["version", "--format", "json"]).output().unwrap();
    let version: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
    let pages = home.banger(&["version"]).output().unwrap();
    assert!(String::from_utf8(pages.stdout).unwrap().lines().count() > 3);
}

/// Command lines that make no sense.
const WRONG: [&[&str]; 60] = [
    &["cp", "a", "b"],
    &["cp", "web:/a", "db:/b"],
    &["cp", "a", "web:/x/../y"],
    &["nonsense"],
    &["exec"],
    &["start"],
    &["run", "--name", "Web"],
    &["run", "--name", "-web"],
    &["run", "--vcpu", "0"],
    &["run", "--memory", "0"],
    &["run", "--disk-size", "9999999T"],
    &["run", "-p", "80"],
    &["run", "-d", "--rm"],
    &["run", "-d", "--", "true"],
    &["run", "--wait", "forever"],
    &["show", ""],
    &["kernel", "import", "x", "--debian"],
    &["kill"],
    &["ports"],
    &["stats", "--every", "1s"],
    &["stats", "--watch", "--every", "often"],
    &["set", "web"],
    &["set", "--vcpu", "2"],
    &["set", "web", "--nat", "--no-nat"],
    &["set", "web", "-p", "1:1", "--no-publish"],
    &["kill", "--signal", "STOP", "web"],
    &["kill", "--signal", "9", "web"],
    &["rename", "web"],
    &["rename", "web", "New_Name"],
    &["exec", "--name", "dev", "web", "true"],
    &["exec", "-d", "--name", "No", "web", "true"],
    &["exec", "-di", "web", "true"],
    &["session", "attach", "web"],
    &["session", "attach", "web", "../x"],
    &["session", "attach", "--detach-keys", "ctrl-", "web", "dev"],
    &["session", "send", "web", "dev"],
    &["session", "kill", "--signal", "NONE", "web", "dev"],
    &["run", "--branch", "x", "--", "true"],
    &["run", ".", "--from", "HEAD"],
    &["run", "--include-untracked"],
    &["run", "--dry-run"],
    &["run", "--mode", "overlay"],
    &["run", ".", "--mode", "shallow"],
    &["run", ".", "--depth", "0"],
    &["run", ".", "--depth", "3", "--mode", "full_copy"],
    &["run", ".", "--discard"],
    &["run", "--timeout", "soon", "--", "true"],
    &["run", "-d", "--timeout", "3s"],
    &["run", "--env-file", "/surely/not/there", "--", "true"],
    &["exec", "-d", "--timeout", "3s", "web", "true"],
    &["workspace", "prepare"],
    &["workspace", "prepare", "web", "--branch", "x"],
    &["workspace", "prepare", "web", ".", "--from", "x"],
    &["workspace", "prepare", "web", "--guest-path", "repo"],
    &["workspace", "prepare", "web", ".", "--dry-run", "--force"],
    &["workspace", "export", "web", "--base-commit", "HEAD"],
    &["workspace", "export", "web", "--format", "tar"],
    &["workspace", "export", "web", "--format", "branch", "-o", "x"],
    &["workspace", "export", "web", "--format", "branch", "--guest-path", "/x"],
    &["workspace", "diff", "web", "--base-commit", "abc"],
];

#[test]
fn usage_errors() {
    let home = Home::empty();
    for args in WRONG {
        let output = home.banger(args).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{args:?}");
    }
    assert_snapshot!(home.transcript(&["create", "--format", "json", "--name", "no good"]));
    assert_snapshot!("usage_export", home.transcript(&["workspace", "export", "web", "--json"]));
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0, "a usage error touched the file system");
}
