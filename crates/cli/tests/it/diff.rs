//! `banger diff`: a guest's words, printed.

use insta::assert_snapshot;

use crate::fake::Script;

const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: banger-error\r\n\r\n";

/// A guest that tells these lines, and then `end`.
fn tells(lines: &'static str, end: &'static str) -> Script {
    Script::new().on("GET /v1/vms/web/changes", move |_, connection| {
        connection.bytes(HEAD);
        connection.bytes(format!("{:x}\r\n{lines}\r\n{end}", lines.len()).as_bytes());
    })
}

const LINES: &str = "{\"change\":\"added\",\"path\":\"/etc/new\"}\n{\"change\":\"modified\",\"path\":\"/etc/passwd\"}\n\
{\"change\":\"deleted\",\"path\":\"/opt/\\u001b[31mx\\ny\"}\n";

#[test]
fn changes_are_printed_and_drive_no_terminal() {
    let home = tells(LINES, "0\r\n\r\n").run();
    for format in ["table", "name", "json"] {
        assert_snapshot!(format!("diff_{format}"), home.transcript(&["diff", "web", "--format", format]));
    }
}

#[test]
fn a_list_that_is_not_whole_is_an_error() {
    let why = "0\r\nbanger-error: {\"error\":{\"code\":\"operation_failed\",\"message\":\"cannot list /etc: input/output error\"}}\r\n\r\n";
    for (end, said) in [(why, "input/output error"), ("", "broke off in the middle")] {
        let home = tells(LINES, end).run();
        let output = home.banger(&["diff", "web"]).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && stderr.contains(said), "{stderr}");
    }
    let home = Script::new()
        .refuse("GET /v1/vms/db/changes", 409, "wrong_state", "db is not running")
        .answer("GET /v1/vms/db ", &crate::fake::vm("db", "stopped"))
        .run();
    let output = home.banger(&["vm", "diff", "db"]).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && stderr.contains("--start"), "{stderr}");
}
