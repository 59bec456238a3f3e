//! The table of boots: every run of every VM, its end included.

use rusqlite::{Connection, OptionalExtension, Row, TransactionBehavior, params};
use wire::id::{BootId, VmId};

use super::policies::{self, Ended};
use super::records::BootRecord;
use super::{Store, StoreError, from_json, id, int, ms, sql, to_json, vms};
use crate::model::vm::{VmEvent, VmState};

/// Boots kept of one VM; older ones are forgotten when a new one begins.
const BOOTS_PER_VM: i64 = 20;
/// Warnings kept of one boot: a guest can send any number.
const WARNINGS_MAX: usize = 32;

const COLUMNS: &str = "id, vm, launch_json, attachment_json, started_at_ms, ready_at_ms, ended_at_ms, ended, init, warnings_json, \
     host_boot";

struct RawBoot {
    id: BootId,
    vm: VmId,
    launch: String,
    attachment: String,
    started_at_ms: i64,
    ready_at_ms: Option<i64>,
    ended_at_ms: Option<i64>,
    ended: Option<String>,
    init: Option<String>,
    warnings: String,
    host_boot: Option<String>,
}

fn raw(row: &Row<'_>) -> Result<RawBoot, rusqlite::Error> {
    Ok(RawBoot {
        id: id(&row.get::<_, String>(0)?)?,
        vm: id(&row.get::<_, String>(1)?)?,
        launch: row.get(2)?,
        attachment: row.get(3)?,
        started_at_ms: row.get(4)?,
        ready_at_ms: row.get(5)?,
        ended_at_ms: row.get(6)?,
        ended: row.get(7)?,
        init: row.get(8)?,
        warnings: row.get(9)?,
        host_boot: row.get(10)?,
    })
}

impl RawBoot {
    fn read(self) -> Result<BootRecord, StoreError> {
        Ok(BootRecord {
            id: self.id,
            vm: self.vm,
            launch: from_json("the launch of a boot", &self.launch)?,
            attachment: from_json("the NIC of a boot", &self.attachment)?,
            host_boot: self.host_boot,
            started_at_ms: ms(self.started_at_ms),
            ready_at_ms: self.ready_at_ms.map(ms),
            ended_at_ms: self.ended_at_ms.map(ms),
            ended: self.ended,
            init: self.init,
            warnings: from_json("the warnings of a boot", &self.warnings)?,
        })
    }
}

fn end_in(connection: &Connection, boot: &BootId, how: &str, at_ms: u64) -> Result<(), StoreError> {
    connection
        .execute(
            "UPDATE boots SET ended_at_ms = ?2, ended = ?3 WHERE id = ?1 AND ended_at_ms IS NULL",
            params![boot.as_str(), int(at_ms), how],
        )
        .map(drop)
        .map_err(sql("record the end of a boot"))
}

fn by_id(connection: &Connection, boot: &BootId) -> Result<Option<BootRecord>, StoreError> {
    connection
        .prepare(&format!("SELECT {COLUMNS} FROM boots WHERE id = ?1"))
        .and_then(|mut statement| statement.query_row([boot.as_str()], raw).optional())
        .map_err(sql("read a boot"))?
        .map(RawBoot::read)
        .transpose()
}

impl Store {
    /// Records that a boot begins and that its VM is starting. Idempotent by id. One that `is_asked` for by somebody clears
    /// what restart policies did before.
    ///
    /// # Errors
    /// When the VM cannot start now, or it cannot be written.
    pub async fn begin_boot(&self, boot: BootRecord, is_asked: bool) -> Result<(), StoreError> {
        self.write(move |connection| {
            let act = "record a boot";
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(sql(act))?;
            vms::happen_in(&transaction, &boot.vm, &VmEvent::StartBegun { boot: boot.id.clone() })?;
            if let Some(record) = vms::by_id(&transaction, &boot.vm)? {
                policies::begun_in(&transaction, &record, is_asked)?;
            }
            transaction
                .execute(
                    "INSERT INTO boots (id, vm, launch_json, attachment_json, started_at_ms, host_boot)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (id) DO NOTHING",
                    params![
                        boot.id.as_str(),
                        boot.vm.as_str(),
                        to_json("the launch of a boot", &boot.launch)?,
                        to_json("the NIC of a boot", &boot.attachment)?,
                        int(boot.started_at_ms),
                        boot.host_boot,
                    ],
                )
                .map_err(sql(act))?;
            transaction
                .execute(
                    "DELETE FROM boots WHERE vm = ?1 AND ended_at_ms IS NOT NULL AND id NOT IN
                     (SELECT id FROM boots WHERE vm = ?1 ORDER BY started_at_ms DESC LIMIT ?2)",
                    params![boot.vm.as_str(), BOOTS_PER_VM],
                )
                .map_err(sql(act))?;
            transaction.commit().map_err(sql(act))
        })
        .await
    }

    /// Records that a boot's guest is configured and that its VM runs.
    ///
    /// # Errors
    /// When the VM is on another boot, or it cannot be written.
    pub async fn boot_ready(&self, vm: &VmId, boot: &BootId, at_ms: u64) -> Result<(), StoreError> {
        let (vm, boot) = (vm.clone(), boot.clone());
        self.write(move |connection| {
            let act = "record a running boot";
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(sql(act))?;
            vms::happen_in(&transaction, &vm, &VmEvent::GuestReady { boot: boot.clone() })?;
            if let Some(record) = vms::by_id(&transaction, &vm)? {
                policies::up_in(&transaction, &record)?;
            }
            transaction
                .execute(
                    "UPDATE boots SET ready_at_ms = coalesce(ready_at_ms, ?2) WHERE id = ?1",
                    params![boot.as_str(), int(at_ms)],
                )
                .map_err(sql(act))?;
            // A reset that was asked for has happened in this boot: the guest answered its configuration.
            transaction
                .execute("UPDATE vms SET last_error = NULL, reset_pending = 0 WHERE id = ?1", [vm.as_str()])
                .map_err(sql(act))?;
            transaction.commit().map_err(sql(act))
        })
        .await
    }

    /// Records that a boot ended, once: the first reason stays.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn end_boot(&self, boot: &BootId, how: &str, at_ms: u64) -> Result<(), StoreError> {
        let (boot, how) = (boot.clone(), how.to_owned());
        self.write(move |connection| end_in(connection, &boot, &how, at_ms)).await
    }

    /// Records that a boot ended, and lets that happen to a VM that no operation holds: one that runs, or is paused, on that
    /// very boot. What its restart policy owes it then is recorded with it. Says whether it did. All at once: a daemon that
    /// dies in between would leave a VM that runs for ever, on a boot that nobody looks for any more.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn mark_off(
        &self,
        vm: &VmId,
        boot: &BootId,
        ended: &Ended,
        last_error: Option<String>,
    ) -> Result<bool, StoreError> {
        let (vm, boot, ended) = (vm.clone(), boot.clone(), ended.clone());
        self.write(move |connection| {
            let act = "record the end of a boot";
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(sql(act))?;
            end_in(&transaction, &boot, &ended.how, ended.at_ms)?;
            let running = vms::by_id(&transaction, &vm)?.filter(|record| match &record.state {
                VmState::Running { boot: present } | VmState::Paused { boot: present } => *present == boot,
                VmState::Creating
                | VmState::Created
                | VmState::Starting { .. }
                | VmState::Stopping { .. }
                | VmState::Stopped
                | VmState::Suspended
                | VmState::Deleting => false,
            });
            if let Some(record) = &running {
                let began = by_id(&transaction, &boot)?.and_then(|boot| boot.ready_at_ms);
                let ran_ms = began.map_or(0, |began| ended.at_ms.saturating_sub(began));
                policies::ended_in(&transaction, record, ran_ms, &ended)?;
                vms::happen_in(&transaction, &vm, &VmEvent::BootEnded { boot })?;
                if last_error.is_some() {
                    transaction
                        .execute("UPDATE vms SET last_error = ?2 WHERE id = ?1", params![vm.as_str(), last_error])
                        .map_err(sql(act))?;
                }
            }
            transaction.commit().map_err(sql(act))?;
            Ok(running.is_some())
        })
        .await
    }

    /// Records which init runs in a boot's guest.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn set_boot_init(&self, boot: &BootId, init: Option<String>) -> Result<(), StoreError> {
        let boot = boot.clone();
        self.write(move |connection| {
            connection
                .execute("UPDATE boots SET init = ?2 WHERE id = ?1", params![boot.as_str(), init])
                .map(drop)
                .map_err(sql("record the init of a boot"))
        })
        .await
    }

    /// Adds a warning to a boot; beyond a number they are dropped.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn warn_boot(&self, boot: &BootId, message: &str) -> Result<(), StoreError> {
        let (boot, message) = (boot.clone(), message.to_owned());
        self.write(move |connection| {
            let Some(mut record) = by_id(connection, &boot)? else {
                return Ok(());
            };
            if record.warnings.len() >= WARNINGS_MAX || record.warnings.contains(&message) {
                return Ok(());
            }
            record.warnings.push(message);
            let warnings = to_json("the warnings of a boot", &record.warnings)?;
            connection
                .execute("UPDATE boots SET warnings_json = ?2 WHERE id = ?1", params![boot.as_str(), warnings])
                .map(drop)
                .map_err(sql("record a warning of a boot"))
        })
        .await
    }

    /// One boot.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], or when the database cannot be read.
    pub async fn boot(&self, boot: &BootId) -> Result<BootRecord, StoreError> {
        let boot = boot.clone();
        self.read(move |connection| {
            by_id(connection, &boot)?
                .ok_or_else(|| StoreError::NotFound { what: "boot", key: boot.as_str().to_owned() })
        })
        .await
    }

    /// The newest boot of a VM.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn last_boot(&self, vm: &VmId) -> Result<Option<BootRecord>, StoreError> {
        let vm = vm.clone();
        self.read(move |connection| {
            connection
                .prepare(&format!(
                    "SELECT {COLUMNS} FROM boots WHERE vm = ?1 ORDER BY started_at_ms DESC, rowid DESC LIMIT 1"
                ))
                .and_then(|mut statement| statement.query_row([vm.as_str()], raw).optional())
                .map_err(sql("read a boot"))?
                .map(RawBoot::read)
                .transpose()
        })
        .await
    }

    /// What is kept of the boots of a VM, newest first.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn boots(&self, vm: &VmId) -> Result<Vec<BootRecord>, StoreError> {
        let vm = vm.clone();
        self.read(move |connection| {
            let rows: Vec<RawBoot> = connection
                .prepare(&format!("SELECT {COLUMNS} FROM boots WHERE vm = ?1 ORDER BY started_at_ms DESC, rowid DESC"))
                .and_then(|mut statement| statement.query_map([vm.as_str()], raw)?.collect())
                .map_err(sql("list the boots of a VM"))?;
            rows.into_iter().map(RawBoot::read).collect()
        })
        .await
    }

    /// Boots whose end is not recorded.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn open_boots(&self) -> Result<Vec<BootRecord>, StoreError> {
        self.read(|connection| {
            let rows: Vec<RawBoot> = connection
                .prepare(&format!("SELECT {COLUMNS} FROM boots WHERE ended_at_ms IS NULL ORDER BY started_at_ms"))
                .and_then(|mut statement| statement.query_map([], raw)?.collect())
                .map_err(sql("list boots"))?;
            rows.into_iter().map(RawBoot::read).collect()
        })
        .await
    }
}
