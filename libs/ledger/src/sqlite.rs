//! The ledger in one SQLite file, for a single machine.
//!
//! The connection lives on a thread of its own, since SQLite blocks; callers wait in a bounded queue.

use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use rusqlite::{Connection, Row, ToSql, params, params_from_iter};
use tokio::sync::{mpsc, oneshot};
use vlinders_types::{
    FinishReason, KeyId, ModelName, RequestId, TenantId, TokenCounts, UsageEvent, WorkerId,
};

use crate::{Ledger, LedgerError, Recorded, UsageQuery, UsageTotal};

/// Calls that wait for the connection.
const WAITING: usize = 64;
/// How long to wait for another process that writes.
const BUSY: Duration = Duration::from_secs(5);

/// One per version of the schema; `user_version` counts those applied. Never changed, only added to.
const MIGRATIONS: &[&str] = &["
    CREATE TABLE usage (
        request_id TEXT PRIMARY KEY,
        attempt INTEGER NOT NULL,
        tenant TEXT NOT NULL,
        key TEXT NOT NULL,
        model TEXT NOT NULL,
        writer TEXT NOT NULL,
        prompt_tokens INTEGER NOT NULL,
        cached_tokens INTEGER NOT NULL,
        completion_tokens INTEGER NOT NULL,
        finish TEXT NOT NULL,
        stream INTEGER NOT NULL,
        created_ms INTEGER NOT NULL,
        first_token_ms INTEGER,
        finished_ms INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX usage_by_time ON usage (finished_ms);
    CREATE INDEX usage_by_tenant ON usage (tenant, finished_ms);
"];

const COLUMNS: &str = "request_id, attempt, tenant, key, model, writer, prompt_tokens, cached_tokens, \
                       completion_tokens, finish, stream, created_ms, first_token_ms, finished_ms";

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
        migrate(&mut connection)?;
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
        self.run(move |connection| {
            record(connection, &events).map_err(|error| failed("usage cannot be recorded", error))
        })
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
            totals(connection, &query).map_err(|error| failed("usage cannot be summed", error))
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

fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY)?;
    // A reader never waits for the writer, and a commit survives the loss of power.
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")
}

fn migrate(connection: &mut Connection) -> Result<(), LedgerError> {
    let cannot = |error| failed("cannot be brought up to date", error);
    let transaction = connection
        .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)
        .map_err(cannot)?;
    let version: u32 = transaction
        .query_row("PRAGMA user_version", [], |row| row.get(0))
        .map_err(cannot)?;
    let newest = u32::try_from(MIGRATIONS.len()).expect("there are few migrations");
    if version > newest {
        return Err(LedgerError::Foreign {
            what: "schema version",
            found: version.to_string(),
        });
    }
    for migration in &MIGRATIONS[version as usize..] {
        transaction.execute_batch(migration).map_err(cannot)?;
    }
    transaction
        .pragma_update(None, "user_version", newest)
        .map_err(cannot)?;
    transaction.commit().map_err(cannot)
}

fn record(connection: &mut Connection, events: &[UsageEvent]) -> rusqlite::Result<Recorded> {
    let transaction = connection.transaction()?;
    let mut recorded = Recorded::default();
    {
        let sql = format!(
            "INSERT INTO usage ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) \
             ON CONFLICT (request_id) DO NOTHING"
        );
        let mut insert = transaction.prepare_cached(&sql)?;
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
            ])?;
            recorded.inserted += inserted as u64;
            recorded.duplicates += 1 - inserted as u64;
        }
    }
    transaction.commit()?;
    Ok(recorded)
}

/// SQLite's integers are signed; times beyond them do not occur.
fn as_sql(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// The condition of a query and its values.
fn condition(query: &UsageQuery) -> (String, Vec<Box<dyn ToSql>>) {
    let mut parts = Vec::new();
    let mut values: Vec<Box<dyn ToSql>> = Vec::new();
    let mut add = |part: &str, value: Option<Box<dyn ToSql>>| {
        if let Some(value) = value {
            parts.push(part.to_owned());
            values.push(value);
        }
    };
    add(
        "tenant = ?",
        query
            .tenant
            .as_ref()
            .map(|tenant| Box::new(tenant.as_str().to_owned()) as Box<dyn ToSql>),
    );
    add(
        "model = ?",
        query
            .model
            .as_ref()
            .map(|model| Box::new(model.as_str().to_owned()) as Box<dyn ToSql>),
    );
    add(
        "finished_ms >= ?",
        query.from_ms.map(|from| Box::new(as_sql(from)) as Box<dyn ToSql>),
    );
    add(
        "finished_ms < ?",
        query
            .until_ms
            .map(|until| Box::new(as_sql(until)) as Box<dyn ToSql>),
    );
    let condition = if parts.is_empty() {
        String::new()
    } else {
        format!("WHERE {}", parts.join(" AND "))
    };
    (condition, values)
}

/// A row as it lies in the table: text that is not checked yet.
struct StoredRow {
    request_id: String,
    finish: String,
    event: UsageEvent,
}

impl StoredRow {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        let text = |index: usize| row.get::<_, String>(index);
        let time = |index: usize| row.get::<_, i64>(index).map(i64::unsigned_abs);
        let event = UsageEvent {
            request_id: RequestId(0),
            attempt: row.get(1)?,
            tenant: TenantId::new(&text(2)?),
            key: KeyId::new(&text(3)?),
            model: ModelName::new(&text(4)?),
            writer: WorkerId::new(&text(5)?),
            counts: TokenCounts {
                prompt: row.get(6)?,
                cached: row.get(7)?,
                completion: row.get(8)?,
            },
            finish: FinishReason::Error,
            stream: row.get(10)?,
            created_ms: time(11)?,
            first_token_ms: row.get::<_, Option<i64>>(12)?.map(i64::unsigned_abs),
            finished_ms: time(13)?,
        };
        Ok(Self {
            request_id: text(0)?,
            finish: text(9)?,
            event,
        })
    }

    fn into_event(self) -> Result<UsageEvent, LedgerError> {
        let Self {
            request_id,
            finish,
            event,
        } = self;
        let reasons = [
            FinishReason::Stop,
            FinishReason::Length,
            FinishReason::Cancelled,
            FinishReason::Error,
        ];
        let known = reasons.into_iter().find(|reason| reason.name() == finish);
        let known = known.ok_or(LedgerError::Foreign {
            what: "finish",
            found: finish,
        })?;
        let foreign = |_| LedgerError::Foreign {
            what: "request_id",
            found: request_id.clone(),
        };
        Ok(UsageEvent {
            request_id: request_id.parse().map_err(foreign)?,
            finish: known,
            ..event
        })
    }
}

fn rows(connection: &Connection, query: &UsageQuery) -> rusqlite::Result<Vec<StoredRow>> {
    let (condition, mut values) = condition(query);
    let limit = query.limit.map_or("", |limit| {
        values.push(Box::new(limit));
        "LIMIT ?"
    });
    let sql =
        format!("SELECT {COLUMNS} FROM usage {condition} ORDER BY finished_ms DESC, request_id DESC {limit}");
    let mut select = connection.prepare_cached(&sql)?;
    select
        .query_map(params_from_iter(values), StoredRow::read)?
        .collect()
}

fn totals(connection: &Connection, query: &UsageQuery) -> rusqlite::Result<Vec<UsageTotal>> {
    let (condition, values) = condition(query);
    let sql = format!(
        "SELECT tenant, model, count(*), sum(prompt_tokens), sum(cached_tokens), sum(completion_tokens) \
         FROM usage {condition} GROUP BY tenant, model ORDER BY tenant, model"
    );
    let mut select = connection.prepare_cached(&sql)?;
    let read = |row: &Row<'_>| {
        let sum = |index: usize| row.get::<_, i64>(index).map(i64::unsigned_abs);
        Ok(UsageTotal {
            tenant: TenantId::new(&row.get::<_, String>(0)?),
            model: ModelName::new(&row.get::<_, String>(1)?),
            requests: sum(2)?,
            prompt_tokens: sum(3)?,
            cached_tokens: sum(4)?,
            completion_tokens: sum(5)?,
        })
    };
    select.query_map(params_from_iter(values), read)?.collect()
}
