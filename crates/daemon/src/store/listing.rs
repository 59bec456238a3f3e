//! All VMs in one look: what a list tells of each, and no more.
//!
//! A guest's keys, and a launch with its VMM's whole command line, are longer than all the rest of their rows; they are
//! not read.

use rusqlite::Row;

use super::records::{BootSummary, VmSummary};
use super::{Store, StoreError, from_json, id, ms, sql};

const ACT: &str = "list VMs";

const QUERY: &str = "
    SELECT vms.id, vms.name, vms.state_json, vms.spec_json, vms.image_id, vms.kernel_id, vms.workspace_json,
           vms.last_error, vms.created_at_ms, vms.reset_pending, vms.restart_json,
           boots.id, json_extract(boots.launch_json, '$.driver'), boots.started_at_ms, boots.ready_at_ms,
           boots.ended_at_ms, boots.ended, boots.init, boots.warnings_json
    FROM vms LEFT JOIN boots
    ON boots.rowid = (SELECT newest.rowid FROM boots AS newest WHERE newest.vm = vms.id
                      ORDER BY newest.started_at_ms DESC, newest.rowid DESC LIMIT 1)";

impl Store {
    /// Every VM with its newest boot, in no particular order.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn listing(&self) -> Result<Vec<(VmSummary, Option<BootSummary>)>, StoreError> {
        self.read(|connection| {
            let mut statement = connection.prepare(QUERY).map_err(sql(ACT))?;
            let mut rows = statement.query([]).map_err(sql(ACT))?;
            let mut listed = Vec::new();
            while let Some(row) = rows.next().map_err(sql(ACT))? {
                listed.push((vm(row)?, boot(row)?));
            }
            Ok(listed)
        })
        .await
    }
}

/// The text in a column, as it lies in the row; none when there is none.
fn text<'a>(row: &'a Row<'_>, column: usize) -> Result<Option<&'a str>, StoreError> {
    let value = row.get_ref(column).map_err(sql(ACT))?;
    value.as_str_or_null().map_err(|error| sql(ACT)(error.into()))
}

/// The same, where there has to be one.
fn word<'a>(row: &'a Row<'_>, column: usize) -> Result<&'a str, StoreError> {
    Ok(text(row, column)?.unwrap_or_default())
}

fn number(row: &Row<'_>, column: usize) -> Result<Option<u64>, StoreError> {
    let value: Option<i64> = row.get(column).map_err(sql(ACT))?;
    Ok(value.map(ms))
}

fn owned(text: Option<&str>) -> Option<String> {
    text.map(str::to_owned)
}

fn vm(row: &Row<'_>) -> Result<VmSummary, StoreError> {
    let workspace = text(row, 6)?;
    Ok(VmSummary {
        id: id(word(row, 0)?).map_err(sql(ACT))?,
        name: id(word(row, 1)?).map_err(sql(ACT))?,
        state: from_json("the state of a VM", word(row, 2)?)?,
        spec: from_json("the specification of a VM", word(row, 3)?)?,
        image_id: id(word(row, 4)?).map_err(sql(ACT))?,
        kernel_id: id(word(row, 5)?).map_err(sql(ACT))?,
        reset_pending: row.get(9).map_err(sql(ACT))?,
        restarting: text(row, 10)?.map(|owed| from_json("what a VM is owed", owed)).transpose()?,
        workspace: workspace.map(|text| from_json("the workspace of a VM", text)).transpose()?,
        last_error: owned(text(row, 7)?),
        created_at_ms: number(row, 8)?.unwrap_or_default(),
    })
}

fn boot(row: &Row<'_>) -> Result<Option<BootSummary>, StoreError> {
    let Some(boot) = text(row, 11)? else {
        return Ok(None);
    };
    Ok(Some(BootSummary {
        id: id(boot).map_err(sql(ACT))?,
        vmm: text(row, 12)?.unwrap_or(BootSummary::NO_DRIVER).to_owned(),
        started_at_ms: number(row, 13)?.unwrap_or_default(),
        ready_at_ms: number(row, 14)?,
        ended_at_ms: number(row, 15)?,
        ended: owned(text(row, 16)?),
        init: owned(text(row, 17)?),
        warnings: from_json("the warnings of a boot", word(row, 18)?)?,
    }))
}
