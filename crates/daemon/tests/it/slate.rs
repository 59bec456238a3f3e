//! What must hold whenever no operation is open: nothing is half there.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use daemon::model::vm::VmState;
use daemon::ops::Host;
use daemon::reconcile::{self, Swept};
use daemon::snapshot;

use crate::fake::{Daemon, SOON};

/// Waits until nobody tidies up after a VMM that ended by itself: a guest that was asked to power off does so also when the
/// stop that asked was taken back.
async fn owners_are_done(daemon: &Daemon) {
    let deadline = std::time::Instant::now() + SOON;
    loop {
        let states: Vec<VmState> = daemon.host.store.vms().await.unwrap().into_iter().map(|vm| vm.state).collect();
        let on_record = states.iter().filter(|state| state.boot().is_some()).count();
        let (owners, machines) = (daemon.host.supervisors.running(), daemon.world.running());
        if owners == on_record && machines.len() == on_record {
            return;
        }
        assert!(
            std::time::Instant::now() < deadline,
            "{owners} owners and the machines {machines:?} never came to fit the VMs on record: {states:?}"
        );
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

/// What VMs boot from is there for every row that names it.
async fn assert_rows_have_files(host: &Host) {
    for image in host.store.images().await.unwrap() {
        assert!(host.image_dir(&image.id).join("rootfs.ext4").exists(), "image {} has no files", image.name);
    }
    for kernel in host.store.kernels().await.unwrap() {
        assert!(host.kernel_dir(&kernel.id).join("vmlinux").exists(), "kernel {} has no files", kernel.name);
    }
}

/// Files that were to be renamed when they were whole: their names begin with a dot.
fn temporary_files(dirs: &[&Path]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut left: Vec<PathBuf> = dirs.iter().map(|dir| dir.to_path_buf()).collect();
    while let Some(dir) = left.pop() {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            if entry.file_type().unwrap().is_dir() {
                left.push(entry.path());
            } else if entry.file_name().to_string_lossy().starts_with('.') {
                found.push(entry.path());
            }
        }
    }
    found
}

/// Panics unless every VM is at rest, and machines, NICs, directories and files are exactly those of VMs and rows.
pub(crate) async fn assert_clean_slate(daemon: &Daemon) {
    let (world, host) = (&daemon.world, &daemon.host);
    owners_are_done(daemon).await;
    let open = host.store.open_operations().await.unwrap();
    assert!(open.is_empty(), "open operations: {open:?}");
    let (mut boots, mut paused) = (BTreeSet::new(), BTreeSet::new());
    for vm in host.store.vms().await.unwrap() {
        match &vm.state {
            VmState::Created | VmState::Stopped => {}
            VmState::Suspended => {
                let saved = snapshot::Snapshot::at(&snapshot::suspended_dir(&host.dirs.state, &vm.id));
                assert!(saved.is_some(), "{} has no memory to go on from", vm.name);
            }
            VmState::Running { boot } => {
                boots.insert(wire::naming::boot_dir(&host.dirs.run, boot));
            }
            VmState::Paused { boot } => {
                let dir = wire::naming::boot_dir(&host.dirs.run, boot);
                boots.insert(dir.clone());
                paused.insert(dir);
            }
            state => panic!("{} is {state:?}", vm.name),
        }
        assert!(wire::naming::vm_disk(&host.dirs.state, &vm.id).exists(), "{} has no disk", vm.name);
    }
    assert_eq!(world.running(), boots, "machines");
    assert_eq!(world.paused(), paused, "paused machines");
    assert_eq!(world.attached(), boots, "NICs");
    for boot_dir in &boots {
        let machine = world.machine(boot_dir).unwrap();
        assert!(machine.is_plugged.load(Ordering::SeqCst), "the NIC of {} carries nothing", boot_dir.display());
        let [vm, boot] = machine.named.lock().unwrap().clone();
        assert!(vm == machine.vm && boot_dir.ends_with(&boot), "a guest takes itself for {boot} of {vm}");
    }
    let open_boots = host.store.open_boots().await.unwrap();
    let open_boots: BTreeSet<PathBuf> =
        open_boots.iter().map(|boot| wire::naming::boot_dir(&host.dirs.run, &boot.id)).collect();
    assert_eq!(open_boots, boots, "boots on record");
    let found: BTreeSet<PathBuf> = std::fs::read_dir(host.dirs.run.join("boots"))
        .into_iter()
        .flatten()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert_eq!(found, boots, "boot directories");
    assert_rows_have_files(host).await;
    let temporary = temporary_files(&[&host.dirs.state, &host.dirs.cache, &host.dirs.run]);
    assert!(temporary.is_empty(), "temporary files: {temporary:?}");
    // Whatever else could be left is what the sweep looks for.
    assert_eq!(reconcile::sweep(host).await.unwrap(), Swept::default());
}
