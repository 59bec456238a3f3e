//! Slots: which VM has which small number of the host. A slot is taken before its VM's row is written, because a plan fixes
//! every number first; one whose VM never came to be is free again when the next daemon starts.

use rusqlite::{OptionalExtension, TransactionBehavior};
use wire::id::VmId;
use wire::naming::{SLOT_MAX, Slot};

use super::{Store, StoreError, sql};

impl Store {
    /// The slot of a VM: the one it has, or the lowest that no VM has, which is its own from now on. None when all are taken.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn ensure_slot(&self, vm: &VmId) -> Result<Option<Slot>, StoreError> {
        const ACT: &str = "give a VM its number";
        let vm = vm.clone();
        self.write(move |connection| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(sql(ACT))?;
            let own = transaction
                .query_row("SELECT slot FROM slots WHERE vm = ?1", [vm.as_str()], |row| row.get::<_, u16>(0))
                .optional()
                .map_err(sql(ACT))?;
            let free = "SELECT MIN(slot) FROM (SELECT 0 AS slot UNION ALL SELECT slot + 1 FROM slots) \
                        WHERE slot NOT IN (SELECT slot FROM slots)";
            let number = match own {
                Some(number) => number,
                None => transaction.query_row(free, [], |row| row.get(0)).map_err(sql(ACT))?,
            };
            if number > SLOT_MAX {
                return Ok(None);
            }
            if own.is_none() {
                let row = (number, vm.as_str());
                transaction.execute("INSERT INTO slots (slot, vm) VALUES (?1, ?2)", row).map_err(sql(ACT))?;
            }
            transaction.commit().map_err(sql(ACT))?;
            Ok(Slot::try_from(number).ok())
        })
        .await
    }

    /// Frees the slot of a machine that is no VM. A VM's goes with its row.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn free_slot(&self, vm: &VmId) -> Result<(), StoreError> {
        let vm = vm.clone();
        self.write(move |connection| {
            let free = "DELETE FROM slots WHERE vm = ?1 AND vm NOT IN (SELECT id FROM vms)";
            connection.execute(free, [vm.as_str()]).map(drop).map_err(sql("free a machine's number"))
        })
        .await
    }

    /// Frees the slots of VMs that do not exist. For a moment when nothing is being planned; while an operation is open, which
    /// may bring a VM into being, none is freed.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn free_slots(&self) -> Result<(), StoreError> {
        self.write(|connection| {
            let free = "DELETE FROM slots WHERE vm NOT IN (SELECT id FROM vms) \
                        AND NOT EXISTS (SELECT 1 FROM operations WHERE state IN ('open', 'stuck'))";
            connection.execute(free, []).map(drop).map_err(sql("free the numbers of VMs that are gone"))
        })
        .await
    }
}
