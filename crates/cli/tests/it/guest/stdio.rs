//! Exact bytes, terminals, signals, back-pressure.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::Stdio;

use super::host::{Host, eventually};

/// Bytes without any pattern a pipe could get right by luck: xorshift64.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

#[test]
fn sixty_four_mebibytes_go_in_and_come_back() {
    let host = Host::new();
    let bytes = noise(64 << 20);
    let ran = host.pipe(&["run", "--rm", "--wait", "agent", "--", "cat"], &bytes).code(0);
    assert_eq!(ran.stdout.len(), bytes.len());
    assert!(ran.stdout == bytes, "the bytes differ");
    host.ends_clean();
}

#[test]
fn streams_are_apart_and_end_where_they_should() {
    let host = Host::new();
    host.ok(&["run", "--name", "io", "-d", "--wait", "agent"]);
    let ran = host.run(&["exec", "io", "--", "sh", "-c", "printf out; printf err >&2; exit 3"]).code(3);
    assert_eq!((ran.stdout.as_slice(), ran.stderr.as_str()), (b"out".as_slice(), "err"));
    assert_eq!(host.pipe(&["exec", "-i", "io", "--", "wc", "-c"], b"").code(0).text(), "0");
    assert_eq!(host.pipe(&["exec", "-i", "io", "--", "head", "-c1"], &noise(1 << 20)).code(0).stdout.len(), 1);
    // A command whose output nobody reads holds nobody else up.
    let mut flood = host.command(&["exec", "io", "--", "cat", "/dev/zero"]).spawn().unwrap();
    flood.stdout.as_mut().unwrap().read_exact(&mut [0; 4096]).unwrap();
    for _ in 0..5 {
        assert_eq!(host.ok(&["exec", "io", "--", "echo", "alive"]), "alive");
    }
    flood.kill().unwrap();
    flood.wait().unwrap();
    eventually("the flood has ended in the guest", || host.run(&["exec", "io", "--", "pgrep", "-x", "cat"]).code == 1);
    host.leaves_nothing();
}

/// A terminal of 40 by 100 with `banger` at its other end.
fn terminal() -> (std::fs::File, OwnedFd) {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&ours).unwrap();
    unlockpt(&ours).unwrap();
    let name = ptsname(&ours, Vec::new()).unwrap();
    let theirs = rustix::fs::open(
        name.as_c_str(),
        rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY,
        rustix::fs::Mode::empty(),
    )
    .unwrap();
    let size = rustix::termios::Winsize { ws_row: 40, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(&ours, size).unwrap();
    (std::fs::File::from(ours), theirs)
}

/// Reads what the terminal shows until `wanted` is there.
fn shows(terminal: &mut std::fs::File, seen: &mut String, wanted: &str) {
    let mut chunk = [0; 4096];
    while !seen.contains(wanted) {
        let count = terminal.read(&mut chunk).unwrap_or(0);
        assert!(count > 0, "the terminal closed before {wanted:?}: {seen:?}");
        seen.push_str(&String::from_utf8_lossy(&chunk[..count]));
    }
}

#[test]
fn a_terminal_is_a_terminal() {
    let host = Host::new();
    host.ok(&["run", "--name", "tty", "-d", "--wait", "agent"]);
    let (mut ours, theirs) = terminal();
    let stdio = || Stdio::from(theirs.try_clone().unwrap());
    let mut child = host
        .command(&["exec", "-it", "tty", "--", "sh"])
        .stdin(stdio())
        .stdout(stdio())
        .stderr(stdio())
        .spawn()
        .unwrap();
    let mut seen = String::new();
    ours.write_all(b"tty; stty size; echo size-done\n").unwrap();
    shows(&mut ours, &mut seen, "\nsize-done");
    assert!(seen.contains("/dev/pts/") && seen.contains("40 100"), "{seen:?}");
    // Ctrl-C ends the command, not the shell.
    ours.write_all(b"sleep 1000\n").unwrap();
    shows(&mut ours, &mut seen, "sleep 1000");
    eventually("sleep runs", || host.run(&["exec", "tty", "--", "pgrep", "-x", "sleep"]).code == 0);
    ours.write_all(b"\x03").unwrap();
    eventually("sleep has ended", || host.run(&["exec", "tty", "--", "pgrep", "-x", "sleep"]).code == 1);
    ours.write_all(b"exit 7\n").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(7));
    host.leaves_nothing();
}
