//! The driver of new boots, and those of boots that earlier daemons began with another one: each launch names its own.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use wire::api::KillSignal;

use super::{Controls, Launch, Snapshots, Vmm, VmmDriver, VmmError};
use crate::model::machine::{MachineShape, MachineSpec, NicAttachment, SavedMachine};

/// Drivers, of which one is chosen.
pub struct Fleet {
    chosen: Arc<dyn VmmDriver>,
    others: Vec<Arc<dyn VmmDriver>>,
}

impl Fleet {
    /// New boots are `chosen`'s.
    #[must_use]
    pub fn new(chosen: Arc<dyn VmmDriver>, others: Vec<Arc<dyn VmmDriver>>) -> Fleet {
        Fleet { chosen, others }
    }

    /// The driver of a launch. One that is unknown is the chosen one's: all record their processes alike.
    fn of(&self, launch: &Launch) -> &dyn VmmDriver {
        let other = self.others.iter().find(|driver| driver.name() == launch.driver);
        other.unwrap_or(&self.chosen).as_ref()
    }

    fn controls_of(&self, launch: &Launch, act: &'static str) -> Result<&dyn Controls, VmmError> {
        self.of(launch).controls().ok_or_else(|| lacks(launch, act))
    }

    fn snapshots_of(&self, launch: &Launch, act: &'static str) -> Result<&dyn Snapshots, VmmError> {
        self.of(launch).snapshots().ok_or_else(|| lacks(launch, act))
    }
}

fn lacks(launch: &Launch, act: &'static str) -> VmmError {
    VmmError::Control { act, why: format!("its VMM, {}, cannot", launch.driver) }
}

#[async_trait]
impl VmmDriver for Fleet {
    fn name(&self) -> &'static str {
        self.chosen.name()
    }

    fn takes_slot(&self) -> bool {
        self.chosen.takes_slot()
    }

    fn plan(&self, spec: &MachineSpec, nic: &NicAttachment) -> Result<Launch, VmmError> {
        self.chosen.plan(spec, nic)
    }

    async fn spawn(&self, launch: &Launch) -> Result<Box<dyn Vmm>, VmmError> {
        self.of(launch).spawn(launch).await
    }

    async fn adopt(&self, launch: &Launch) -> Result<Option<Box<dyn Vmm>>, VmmError> {
        self.of(launch).adopt(launch).await
    }

    fn lost_disk(&self, launch: &Launch) -> Option<PathBuf> {
        self.of(launch).lost_disk(launch)
    }

    fn controls(&self) -> Option<&dyn Controls> {
        self.chosen.controls().is_some().then_some(self)
    }

    fn snapshots(&self) -> Option<&dyn Snapshots> {
        self.chosen.snapshots().is_some().then_some(self)
    }

    fn signal(&self, launch: &Launch, signal: KillSignal) -> Result<(), VmmError> {
        self.of(launch).signal(launch, signal)
    }

    async fn sweep(&self, live: &[Launch]) -> Result<(), VmmError> {
        for driver in std::iter::once(&self.chosen).chain(&self.others) {
            driver.sweep(live).await?;
        }
        Ok(())
    }

    async fn ensure_gone(&self, launch: &Launch) -> Result<(), VmmError> {
        self.of(launch).ensure_gone(launch).await
    }
}

#[async_trait]
impl Controls for Fleet {
    async fn pause(&self, launch: &Launch) -> Result<(), VmmError> {
        self.controls_of(launch, "stop the machine's processors")?.pause(launch).await
    }

    async fn resume(&self, launch: &Launch) -> Result<(), VmmError> {
        self.controls_of(launch, "let the machine's processors run again")?.resume(launch).await
    }

    async fn grow_disk(&self, launch: &Launch, bytes: u64) -> Result<(), VmmError> {
        self.controls_of(launch, "grow the machine's disk")?.grow_disk(launch, bytes).await
    }
}

#[async_trait]
impl Snapshots for Fleet {
    fn shape(&self, spec: &MachineSpec, nic: &NicAttachment) -> Result<MachineShape, VmmError> {
        match self.chosen.snapshots() {
            Some(snapshots) => snapshots.shape(spec, nic),
            None => Err(VmmError::Refused { driver: self.name(), why: "it saves no machines".to_owned() }),
        }
    }

    fn breaks_channel(&self, launch: &Launch) -> bool {
        self.of(launch).snapshots().is_some_and(|snapshots| snapshots.breaks_channel(launch))
    }

    async fn make_ready(&self, launch: &Launch) -> Result<(), VmmError> {
        self.snapshots_of(launch, "save the machine")?.make_ready(launch).await
    }

    async fn save(&self, launch: &Launch, memory_mib: u64, to: &SavedMachine) -> Result<(), VmmError> {
        self.snapshots_of(launch, "save the machine")?.save(launch, memory_mib, to).await
    }

    async fn go_on(&self, launch: &Launch) -> Result<(), VmmError> {
        self.snapshots_of(launch, "let the saved machine go on")?.go_on(launch).await
    }

    async fn plug(&self, launch: &Launch) -> Result<(), VmmError> {
        self.snapshots_of(launch, "plug in the machine's NIC")?.plug(launch).await
    }
}
