//! Usage on its way to whoever collects the money. What a tenant with a customer uses is added up where usage is recorded, in
//! the same transaction; a sum that is closed never changes again and is sent until it is taken. So each request is in
//! exactly one of them.

use async_trait::async_trait;
use sha2::{Digest, Sha256};
use vlinders_types::{BillingClass, ModelName, TenantId};

use crate::rows::foreign;
use crate::statements::{Cells, Statement, Statements, count, text};
use crate::{LedgerError, UsageTotal};

const READING: &str = "metered usage cannot be read";
const WRITING: &str = "metered usage cannot be changed";

/// What was added up belongs to an hour.
pub(crate) const HOUR_MS: u64 = 3_600_000;

/// A closed sum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeterEvent {
    /// Who closed it, and when: unique for each closing.
    batch: String,
    /// The hour in which its requests finished, milliseconds since 1970.
    pub hour_ms: u64,
    /// What was used.
    pub total: UsageTotal,
    /// Who pays. None: nobody any more.
    pub customer: Option<String>,
    /// What it is worth, once somebody has said so.
    pub value: Option<u64>,
    /// How often it was sent, this time included.
    pub tries: u64,
    /// When it was sent first, milliseconds since 1970.
    pub first_try_ms: u64,
}

impl MeterEvent {
    /// The same for each sending of this event, and for no other one.
    #[must_use]
    pub fn id(&self) -> String {
        let hour = self.hour_ms.to_string();
        let (tenant, model) = (self.total.tenant.as_str(), self.total.model.as_str());
        let mut hasher = Sha256::new();
        for part in [&self.batch, tenant, &hour, model, self.total.class.name()] {
            hasher.update((part.len() as u64).to_be_bytes());
            hasher.update(part);
        }
        let digits = hasher
            .finalize()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>();
        format!("vl_{}", &digits[..40])
    }
}

/// Events that are not taken yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MeterBacklog {
    /// Sums that grow, and events that wait.
    pub waiting: u64,
    /// Events that are not sent again by themselves.
    pub parked: u64,
}

/// Keeps metered usage.
#[async_trait]
pub trait MeterStore: Send + Sync + 'static {
    /// Closes sums that were begun before this time, as one batch of a name that was never used. How many.
    async fn close_meters(&self, batch: &str, before_ms: u64) -> Result<u64, LedgerError>;

    /// Events that are due, now this caller's until that time.
    async fn claim_meters(
        &self,
        now_ms: u64,
        until_ms: u64,
        limit: u32,
    ) -> Result<Vec<MeterEvent>, LedgerError>;

    /// Says what an event is worth, before it is sent first.
    async fn value_meter(&self, event: &MeterEvent, value: u64) -> Result<(), LedgerError>;

    /// An event was taken.
    async fn meter_sent(&self, event: &MeterEvent, now_ms: u64) -> Result<(), LedgerError>;

    /// An event is to be sent again then.
    async fn put_off_meter(&self, event: &MeterEvent, next_ms: u64) -> Result<(), LedgerError>;

    /// An event is for people to look at.
    async fn park_meter(&self, event: &MeterEvent, reason: &str) -> Result<(), LedgerError>;

    /// How much is not taken yet.
    async fn meter_backlog(&self) -> Result<MeterBacklog, LedgerError>;
}

const OPEN: &str = "batch <> '' AND sent_ms IS NULL AND parked IS NULL";
const KEY: &str = "tenant = ? AND hour_ms = ? AND model = ? AND class = ? AND batch = ?";

fn of_event(change: &str, event: &MeterEvent, first: crate::selection::Value) -> Statement {
    let total = &event.total;
    let values = [
        first,
        text(total.tenant.as_str()),
        count(event.hour_ms),
        text(total.model.as_str()),
        text(total.class.name()),
        text(&event.batch),
    ];
    Statement::new(format!("UPDATE meter_events SET {change} WHERE {KEY}"), values)
}

fn event(mut row: Cells) -> Result<MeterEvent, LedgerError> {
    let batch = row.text("batch")?;
    let tenant = TenantId::new(&row.text("tenant")?);
    let hour_ms = row.number("hour_ms")?;
    let model = ModelName::new(&row.text("model")?);
    let class = row.text("class")?;
    Ok(MeterEvent {
        batch,
        hour_ms,
        total: UsageTotal {
            tenant,
            model,
            class: BillingClass::named(&class).ok_or_else(|| foreign("class", class))?,
            requests: row.number("requests")?,
            prompt_tokens: row.number("prompt_tokens")?,
            cached_tokens: row.number("cached_tokens")?,
            completion_tokens: row.number("completion_tokens")?,
        },
        value: row.maybe_number("value")?,
        tries: row.number("tries")?,
        first_try_ms: row.number("first_try_ms")?,
        customer: row.maybe_text("customer")?,
    })
}

#[async_trait]
impl<D: Statements + 'static> MeterStore for D {
    async fn close_meters(&self, batch: &str, before_ms: u64) -> Result<u64, LedgerError> {
        let sql = "UPDATE meter_events SET batch = ? WHERE batch = '' AND opened_ms < ?";
        let statement = Statement::new(sql, [text(batch), count(before_ms)]);
        let closed = self.write(WRITING, vec![statement]).await?;
        Ok(closed.map_or(0, |rows| rows.iter().sum()))
    }

    async fn claim_meters(
        &self,
        now_ms: u64,
        until_ms: u64,
        limit: u32,
    ) -> Result<Vec<MeterEvent>, LedgerError> {
        // Of two that claim at once, the second sees in the row itself that it is not due any more.
        let sql = format!(
            "UPDATE meter_events SET next_ms = ?, tries = tries + 1, first_try_ms = coalesce(first_try_ms, ?) \
             WHERE {OPEN} AND next_ms <= ? AND (tenant, hour_ms, model, class, batch) IN \
             (SELECT tenant, hour_ms, model, class, batch FROM meter_events WHERE {OPEN} AND next_ms <= ? \
             ORDER BY next_ms, tenant, hour_ms, model, class LIMIT ?) \
             RETURNING batch, tenant, hour_ms, model, class, requests, prompt_tokens, cached_tokens, \
             completion_tokens, value, tries, first_try_ms, \
             (SELECT customer FROM tenants WHERE tenants.tenant = meter_events.tenant)"
        );
        let values = [
            count(until_ms),
            count(now_ms),
            count(now_ms),
            count(now_ms),
            count(limit.into()),
        ];
        let rows = self.read(READING, Statement::new(sql, values)).await?;
        rows.into_iter().map(event).collect()
    }

    async fn value_meter(&self, event: &MeterEvent, value: u64) -> Result<(), LedgerError> {
        // From now on it counts how long ago it was sent first.
        let statement = of_event("value = ?, first_try_ms = NULL", event, count(value));
        self.change(WRITING, statement).await.map(|_| ())
    }

    async fn meter_sent(&self, event: &MeterEvent, now_ms: u64) -> Result<(), LedgerError> {
        let statement = of_event("sent_ms = ?", event, count(now_ms));
        self.change(WRITING, statement).await.map(|_| ())
    }

    async fn put_off_meter(&self, event: &MeterEvent, next_ms: u64) -> Result<(), LedgerError> {
        let statement = of_event("next_ms = ?", event, count(next_ms));
        self.change(WRITING, statement).await.map(|_| ())
    }

    async fn park_meter(&self, event: &MeterEvent, reason: &str) -> Result<(), LedgerError> {
        let statement = of_event("parked = ?", event, text(reason));
        self.change(WRITING, statement).await.map(|_| ())
    }

    async fn meter_backlog(&self) -> Result<MeterBacklog, LedgerError> {
        let sql = "SELECT CAST(coalesce(sum(CASE WHEN parked IS NULL THEN 1 ELSE 0 END), 0) AS BIGINT), \
                   CAST(coalesce(sum(CASE WHEN parked IS NULL THEN 0 ELSE 1 END), 0) AS BIGINT) \
                   FROM meter_events WHERE sent_ms IS NULL";
        let Some(mut row) = self.one(READING, Statement::new(sql, [])).await? else {
            return Ok(MeterBacklog::default());
        };
        Ok(MeterBacklog {
            waiting: row.number("waiting")?,
            parked: row.number("parked")?,
        })
    }
}
