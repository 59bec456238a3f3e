//! `banger cp`: what is asked of the guest, and what of its answer reaches this host.

use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::process::Stdio;

use insta::assert_snapshot;
use serde_json::json;

use crate::fake::{Home, Script, transcript};

/// A guest with a directory `/srv`, a file `/srv/file` and nothing else.
fn guest() -> Script {
    let at = |kind: &str, path: &str| json!({"kind": kind, "bytes": 6, "path": path});
    Script::new()
        .answer("GET /v1/vms/web/file?", &json!({"kind": "missing", "bytes": 0, "path": null}))
        .answer("GET /v1/vms/web/file?path=%2F&", &at("directory", "/"))
        .answer("GET /v1/vms/web/file?path=%2Fsrv&", &at("directory", "/srv"))
        .answer("GET /v1/vms/web/file?path=%2Fsrv%2F&", &at("directory", "/srv"))
        .answer("GET /v1/vms/web/file?path=%2Fsrv%2Ffile&", &at("file", "/srv/file"))
        .answer("GET /v1/vms/web/file?path=%2Fsrv%2Flink&", &at("file", "/srv/file"))
        .answer("GET /v1/vms/web/file?path=%2Fdev%2Fnull&", &at("special", "/dev/null"))
        .answer("PUT /v1/vms/web/tree", &json!({"bytes": 6}))
}

/// Name, kind and owner of each entry of a tar stream.
fn entries(tar: &[u8]) -> Vec<(String, char, u64)> {
    let mut archive = tar::Archive::new(tar);
    let entry = |entry: std::io::Result<tar::Entry<'_, &[u8]>>| {
        let entry = entry.unwrap();
        let kind = char::from(entry.header().entry_type().as_byte());
        (entry.path().unwrap().display().to_string(), kind, entry.header().uid().unwrap())
    };
    // What a global header says is about no file.
    archive.entries().unwrap().map(entry).filter(|entry| entry.1 != 'g').collect()
}

fn names(tar: &[u8]) -> Vec<String> {
    entries(tar).into_iter().map(|entry| entry.0.trim_end_matches('/').to_owned()).collect()
}

fn tree(home: &Home) {
    std::fs::create_dir_all(home.path().join("tree/sub")).unwrap();
    std::fs::write(home.path().join("tree/sub/file"), "text").unwrap();
    symlink("sub/file", home.path().join("tree/link")).unwrap();
    symlink("tree", home.path().join("to tree")).unwrap();
}

#[test]
fn in_goes_what_docker_would_send() {
    for (args, target, sent) in [
        (&["tree", "web:/srv"][..], "%2Fsrv", &["tree", "tree/link", "tree/sub", "tree/sub/file"][..]),
        (&["tree", "web:/srv/new"], "%2Fsrv", &["new", "new/link", "new/sub", "new/sub/file"]),
        (&["tree/.", "web:/srv"], "%2Fsrv", &["", "link", "sub", "sub/file"]),
        (&["tree/sub/file", "web:srv/"], "%2Fsrv", &["file"]),
        (&["tree/sub/file", "web:/srv/link"], "%2Fsrv", &["file"]),
        (&["tree/sub/file", "web:/srv/other"], "%2Fsrv", &["other"]),
        (&["to tree", "web:/srv"], "%2Fsrv", &["to tree"]),
        (&["-L", "to tree", "web:/srv"], "%2Fsrv", &["to tree", "to tree/link", "to tree/sub", "to tree/sub/file"]),
        (&["to tree/", "web:/srv"], "%2Fsrv", &["to tree", "to tree/link", "to tree/sub", "to tree/sub/file"]),
    ] {
        let home = guest().run();
        tree(&home);
        let output = home.banger(&[&["vm", "cp", "--quiet"], args].concat()).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", transcript(&home, &output));
        let request = home.log.wait_for("PUT /v1/vms/web/tree");
        assert_eq!(request.line, format!("PUT /v1/vms/web/tree?path={target}"), "{args:?}");
        let names: Vec<String> =
            names(&request.body).iter().map(|name| name.trim_start_matches("./").to_owned()).collect();
        let names: Vec<&str> = names.iter().map(|name| if name == "." { "" } else { name }).collect();
        assert_eq!(names, sent, "{args:?}");
        assert!(entries(&request.body).iter().all(|entry| entry.2 == 0), "{args:?}: not all is root's");
    }
}

#[test]
fn a_socket_stays_here_and_is_named() {
    let home = guest().run();
    tree(&home);
    let _socket = std::os::unix::net::UnixListener::bind(home.path().join("tree/sub/socket")).unwrap();
    let output = home.banger(&["cp", "--format", "json", "tree", "web:/srv"]).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("warning: not copied from tree: tree/sub/socket (devices, pipes, sockets or"), "{stderr}");
    let copied: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(copied["left_out"], 1);
    assert_eq!(names(&home.log.wait_for("PUT /v1/vms/web/tree").body).len(), 4, "what else is there goes");
}

#[test]
fn refusals() {
    let home = guest().run();
    tree(&home);
    rustix::fs::mkfifoat(rustix::fs::CWD, home.path().join("pipe"), rustix::fs::Mode::RUSR).unwrap();
    symlink("nowhere", home.path().join("dangling")).unwrap();
    symlink("turns", home.path().join("turns")).unwrap();
    let mut told = String::new();
    for args in [
        &["none", "web:/srv"][..],
        &["tree", "web:/srv/file"],
        &["tree/sub/file", "web:/none/"],
        &["tree/sub/file", "web:/none/x"],
        &["tree/sub/file", "web:/dev/null"],
        &["tree/sub/file/", "web:/srv"],
        &["web:/none", "."],
        &["web:/dev/null", "."],
        &["web:/srv", "tree/sub/file"],
        &["web:/srv/file", "none/x"],
        &["web:/srv/file", "none/"],
        &["web:/srv/file", "pipe"],
        &["web:/srv/file", "dangling"],
        &["web:/", "/"],
        &["web:/", "/tmp/.."],
        &["pipe", "web:/srv"],
        &["-", "web:/srv/file"],
        &["-", "web:/none"],
        &["-L", "turns", "web:/srv/"],
        &["web:/srv/file", "turns"],
        &["web:/srv/file", "turns/x"],
    ] {
        told.push_str(&format!("$ banger cp {}\n", args.join(" ")));
        told.push_str(&home.transcript(&[&["cp"], args].concat()));
    }
    assert_snapshot!(told);
    assert!(home.log.lines().iter().all(|line| !line.contains("/tree")), "nothing was moved");
}

#[test]
fn work_that_fails_is_told_with_both_ends_and_its_cause() {
    let home = guest()
        .refuse(
            "GET /v1/vms/web/file?path=%2Fturns&",
            500,
            "operation_failed",
            "cannot look at /turns: too many levels",
        )
        .refuse("PUT /v1/vms/web/tree", 500, "operation_failed", "cannot write tree/sub/file: no space left on device")
        .run();
    tree(&home);
    assert_eq!(
        home.transcript(&["cp", "web:/turns", "."]),
        "status 1\n--- stdout\n--- stderr\n\
         banger: cannot copy web:/turns to .: cannot look at /turns: too many levels\n"
    );
    assert_eq!(
        home.transcript(&["cp", "tree", "web:/srv"]),
        "status 1\n--- stdout\n--- stderr\n\
         banger: cannot copy tree to web:/srv: cannot write tree/sub/file: no space left on device\n"
    );
    // A directory where a file is to be, and a stream that is none.
    let home = sends(hostile(&[("file", tar::EntryType::Regular, "")]), "complete").run();
    std::fs::create_dir_all(home.path().join("got/file")).unwrap();
    assert_eq!(
        home.transcript(&["cp", "web:/srv/file", "got"]),
        "status 1\n--- stdout\n--- stderr\n\
         banger: cannot copy web:/srv/file to got: \
         cannot write file: there is a directory, and a file does not replace it\n"
    );
    let home = sends(vec![0x1b; 1024], "complete").run();
    assert_eq!(
        home.transcript(&["cp", "web:/srv/file", "got"]),
        "status 1\n--- stdout\n--- stderr\n\
         banger: cannot copy web:/srv/file to got: cannot read the stream: it is no tar stream\n"
    );
}

#[test]
fn standard_input_that_cannot_be_read_is_told() {
    let home = guest().run();
    let here = std::fs::File::open(home.path()).unwrap();
    let output = home.banger(&["cp", "-", "web:/srv"]).stdin(here).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "banger: cannot copy - to web:/srv: cannot read standard input: is a directory\n"
    );
}

#[test]
fn a_vm_that_is_off_is_said_to_be_and_started_when_asked() {
    let home = Script::new()
        .refuse("GET /v1/vms/db/file", 409, "wrong_state", "db is not running")
        .answer("GET /v1/vms/db ", &crate::fake::vm("db", "stopped"))
        .run();
    assert_snapshot!(home.transcript(&["cp", "db:/etc/hosts", "."]));
    let home = guest()
        .answer("GET /v1/vms/web ", &crate::fake::vm("web", "stopped"))
        .answer(
            "POST /v1/vms/7765620000000000/start",
            &json!({"operation": crate::fake::OP, "vm": null, "subject": "web"}),
        )
        .run();
    tree(&home);
    assert_snapshot!(home.transcript(&["cp", "--start", "--format", "json", "tree", "web:/srv"]));
    let lines = home.log.lines();
    let at = |line: &str| lines.iter().position(|asked| asked.starts_with(line)).unwrap();
    assert!(at("POST /v1/vms/7765620000000000/start") < at("PUT /v1/vms/web/tree"), "{lines:?}");
}

/// An answer with a tar stream that ends as `end` says: complete, with an error in its trailer, or broken off.
fn sends(tar: Vec<u8>, end: &'static str) -> Script {
    guest().on("GET /v1/vms/web/tree", move |_, connection| {
        connection.bytes(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: banger-error\r\n\r\n");
        connection.bytes(format!("{:x}\r\n", tar.len()).as_bytes());
        connection.bytes(&tar);
        connection.bytes(b"\r\n");
        match end {
            "complete" => connection.bytes(b"0\r\n\r\n"),
            "told" => connection.bytes(
                b"0\r\nbanger-error: {\"error\":{\"code\":\"operation_failed\",\"message\":\"cannot read /srv/x: input/output error\"}}\r\n\r\n",
            ),
            _ => true,
        };
    })
}

/// A stream by a guest that means harm: what it was asked for, and what it was not.
fn hostile(own: &[(&str, tar::EntryType, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, kind, link) in own {
        let mut header = tar::Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(*kind);
        header.set_mode(0o6755);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1);
        header.set_device_major(1).unwrap();
        header.set_device_minor(3).unwrap();
        header.set_size(if kind.is_file() { 6 } else { 0 });
        header.set_cksum();
        builder.append(&header, if kind.is_file() { &b"theirs"[..] } else { b"" }).unwrap();
    }
    builder.into_inner().unwrap()
}

#[test]
fn out_comes_what_was_asked_for_and_nothing_else() {
    use tar::EntryType::{Char, Directory, Regular, Symlink};
    for (label, stream, works) in [
        ("another name", vec![("evil", Regular, "")], true),
        ("two tops", vec![("file", Regular, ""), (".bashrc", Regular, "")], false),
        ("upwards", vec![("file", Directory, ""), ("file/../.bashrc", Regular, "")], false),
        ("absolute", vec![("/.bashrc", Regular, "")], true),
        (
            "a link and through it",
            vec![("d", Directory, ""), ("d/l", Symlink, "../.ssh"), ("d/l/keys", Regular, "")],
            false,
        ),
        ("a link as top", vec![("d", Symlink, ".ssh"), ("d/keys", Regular, "")], false),
        ("a device", vec![("d", Directory, ""), ("d/null", Char, "")], true),
    ] {
        let home = sends(hostile(&stream), "complete").run();
        std::fs::create_dir(home.path().join(".ssh")).unwrap();
        std::fs::write(home.path().join(".bashrc"), "mine").unwrap();
        let output = home.banger(&["cp", "web:/srv/file", "got"]).output().unwrap();
        assert_eq!(output.status.success(), works, "{label}: {}", transcript(&home, &output));
        assert_eq!(std::fs::read_to_string(home.path().join(".bashrc")).unwrap(), "mine", "{label}");
        assert_eq!(std::fs::read_dir(home.path().join(".ssh")).unwrap().count(), 0, "{label}");
        if works {
            let meta = std::fs::symlink_metadata(home.path().join("got")).unwrap();
            assert_eq!(meta.permissions().mode() & 0o7000, 0, "{label}: setuid");
            assert_eq!(meta.uid(), rustix::process::geteuid().as_raw(), "{label}");
        }
        let is_device = label == "a device";
        assert_eq!(
            String::from_utf8_lossy(&output.stderr).contains("not copied from web:/srv/file: d/null (dev"),
            is_device,
            "{label}"
        );
    }
}

#[test]
fn a_stream_that_is_not_whole_is_an_error_that_says_why() {
    let whole = hostile(&[("file", tar::EntryType::Regular, "")]);
    let part = whole[..512].to_vec();
    for (tar, end) in [(part.clone(), "told"), (part, "broken"), (whole.clone(), "told"), (whole, "broken")] {
        let is_part = tar.len() == 512;
        let home = sends(tar, end).run();
        std::fs::write(home.path().join("got"), "old").unwrap();
        let output = home.banger(&["cp", "web:/srv/file", "got"]).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        let got = std::fs::read_to_string(home.path().join("got")).unwrap();
        assert_eq!(got, if is_part { "old" } else { "theirs" }, "what was there stays until all of the file is there");
        let why = if end == "told" { "input/output error" } else { "broke off in the middle" };
        assert!(stderr.contains(why), "{stderr}");
    }
}

#[test]
fn tar_streams_pass_through() {
    let stream = hostile(&[("file", tar::EntryType::Regular, "")]);
    let home = sends(stream.clone(), "complete").run();
    let output = home.banger(&["cp", "web:/srv/file", "-"]).output().unwrap();
    assert!(output.status.success() && output.stdout == stream, "{output:?}");
    let mut child = home.banger(&["cp", "-", "web:/srv"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), &stream).unwrap();
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(child.wait().unwrap().success(), "{said}");
    assert_eq!(home.log.wait_for("PUT /v1/vms/web/tree").body, stream);
}
