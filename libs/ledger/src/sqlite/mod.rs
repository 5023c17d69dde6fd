//! The ledger in one SQLite file, for a single machine.
//!
//! The connection lives on a thread of its own, since SQLite blocks; callers wait in a bounded queue.

mod keys;
mod migrations;
mod statements;

use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use rusqlite::types::ToSqlOutput;
use rusqlite::{Connection, ErrorCode, Row, ToSql, Transaction, params, params_from_iter};
use tokio::sync::{mpsc, oneshot};
use vlinders_types::UsageEvent;

use crate::money::HOUR_MS;
use crate::rows::{COLUMNS, StoredRow, StoredTotal, as_sql, period, stored_total};
use crate::selection::{Selection, Value};
use crate::{Ledger, LedgerError, Recorded, UsagePeriod, UsageQuery, UsageReports, UsageTotal};

/// Calls that wait for the connection.
const WAITING: usize = 64;
/// How long to wait for another process that writes.
const BUSY: Duration = Duration::from_secs(5);

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

/// Usage in one SQLite file. Several processes may have it open.
pub struct SqliteLedger {
    jobs: mpsc::Sender<Job>,
}

impl SqliteLedger {
    /// Opens the file, creates it when there is none, and brings its schema up to date.
    ///
    /// # Errors
    /// When the file is no ledger, is of a newer version, or cannot be written.
    pub fn open(path: &Path) -> Result<Self, LedgerError> {
        let mut connection = Connection::open(path).map_err(|error| failed("cannot be opened", error))?;
        prepare(&connection).map_err(|error| failed("cannot be opened", error))?;
        migrations::migrate(&mut connection)?;
        let (jobs, mut waiting) = mpsc::channel::<Job>(WAITING);
        let serve = move || {
            while let Some(job) = waiting.blocking_recv() {
                job(&mut connection);
            }
        };
        let started = std::thread::Builder::new().name("ledger".to_owned()).spawn(serve);
        started.map_err(|error| failed("has no thread", error))?;
        Ok(Self { jobs })
    }

    async fn run<T, F>(&self, job: F) -> Result<T, LedgerError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Connection) -> Result<T, LedgerError> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let job = Box::new(move |connection: &mut Connection| {
            // The caller may have given up; what was written stays written.
            let _caller_gone = answer.send(job(connection));
        });
        self.jobs.send(job).await.map_err(|_| LedgerError::Closed)?;
        answered.await.map_err(|_| LedgerError::Closed)?
    }
}

#[async_trait]
impl Ledger for SqliteLedger {
    async fn record(&self, events: &[UsageEvent]) -> Result<Recorded, LedgerError> {
        let events = events.to_vec();
        self.run(move |connection| record(connection, &events).map_err(not_recorded))
            .await
    }

    async fn usage(&self, query: &UsageQuery) -> Result<Vec<UsageEvent>, LedgerError> {
        let query = query.clone();
        self.run(move |connection| {
            let rows = rows(connection, &query).map_err(|error| failed("usage cannot be read", error))?;
            rows.into_iter().map(StoredRow::into_event).collect()
        })
        .await
    }

    async fn totals(&self, query: &UsageQuery) -> Result<Vec<UsageTotal>, LedgerError> {
        let query = query.clone();
        self.run(move |connection| {
            let rows = totals(connection, &query).map_err(|error| failed("usage cannot be summed", error))?;
            rows.into_iter().map(StoredTotal::into_total).collect()
        })
        .await
    }
}

#[async_trait]
impl UsageReports for SqliteLedger {
    async fn periods(&self, query: &UsageQuery, period_ms: u64) -> Result<Vec<UsagePeriod>, LedgerError> {
        let query = query.clone();
        self.run(move |connection| {
            let rows = periods(connection, &query, period_ms)
                .map_err(|error| failed("usage cannot be summed", error))?;
            rows.into_iter()
                .map(|(start_ms, total)| period(start_ms, total))
                .collect()
        })
        .await
    }
}

fn failed(what: &'static str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> LedgerError {
    LedgerError::Database {
        what,
        source: source.into(),
    }
}

fn not_recorded(error: rusqlite::Error) -> LedgerError {
    use ErrorCode::{ConstraintViolation, TooBig, TypeMismatch};
    let what = "usage cannot be recorded";
    match error.sqlite_error_code() {
        Some(ConstraintViolation | TooBig | TypeMismatch) => LedgerError::Refused {
            what,
            source: error.into(),
        },
        // Everything else may pass: a full disk, another writer, a file that is away.
        Some(_) | None => failed(what, error),
    }
}

fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY)?;
    // A reader never waits for the writer, and a commit survives the loss of power.
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")
}

fn record(connection: &mut Connection, events: &[UsageEvent]) -> rusqlite::Result<Recorded> {
    let transaction = connection.transaction()?;
    let mut recorded = Recorded::default();
    {
        let sql = format!(
            "INSERT INTO usage ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) \
             ON CONFLICT (request_id) DO NOTHING"
        );
        let mut insert = transaction.prepare_cached(&sql)?;
        let sql = "SELECT EXISTS (SELECT 1 FROM tenants WHERE customer IS NOT NULL)";
        let any_customer: bool = transaction.query_row(sql, [], |row| row.get(0))?;
        for event in events {
            let inserted = insert.execute(params![
                event.request_id.to_string(),
                event.attempt,
                event.tenant.as_str(),
                event.key.as_str(),
                event.model.as_str(),
                event.writer.as_str(),
                event.counts.prompt,
                event.counts.cached,
                event.counts.completion,
                event.finish.name(),
                event.stream,
                as_sql(event.created_ms),
                event.first_token_ms.map(as_sql),
                as_sql(event.finished_ms),
                event.class.name(),
            ])?;
            if inserted > 0 && any_customer {
                meter(&transaction, event)?;
            }
            recorded.inserted += inserted as u64;
            recorded.duplicates += 1 - inserted as u64;
        }
    }
    transaction.commit()?;
    Ok(recorded)
}

/// Adds what somebody pays for to the sum of its hour.
fn meter(transaction: &Transaction<'_>, event: &UsageEvent) -> rusqlite::Result<()> {
    let sql = "INSERT INTO meter_events (batch, tenant, hour_ms, model, class, requests, prompt_tokens, cached_tokens, \
               completion_tokens, opened_ms) SELECT '', ?, ?, ?, ?, 1, ?, ?, ?, ? \
               WHERE EXISTS (SELECT 1 FROM tenants WHERE tenant = ? AND customer IS NOT NULL) \
               ON CONFLICT (tenant, hour_ms, model, class, batch) DO UPDATE SET \
               requests = requests + excluded.requests, \
               prompt_tokens = prompt_tokens + excluded.prompt_tokens, \
               cached_tokens = cached_tokens + excluded.cached_tokens, \
               completion_tokens = completion_tokens + excluded.completion_tokens";
    let values = params![
        event.tenant.as_str(),
        as_sql(event.finished_ms / HOUR_MS * HOUR_MS),
        event.model.as_str(),
        event.class.name(),
        event.counts.prompt,
        event.counts.cached,
        event.counts.completion,
        as_sql(event.finished_ms),
        event.tenant.as_str(),
    ];
    transaction.prepare_cached(sql)?.execute(values)?;
    Ok(())
}

impl ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        match self {
            Self::Text(text) => text.to_sql(),
            Self::Number(number) => number.to_sql(),
            Self::MaybeText(text) => text.to_sql(),
            Self::MaybeNumber(number) => number.to_sql(),
            Self::Flag(flag) => flag.to_sql(),
            Self::Bytes(bytes) => bytes.to_sql(),
        }
    }
}

fn read(row: &Row<'_>) -> rusqlite::Result<StoredRow> {
    Ok(StoredRow {
        request_id: row.get(0)?,
        attempt: row.get(1)?,
        tenant: row.get(2)?,
        key: row.get(3)?,
        model: row.get(4)?,
        writer: row.get(5)?,
        prompt_tokens: row.get(6)?,
        cached_tokens: row.get(7)?,
        completion_tokens: row.get(8)?,
        finish: row.get(9)?,
        stream: row.get(10)?,
        created_ms: row.get(11)?,
        first_token_ms: row.get(12)?,
        finished_ms: row.get(13)?,
        class: row.get(14)?,
    })
}

fn rows(connection: &Connection, query: &UsageQuery) -> rusqlite::Result<Vec<StoredRow>> {
    let Selection { sql, values } = Selection::rows(query, '?');
    let mut select = connection.prepare_cached(&sql)?;
    select.query_map(params_from_iter(values), read)?.collect()
}

fn totals(connection: &Connection, query: &UsageQuery) -> rusqlite::Result<Vec<StoredTotal>> {
    let Selection { sql, values } = Selection::totals(query, '?');
    let mut select = connection.prepare_cached(&sql)?;
    let rows = select.query_map(params_from_iter(values), |row| Ok(stored_total!(row, get)))?;
    rows.collect()
}

fn periods(
    connection: &Connection,
    query: &UsageQuery,
    period_ms: u64,
) -> rusqlite::Result<Vec<(i64, StoredTotal)>> {
    let Selection { sql, values } = Selection::periods(query, period_ms, '?');
    let mut select = connection.prepare_cached(&sql)?;
    let rows = select.query_map(params_from_iter(values), |row| {
        Ok((row.get(7)?, stored_total!(row, get)))
    })?;
    rows.collect()
}
