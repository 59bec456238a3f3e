//! What VMs have that the daemon acts on unasked.

use rusqlite::{Transaction, TransactionBehavior, params};
use wire::api::RestartPolicy;
use wire::id::VmId;

use super::records::VmRecord;
use super::{Store, StoreError, sql, to_json, vms};
use crate::model::restart::{End, Restarting};
use crate::model::vm::VmState;

/// The end of a boot, for whoever might start another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// How it ended, in words.
    pub how: String,
    /// How it ended, as far as policies care.
    pub end: End,
    /// When.
    pub at_ms: u64,
}

impl Store {
    /// VMs that are stopped once they are idle, whatever they are doing now.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn vms_that_stop_idle(&self) -> Result<Vec<VmRecord>, StoreError> {
        self.read(|connection| vms::list(connection, "json_extract(spec_json, '$.stop_after_ms') IS NOT NULL")).await
    }

    /// VMs that have something to do with a restart policy, whatever they are doing now.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn vms_that_restart(&self) -> Result<Vec<VmRecord>, StoreError> {
        self.read(|connection| vms::list(connection, "restart_json IS NOT NULL")).await
    }

    /// Takes the start that is due to a VM which is off: it counts from here on, whatever becomes of it. None when none is.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn take_restart(&self, vm: &VmId, now_ms: u64) -> Result<Option<Restarting>, StoreError> {
        let vm = vm.clone();
        self.write(move |connection| {
            let act = "record a try to start a VM again";
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(sql(act))?;
            let found = vms::by_id(&transaction, &vm)?.filter(|record| is_off(&record.state));
            let Some(due) = found.and_then(|record| record.restarting).filter(|due| due.wait_ms(now_ms) == Some(0))
            else {
                return Ok(None);
            };
            let tried = due.tried(now_ms);
            set(&transaction, &vm, Some(&tried))?;
            transaction.commit().map_err(sql(act))?;
            Ok(Some(tried))
        })
        .await
    }

    /// Records that a start of a VM was taken back, which a restart policy had begun: what was owed is so again.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn restart_undone(&self, vm: &VmId, now_ms: u64) -> Result<(), StoreError> {
        let vm = vm.clone();
        self.write(move |connection| {
            let act = "record that a VM is to be started again";
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(sql(act))?;
            let owed = vms::by_id(&transaction, &vm)?.and_then(|record| record.restarting);
            if let Some(owed) = owed.map(|owed| owed.down(now_ms)) {
                set(&transaction, &vm, Some(&owed))?;
            }
            transaction.commit().map_err(sql(act))
        })
        .await
    }

    /// Records what is owed to a VM whose host went down while an operation held it: the operation alone would leave it as
    /// it finds it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn owe_restart(&self, vm: &VmId, ended: &Ended) -> Result<(), StoreError> {
        let (vm, ended) = (vm.clone(), ended.clone());
        self.write(move |connection| {
            let act = "record that a VM is to be started again";
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(sql(act))?;
            if let Some(record) = vms::by_id(&transaction, &vm)? {
                ended_in(&transaction, &record, 0, &ended)?;
            }
            transaction.commit().map_err(sql(act))
        })
        .await
    }
}

/// Whether nothing runs of a VM, and nothing is on its way.
fn is_off(state: &VmState) -> bool {
    match state {
        VmState::Created | VmState::Stopped | VmState::Suspended => true,
        VmState::Creating
        | VmState::Starting { .. }
        | VmState::Running { .. }
        | VmState::Paused { .. }
        | VmState::Stopping { .. }
        | VmState::Deleting => false,
    }
}

/// Records what is owed to `vm` after a boot of it ended that ran for `ran_ms`.
pub(super) fn ended_in(
    transaction: &Transaction<'_>,
    vm: &VmRecord,
    ran_ms: u64,
    ended: &Ended,
) -> Result<(), StoreError> {
    let before = vm.restarting.as_ref();
    let owed = Restarting::after(vm.spec.restart, (ended.end, &ended.how), before, (ran_ms, ended.at_ms));
    if owed.as_ref() == before {
        return Ok(());
    }
    set(transaction, &vm.id, owed.as_ref())
}

/// A start begins: one that somebody asked for owes nothing to what was before.
pub(super) fn begun_in(transaction: &Transaction<'_>, vm: &VmRecord, is_asked: bool) -> Result<(), StoreError> {
    if is_asked && vm.restarting.is_some() {
        return set(transaction, &vm.id, None);
    }
    Ok(())
}

/// A VM runs again.
pub(super) fn up_in(transaction: &Transaction<'_>, vm: &VmRecord) -> Result<(), StoreError> {
    match &vm.restarting {
        Some(before) if before.due_at_ms.is_some() => set(transaction, &vm.id, Some(&before.up())),
        Some(_) | None => Ok(()),
    }
}

/// Another policy holds from now on: nothing is owed by one that starts nothing.
pub(super) fn changed_in(transaction: &Transaction<'_>, vm: &VmId, policy: RestartPolicy) -> Result<(), StoreError> {
    match policy {
        RestartPolicy::No => set(transaction, vm, None),
        RestartPolicy::OnFailure | RestartPolicy::Always => Ok(()),
    }
}

fn set(transaction: &Transaction<'_>, vm: &VmId, restarting: Option<&Restarting>) -> Result<(), StoreError> {
    let json = restarting.map(|owed| to_json("what a VM is owed", owed)).transpose()?;
    transaction
        .execute("UPDATE vms SET restart_json = ?2 WHERE id = ?1", params![vm.as_str(), json])
        .map(drop)
        .map_err(sql("record that a VM is to be started again"))
}
