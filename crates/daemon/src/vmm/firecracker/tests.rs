//! Refusals, and what is asked of a Firecracker that runs.

use std::sync::{Arc, Mutex};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use sys::kvm::Why;

use super::*;
use crate::model::machine::DriveSpec;

fn driver() -> Firecracker {
    Firecracker {
        program: Some("/x/firecracker".into()),
        version: Ok(Version::new(1, 12)),
        kvm: Kvm::Usable,
        jail: Ok(()),
        daemon: "/x/bangerd".into(),
    }
}

#[test]
fn the_first_reason_against_it_is_told() {
    let why = |firecracker: Firecracker| firecracker.usable().unwrap_err();
    assert!(driver().usable().is_ok());
    assert_eq!(why(Firecracker { program: None, ..driver() }), "firecracker is not installed");
    let no_kvm = Firecracker { kvm: Kvm::Unusable(Why::Denied), ..driver() };
    assert!(why(no_kvm).starts_with("/dev/kvm does not open"));
    let old = Firecracker { version: Ok(Version::new(1, 4)), ..driver() };
    assert_eq!(why(old), "/x/firecracker is version 1.4.0, and 1.5.0 is the oldest that is used");
    let jail = Firecracker { jail: Err("cannot make namespaces for a VMM: no".into()), ..driver() };
    assert_eq!(why(jail), "there is no jail for it: cannot make namespaces for a VMM: no");
}

/// A machine whose files are there.
fn machine(dir: &Path) -> MachineSpec {
    let mut spec = config::tests::spec();
    let at = |name: &str| {
        let path = dir.join(name);
        std::fs::write(&path, b"\x7fELF").unwrap();
        path
    };
    (spec.vmlinux, spec.initramfs, spec.boot_dir) = (at("vmlinux"), at("initramfs"), dir.join("boot"));
    spec.drives = vec![
        DriveSpec { serial: DriveRole::Rootfs, path: at("rootfs") },
        DriveSpec { serial: DriveRole::Disk, path: at("disk") },
    ];
    spec.memory_mib = 128;
    spec
}

#[test]
fn what_cannot_run_is_refused_beforehand() {
    let dir = tempfile::tempdir().unwrap();
    let (spec, nic) = (machine(dir.path()), NicAttachment::Tap { uplink: None });
    let refusal =
        |driver: &Firecracker, spec: &MachineSpec, nic: &NicAttachment| driver.plan(spec, nic).unwrap_err().to_string();
    driver().plan(&spec, &nic).unwrap();
    let missing = Firecracker { program: None, ..driver() };
    assert!(refusal(&missing, &spec, &nic).starts_with("cannot find firecracker, which runs the VM"));
    let many = MachineSpec { vcpus: 33, ..spec.clone() };
    assert!(refusal(&driver(), &many, &nic).ends_with("a VM has 1 to 32 processors, not 33"));
    let stream = NicAttachment::QemuUser { publish: Vec::new() };
    assert!(refusal(&driver(), &spec, &stream).ends_with("its NIC is a tap, and this network makes none"));
    let deep = MachineSpec { boot_dir: dir.path().join("d".repeat(100)), ..spec.clone() };
    assert!(refusal(&driver(), &deep, &nic).contains("at most 107 fit"));
    std::fs::write(&spec.vmlinux, "text").unwrap();
    assert!(refusal(&driver(), &spec, &nic).ends_with("is no unpacked kernel (ELF)"));
}

#[test]
fn a_launch_is_enough_to_find_everything_again() {
    let dir = tempfile::tempdir().unwrap();
    let spec = machine(dir.path());
    let nic = NicAttachment::Tap { uplink: Some(dir.path().join("net.sock")) };
    let launch = driver().plan(&spec, &nic).unwrap();
    assert_eq!(launch.argv[..2], ["/x/bangerd", "vmm-jail"]);
    let jail = jail_of(&launch).unwrap();
    assert_eq!((jail.has_tap, &jail.uplink), (true, &Some(dir.path().join("net.sock"))));
    let writable: Vec<&str> =
        jail.files.iter().filter(|shown| shown.is_writable).map(|shown| shown.at.as_str()).collect();
    assert_eq!(writable, ["/disk", "/metrics"], "the image and the kernel are everybody's");
    assert_eq!(launch.agent, AgentChannel::Await);
    assert_eq!(launch.agent_socket(), spec.boot_dir.join("vmm/vsock_1024"));
    assert_eq!(driver().lost_disk(&launch), None, "nothing runs");
}

/// A Firecracker that says yes to everything that its own description has, and keeps it.
async fn agreeing(socket: &Path) -> Arc<Mutex<Vec<(String, Value)>>> {
    let heard: Arc<Mutex<Vec<(String, Value)>>> = Arc::default();
    let (listener, kept) = (tokio::net::UnixListener::bind(socket).unwrap(), Arc::clone(&heard));
    crate::supervise::spawn("agreeing", async move {
        loop {
            let (peer, _) = listener.accept().await.unwrap();
            let answer = hyper::service::service_fn(|request: Request<Incoming>| {
                let kept = Arc::clone(&kept);
                async move {
                    let name = format!("{} {}", request.method(), request.uri().path());
                    let body = request.into_body().collect().await.unwrap().to_bytes();
                    let body: Value = serde_json::from_slice(&body).unwrap();
                    let schema = name.replace("/drives/disk", "/drives/{drive_id}");
                    let faults = schema::faults(&schema, &body);
                    kept.lock().unwrap().push((name, body));
                    let status = if faults.is_empty() { 204 } else { 400 };
                    let fault = serde_json::json!({"fault_message": faults.join("; ")}).to_string();
                    let text = if status == 204 { String::new() } else { fault };
                    Response::builder().status(status).body(Full::new(Bytes::from(text)))
                }
            });
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(peer), answer).await.unwrap();
        }
    });
    heard
}

#[tokio::test]
async fn what_is_asked_of_it_is_in_its_api() {
    let dir = tempfile::tempdir().unwrap();
    let launch = driver().plan(&machine(dir.path()), &NicAttachment::Tap { uplink: None }).unwrap();
    std::fs::create_dir_all(shared_dir(&launch.boot_dir)).unwrap();
    let heard = agreeing(&api_socket(&launch.boot_dir)).await;
    let firecracker = driver();
    let controls = firecracker.controls().unwrap();
    controls.pause(&launch).await.unwrap();
    controls.resume(&launch).await.unwrap();
    controls.grow_disk(&launch, 1 << 20).await.unwrap();
    let names: Vec<String> = heard.lock().unwrap().iter().map(|(name, _)| name.clone()).collect();
    assert_eq!(names, ["PATCH /vm", "PATCH /vm", "PATCH /drives/disk"]);
    let disk = dir.path().join("disk");
    assert_eq!(std::fs::metadata(&disk).unwrap().len(), 1 << 20);
    controls.grow_disk(&launch, 4096).await.unwrap();
    assert_eq!(std::fs::metadata(&disk).unwrap().len(), 1 << 20, "it never shrinks");
}
