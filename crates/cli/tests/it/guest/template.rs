//! Fresh VMs that go on from a template: they are machines of their own, and a template that is no good costs nobody anything.

use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use super::host::{Host, eventually_within};
use super::lifecycle::{disk_is_clean, state};

/// A first boot beside others' machines, and the second that makes the template.
const MADE_WITHIN: Duration = Duration::from_secs(400);

/// A host whose templates are on.
fn host() -> Host {
    let host = Host::new();
    host.use_templates();
    host
}

fn list(host: &Host) -> serde_json::Value {
    serde_json::from_str(&host.ok(&["template", "list", "--format", "json"])).unwrap()
}

/// Waits until there is a template, and gives it.
#[track_caller]
fn template_appears(host: &Host) -> serde_json::Value {
    eventually_within(MADE_WITHIN, "there is a template", || !list(host)["templates"][0].is_null());
    list(host)["templates"][0].clone()
}

/// Its directory.
fn place(host: &Host, template: &serde_json::Value) -> PathBuf {
    host.state().join("templates").join(template["key"].as_str().unwrap())
}

fn checksum(file: PathBuf) -> String {
    let out = Command::new("sha256sum").arg(file).output().unwrap();
    assert!(out.status.success(), "{out:?}");
    String::from_utf8(out.stdout).unwrap()
}

/// What makes a guest the guest it is.
const WHO: &str = "hostname; cat /etc/machine-id /proc/sys/kernel/random/boot_id /etc/ssh/ssh_host_ed25519_key.pub \
                   /sys/class/net/e*/address; head -c 16 /dev/urandom | base64; cat /proc/sys/kernel/random/uuid";

#[test]
fn a_vm_that_goes_on_from_a_template_is_a_machine_of_its_own() {
    let host = host();
    host.ok(&["run", "--name", "first", "-d"]);
    let template = template_appears(&host);
    assert_eq!(template["uses"], 0);
    let memory = place(&host, &template).join("memory");
    let before = checksum(memory.clone());

    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
    let started = host.run(&["run", "--name", "second", "-d", "--wait", "system"]).code(0);
    assert_eq!(started.stderr.matches("warning").count(), 0, "{}", started.stderr);
    host.ok(&["run", "--name", "third", "-d"]);
    assert_eq!((&list(&host)["templates"][0]["uses"], &list(&host)["fell_back"]), (&2.into(), &0.into()));

    // Nothing of one is in another.
    let who = ["first", "second", "third"].map(|vm| {
        let said = host.ok(&["exec", vm, "--", "sh", "-c", WHO]);
        let said: Vec<String> = said.lines().map(str::to_owned).collect();
        assert_eq!((said[0].as_str(), said.len()), (vm, 7), "{said:?}");
        assert_eq!(host.show(vm)["state"], "running");
        said
    });
    for (index, one) in who.iter().enumerate() {
        for other in &who[index + 1..] {
            for (mine, theirs) in one.iter().zip(other) {
                assert_ne!(mine, theirs);
            }
        }
    }
    assert_eq!(host.ok(&["exec", "second", "--", "systemctl", "is-system-running", "--wait"]), "running");
    let clock: f64 = host.ok(&["exec", "second", "--", "date", "+%s.%N"]).parse().unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    assert!((clock - now).abs() < 5.0, "{clock} is not {now}");

    // What both write is theirs, and the template stays what it was.
    for vm in ["second", "third"] {
        host.ok(&[
            "exec",
            vm,
            "--",
            "sh",
            "-c",
            "head -c 60M /dev/urandom >/root/file; head -c 60M /dev/zero >/dev/shm/file",
        ]);
        host.ok(&["exec", vm, "--", "sh", "-c", &format!("echo {vm} >/root/kept; sync")]);
    }
    assert_eq!(checksum(memory), before, "nobody writes a template's memory");

    // Without the template they go on, and later boots are cold ones.
    let freed = host.ok(&["template", "prune", "--all"]);
    assert_eq!(freed, template["key"].as_str().unwrap());
    assert_eq!(host.ok(&["exec", "third", "--", "cat", "/root/kept"]), "third");
    host.ok(&["stop", "second"]);
    disk_is_clean(&host, "second");
    host.ok(&["start", "second", "--wait", "agent"]);
    assert_eq!(host.ok(&["exec", "second", "--", "cat", "/root/kept"]), "second");
    let again = host.ok(&["exec", "second", "--", "sh", "-c", WHO]);
    let again: Vec<&str> = again.lines().collect();
    assert_eq!((again[1], again[3], again[4]), (&*who[1][1], &*who[1][3], &*who[1][4]), "it is the same VM");
    assert_ne!(again[2], who[1][2], "on another boot");

    // The next one of the kind boots, and another template is made: its machine is gone when that is there.
    host.ok(&["run", "--name", "pub", "-d", "--publish", &format!("{port}:22"), "--wait", "ssh"]);
    TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    template_appears(&host);
    host.leaves_nothing();
}

#[test]
fn a_published_port_and_a_way_out_are_a_vms_own() {
    let host = host();
    host.ok(&["run", "--rm", "--nat", "--", "true"]);
    let template = template_appears(&host);
    assert_eq!(template["nat"], true);
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
    host.ok(&["run", "--name", "open", "-d", "--nat", "--publish", &format!("{port}:22"), "--wait", "ssh"]);
    assert_eq!(list(&host)["templates"][0]["uses"], 1, "a published port makes no other machine");
    TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    let route = host.ok(&["exec", "open", "--", "ip", "route", "show", "default"]);
    assert!(route.starts_with("default via"), "{route}");
    let file = host.home().join("in");
    fs::write(&file, "bytes").unwrap();
    host.ok(&["cp", file.to_str().unwrap(), "open:/root/in"]);
    assert_eq!(host.ok(&["exec", "open", "--", "cat", "/root/in"]), "bytes");
    host.leaves_nothing();
}

#[test]
fn a_damaged_template_is_dropped_and_the_vm_boots() {
    let host = host();
    for (round, file) in [(1, "memory"), (2, "devices")] {
        host.ok(&["run", "--rm", "--", "true"]);
        let template = template_appears(&host);
        let damaged = place(&host, &template).join(file);
        match file {
            "memory" => fs::File::options().write(true).open(&damaged).unwrap().set_len(4096).unwrap(),
            _ => fs::write(&damaged, [0xa5; 8192]).unwrap(),
        }
        let out = host.run(&["run", "--name", "web", "--", "hostname"]).code(0);
        assert_eq!((out.text().as_str(), out.stderr.contains("template")), ("web", false), "{file}: {}", out.stderr);
        assert_eq!(list(&host)["fell_back"], round, "{file}");
        assert_eq!(state(&host, "web"), "running");
        assert_eq!(host.guests(), 1, "{file}: one VMM");
        let doctor = host.run(&["doctor"]).text();
        assert!(doctor.contains(&format!("{round} VMs booted instead")), "{doctor}");
        host.ok(&["stop", "web"]);
        disk_is_clean(&host, "web");
        host.ok(&["delete", "web"]);
    }
    host.leaves_nothing();
}

#[test]
fn a_daemon_killed_around_going_on_leaves_a_vm_that_runs() {
    let host = host();
    host.ok(&["run", "--rm", "--", "true"]);
    template_appears(&host);
    for point in ["kill-before", "kill-after"] {
        host.ok(&["create", "--name", "web", "--no-start"]);
        let doomed = host.daemon_that_dies_at(&format!("vm.start/go_on:{point}"));
        let start = host.run(&["start", "web", "--wait", "agent"]);
        assert_ne!(host.daemon_pid(), Some(doomed), "the daemon did not die: {}", start.stderr);
        host.settled("web").expect("there is the VM");
        assert_eq!(host.ok(&["exec", "web", "--", "hostname"]), "web", "{point}");
        assert_eq!((host.guests(), &list(&host)["fell_back"]), (1, &0.into()), "{point}");
        host.ok(&["stop", "web"]);
        disk_is_clean(&host, "web");
        host.ok(&["delete", "web"]);
    }
    host.leaves_nothing();
}
