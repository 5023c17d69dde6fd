//! Batches: who asked for what, whoever runs it now, and what became of its lines so far.
//!
//! A batch is run by whoever holds its lease. What changes it names the holder, so one whose lease went to another changes
//! nothing any more.

use async_trait::async_trait;
use vlinders_types::{KeyId, TenantId};

use super::rows::{BATCH_COLUMNS, batch};
use super::{BatchEnding, BatchEvent, BatchStatus};
use crate::LedgerError;
use crate::selection::Value;
use crate::statements::{Statement, Statements, count, maybe_count, maybe_text, text};

const READING: &str = "batches cannot be read";
const WRITING: &str = "batches cannot be changed";
const OPEN: &str = "('validating', 'in_progress', 'finalizing', 'cancelling')";

/// What somebody asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewBatch {
    /// Its id, unique. Later batches have larger ones.
    pub id: String,
    /// Whose it is.
    pub tenant: TenantId,
    /// The key it was made with.
    pub key: KeyId,
    /// What that key was good for then: the frontend's own words.
    pub rights: String,
    /// Where its lines go.
    pub endpoint: String,
    /// The file with its lines.
    pub input_file: String,
    /// The owner's own words, as JSON.
    pub metadata: Option<String>,
    /// How long its files are kept, where its owner said.
    pub output_expires_s: Option<u64>,
    /// Milliseconds since 1970.
    pub created_ms: u64,
    /// From then on no more lines are begun, milliseconds since 1970.
    pub expires_ms: u64,
}

/// A batch as it stands. Times are milliseconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredBatch {
    /// What was asked for.
    pub asked: NewBatch,
    /// Where it stands.
    pub status: BatchStatus,
    /// Why no more lines are begun, once none are.
    pub ending: Option<BatchEnding>,
    /// What is wrong with its lines, as JSON.
    pub errors: Option<String>,
    /// The file with answers, once it is being written.
    pub output_file: Option<String>,
    /// The file with failures, once it is being written.
    pub error_file: Option<String>,
    /// How often somebody took it on.
    pub claims: u32,
    /// Its lines; 0 until they were looked at.
    pub total: u64,
    /// Lines with an answer.
    pub completed: u64,
    /// Lines without.
    pub failed: u64,
    /// When its lines were good.
    pub in_progress_ms: Option<u64>,
    /// When the last line had ended.
    pub finalizing_ms: Option<u64>,
    /// When its files were there.
    pub completed_ms: Option<u64>,
    /// When its lines were found faulty.
    pub failed_ms: Option<u64>,
    /// When its files were there, its time being over.
    pub expired_ms: Option<u64>,
    /// When somebody cancelled it.
    pub cancelling_ms: Option<u64>,
    /// When its files were there, it being cancelled.
    pub cancelled_ms: Option<u64>,
}

/// What became of one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineResult {
    /// Counted from 0.
    pub line: u32,
    /// It belongs into the file of failures.
    pub is_failed: bool,
    /// The line for the file, without its end.
    pub content: Vec<u8>,
}

/// Keeps batches.
#[async_trait]
pub trait BatchStore: Send + Sync + 'static {
    /// Keeps a new batch. False: its tenant has `most_open` that have not ended, or no such file.
    async fn create_batch(&self, batch: &NewBatch, most_open: u32) -> Result<bool, LedgerError>;

    /// A tenant's batch.
    async fn batch(&self, tenant: &TenantId, id: &str) -> Result<Option<StoredBatch>, LedgerError>;

    /// Some of a tenant's batches, newest first, behind the one of this id.
    async fn batches(
        &self,
        tenant: &TenantId,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<StoredBatch>, LedgerError>;

    /// A tenant does not want its batch any more. It ends when whoever runs it sees that. False: nothing to cancel.
    async fn cancel_batch(&self, tenant: &TenantId, id: &str, now_ms: u64) -> Result<bool, LedgerError>;

    /// Takes on the oldest batch that nobody holds, until `until_ms`.
    async fn claim_batch(
        &self,
        holder: &str,
        now_ms: u64,
        until_ms: u64,
    ) -> Result<Option<StoredBatch>, LedgerError>;

    /// Holds a batch for longer. None: somebody else holds it.
    async fn hold_batch(
        &self,
        id: &str,
        holder: &str,
        until_ms: u64,
    ) -> Result<Option<StoredBatch>, LedgerError>;

    /// Lets go of a batch, which nobody takes on before `not_before_ms` unless it is cancelled.
    async fn release_batch(&self, id: &str, holder: &str, not_before_ms: u64) -> Result<(), LedgerError>;

    /// Its lines were looked at: so many can be run, or these are the faults. False: it is not this holder's, or was
    /// cancelled.
    async fn validated_batch(
        &self,
        id: &str,
        holder: &str,
        lines: Result<u64, String>,
        now_ms: u64,
    ) -> Result<bool, LedgerError>;

    /// Keeps what became of a line. Again changes nothing. False: that, or it is not this holder's.
    async fn keep_line(&self, id: &str, holder: &str, result: &LineResult) -> Result<bool, LedgerError>;

    /// The lines of which is known what became of them.
    async fn ended_lines(&self, id: &str) -> Result<Vec<u32>, LedgerError>;

    /// What became of lines, in their order, from a line on.
    async fn lines(&self, id: &str, from: u32, limit: u32) -> Result<Vec<LineResult>, LedgerError>;

    /// No more lines are begun, for this reason; its files will have these names. Told again, what was told first holds.
    /// None: it is not this holder's, or this cannot happen to it.
    async fn end_batch(
        &self,
        batch: &StoredBatch,
        holder: &str,
        ending: BatchEnding,
        files: [&str; 2],
        now_ms: u64,
    ) -> Result<Option<StoredBatch>, LedgerError>;

    /// Its files are there: those that hold something, and how many lines are in each of the two. What was kept of its lines
    /// goes. False: it is not this holder's.
    async fn finish_batch(
        &self,
        batch: &StoredBatch,
        holder: &str,
        counts: [u64; 2],
        now_ms: u64,
    ) -> Result<bool, LedgerError>;

    /// Deletes batches that were created before this time and have ended.
    async fn forget_old_batches(&self, before_ms: u64) -> Result<(), LedgerError>;
}

/// The column that tells when a batch came into a state.
fn time_of(status: BatchStatus) -> &'static str {
    match status {
        BatchStatus::Validating => "created_ms",
        BatchStatus::InProgress => "in_progress_ms",
        BatchStatus::Finalizing => "finalizing_ms",
        BatchStatus::Completed => "completed_ms",
        BatchStatus::Failed => "failed_ms",
        BatchStatus::Expired => "expired_ms",
        BatchStatus::Cancelling => "cancelling_ms",
        BatchStatus::Cancelled => "cancelled_ms",
    }
}

/// A statement that changes a batch in this state, held by this holder.
fn step(
    (id, holder): (&str, &str),
    (from, to): (BatchStatus, BatchStatus),
    (assignments, values): (&str, Vec<Value>),
    now_ms: u64,
) -> Statement {
    // It may stay in its state, whose time is told already.
    let time = time_of(to);
    let sql = format!(
        "UPDATE batches SET status = ?, {time} = coalesce({time}, ?), {assignments} \
         WHERE id = ? AND lease_holder = ? AND status = ?"
    );
    let mut all = vec![text(to.name()), count(now_ms)];
    all.extend(values);
    all.extend([text(id), text(holder), text(from.name())]);
    Statement::new(sql, all).that_changes()
}

async fn found<D: Statements>(store: &D, id: &str, holder: &str) -> Result<Option<StoredBatch>, LedgerError> {
    let sql = format!("SELECT {BATCH_COLUMNS} FROM batches WHERE id = ? AND lease_holder = ?");
    let found = store
        .one(READING, Statement::new(sql, [text(id), text(holder)]))
        .await?;
    found.map(batch).transpose()
}

#[async_trait]
impl<D: Statements + 'static> BatchStore for D {
    async fn create_batch(&self, batch: &NewBatch, most_open: u32) -> Result<bool, LedgerError> {
        let sql = format!(
            "INSERT INTO batches (id, tenant, key, rights, endpoint, input_file, metadata, output_expires_s, \
             created_ms, expires_ms, status, claims, total, completed, failed, lease_until_ms) \
             SELECT CAST(? AS text), CAST(? AS text), CAST(? AS text), CAST(? AS text), CAST(? AS text), id, \
             CAST(? AS text), CAST(? AS bigint), CAST(? AS bigint), CAST(? AS bigint), 'validating', 0, 0, 0, 0, 0 \
             FROM files WHERE id = ? AND tenant = ? AND state = 'complete' AND purpose = 'batch' \
             AND (SELECT count(*) FROM batches WHERE tenant = ? AND status IN {OPEN}) < ?"
        );
        let tenant = || text(batch.tenant.as_str());
        let values = [
            text(&batch.id),
            tenant(),
            text(batch.key.as_str()),
            text(&batch.rights),
            text(&batch.endpoint),
            maybe_text(batch.metadata.as_deref()),
            maybe_count(batch.output_expires_s),
            count(batch.created_ms),
            count(batch.expires_ms),
            text(&batch.input_file),
            tenant(),
            tenant(),
            count(most_open.into()),
        ];
        self.change(WRITING, Statement::new(sql, values)).await
    }

    async fn batch(&self, tenant: &TenantId, id: &str) -> Result<Option<StoredBatch>, LedgerError> {
        let sql = format!("SELECT {BATCH_COLUMNS} FROM batches WHERE id = ? AND tenant = ?");
        let values = [text(id), text(tenant.as_str())];
        let found = self.one(READING, Statement::new(sql, values)).await?;
        found.map(batch).transpose()
    }

    async fn batches(
        &self,
        tenant: &TenantId,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<StoredBatch>, LedgerError> {
        let mut sql = format!("SELECT {BATCH_COLUMNS} FROM batches WHERE tenant = ?");
        let mut values = vec![text(tenant.as_str())];
        if let Some(after) = after {
            sql += " AND id < ?";
            values.push(text(after));
        }
        sql += " ORDER BY id DESC LIMIT ?";
        values.push(count(limit.into()));
        let rows = self.read(READING, Statement::new(sql, values)).await?;
        rows.into_iter().map(batch).collect()
    }

    async fn cancel_batch(&self, tenant: &TenantId, id: &str, now_ms: u64) -> Result<bool, LedgerError> {
        let can = BatchStatus::ALL.map(|status| status.after(BatchEvent::CancelAsked).map(|_| status.name()));
        let names: Vec<String> = can
            .into_iter()
            .flatten()
            .map(|name| format!("'{name}'"))
            .collect();
        let sql = format!(
            "UPDATE batches SET status = 'cancelling', cancelling_ms = coalesce(cancelling_ms, ?) \
             WHERE id = ? AND tenant = ? AND status IN ({})",
            names.join(", ")
        );
        let values = [count(now_ms), text(id), text(tenant.as_str())];
        self.change(WRITING, Statement::new(sql, values)).await
    }

    async fn claim_batch(
        &self,
        holder: &str,
        now_ms: u64,
        until_ms: u64,
    ) -> Result<Option<StoredBatch>, LedgerError> {
        let free = format!(
            "status IN {OPEN} AND (lease_until_ms <= ? OR (lease_holder IS NULL AND status = 'cancelling'))"
        );
        let sql = format!("SELECT id FROM batches WHERE {free} ORDER BY lease_until_ms, id LIMIT 1");
        let oldest = self.one(READING, Statement::new(sql, [count(now_ms)])).await?;
        let Some(mut row) = oldest else { return Ok(None) };
        let id = row.text("id")?;
        // Somebody else may have been faster: then it is held, and this changes nothing.
        let sql = format!(
            "UPDATE batches SET lease_holder = ?, lease_until_ms = ?, claims = claims + 1 WHERE id = ? AND {free}"
        );
        let values = [text(holder), count(until_ms), text(&id), count(now_ms)];
        if !self.change(WRITING, Statement::new(sql, values)).await? {
            return Ok(None);
        }
        found(self, &id, holder).await
    }

    async fn hold_batch(
        &self,
        id: &str,
        holder: &str,
        until_ms: u64,
    ) -> Result<Option<StoredBatch>, LedgerError> {
        let sql = "UPDATE batches SET lease_until_ms = ? WHERE id = ? AND lease_holder = ?";
        let values = [count(until_ms), text(id), text(holder)];
        if !self.change(WRITING, Statement::new(sql, values)).await? {
            return Ok(None);
        }
        found(self, id, holder).await
    }

    async fn release_batch(&self, id: &str, holder: &str, not_before_ms: u64) -> Result<(), LedgerError> {
        let sql =
            "UPDATE batches SET lease_until_ms = ?, lease_holder = NULL WHERE id = ? AND lease_holder = ?";
        let values = [count(not_before_ms), text(id), text(holder)];
        self.change(WRITING, Statement::new(sql, values))
            .await
            .map(|_| ())
    }

    async fn validated_batch(
        &self,
        id: &str,
        holder: &str,
        lines: Result<u64, String>,
        now_ms: u64,
    ) -> Result<bool, LedgerError> {
        let from = BatchStatus::Validating;
        let (event, change) = match lines {
            Ok(total) => (BatchEvent::LinesAreGood, ("total = ?", vec![count(total)])),
            Err(errors) => (
                BatchEvent::LinesAreFaulty,
                ("errors = ?, lease_holder = NULL", vec![text(&errors)]),
            ),
        };
        let to = from
            .after(event)
            .expect("both can happen to a batch that is validated");
        let statement = step((id, holder), (from, to), change, now_ms);
        self.change(WRITING, statement).await
    }

    async fn keep_line(&self, id: &str, holder: &str, result: &LineResult) -> Result<bool, LedgerError> {
        let sql = "INSERT INTO batch_results (batch_id, line, is_failed, content) \
                   SELECT id, CAST(? AS bigint), CAST(? AS bigint), ? FROM batches WHERE id = ? AND lease_holder = ? \
                   ON CONFLICT (batch_id, line) DO NOTHING";
        let values = [
            count(result.line.into()),
            count(result.is_failed.into()),
            Value::Bytes(result.content.clone()),
            text(id),
            text(holder),
        ];
        self.change(WRITING, Statement::new(sql, values)).await
    }

    async fn ended_lines(&self, id: &str) -> Result<Vec<u32>, LedgerError> {
        let sql = "SELECT line FROM batch_results WHERE batch_id = ? ORDER BY line";
        let rows = self.read(READING, Statement::new(sql, [text(id)])).await?;
        rows.into_iter().map(|mut row| row.number("line")).collect()
    }

    async fn lines(&self, id: &str, from: u32, limit: u32) -> Result<Vec<LineResult>, LedgerError> {
        let sql = "SELECT line, is_failed, content FROM batch_results WHERE batch_id = ? AND line >= ? \
                   ORDER BY line LIMIT ?";
        let values = [text(id), count(from.into()), count(limit.into())];
        let rows = self.read(READING, Statement::new(sql, values)).await?;
        let read = |mut row: crate::statements::Cells| {
            Ok(LineResult {
                line: row.number("line")?,
                is_failed: row.number::<u8>("is_failed")? != 0,
                content: row.bytes("content")?,
            })
        };
        rows.into_iter().map(read).collect()
    }

    async fn end_batch(
        &self,
        batch: &StoredBatch,
        holder: &str,
        ending: BatchEnding,
        files: [&str; 2],
        now_ms: u64,
    ) -> Result<Option<StoredBatch>, LedgerError> {
        let Ok(to) = batch.status.after(BatchEvent::NoMoreLines(ending)) else {
            return Ok(None);
        };
        let assignments = "ending = coalesce(ending, ?), output_file = coalesce(output_file, ?), \
                           error_file = coalesce(error_file, ?)";
        let values = vec![text(ending.name()), text(files[0]), text(files[1])];
        let id = &batch.asked.id;
        let statement = step((id, holder), (batch.status, to), (assignments, values), now_ms);
        if !self.change(WRITING, statement).await? {
            return Ok(None);
        }
        found(self, id, holder).await
    }

    async fn finish_batch(
        &self,
        batch: &StoredBatch,
        holder: &str,
        counts: [u64; 2],
        now_ms: u64,
    ) -> Result<bool, LedgerError> {
        let id = &batch.asked.id;
        let ending = batch.ending.map(BatchEvent::FilesAreReady);
        let Some(Ok(to)) = ending.map(|event| batch.status.after(event)) else {
            return Ok(false);
        };
        let named = |index: usize, name: &Option<String>| {
            let name = name.as_deref().filter(|_| counts[index] > 0);
            maybe_text(name)
        };
        let assignments = "output_file = ?, error_file = ?, completed = ?, failed = ?, lease_holder = NULL";
        let values = vec![
            named(0, &batch.output_file),
            named(1, &batch.error_file),
            count(counts[0]),
            count(counts[1]),
        ];
        let mut statements = vec![step(
            (id, holder),
            (batch.status, to),
            (assignments, values),
            now_ms,
        )];
        let sql = "DELETE FROM batch_results WHERE batch_id = ?";
        statements.push(Statement::new(sql, [text(id)]));
        for (name, lines) in [&batch.output_file, &batch.error_file].into_iter().zip(counts) {
            let Some(name) = name.as_deref().filter(|_| lines > 0) else {
                continue;
            };
            let sql = "UPDATE files SET state = 'complete' WHERE id = ?";
            statements.push(Statement::new(sql, [text(name)]).that_changes());
        }
        Ok(self.write(WRITING, statements).await?.is_some())
    }

    async fn forget_old_batches(&self, before_ms: u64) -> Result<(), LedgerError> {
        let sql = format!("DELETE FROM batches WHERE created_ms < ? AND status NOT IN {OPEN}");
        self.change(WRITING, Statement::new(sql, [count(before_ms)]))
            .await
            .map(|_| ())
    }
}
