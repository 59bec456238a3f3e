//! A command in a running guest, as a whole process: against ssh, and against the guest's own fork and exec.

use std::io::Write;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use figures::{Row, pairs};

use super::host::{Host, compile, output, time};

/// The figure's floor in milliseconds: below it nobody feels a difference.
const ENOUGH_MS: f64 = 12.0;

pub(super) fn rows(host: &Host, runs: usize) -> Result<Vec<Row>> {
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    host.ok(&["vm", "run", "--name", "web", "-d", "--publish", &format!("{port}:22"), "--wait", "ssh"])?;
    let key = authorise(host)?;
    let runs = runs * 4;
    let exec = || time(&mut host.banger(&["vm", "exec", "web", "--", "true"]));
    let fresh = pairs(runs, exec, || time(&mut ssh(&key, port, &[])))?;
    let control = host.home.join("ssh.ctl");
    let path = format!("ControlPath={}", control.display());
    let shared = ["-o", "ControlMaster=auto", "-o", "ControlPersist=60", "-o", path.as_str()];
    let established = pairs(runs, exec, || time(&mut ssh(&key, port, &shared)))?;
    output(Command::new("ssh").args(["-q", "-O", "exit", "-o", &path, "root@127.0.0.1"]))?;
    // Apart from ssh, whose processes would leave the guest's caches to themselves.
    let own = Duration::from_secs_f64(fork_and_exec(host)? / 1e6);
    let against_own: Vec<(Duration, Duration)> = pairs(runs, exec, || Ok(own))?;
    host.ok(&["vm", "delete", "web"])?;
    let goal = (ENOUGH_MS / (own.as_secs_f64() * 1000.0)).max(2.5);
    Ok(vec![
        Row::ratio("`vm exec web -- true`", "`ssh`, fresh connection", 0.25, &fresh),
        Row::ratio("`vm exec web -- true`", "`ssh`, established control connection", 0.8, &established),
        Row::ratio("`vm exec web -- true`", "the guest's fork+exec+wait (or 12 ms)", goal, &against_own),
    ])
}

/// Makes a key pair and lets it into the guest.
fn authorise(host: &Host) -> Result<PathBuf> {
    let key = host.home.join("bench-key");
    output(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key))?;
    let public = std::fs::read_to_string(key.with_extension("pub"))?;
    feed(host, "umask 077; mkdir -p ~/.ssh; cat >>~/.ssh/authorized_keys", public.as_bytes())?;
    Ok(key)
}

/// Runs a shell command in the guest with bytes on its standard input.
fn feed(host: &Host, script: &str, input: &[u8]) -> Result<()> {
    let mut child =
        host.banger(&["vm", "exec", "-i", "web", "--", "sh", "-c", script]).stdin(Stdio::piped()).spawn()?;
    child.stdin.take().context("stdin is a pipe")?.write_all(input)?;
    let status = child.wait()?;
    if !status.success() {
        bail!("{script:?} in the guest failed ({status})");
    }
    Ok(())
}

fn ssh(key: &std::path::Path, port: u16, more: &[&str]) -> Command {
    let mut command = Command::new("ssh");
    command
        .args([
            "-q",
            "-F",
            "none",
            "-o",
            "StrictHostKeyChecking=no",
            "-o",
            "UserKnownHostsFile=/dev/null",
            "-o",
            "BatchMode=yes",
        ])
        .args(more)
        .arg("-i")
        .arg(key)
        .args(["-p", &port.to_string(), "root@127.0.0.1", "true"])
        .stdin(Stdio::null());
    command
}

/// Microseconds that fork, exec of true(1) and wait take in the guest.
fn fork_and_exec(host: &Host) -> Result<f64> {
    let program = std::fs::read(compile("forkexec.c")?)?;
    feed(host, "cat >/root/forkexec; chmod +x /root/forkexec", &program)?;
    let printed = host.ok(&["vm", "exec", "web", "--", "/root/forkexec", "/bin/true"])?;
    printed.parse().with_context(|| format!("{printed:?} is no number"))
}
