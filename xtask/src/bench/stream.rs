//! One gibibyte into the guest and back: through `exec`, and through a bare virtio-serial port with socat(1).

use std::fs::File;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use figures::{Row, pairs};

use super::floor::Floor;
use super::host::{Host, memory_mib, output};

const BYTES: u64 = 1 << 30;

pub(super) fn rows(host: &Host, runs: usize) -> Result<Vec<Row>> {
    let source = host.home.join("gibibyte");
    std::io::copy(&mut File::open("/dev/urandom")?.take(BYTES), &mut File::create(&source)?)?;
    host.ok(&["vm", "run", "--name", "pipe", "-d", "--wait", "agent"])?;
    let floor = Floor::of(host, "pipe")?;
    let (mut command, socket) = floor.with_port("echo")?;
    let mut guest = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let measured = (|| {
        wait_for(&socket)?;
        let (own, other) = (host.show("pipe")?["boot"]["pid"].to_string(), guest.id().to_string());
        let exec = || through(&mut host.banger(&["vm", "exec", "-i", "pipe", "--", "cat"]), &source);
        pairs(runs.min(3), || without(&other, exec), || without(&own, || bare(&socket, &source)))
    })();
    let peaks = peaks(host);
    guest.kill()?;
    guest.wait()?;
    host.ok(&["vm", "delete", "pipe"])?;
    let [agent, daemon] = peaks?;
    Ok(vec![
        Row::ratio("1 GiB stdin → guest → stdout, `vm exec -i`", "bare virtio-serial port, socat", 1.5, &measured?),
        Row::limit("the agent's memory at its peak, after it", "16 MiB", 16.0, agent, "MiB"),
        Row::limit("the daemon's memory at its peak, after it", "64 MiB", 64.0, daemon, "MiB"),
    ])
}

/// Most memory that the agent in the guest and the daemon have had, MiB.
fn peaks(host: &Host) -> Result<[f64; 2]> {
    let agent = host.ok(&["vm", "exec", "pipe", "--", "sh", "-c", "cat /proc/$(pgrep -ox banger-agent)/status"])?;
    let daemon = std::fs::read_to_string(format!("/proc/{}/status", host.daemon_pid()?))?;
    Ok([memory_mib(&agent, "VmHWM")?, memory_mib(&daemon, "VmHWM")?])
}

/// Waits for the byte that the floor guest sends when its port is open.
fn wait_for(socket: &Path) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut stream = loop {
        match UnixStream::connect(socket) {
            Ok(stream) => break stream,
            Err(error) if Instant::now() > deadline => return Err(error).context("the floor guest has no port"),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    stream.read_exact(&mut [0]).context("the floor guest does not answer")
}

/// Does `act` while a process stands still: an emulated guest that idles takes a fifth of a processor from the other one.
fn without<T>(pid: &str, act: impl FnOnce() -> Result<T>) -> Result<T> {
    output(Command::new("kill").args(["-STOP", pid]))?;
    let done = act();
    output(Command::new("kill").args(["-CONT", pid]))?;
    done
}

fn bare(socket: &Path, source: &Path) -> Result<Duration> {
    through(
        Command::new("socat")
            .args(["-b", "65536", "-t", "60", "STDIO"])
            .arg(format!("UNIX-CONNECT:{},shut-none", socket.display())),
        source,
    )
}

/// How long it takes until as many bytes came out as the file has.
fn through(command: &mut Command, source: &Path) -> Result<Duration> {
    let begun = Instant::now();
    let mut child = command.stdin(File::open(source)?).stdout(Stdio::piped()).spawn()?;
    let mut out = child.stdout.take().context("stdout is a pipe")?;
    let got = std::io::copy(&mut out.by_ref().take(BYTES), &mut std::io::sink())?;
    let took = begun.elapsed();
    drop(out);
    child.kill()?;
    child.wait()?;
    if got != BYTES {
        bail!("{got} of {BYTES} bytes came back from {command:?}");
    }
    Ok(took)
}
