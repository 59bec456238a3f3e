//! A systemd scope for each VMM: what limits it, and what keeps it when the helper's unit ends.

use std::io;
use std::time::Duration;

use sys::process::{command, run};
use wire::helper::Limits;
use wire::id::BootId;
use wire::naming;

/// How long the service manager may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks at where the process is: the manager answers before it has moved it.
const PAUSE: Duration = Duration::from_millis(2);

/// Moves process `pid`, which waits, into a scope of its own, and returns when it is there.
pub(crate) fn make(boot: &BootId, pid: u32, limits: Limits) -> io::Result<()> {
    let name = naming::scope_name(boot);
    let arguments = arguments(&name, pid, limits);
    run(command("/usr/bin/busctl").args(&arguments)).map_err(io::Error::other)?;
    let deadline = sys::clock::monotonic() + PATIENCE;
    loop {
        let cgroups = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
        if cgroups.lines().any(|line| line.ends_with(&format!("/{name}"))) {
            return Ok(());
        }
        if sys::clock::monotonic() > deadline {
            return Err(rustix::io::Errno::TIMEDOUT.into());
        }
        std::thread::sleep(PAUSE);
    }
}

/// `StartTransientUnit` of org.freedesktop.systemd1(5): a name, a mode, properties, no further unit.
fn arguments(name: &str, pid: u32, limits: Limits) -> Vec<String> {
    let mut properties: Vec<[String; 4]> = vec![
        ["PIDs".into(), "au".into(), "1".into(), pid.to_string()],
        ["Slice".into(), "s".into(), format!("{}.slice", naming::PREFIX), String::new()],
        ["CollectMode".into(), "s".into(), "inactive-or-failed".into(), String::new()],
        // The first process of a PID namespace takes no other: a host that goes down would wait for nothing.
        ["KillSignal".into(), "i".into(), "9".into(), String::new()],
    ];
    let mut number = |name: &str, value: u64| {
        properties.push([name.into(), "t".into(), value.to_string(), String::new()]);
    };
    if let Some(mib) = limits.memory_mib_max {
        number("MemoryMax", u64::from(mib) << 20);
    }
    if let Some(percent) = limits.cpu_percent_max {
        // Of one second, in microseconds.
        number("CPUQuotaPerSecUSec", u64::from(percent) * 10_000);
    }
    let head = [
        "--system",
        "call",
        "org.freedesktop.systemd1",
        "/org/freedesktop/systemd1",
        "org.freedesktop.systemd1.Manager",
        "StartTransientUnit",
        "ssa(sv)a(sa(sv))",
        name,
        "fail",
    ];
    let mut words: Vec<String> = head.map(str::to_owned).to_vec();
    words.push(properties.len().to_string());
    words.extend(properties.into_iter().flatten().filter(|word| !word.is_empty()));
    words.push("0".into());
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_properties() {
        let boot = BootId::from_random([1; 8]);
        let limits = Limits { memory_mib_max: Some(512), cpu_percent_max: Some(150) };
        let line = arguments(&naming::scope_name(&boot), 42, limits).join(" ");
        let wanted = "ssa(sv)a(sa(sv)) banger-vm-0101010101010101.scope fail 6 PIDs au 1 42 Slice s banger.slice \
                      CollectMode s inactive-or-failed KillSignal i 9 MemoryMax t 536870912 CPUQuotaPerSecUSec t 1500000 0";
        assert!(line.ends_with(wanted), "{line}");
        assert!(arguments("x", 1, Limits::default()).join(" ").contains(" fail 4 PIDs "));
    }
}
