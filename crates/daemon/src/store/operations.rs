//! The tables of operations and of their edges: the journal.

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, Row, TransactionBehavior, named_params, params};
use wire::id::OpId;

use super::records::OperationRecord;
use super::{Store, StoreError, connect, from_json, id, int, is_unique_violation, ms, sql, to_json};
use crate::saga::journal::{Durability, Edge, EdgeKind, Journal, JournalError};

/// Ended operations kept for `banger op list`; stuck ones stay until somebody has looked.
const ENDED_KEPT: i64 = 500;

const COLUMNS: &str = "id, kind, subject, holds, plan_json, state, error_json, started_at_ms, ended_at_ms";

/// How an operation stands, as recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OperationState {
    /// Being driven, forward or back.
    Open,
    /// All steps taken.
    Succeeded,
    /// All steps taken back.
    Unwound,
    /// Something is left.
    Stuck,
}

impl OperationState {
    fn name(self) -> &'static str {
        match self {
            OperationState::Open => "open",
            OperationState::Succeeded => "succeeded",
            OperationState::Unwound => "unwound",
            OperationState::Stuck => "stuck",
        }
    }

    fn from_name(name: &str) -> OperationState {
        match name {
            "succeeded" => OperationState::Succeeded,
            "unwound" => OperationState::Unwound,
            "stuck" => OperationState::Stuck,
            // The table admits no fifth.
            _ => OperationState::Open,
        }
    }
}

struct RawOperation {
    id: OpId,
    kind: String,
    subject: String,
    holds: Option<String>,
    plan: String,
    state: String,
    error: Option<String>,
    started_at_ms: i64,
    ended_at_ms: Option<i64>,
}

fn raw(row: &Row<'_>) -> Result<RawOperation, rusqlite::Error> {
    Ok(RawOperation {
        id: id(&row.get::<_, String>(0)?)?,
        kind: row.get(1)?,
        subject: row.get(2)?,
        holds: row.get(3)?,
        plan: row.get(4)?,
        state: row.get(5)?,
        error: row.get(6)?,
        started_at_ms: row.get(7)?,
        ended_at_ms: row.get(8)?,
    })
}

impl RawOperation {
    fn read(self) -> Result<OperationRecord, StoreError> {
        Ok(OperationRecord {
            id: self.id,
            kind: self.kind,
            subject: self.subject,
            holds: self.holds,
            plan: from_json("the plan of an operation", &self.plan)?,
            state: OperationState::from_name(&self.state),
            error: self.error.as_deref().map(|text| from_json("the error of an operation", text)).transpose()?,
            started_at_ms: ms(self.started_at_ms),
            ended_at_ms: self.ended_at_ms.map(ms),
        })
    }
}

/// The refusal of whoever wants what an open operation holds; none when nobody holds it.
pub(super) fn busy(connection: &Connection, holds: &str, now_ms: u64) -> Result<Option<StoreError>, StoreError> {
    let found = connection
        .query_row(
            "SELECT id, kind, subject, started_at_ms FROM operations WHERE state = 'open' AND holds = ?1",
            [holds],
            |row| {
                Ok((
                    id::<OpId>(&row.get::<_, String>(0)?)?,
                    row.get::<_, String>(1)?,
                    row.get::<_, String>(2)?,
                    row.get::<_, i64>(3)?,
                ))
            },
        )
        .optional()
        .map_err(sql("find the operation that holds it"))?;
    Ok(found.map(|(operation, kind, subject, started_at_ms)| StoreError::Busy {
        subject,
        kind: kind.rsplit('.').next().unwrap_or(&kind).to_owned(),
        elapsed_ms: now_ms.saturating_sub(ms(started_at_ms)),
        operation,
    }))
}

impl Store {
    /// Records a new operation; it is open from then on.
    ///
    /// # Errors
    /// [`StoreError::Busy`] when another open operation holds the same, or when it cannot be written.
    pub async fn begin_operation(&self, operation: OperationRecord) -> Result<(), StoreError> {
        self.write(move |connection| {
            let plan = to_json("the plan of an operation", &operation.plan)?;
            let done = connection.execute(
                "INSERT INTO operations (id, kind, subject, holds, plan_json, state, started_at_ms)
                 VALUES (:id, :kind, :subject, :holds, :plan, 'open', :started)",
                named_params! {
                    ":id": operation.id.as_str(), ":kind": operation.kind, ":subject": operation.subject,
                    ":holds": operation.holds, ":plan": plan, ":started": int(operation.started_at_ms),
                },
            );
            match done {
                Ok(_) => Ok(()),
                Err(error) if is_unique_violation(&error) => {
                    let holds = operation.holds.as_deref().unwrap_or_default();
                    let other = busy(connection, holds, operation.started_at_ms)?;
                    Err(other.unwrap_or_else(|| sql("record an operation")(error)))
                }
                Err(error) => Err(sql("record an operation")(error)),
            }
        })
        .await
    }

    /// Records the end of an operation and forgets the oldest ended ones.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn end_operation(
        &self,
        operation: &OpId,
        state: OperationState,
        error: Option<wire::api::ApiError>,
        at_ms: u64,
    ) -> Result<(), StoreError> {
        let operation = operation.clone();
        self.write(move |connection| {
            let act = "record the end of an operation";
            let error = error.as_ref().map(|e| to_json("the error of an operation", e)).transpose()?;
            connect::writing_back_early(connection, |connection| {
                let transaction =
                    connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(sql(act))?;
                transaction
                    .execute(
                        "UPDATE operations SET state = ?2, error_json = ?3, ended_at_ms = ?4 WHERE id = ?1",
                        params![operation.as_str(), state.name(), error, int(at_ms)],
                    )
                    .map_err(sql(act))?;
                transaction
                    .execute(
                        "DELETE FROM operations WHERE state IN ('succeeded', 'unwound') AND number <=
                         (SELECT max(number) FROM operations) - ?1",
                        [ENDED_KEPT],
                    )
                    .map_err(sql(act))?;
                transaction.commit().map_err(sql(act))
            })
        })
        .await
    }

    /// One operation.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], or when the database cannot be read.
    pub async fn operation(&self, operation: &OpId) -> Result<OperationRecord, StoreError> {
        let operation = operation.clone();
        self.read(move |connection| {
            connection
                .prepare(&format!("SELECT {COLUMNS} FROM operations WHERE id = ?1"))
                .and_then(|mut statement| statement.query_row([operation.as_str()], raw).optional())
                .map_err(sql("read an operation"))?
                .ok_or_else(|| StoreError::NotFound { what: "operation", key: operation.as_str().to_owned() })?
                .read()
        })
        .await
    }

    /// All operations on record, newest first.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn operations(&self) -> Result<Vec<OperationRecord>, StoreError> {
        self.list_operations("SELECT * FROM operations ORDER BY number DESC").await
    }

    /// Stuck operations, oldest first.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn stuck_operations(&self) -> Result<Vec<OperationRecord>, StoreError> {
        self.list_operations("SELECT * FROM operations WHERE state = 'stuck' ORDER BY number").await
    }

    /// Opens a stuck operation for one more try, unless another one has been at the same thing since. Says whether it did.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn reopen_operation(&self, operation: &OpId) -> Result<bool, StoreError> {
        let operation = operation.clone();
        self.write(move |connection| {
            connection
                .execute(
                    "UPDATE operations SET state = 'open', ended_at_ms = NULL WHERE id = ?1 AND state = 'stuck'
                     AND NOT EXISTS (SELECT 1 FROM operations AS later
                                     WHERE later.holds = operations.holds AND later.number > operations.number)",
                    [operation.as_str()],
                )
                .map(|changed| changed == 1)
                .map_err(sql("open an operation again"))
        })
        .await
    }

    /// Open operations, oldest first.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn open_operations(&self) -> Result<Vec<OperationRecord>, StoreError> {
        self.list_operations("SELECT * FROM operations WHERE state = 'open' ORDER BY number").await
    }

    async fn list_operations(&self, query: &'static str) -> Result<Vec<OperationRecord>, StoreError> {
        self.read(move |connection| {
            let rows: Vec<RawOperation> = connection
                .prepare(&query.replace('*', COLUMNS))
                .and_then(|mut statement| statement.query_map([], raw)?.collect())
                .map_err(sql("list operations"))?;
            rows.into_iter().map(RawOperation::read).collect()
        })
        .await
    }

    /// The edges of one operation, in order.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn edges(&self, operation: &OpId) -> Result<Vec<Edge>, StoreError> {
        let operation = operation.clone();
        self.read(move |connection| {
            let rows: Vec<(String, String, Option<String>, i64)> = connection
                .prepare(
                    "SELECT step, edges.kind, cause_json, at_ms FROM edges
                     JOIN operations ON operations.number = edges.operation
                     WHERE operations.id = ?1 ORDER BY edges.number",
                )
                .and_then(|mut statement| {
                    statement
                        .query_map([operation.as_str()], |row| {
                            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
                        })?
                        .collect()
                })
                .map_err(sql("read the journal"))?;
            rows.into_iter()
                .map(|(step, kind, cause, at)| {
                    let cause = cause.as_deref().map(|text| from_json("the cause of a failure", text)).transpose()?;
                    let kind = EdgeKind::from_parts(&kind, cause)
                        .ok_or(StoreError::NotFound { what: "kind of edge", key: kind })?;
                    Ok(Edge { step, kind, at_ms: ms(at) })
                })
                .collect()
        })
        .await
    }

    async fn append_edge(&self, operation: &OpId, edge: &Edge, durability: Durability) -> Result<(), StoreError> {
        let (operation, edge) = (operation.clone(), edge.clone());
        self.write(move |connection| {
            let act = "write the journal";
            let cause = edge.kind.cause().map(|cause| to_json("the cause of a failure", cause)).transpose()?;
            let write = |connection: &mut Connection| {
                connection
                    .prepare(
                        "INSERT INTO edges (operation, number, step, kind, cause_json, at_ms)
                         SELECT number,
                                (SELECT coalesce(max(number), 0) + 1 FROM edges WHERE operation = operations.number),
                                ?2, ?3, ?4, ?5
                         FROM operations WHERE id = ?1",
                    )
                    .and_then(|mut statement| {
                        statement.execute(params![
                            operation.as_str(),
                            edge.step,
                            edge.kind.name(),
                            cause,
                            int(edge.at_ms)
                        ])
                    })
                    .map_err(sql(act))
            };
            let done = match durability {
                Durability::Machine => connect::durably(connection, write),
                Durability::Process => write(connection),
            };
            match done? {
                1 => Ok(()),
                _ => Err(StoreError::NotFound { what: "operation", key: operation.as_str().to_owned() }),
            }
        })
        .await
    }

    /// The journal of one operation.
    #[must_use]
    pub fn journal(&self, operation: OpId) -> OperationJournal {
        OperationJournal { store: self.clone(), operation }
    }
}

/// One operation's edges, as the step engine wants them.
pub struct OperationJournal {
    store: Store,
    operation: OpId,
}

#[async_trait]
impl Journal for OperationJournal {
    async fn edges(&self) -> Result<Vec<Edge>, JournalError> {
        self.store.edges(&self.operation).await.map_err(|error| JournalError(Box::new(error)))
    }

    async fn append(&self, edge: &Edge, durability: Durability) -> Result<(), JournalError> {
        self.store.append_edge(&self.operation, edge, durability).await.map_err(|error| JournalError(Box::new(error)))
    }
}
