//! Files into a guest and out of it.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::process::Stdio;

use super::host::Host;

#[test]
fn files_go_in_and_come_out_again() {
    let host = Host::new();
    host.ok(&["run", "--name", "web", "-d", "--wait", "agent"]);
    let here = |path: &str| host.home().join(path);
    fs::create_dir_all(here("tree/sub")).unwrap();
    fs::write(here("tree/sub/tool"), "#!/bin/sh\necho it runs\n").unwrap();
    fs::set_permissions(here("tree/sub/tool"), fs::Permissions::from_mode(0o755)).unwrap();
    symlink("sub/tool", here("tree/link")).unwrap();
    let file = fs::File::create(here("tree/sparse")).unwrap();
    file.set_len(1 << 30).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"end", (1 << 30) - 3).unwrap();
    let in_guest = |script: &str| host.ok(&["exec", "web", "--", "sh", "-ec", script]);
    let copied: serde_json::Value =
        serde_json::from_str(&host.ok(&["cp", "--format", "json", "tree", "web:/srv/"])).unwrap();
    assert!(copied["bytes"].as_u64().unwrap() < 1 << 20, "holes are not sent: {copied}");
    assert_eq!(
        in_guest("/srv/tree/link; stat -c %u:%g:%a /srv/tree/sub/tool; tail -c 3 /srv/tree/sparse"),
        "it runs\n0:0:755\nend"
    );
    assert_eq!(in_guest("test $(du -k /srv/tree/sparse | cut -f1) -lt 1024 && echo sparse"), "sparse");
    // Through links of the image, in place of what is there, and under another name.
    in_guest("ln -s /srv/tree /root/there; echo old >/srv/conf; ln -s /srv/conf /etc/conf");
    fs::write(here("new"), "new").unwrap();
    host.ok(&["cp", "new", "web:/root/there/sub/"]);
    host.ok(&["cp", "new", "web:/etc/conf"]);
    assert_eq!(in_guest("cat /srv/tree/sub/new /srv/conf; readlink /etc/conf"), "newnew/srv/conf");
    // And out.
    in_guest("chown -R 12:34 /srv/tree; chmod 4755 /srv/tree/sub/tool; mkfifo /srv/tree/pipe");
    in_guest("perl -MIO::Socket::UNIX -e 'IO::Socket::UNIX->new(Local => \"/srv/tree/socket\", Listen => 1) or die'");
    let out = host.run(&["cp", "web:/srv/tree", "back"]).code(0);
    let named = "not copied from web:/srv/tree: tree/pipe, tree/socket (devices, pipes, sockets";
    assert!(out.stderr.contains(named), "{}", out.stderr);
    let tool = fs::metadata(here("back/sub/tool")).unwrap();
    assert_eq!(tool.mode() & 0o7777, 0o755, "no setuid bit arrives");
    assert_eq!(tool.uid(), rustix::process::geteuid().as_raw());
    assert_eq!(fs::read_link(here("back/link")).unwrap().to_str(), Some("sub/tool"));
    let sparse = fs::metadata(here("back/sparse")).unwrap();
    assert!(sparse.len() == 1 << 30 && sparse.blocks() < 2048, "{} blocks", sparse.blocks());
    host.ok(&["cp", "web:/proc/version", "."]);
    assert!(fs::read_to_string(here("version")).unwrap().starts_with("Linux version"));
    host.ok(&["cp", "-L", "web:/etc/conf", "followed"]);
    assert_eq!(fs::read_to_string(here("followed")).unwrap(), "new");
    if rustix::process::geteuid().is_root() {
        host.ok(&["cp", "-a", "web:/srv/tree/sub", "owned"]);
        let tool = fs::metadata(here("owned/tool")).unwrap();
        assert_eq!((tool.uid(), tool.gid(), tool.mode() & 0o7777), (12, 34, 0o4755));
    }
    let tar = host.run(&["cp", "web:/srv/tree/sub", "-"]).code(0);
    host.ok(&["exec", "web", "--", "mkdir", "/srv/again"]);
    host.pipe(&["cp", "-", "web:/srv/again"], &tar.stdout).code(0);
    assert_eq!(in_guest("cmp /srv/tree/sub/tool /srv/again/sub/tool && stat -c %u:%g /srv/again/sub/tool"), "12:34");
    host.leaves_nothing();
}

#[test]
fn what_fails_is_told_and_a_vm_that_is_off_can_be_started() {
    let host = Host::new();
    host.ok(&["create", "--name", "off", "--no-start"]);
    fs::write(host.home().join("file"), "x").unwrap();
    let refused = host.run(&["cp", "file", "off:/root/"]).code(1);
    assert!(refused.stderr.contains("off is not running") && refused.stderr.contains("--start"), "{}", refused.stderr);
    host.ok(&["cp", "--start", "file", "off:/root/"]);
    assert_eq!(host.ok(&["exec", "off", "--", "cat", "/root/file"]), "x");
    let missing = host.run(&["cp", "off:/none", "."]).code(1);
    assert!(missing.stderr.contains("there is no such file in off"), "{}", missing.stderr);
    // The guest's disk fills up in the middle.
    host.ok(&["exec", "off", "--", "sh", "-ec", "mkdir /small && mount -t tmpfs -o size=1M none /small"]);
    fs::write(host.home().join("large"), vec![7; 4 << 20]).unwrap();
    let full = host.run(&["cp", "large", "off:/small/"]).code(1);
    assert!(
        full.stderr.contains("cannot copy large to off:/small/: cannot write large: no space left"),
        "{}",
        full.stderr
    );
    // This host's reader goes away.
    host.ok(&["exec", "off", "--", "sh", "-ec", "head -c 64M /dev/zero >/root/zeros"]);
    let mut child = host.command(&["cp", "off:/root/zeros", "-"]).stderr(Stdio::null()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(141));
    host.ok(&["exec", "off", "--", "true"]);
    host.leaves_nothing();
}

#[test]
fn changes_of_the_system_are_listed() {
    let host = Host::new();
    host.ok(&["run", "--name", "web", "-d"]);
    let fresh = host.ok(&["diff", "web"]);
    assert!(!fresh.contains("/etc/hostname") && !fresh.contains("ssh_host_"), "identity is no change: {fresh}");
    let change = "echo x >/etc/made; echo x >>/etc/passwd; rm /etc/issue; mkdir -p /srv/new/sub; echo x >/srv/new/sub/file;
        rm -r /etc/apt; mkdir /etc/apt; echo x >/etc/apt/only; mv /etc/default /etc/renamed; touch /root/file /home/file;
        printf 'x' >\"$(printf '/etc/odd\\033[31m')\"; sync";
    host.ok(&["exec", "web", "--", "sh", "-ec", change]);
    let told = host.ok(&["diff", "web"]);
    let lines: Vec<&str> = told.lines().collect();
    for line in [
        "A /etc/made",
        "M /etc/passwd",
        "D /etc/issue",
        "A /srv/new",
        "A /srv/new/sub/file",
        "A /etc/apt/only",
        "D /etc/apt/sources.list.d",
        "A /etc/renamed",
        "D /etc/default",
        "A /etc/odd\\x1b[31m",
    ] {
        assert!(lines.contains(&line), "{line:?} is missing in {told}");
    }
    assert!(!told.contains("/root/") && !told.contains("/home/"), "{told}");
    let json: serde_json::Value = serde_json::from_str(&host.ok(&["diff", "web", "--format", "json"])).unwrap();
    assert_eq!(json["changes"].as_array().unwrap().len(), lines.len());
    // Looking keeps nothing mounted: the guest ends cleanly, and its disk with it.
    host.ok(&["stop", "web"]);
    super::lifecycle::disk_is_clean(&host, "web");
    let off = host.run(&["diff", "web"]).code(1);
    assert!(off.stderr.contains("--start"), "{}", off.stderr);
    host.ok(&["reset", "--yes", "web"]);
    assert!(!host.ok(&["diff", "--start", "web"]).contains("/etc/made"));
    host.leaves_nothing();
}
