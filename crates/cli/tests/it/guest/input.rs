//! Bad input, full disks, guests that never answer: a clear error, and nothing left behind.

use std::fs;

use rustix::process::Signal;

use super::host::{Host, eventually, kill};

#[test]
fn bad_input_is_refused_before_anything_happens() {
    let host = Host::new();
    let cases: [(&[&str], i32, &str); 14] = [
        (&["vm", "create", "--name", "Web"], 2, "a-z"),
        (&["vm", "create", "--name", "-x"], 2, "-"),
        (&["vm", "create", "--name", ""], 2, "empty"),
        (&["vm", "create", "--vcpu", "0"], 2, "vcpu"),
        (&["vm", "create", "--vcpu", "1000"], 1, "vCPUs"),
        (&["vm", "create", "--memory", "0"], 2, "size"),
        (&["vm", "create", "--memory", "1M"], 1, "memory"),
        (&["vm", "create", "--memory", "900T"], 1, "memory"),
        (&["vm", "create", "--disk-size", "1K"], 1, "disk"),
        (&["vm", "create", "--image", "no-such"], 1, "no-such"),
        (&["vm", "create", "--kernel", "no-such"], 1, "no-such"),
        (&["vm", "start", "nobody"], 1, "nobody"),
        (&["vm", "run", "-d", "--rm"], 2, "--rm"),
        (&["vm", "run", "/nonexistent", "--", "true"], 125, "/nonexistent"),
    ];
    for (args, code, part) in cases {
        let ran = host.run(args);
        assert_eq!(ran.code, code, "{args:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(part), "{args:?}: {}", ran.stderr);
        assert!(!ran.stderr.contains("os error") && !ran.stderr.contains("panicked"), "{args:?}: {}", ran.stderr);
    }
    let plain = host.home().join("plain");
    fs::create_dir(&plain).unwrap();
    let ran = host.run(&["run", plain.to_str().unwrap(), "--", "true"]).code(125);
    assert!(ran.stderr.contains("git"), "{}", ran.stderr);
    host.ends_clean();
}

#[test]
fn a_guest_that_never_answers_is_given_up_with_its_console() {
    let host = Host::new();
    host.configure("boot_timeout_s = 5\n");
    let run = host.command(&["run", "--rm", "--", "true"]).spawn().unwrap();
    eventually("its first words are waited for", || {
        let list: serde_json::Value = serde_json::from_str(&host.ok(&["op", "list", "--format", "json"])).unwrap();
        let steps = list["operations"].as_array().unwrap().iter().flat_map(|op| op["steps"].as_array().unwrap());
        steps.into_iter().any(|step| step["name"] == "await_agent" && step["state"] == "running")
    });
    // It stands still before it has any.
    let vmm = host.vmms()[0];
    kill(vmm, Signal::STOP);
    let ran = run.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&ran.stderr);
    assert_eq!(ran.status.code(), Some(125), "{said}");
    assert!(said.contains("did not answer within 5 s"), "{said}");
    assert!(said.contains("console"), "the console log is named: {said}");
    host.ends_clean();
}

#[test]
fn a_damaged_kernel_is_refused() {
    let host = Host::new();
    let file = host.home().join("vmlinuz");
    fs::write(&file, b"not a kernel").unwrap();
    let ran = host.run(&["kernel", "import", file.to_str().unwrap()]).code(1);
    assert!(ran.stderr.contains("vmlinuz"), "{}", ran.stderr);
    let deb = std::env::var_os("BANGER_TEST_KERNEL_DEB").expect("set by `make test`");
    let bytes = fs::read(deb).unwrap();
    let half = host.home().join("half.deb");
    fs::write(&half, &bytes[..bytes.len() / 2]).unwrap();
    let ran = host.run(&["kernel", "import", half.to_str().unwrap()]).code(1);
    assert!(ran.stderr.contains("half.deb"), "{}", ran.stderr);
    host.ends_clean();
}

#[test]
fn errors_are_json_where_json_is_asked() {
    let host = Host::new();
    let ran = host.run(&["vm", "show", "nobody", "--format", "json"]).code(1);
    let body: serde_json::Value = serde_json::from_slice(&ran.stdout).unwrap();
    assert_eq!(body["error"]["code"], "not_found");
    host.ends_clean();
}
