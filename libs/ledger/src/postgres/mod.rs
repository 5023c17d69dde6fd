//! The ledger in a Postgres database, for many machines.

mod fault;
mod keys;
mod migrations;
mod options;
mod statements;
mod tls;

use std::time::Duration;

use async_trait::async_trait;
use deadpool_postgres::tokio_postgres::types::ToSql;
use deadpool_postgres::tokio_postgres::{Error, NoTls, Row};
use deadpool_postgres::{Client, Manager, ManagerConfig, Pool, RecyclingMethod, Runtime};
use tokio::time::error::Elapsed;
use tokio::time::timeout;
use vlinders_types::UsageEvent;

use self::fault::Fault;
pub use self::options::PostgresOptions;
use crate::money::HOUR_MS;
use crate::rows::{COLUMNS, StoredRow, StoredTotal, as_sql, period, stored_total};
use crate::selection::{Selection, Value};
use crate::{Ledger, LedgerError, Recorded, UsagePeriod, UsageQuery, UsageReports, UsageTotal};

/// How long a call waits for a free connection, or for a new one.
const CONNECTION_LIMIT: Duration = Duration::from_secs(5);
/// A server answers a statement within its own limit; one that is silent for so long after it is given up.
const SILENCE_LIMIT: Duration = Duration::from_secs(5);
/// A change of the schema may work on every row.
const MIGRATION_LIMIT: Duration = Duration::from_secs(3600);

const OPENING: &str = "cannot be opened";

/// Usage in a Postgres database. Any number of processes may share it.
pub struct PostgresLedger {
    pool: Pool,
    address: String,
    limit: Duration,
}

impl PostgresLedger {
    /// Connects and brings the schema up to date. Does not wait for a server that is away: that error is retryable.
    ///
    /// # Errors
    /// When the server is away; when it refuses the user, the password or the database; when the schema is of a newer
    /// version.
    pub async fn open(options: PostgresOptions) -> Result<Self, LedgerError> {
        let manager = ManagerConfig {
            recycling_method: RecyclingMethod::Fast,
        };
        let config = options.connection_config();
        let manager = if options.is_sealed() {
            let connector = tls::connector(options.authorities.as_deref())?;
            Manager::from_config(config, connector, manager)
        } else {
            Manager::from_config(config, NoTls, manager)
        };
        let pool = Pool::builder(manager)
            .max_size(options.pool_size.get())
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(CONNECTION_LIMIT))
            .create_timeout(Some(CONNECTION_LIMIT))
            .recycle_timeout(Some(CONNECTION_LIMIT))
            .build()
            .expect("a pool with limits has a runtime");
        let ledger = Self {
            pool,
            address: options.address(),
            limit: options.statement_timeout + SILENCE_LIMIT,
        };
        let version = ledger.migrate().await;
        let version = version.map_err(|fault| fault.while_opening(OPENING))?;
        if version > migrations::newest() {
            return Err(LedgerError::Foreign {
                what: "schema version",
                found: version.to_string(),
            });
        }
        Ok(ledger)
    }

    async fn migrate(&self) -> Result<i32, Fault> {
        let mut client = self.client().await?;
        let done = timeout(MIGRATION_LIMIT, migrations::migrate(&mut client)).await;
        self.settled(client, done)
    }

    async fn client(&self) -> Result<Client, Fault> {
        let client = self.pool.get().await;
        client.map_err(|error| Fault::of_pool(&self.address, &error))
    }

    /// The outcome of a call, whose connection goes back unless it is still busy.
    fn settled<T>(&self, client: Client, done: Result<Result<T, Error>, Elapsed>) -> Result<T, Fault> {
        match done {
            Ok(outcome) => outcome.map_err(|error| Fault::of(&self.address, &error)),
            Err(_) => {
                drop(Client::take(client));
                Err(Fault::passing(&self.address, "no answer within the limit"))
            }
        }
    }

    async fn insert(&self, events: &[UsageEvent]) -> Result<u64, Fault> {
        let client = self.client().await?;
        let done = timeout(self.limit, insert(&client, events)).await;
        self.settled(client, done)
    }

    async fn select(&self, selection: &Selection) -> Result<Vec<Row>, Fault> {
        let client = self.client().await?;
        let done = timeout(self.limit, select(&client, selection)).await;
        self.settled(client, done)
    }

    /// How many rows it changed.
    async fn change(&self, selection: &Selection) -> Result<u64, Fault> {
        let client = self.client().await?;
        let done = timeout(self.limit, change(&client, selection)).await;
        self.settled(client, done)
    }
}

#[async_trait]
impl Ledger for PostgresLedger {
    async fn record(&self, events: &[UsageEvent]) -> Result<Recorded, LedgerError> {
        if events.is_empty() {
            return Ok(Recorded::default());
        }
        let inserted = self.insert(events).await;
        let inserted = inserted.map_err(|fault| fault.while_open("usage cannot be recorded"))?;
        Ok(Recorded {
            inserted,
            duplicates: events.len() as u64 - inserted,
        })
    }

    async fn usage(&self, query: &UsageQuery) -> Result<Vec<UsageEvent>, LedgerError> {
        let cannot = |fault: Fault| fault.while_open("usage cannot be read");
        let rows = self.select(&Selection::rows(query, '$')).await.map_err(cannot)?;
        let read = |row| stored(row).map_err(|error| cannot(Fault::of(&self.address, &error)));
        rows.iter().map(|row| read(row)?.into_event()).collect()
    }

    async fn totals(&self, query: &UsageQuery) -> Result<Vec<UsageTotal>, LedgerError> {
        let cannot = |fault: Fault| fault.while_open("usage cannot be summed");
        let rows = self
            .select(&Selection::totals(query, '$'))
            .await
            .map_err(cannot)?;
        let read = |row| stored_total(row).map_err(|error| cannot(Fault::of(&self.address, &error)));
        rows.iter().map(|row| read(row)?.into_total()).collect()
    }
}

#[async_trait]
impl UsageReports for PostgresLedger {
    async fn periods(&self, query: &UsageQuery, period_ms: u64) -> Result<Vec<UsagePeriod>, LedgerError> {
        let cannot = |fault: Fault| fault.while_open("usage cannot be summed");
        let selection = Selection::periods(query, period_ms, '$');
        let rows = self.select(&selection).await.map_err(cannot)?;
        let read = |row| stored_period(row).map_err(|error| cannot(Fault::of(&self.address, &error)));
        let rows = rows.iter().map(|row| {
            let (start_ms, total) = read(row)?;
            period(start_ms, total)
        });
        rows.collect()
    }
}

/// One statement for any number of events, so one round trip and one commit.
async fn insert(client: &Client, events: &[UsageEvent]) -> Result<u64, Error> {
    // Two processes that record the same events lock them in the same order.
    let mut events: Vec<&UsageEvent> = events.iter().collect();
    events.sort_by_key(|event| event.request_id);
    let numbers = |of: fn(&UsageEvent) -> i64| Vec::from_iter(events.iter().map(|event| of(event)));
    let request_ids: Vec<String> = events.iter().map(|event| event.request_id.to_string()).collect();
    let tenants: Vec<&str> = events.iter().map(|event| event.tenant.as_str()).collect();
    let keys: Vec<&str> = events.iter().map(|event| event.key.as_str()).collect();
    let models: Vec<&str> = events.iter().map(|event| event.model.as_str()).collect();
    let writers: Vec<&str> = events.iter().map(|event| event.writer.as_str()).collect();
    let finishes: Vec<&str> = events.iter().map(|event| event.finish.name()).collect();
    let classes: Vec<&str> = events.iter().map(|event| event.class.name()).collect();
    let streams: Vec<bool> = events.iter().map(|event| event.stream).collect();
    let first_tokens: Vec<Option<i64>> = events
        .iter()
        .map(|event| event.first_token_ms.map(as_sql))
        .collect();
    // What somebody pays for is added up in the same transaction, in one order, so that two recorders wait for each other.
    let sql = format!(
        "WITH fresh AS (INSERT INTO usage ({COLUMNS}) SELECT * FROM unnest($1::text[], $2::bigint[], $3::text[], \
         $4::text[], $5::text[], $6::text[], $7::bigint[], $8::bigint[], $9::bigint[], $10::text[], $11::boolean[], \
         $12::bigint[], $13::bigint[], $14::bigint[], $15::text[]) ON CONFLICT (request_id) DO NOTHING \
         RETURNING tenant, model, class, prompt_tokens, cached_tokens, completion_tokens, finished_ms), \
         metered AS (INSERT INTO meter_events AS sums (batch, tenant, hour_ms, model, class, requests, prompt_tokens, \
         cached_tokens, completion_tokens, opened_ms) \
         SELECT '', fresh.tenant, finished_ms / {HOUR_MS} * {HOUR_MS} AS hour, model, class, count(*), \
         sum(prompt_tokens)::bigint, sum(cached_tokens)::bigint, sum(completion_tokens)::bigint, min(finished_ms) \
         FROM fresh JOIN tenants ON tenants.tenant = fresh.tenant WHERE tenants.customer IS NOT NULL \
         GROUP BY fresh.tenant, hour, model, class ORDER BY fresh.tenant, hour, model, class \
         ON CONFLICT (tenant, hour_ms, model, class, batch) DO UPDATE SET \
         requests = sums.requests + excluded.requests, \
         prompt_tokens = sums.prompt_tokens + excluded.prompt_tokens, \
         cached_tokens = sums.cached_tokens + excluded.cached_tokens, \
         completion_tokens = sums.completion_tokens + excluded.completion_tokens) \
         SELECT count(*) FROM fresh"
    );
    let statement = client.prepare_cached(&sql).await?;
    let values: [&(dyn ToSql + Sync); 15] = [
        &request_ids,
        &numbers(|event| event.attempt.into()),
        &tenants,
        &keys,
        &models,
        &writers,
        &numbers(|event| event.counts.prompt.into()),
        &numbers(|event| event.counts.cached.into()),
        &numbers(|event| event.counts.completion.into()),
        &finishes,
        &streams,
        &numbers(|event| as_sql(event.created_ms)),
        &first_tokens,
        &numbers(|event| as_sql(event.finished_ms)),
        &classes,
    ];
    let fresh: i64 = client.query_one(&statement, &values).await?.try_get(0)?;
    Ok(fresh.unsigned_abs())
}

async fn select(client: &Client, selection: &Selection) -> Result<Vec<Row>, Error> {
    let statement = client.prepare_cached(&selection.sql).await?;
    client.query(&statement, &bound(selection)).await
}

async fn change(client: &Client, selection: &Selection) -> Result<u64, Error> {
    let statement = client.prepare_cached(&selection.sql).await?;
    client.execute(&statement, &bound(selection)).await
}

fn bound(selection: &Selection) -> Vec<&(dyn ToSql + Sync)> {
    let values = selection.values.iter().map(|value| match value {
        Value::Text(text) => text as &(dyn ToSql + Sync),
        Value::Number(number) => number as &(dyn ToSql + Sync),
        Value::MaybeText(text) => text as &(dyn ToSql + Sync),
        Value::MaybeNumber(number) => number as &(dyn ToSql + Sync),
        Value::Flag(flag) => flag as &(dyn ToSql + Sync),
        Value::Bytes(bytes) => bytes as &(dyn ToSql + Sync),
    });
    values.collect()
}

fn stored(row: &Row) -> Result<StoredRow, Error> {
    Ok(StoredRow {
        request_id: row.try_get(0)?,
        attempt: row.try_get(1)?,
        tenant: row.try_get(2)?,
        key: row.try_get(3)?,
        model: row.try_get(4)?,
        writer: row.try_get(5)?,
        prompt_tokens: row.try_get(6)?,
        cached_tokens: row.try_get(7)?,
        completion_tokens: row.try_get(8)?,
        finish: row.try_get(9)?,
        stream: row.try_get(10)?,
        created_ms: row.try_get(11)?,
        first_token_ms: row.try_get(12)?,
        finished_ms: row.try_get(13)?,
        class: row.try_get(14)?,
    })
}

fn stored_total(row: &Row) -> Result<StoredTotal, Error> {
    Ok(stored_total!(row, try_get))
}

fn stored_period(row: &Row) -> Result<(i64, StoredTotal), Error> {
    Ok((row.try_get(7)?, stored_total(row)?))
}
