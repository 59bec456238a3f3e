//! One owner task per live VM, and what is known of it.
//!
//! ```text
//! start operation ──ensure_running──► owner task: owns Box<dyn Vmm> and the connection to the guest
//!                                       │  state out: watch::Receiver<BootView>
//! stop, delete    ──kill, expect_end──► │  in: VMM exit, guest events, commands
//!                                       ▼  at the VMM's end: the boot's end is recorded; a VM that no operation
//!                                          holds is marked off, its NIC detached, its boot directory removed
//! guest rebooted  ◄──Reboot────────── for whoever begins starts
//! ```
//!
//! | file | what |
//! |---|---|
//! | `owner` | the task |
//! | [`activity`] | who is at work, so that an idle daemon can end without looking at a clock |
//!
//! A boot is named by its own id everywhere, so the late end of one cannot touch the next. Nothing here wakes up while
//! nothing happens; who acts on VMs unasked is woken by [`Supervisors::news`].

pub mod activity;
mod owner;

pub use owner::meet;

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sys::process::{Identity, Usage};
use tokio::sync::{mpsc, watch};
use wire::api::Idle;
use wire::id::{BootId, VmId};

use crate::guest::Guest;
use crate::model::machine::NicAttachment;
use crate::model::restart::End;
use crate::model::vm::VmState;
use crate::network::NetworkDriver;
use crate::store::policies::Ended;
use crate::store::records::BootRecord;
use crate::store::{Store, StoreError};
use crate::vmm::{Launch, Vmm, VmmDriver, VmmError};
use activity::Activity;

/// Runs `task` under a name; a panic inside it is logged and ends nothing else.
#[expect(clippy::disallowed_methods, reason = "this is the gate")]
pub fn spawn(name: impl Into<String>, task: impl Future<Output = ()> + Send + 'static) -> tokio::task::JoinHandle<()> {
    use futures_util::FutureExt;
    let name = name.into();
    tokio::spawn(async move {
        if std::panic::AssertUnwindSafe(task).catch_unwind().await.is_err() {
            tracing::error!(task = name, "a task panicked");
        }
    })
}

/// One boot, by everything that is needed to run it, find it again and clean up after it.
#[derive(Debug, Clone)]
pub struct BootRef {
    /// The VM.
    pub vm: VmId,
    /// This run of it.
    pub boot: BootId,
    /// What runs.
    pub launch: Launch,
    /// How its NIC is attached.
    pub attachment: NicAttachment,
}

impl BootRef {
    /// What a row says.
    ///
    /// # Errors
    /// When its launch is not what this build reads.
    pub fn of(record: &BootRecord) -> Result<BootRef, serde_json::Error> {
        Ok(BootRef {
            vm: record.vm.clone(),
            boot: record.id.clone(),
            launch: serde_json::from_value(record.launch.clone())?,
            attachment: record.attachment.clone(),
        })
    }

    /// Holds its sockets.
    #[must_use]
    pub fn boot_dir(&self) -> &Path {
        &self.launch.boot_dir
    }
}

/// What is known of a live boot.
#[derive(Debug, Clone, Default)]
pub struct BootView {
    /// The VMM's process.
    pub pid: u32,
    /// The same, to be told from another of its number.
    pub process: Option<Identity>,
    /// The guest's agent, while it answers.
    pub guest: Option<Guest>,
    /// How the boot ended, once it has.
    pub ended: Option<String>,
}

/// A guest asked for a new boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reboot {
    /// The VM.
    pub vm: VmId,
    /// The boot that ended.
    pub boot: BootId,
}

/// What an owner task is told.
#[derive(Debug)]
enum Command {
    /// Kill the VMM.
    Kill,
    /// The end that comes is asked for: record it as this, whatever the guest says.
    ExpectEnd(String),
}

struct Live {
    boot: BootId,
    view: watch::Receiver<BootView>,
    commands: mpsc::UnboundedSender<Command>,
    /// Since when nobody uses it, as far as that is watched.
    idle: Option<Idle>,
}

/// What a boot's end is taken for.
pub(crate) struct Verdict {
    /// In words.
    pub(crate) how: String,
    /// As far as policies care.
    pub(crate) end: End,
}

/// The live VMs.
pub struct Supervisors {
    store: Store,
    vmm: Arc<dyn VmmDriver>,
    network: Arc<dyn NetworkDriver>,
    now_ms: fn() -> u64,
    host_boot: String,
    activity: Activity,
    news: watch::Sender<u64>,
    live: Mutex<HashMap<VmId, Live>>,
    reboots: mpsc::UnboundedSender<Reboot>,
}

impl Supervisors {
    /// No live VM yet; reboots that guests ask for come out of the receiver. `host_boot` is the host's present boot.
    #[must_use]
    pub fn new(
        store: Store,
        vmm: Arc<dyn VmmDriver>,
        network: Arc<dyn NetworkDriver>,
        now_ms: fn() -> u64,
        host_boot: String,
        activity: Activity,
    ) -> (Arc<Supervisors>, mpsc::UnboundedReceiver<Reboot>) {
        let (reboots, receiver) = mpsc::unbounded_channel();
        let (live, news) = (Mutex::new(HashMap::new()), watch::Sender::new(0));
        (Arc::new(Supervisors { store, vmm, network, now_ms, host_boot, activity, news, live, reboots }), receiver)
    }

    fn live(&self) -> MutexGuard<'_, HashMap<VmId, Live>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes sure that the VMM of this boot runs and is owned. Idempotent.
    ///
    /// # Errors
    /// When it cannot be found again or started.
    pub async fn ensure_running(self: &Arc<Self>, boot: &BootRef) -> Result<(), VmmError> {
        if self.adopt(boot).await? {
            return Ok(());
        }
        let vmm = self.vmm.spawn(&boot.launch).await?;
        self.own(boot.clone(), vmm, None);
        Ok(())
    }

    /// Owns a VMM that somebody else has started for this boot, and talked with as `guest`.
    pub fn take_over(self: &Arc<Self>, boot: &BootRef, vmm: Box<dyn Vmm>, guest: Guest) {
        self.own(boot.clone(), vmm, Some(guest));
    }

    /// Takes over the VMM of this boot if it runs. Idempotent.
    ///
    /// # Errors
    /// When that cannot be told.
    pub async fn adopt(self: &Arc<Self>, boot: &BootRef) -> Result<bool, VmmError> {
        if self.view(&boot.vm, &boot.boot).is_some() {
            return Ok(true);
        }
        let Some(vmm) = self.vmm.adopt(&boot.launch).await? else {
            return Ok(false);
        };
        self.own(boot.clone(), vmm, None);
        Ok(true)
    }

    fn own(self: &Arc<Self>, boot: BootRef, vmm: Box<dyn Vmm>, guest: Option<Guest>) {
        let process = vmm.identity();
        let first = BootView { pid: process.pid, process: Some(process), guest: guest.clone(), ended: None };
        let (view, receiver) = watch::channel(first);
        let (commands, orders) = mpsc::unbounded_channel();
        let live = Live { boot: boot.boot.clone(), view: receiver, commands, idle: None };
        self.live().insert(boot.vm.clone(), live);
        let name = format!("vm {}", boot.vm);
        spawn(name, owner::Owner::new(Arc::clone(self), boot, vmm, view, orders).run(guest));
    }

    fn forget(&self, vm: &VmId, boot: &BootId) {
        let mut live = self.live();
        if live.get(vm).is_some_and(|entry| entry.boot == *boot) {
            live.remove(vm);
        }
        drop(live);
        self.stir();
    }

    /// Says that something changed about some VM: what runs, what was asked of it, or what an operation left it in.
    pub fn stir(&self) {
        self.news.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Changes whenever something changed about some VM.
    #[must_use]
    pub fn news(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    /// The host's present boot.
    #[must_use]
    pub fn host_boot(&self) -> &str {
        &self.host_boot
    }

    /// Who works: VMs that run, operations, and whoever else begins to.
    #[must_use]
    pub fn activity(&self) -> &Activity {
        &self.activity
    }

    /// Notes since when nobody uses this boot.
    pub fn note_idle(&self, vm: &VmId, boot: &BootId, idle: Option<Idle>) {
        if let Some(live) = self.live().get_mut(vm).filter(|live| live.boot == *boot) {
            live.idle = idle;
        }
    }

    /// Since when nobody uses a VM, as far as that is watched.
    #[must_use]
    pub fn idle(&self, vm: &VmId) -> Option<Idle> {
        self.live().get(vm).and_then(|live| live.idle)
    }

    /// What is known of this boot; none when nobody owns it.
    #[must_use]
    pub fn view(&self, vm: &VmId, boot: &BootId) -> Option<watch::Receiver<BootView>> {
        self.live().get(vm).filter(|live| live.boot == *boot).map(|live| live.view.clone())
    }

    /// What is known of the VM's present boot.
    #[must_use]
    pub fn present(&self, vm: &VmId) -> Option<(BootId, watch::Receiver<BootView>)> {
        self.live().get(vm).map(|live| (live.boot.clone(), live.view.clone()))
    }

    /// The guest of a VM, while its agent answers.
    #[must_use]
    pub fn guest(&self, vm: &VmId) -> Option<Guest> {
        self.live().get(vm).and_then(|live| live.view.borrow().guest.clone())
    }

    /// The guests that answer, of all VMs.
    #[must_use]
    pub fn guests(&self) -> Vec<Guest> {
        self.live().values().filter_map(|live| live.view.borrow().guest.clone()).collect()
    }

    /// The VMM's process of a VM.
    #[must_use]
    pub fn pid(&self, vm: &VmId) -> Option<u32> {
        self.live().get(vm).map(|live| live.view.borrow().pid)
    }

    /// What a VM's VMM uses; none when it does not run.
    #[must_use]
    pub fn usage(&self, vm: &VmId) -> Option<Usage> {
        let process = self.live().get(vm).and_then(|live| live.view.borrow().process);
        process.and_then(|process| process.usage())
    }

    /// How many VMs are live.
    #[must_use]
    pub fn running(&self) -> usize {
        self.live().len()
    }

    /// Whether this boot's VMM runs.
    #[must_use]
    pub fn is_live(&self, vm: &VmId, boot: &BootId) -> bool {
        self.view(vm, boot).is_some_and(|view| view.borrow().ended.is_none())
    }

    /// The end of this boot that comes next is one that was asked for: it is recorded as `how`.
    pub fn expect_end(&self, vm: &VmId, boot: &BootId, how: &str) {
        self.tell(vm, boot, Command::ExpectEnd(how.to_owned()));
    }

    fn tell(&self, vm: &VmId, boot: &BootId, command: Command) {
        if let Some(live) = self.live().get(vm).filter(|live| live.boot == *boot) {
            // An owner that has just ended needs no orders.
            drop(live.commands.send(command));
        }
    }

    /// Waits until this boot's VMM is gone; at once when nobody owns it.
    pub async fn ended(&self, vm: &VmId, boot: &BootId) {
        if let Some(mut view) = self.view(vm, boot) {
            // An owner that is gone has ended as well.
            drop(view.wait_for(|view| view.ended.is_some()).await);
        }
    }

    /// Kills the VMM of this boot, owned or not, and waits until it is gone. Idempotent.
    ///
    /// # Errors
    /// When something is left.
    pub async fn ensure_gone(&self, boot: &BootRef) -> Result<(), VmmError> {
        self.tell(&boot.vm, &boot.boot, Command::Kill);
        self.vmm.ensure_gone(&boot.launch).await?;
        self.ended(&boot.vm, &boot.boot).await;
        Ok(())
    }

    /// Takes over every VMM that an earlier daemon left running, and records the end of those that are gone.
    /// Boots that an open operation is about are left to its recovery.
    ///
    /// # Errors
    /// When the database cannot be read; a VM that makes trouble only says so in the log.
    pub async fn adopt_all(self: &Arc<Self>) -> Result<(), StoreError> {
        for record in self.store.open_boots().await? {
            let boot = match BootRef::of(&record) {
                Ok(boot) => boot,
                Err(error) => {
                    tracing::error!(boot = %record.id, %error, "a boot on record cannot be understood");
                    continue;
                }
            };
            let is_older = record.host_boot.as_ref().is_some_and(|host_boot| *host_boot != self.host_boot);
            if let Err(error) = self.adopt_one(&boot, is_older).await {
                tracing::error!(vm = %boot.vm, boot = %boot.boot, error = %error, "a VM cannot be taken over");
            }
        }
        Ok(())
    }

    /// Takes over one; it is of an older boot of the host if `is_older`.
    async fn adopt_one(
        self: &Arc<Self>,
        boot: &BootRef,
        is_older: bool,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let vm = self.store.vm(&boot.vm).await?;
        // What is suspended has a VMM only while the operation is not over, which ends it, or lets it run again.
        let is_passing = matches!(vm.state, VmState::Deleting | VmState::Suspended);
        let is_present = vm.state.boot() == Some(&boot.boot) || is_passing;
        if is_present && self.adopt(boot).await? {
            tracing::info!(vm = %boot.vm, boot = %boot.boot, "took over a running VM");
            return self.warn_of_lost_disk(boot).await;
        }
        let verdict = if is_older {
            Verdict { how: "the host went down".to_owned(), end: End::HostDown }
        } else {
            Verdict { how: "gone while the daemon was away".to_owned(), end: End::Failed }
        };
        match vm.state {
            // Its operation goes on, or is taken back: in both cases it was to run.
            VmState::Starting { .. } if is_present && is_older => {
                Ok(self.store.owe_restart(&boot.vm, &verdict.at((self.now_ms)())).await?)
            }
            VmState::Starting { .. } | VmState::Stopping { .. } | VmState::Deleting if is_present => Ok(()),
            VmState::Creating
            | VmState::Created
            | VmState::Starting { .. }
            | VmState::Running { .. }
            | VmState::Paused { .. }
            | VmState::Stopping { .. }
            | VmState::Stopped
            | VmState::Suspended
            | VmState::Deleting => {
                self.vmm.ensure_gone(&boot.launch).await?;
                self.close(boot, &verdict, None).await?;
                Ok(())
            }
        }
    }

    /// Says so when a VMM goes on with a disk that is no longer the VM's: a copy from an hour ago was put in its place. It is
    /// left running, because what it holds is nowhere else.
    async fn warn_of_lost_disk(&self, boot: &BootRef) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let Some(disk) = self.vmm.lost_disk(&boot.launch) else {
            return Ok(());
        };
        let message = format!(
            "{} was replaced or removed while the VM ran: what its guest has written since is lost when it stops",
            disk.display()
        );
        tracing::warn!(vm = %boot.vm, boot = %boot.boot, message, "a VM runs on a disk that is not its own");
        Ok(self.store.warn_boot(&boot.boot, &message).await?)
    }

    /// Records the end of a boot. When no operation holds the VM, marks it off and cleans up; says whether it did.
    async fn close(
        &self,
        boot: &BootRef,
        verdict: &Verdict,
        last_error: Option<String>,
    ) -> Result<bool, Box<dyn std::error::Error + Send + Sync>> {
        let ended = verdict.at((self.now_ms)());
        let was_running = self.store.mark_off(&boot.vm, &boot.boot, &ended, last_error).await?;
        if was_running {
            self.network.ensure_detached(&boot.attachment, boot.boot_dir()).await?;
            sys::fs::remove_tree(boot.boot_dir())?;
        }
        Ok(was_running)
    }
}

impl Verdict {
    fn at(&self, at_ms: u64) -> Ended {
        Ended { how: self.how.clone(), end: self.end, at_ms }
    }
}
