//! What must hold whenever no operation is open: nothing is half there.

use std::collections::BTreeSet;
use std::path::PathBuf;

use daemon::model::vm::VmState;
use daemon::reconcile::{self, Swept};

use crate::fake::Daemon;

/// Waits until nobody tidies up after a VMM that ended by itself: a guest that was asked to power off does so also when the
/// stop that asked was taken back.
async fn owners_are_done(daemon: &Daemon) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
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
    // Whatever else could be left is what the sweep looks for.
    assert_eq!(reconcile::sweep(host).await.unwrap(), Swept::default());
}
