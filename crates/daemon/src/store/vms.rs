//! The table of VMs.

use rusqlite::{Connection, OptionalExtension, Row, Transaction, TransactionBehavior, named_params, params};
use wire::api::{LastLook, Workspace};
use wire::id::VmId;
use wire::naming::VmName;

use super::records::{VmRecord, VmSpec};
use super::{Store, StoreError, from_json, id, int, is_unique_violation, ms, operations, policies, sql, to_json};
use crate::model::vm::{VmEvent, VmState};

/// Fewest digits of an id that stand for it.
pub(super) const PREFIX_LEN_MIN: usize = 4;

const COLUMNS: &str = "id, name, state_json, spec_json, image_id, kernel_id, identity_json, workspace_json, last_error, created_at_ms, \
     reset_pending, restart_json";

struct RawVm {
    id: VmId,
    name: String,
    state: String,
    spec: String,
    image_id: String,
    kernel_id: String,
    identity: String,
    workspace: Option<String>,
    last_error: Option<String>,
    created_at_ms: i64,
    reset_pending: bool,
    restarting: Option<String>,
}

fn raw(row: &Row<'_>) -> Result<RawVm, rusqlite::Error> {
    Ok(RawVm {
        id: id(&row.get::<_, String>(0)?)?,
        name: row.get(1)?,
        state: row.get(2)?,
        spec: row.get(3)?,
        image_id: row.get(4)?,
        kernel_id: row.get(5)?,
        identity: row.get(6)?,
        workspace: row.get(7)?,
        last_error: row.get(8)?,
        created_at_ms: row.get(9)?,
        reset_pending: row.get(10)?,
        restarting: row.get(11)?,
    })
}

impl RawVm {
    fn read(self) -> Result<VmRecord, StoreError> {
        Ok(VmRecord {
            id: self.id,
            name: id(&self.name).map_err(sql("read the name of a VM"))?,
            state: from_json("the state of a VM", &self.state)?,
            spec: from_json("the specification of a VM", &self.spec)?,
            image_id: id(&self.image_id).map_err(sql("read the image of a VM"))?,
            kernel_id: id(&self.kernel_id).map_err(sql("read the kernel of a VM"))?,
            identity: from_json("the identity of a VM", &self.identity)?,
            workspace: self.workspace.as_deref().map(|text| from_json("the workspace of a VM", text)).transpose()?,
            reset_pending: self.reset_pending,
            last_error: self.last_error,
            restarting: self.restarting.as_deref().map(|text| from_json("what a VM is owed", text)).transpose()?,
            created_at_ms: ms(self.created_at_ms),
        })
    }
}

pub(super) fn by_id(connection: &Connection, vm: &VmId) -> Result<Option<VmRecord>, StoreError> {
    connection
        .prepare(&format!("SELECT {COLUMNS} FROM vms WHERE id = ?1"))
        .and_then(|mut statement| statement.query_row([vm.as_str()], raw).optional())
        .map_err(sql("read a VM"))?
        .map(RawVm::read)
        .transpose()
}

/// The VMs that `clause` is true of, oldest first.
pub(super) fn list(connection: &Connection, clause: &str) -> Result<Vec<VmRecord>, StoreError> {
    let rows: Vec<RawVm> = connection
        .prepare(&format!("SELECT {COLUMNS} FROM vms WHERE {clause} ORDER BY created_at_ms, id"))
        .and_then(|mut statement| statement.query_map([], raw)?.collect())
        .map_err(sql("list VMs"))?;
    rows.into_iter().map(RawVm::read).collect()
}

fn not_found(key: &str) -> StoreError {
    StoreError::NotFound { what: "VM", key: key.chars().take(80).collect() }
}

fn write_state(transaction: &Transaction<'_>, vm: &VmId, state: &VmState) -> Result<(), StoreError> {
    let state = to_json("the state of a VM", state)?;
    transaction
        .execute("UPDATE vms SET state_json = ?2 WHERE id = ?1", params![vm.as_str(), state])
        .map(drop)
        .map_err(sql("record the state of a VM"))
}

impl Store {
    /// All VMs, oldest first.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn vms(&self) -> Result<Vec<VmRecord>, StoreError> {
        self.read(|connection| list(connection, "true")).await
    }

    /// The VM of that id.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], or when the database cannot be read.
    pub async fn vm(&self, vm: &VmId) -> Result<VmRecord, StoreError> {
        let vm = vm.clone();
        self.read(move |connection| by_id(connection, &vm)?.ok_or_else(|| not_found(vm.as_str()))).await
    }

    /// The VM of that name, id, or unambiguous beginning of an id.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Ambiguous`], or when the database cannot be read.
    pub async fn find_vm(&self, key: &str) -> Result<VmRecord, StoreError> {
        let key = key.to_owned();
        self.read(move |connection| find(connection, &key)).await
    }

    /// Adds a VM. Idempotent by id.
    ///
    /// # Errors
    /// [`StoreError::NameTaken`], [`StoreError::NotFound`] for a missing image or kernel, or when it cannot be written.
    pub async fn insert_vm(&self, vm: VmRecord) -> Result<(), StoreError> {
        self.write(move |connection| {
            let workspace = vm.workspace.as_ref().map(|w| to_json("the workspace of a VM", w)).transpose()?;
            let done = connection.execute(
                "INSERT INTO vms (id, name, state_json, spec_json, image_id, kernel_id, identity_json, workspace_json, created_at_ms)
                 VALUES (:id, :name, :state, :spec, :image, :kernel, :identity, :workspace, :created)
                 ON CONFLICT (id) DO NOTHING",
                named_params! {
                    ":id": vm.id.as_str(), ":name": vm.name.as_str(), ":state": to_json("the state of a VM", &vm.state)?,
                    ":spec": to_json("the specification of a VM", &vm.spec)?, ":image": vm.image_id.as_str(),
                    ":kernel": vm.kernel_id.as_str(), ":identity": to_json("the identity of a VM", &vm.identity)?,
                    ":workspace": workspace, ":created": int(vm.created_at_ms),
                },
            );
            match done {
                Ok(_) => Ok(()),
                Err(error) if is_unique_violation(&error) => {
                    Err(StoreError::NameTaken { what: "VM", name: vm.name.to_string() })
                }
                Err(error) if is_foreign_key_violation(&error) => {
                    Err(StoreError::NotFound { what: "image or kernel", key: vm.spec.image.clone() })
                }
                Err(error) => Err(sql("add a VM")(error)),
            }
        })
        .await
    }

    /// Records what is asked of a VM from now on. Idempotent.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], or when it cannot be written.
    pub async fn set_spec(&self, vm: &VmId, spec: &VmSpec) -> Result<(), StoreError> {
        let (vm, policy, spec) = (vm.clone(), spec.restart, to_json("the specification of a VM", spec)?);
        self.write(move |connection| {
            let act = "record the specification of a VM";
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(sql(act))?;
            let done = transaction.execute("UPDATE vms SET spec_json = ?2 WHERE id = ?1", params![vm.as_str(), spec]);
            if done.map_err(sql(act))? == 0 {
                return Err(not_found(vm.as_str()));
            }
            policies::changed_in(&transaction, &vm, policy)?;
            transaction.commit().map_err(sql(act))
        })
        .await
    }

    /// Records what is in a VM as its workspace, if anything. Idempotent.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], or when it cannot be written.
    pub async fn set_workspace(&self, vm: &VmId, workspace: Option<&Workspace>) -> Result<(), StoreError> {
        let vm = vm.clone();
        let workspace = workspace.map(|workspace| to_json("the workspace of a VM", workspace)).transpose()?;
        self.write(move |connection| {
            let sentence = "UPDATE vms SET workspace_json = ?2 WHERE id = ?1";
            let done = connection.execute(sentence, params![vm.as_str(), workspace]);
            if done.map_err(sql("record the workspace of a VM"))? == 0 { Err(not_found(vm.as_str())) } else { Ok(()) }
        })
        .await
    }

    /// Changes what is recorded of a VM's workspace; nothing when it has none.
    async fn change_workspace(
        &self,
        vm: &VmId,
        change: impl FnOnce(&mut Workspace) + Send + 'static,
    ) -> Result<Option<Workspace>, StoreError> {
        let vm = vm.clone();
        self.write(move |connection| {
            let act = "record the workspace of a VM";
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(sql(act))?;
            let query = "SELECT workspace_json FROM vms WHERE id = ?1";
            let text: Option<Option<String>> =
                transaction.query_row(query, [vm.as_str()], |row| row.get(0)).optional().map_err(sql(act))?;
            let Some(text) = text.ok_or_else(|| not_found(vm.as_str()))? else { return Ok(None) };
            let mut workspace: Workspace = from_json("the workspace of a VM", &text)?;
            change(&mut workspace);
            let text = to_json("the workspace of a VM", &workspace)?;
            let sentence = "UPDATE vms SET workspace_json = ?2 WHERE id = ?1";
            transaction.execute(sentence, params![vm.as_str(), text]).map_err(sql(act))?;
            transaction.commit().map_err(sql(act))?;
            Ok(Some(workspace))
        })
        .await
    }

    /// Records how a VM's workspace is left by a boot that ends.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], or when it cannot be written.
    pub async fn note_last_look(&self, vm: &VmId, look: LastLook) -> Result<(), StoreError> {
        self.change_workspace(vm, move |workspace| workspace.last_look = Some(look)).await.map(drop)
    }

    /// Records which work of a VM's workspace is safe: the record; none when it has no workspace.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], or when it cannot be written.
    pub async fn note_exported(&self, vm: &VmId, fingerprint: String) -> Result<Option<Workspace>, StoreError> {
        self.change_workspace(vm, move |workspace| workspace.exported = Some(fingerprint)).await
    }

    /// Gives a VM another name. Plans carry names, so one that an operation holds keeps its own until that is over.
    ///
    /// # Errors
    /// [`StoreError::NameTaken`], [`StoreError::Busy`], [`StoreError::NotFound`], or when it cannot be written.
    pub async fn rename_vm(&self, vm: &VmId, name: VmName, now_ms: u64) -> Result<(), StoreError> {
        let vm = vm.clone();
        self.write(move |connection| {
            let act = "rename a VM";
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(sql(act))?;
            if let Some(busy) = operations::busy(&transaction, vm.as_str(), now_ms)? {
                return Err(busy);
            }
            match transaction.execute("UPDATE vms SET name = ?2 WHERE id = ?1", params![vm.as_str(), name.as_str()]) {
                Ok(0) => return Err(not_found(vm.as_str())),
                Ok(_) => {}
                Err(error) if is_unique_violation(&error) => {
                    return Err(StoreError::NameTaken { what: "VM", name: name.to_string() });
                }
                Err(error) => return Err(sql(act)(error)),
            }
            transaction.commit().map_err(sql(act))
        })
        .await
    }

    /// Removes a VM and its boots. Idempotent.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn delete_vm(&self, vm: &VmId) -> Result<(), StoreError> {
        let vm = vm.clone();
        self.write(move |connection| {
            for table in ["DELETE FROM slots WHERE vm = ?1", "DELETE FROM vms WHERE id = ?1"] {
                connection.execute(table, [vm.as_str()]).map_err(sql("remove a VM"))?;
            }
            Ok(())
        })
        .await
    }

    /// Lets `event` happen to a VM and gives the state after it.
    ///
    /// # Errors
    /// [`StoreError::Refused`] when it cannot happen, [`StoreError::NotFound`], or when it cannot be written.
    pub async fn happen(&self, vm: &VmId, event: VmEvent) -> Result<VmState, StoreError> {
        let vm = vm.clone();
        self.write(move |connection| {
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(sql("begin a change"))?;
            let next = happen_in(&transaction, &vm, &event)?;
            transaction.commit().map_err(sql("record the state of a VM"))?;
            Ok(next)
        })
        .await
    }

    /// Records whether the next boot of a VM drops its system layer. A VM that is gone needs no record.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn set_reset_pending(&self, vm: &VmId, pending: bool) -> Result<(), StoreError> {
        let vm = vm.clone();
        self.write(move |connection| {
            connection
                .execute("UPDATE vms SET reset_pending = ?2 WHERE id = ?1", params![vm.as_str(), pending])
                .map(drop)
                .map_err(sql("record a reset of a VM"))
        })
        .await
    }

    /// Records why the last thing with a VM went wrong; none forgets it. A VM that is gone needs no record.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn set_last_error(&self, vm: &VmId, error: Option<String>) -> Result<(), StoreError> {
        let vm = vm.clone();
        self.write(move |connection| {
            connection
                .execute("UPDATE vms SET last_error = ?2 WHERE id = ?1", params![vm.as_str(), error])
                .map(drop)
                .map_err(sql("record an error of a VM"))
        })
        .await
    }
}

/// As [`Store::happen`], inside a transaction.
pub(super) fn happen_in(transaction: &Transaction<'_>, vm: &VmId, event: &VmEvent) -> Result<VmState, StoreError> {
    let record = by_id(transaction, vm)?.ok_or_else(|| not_found(vm.as_str()))?;
    let next =
        record.state.after(event).map_err(|refused| StoreError::Refused { name: record.name.to_string(), refused })?;
    if next != record.state {
        write_state(transaction, vm, &next)?;
    }
    Ok(next)
}

fn is_foreign_key_violation(error: &rusqlite::Error) -> bool {
    error.sqlite_error().is_some_and(|e| e.extended_code == rusqlite::ffi::SQLITE_CONSTRAINT_FOREIGNKEY)
}

fn find(connection: &Connection, key: &str) -> Result<VmRecord, StoreError> {
    let query = |clause: &str, key: &str| -> Result<Vec<RawVm>, StoreError> {
        connection
            .prepare(&format!("SELECT {COLUMNS} FROM vms WHERE {clause} LIMIT 2"))
            .and_then(|mut statement| statement.query_map([key], raw)?.collect())
            .map_err(sql("find a VM"))
    };
    let mut found = query("name = ?1 OR id = ?1", key)?;
    if found.is_empty() && key.len() >= PREFIX_LEN_MIN && key.bytes().all(|b| b.is_ascii_hexdigit()) {
        found = query("substr(id, 1, length(?1)) = ?1", key)?;
    }
    if found.len() > 1 {
        return Err(StoreError::Ambiguous { what: "VM", key: key.to_owned() });
    }
    found.pop().ok_or_else(|| not_found(key))?.read()
}
