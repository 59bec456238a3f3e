//! Saving machines of the host in memory: of one that stands still it is saved who its guest takes itself for.

use std::sync::atomic::Ordering;

use async_trait::async_trait;
use daemon::model::machine::{MachineShape, MachineSpec, NicAttachment, SavedMachine};
use daemon::vmm::{Launch, Snapshots, VmmError};

use super::Drivers;

fn gone() -> VmmError {
    VmmError::Control { act: "save or let go on", why: "it is gone".into() }
}

#[async_trait]
impl Snapshots for Drivers {
    fn shape(&self, spec: &MachineSpec, _: &NicAttachment) -> Result<MachineShape, VmmError> {
        let machine = format!("{} vCPUs, {} MiB, NAT {}", spec.vcpus, spec.memory_mib, spec.nic.nat);
        let driver = if self.0.has_other_driver.load(Ordering::SeqCst) { "other" } else { "fake" }.to_owned();
        Ok(MachineShape { driver, vmm: "1".into(), cpu: "any".into(), machine })
    }

    async fn save(&self, launch: &Launch, memory_mib: u64, to: &SavedMachine) -> Result<(), VmmError> {
        let machine = self.0.machine(&launch.boot_dir).ok_or_else(gone)?;
        // As the real one: what is there already is not written over.
        let memory = sys::fs::create_new(&to.memory, 0o600)?;
        memory.set_len(memory_mib << 20).unwrap();
        Ok(sys::fs::write_atomic(&to.devices, &machine.saved(), 0o600)?)
    }

    async fn go_on(&self, launch: &Launch) -> Result<(), VmmError> {
        let gone_on = self.0.machine(&launch.boot_dir).ok_or_else(gone)?.go_on();
        gone_on.map_err(|why| VmmError::Control { act: "let the saved machine go on", why })
    }

    async fn plug(&self, launch: &Launch) -> Result<(), VmmError> {
        self.0.machine(&launch.boot_dir).ok_or_else(gone)?.is_plugged.store(true, Ordering::SeqCst);
        Ok(())
    }
}
