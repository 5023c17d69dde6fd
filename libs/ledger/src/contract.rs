//! The [`Ledger`] trait.

use async_trait::async_trait;
use vlinders_types::{BillingClass, KeyId, ModelName, TenantId, UsageEvent};

/// A failed ledger operation.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The database refused or failed.
    #[error("ledger: {what}")]
    Database {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The ledger refuses these events for what they are. It would refuse them again; others it takes.
    #[error("ledger: {what}")]
    Refused {
        /// What was tried.
        what: &'static str,
        /// Why it is refused.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The ledger cannot be used as it is set up: an address, a password or a right has to be changed first.
    #[error("ledger: {what}")]
    Unusable {
        /// What was tried.
        what: &'static str,
        /// What has to be changed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The database holds something this version did not write.
    #[error("ledger: {what} `{found}` is not known to this version")]
    Foreign {
        /// Which column or number.
        what: &'static str,
        /// What it holds.
        found: String,
    },
    /// The ledger was closed.
    #[error("ledger: closed")]
    Closed,
}

impl LedgerError {
    /// Whether the same call may succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Database { .. } => true,
            Self::Refused { .. } | Self::Unusable { .. } | Self::Foreign { .. } | Self::Closed => false,
        }
    }

    /// Whether the events themselves are at fault, so that others may still be recorded.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused { .. })
    }
}

/// What became of recorded events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Recorded {
    /// New in the ledger.
    pub inserted: u64,
    /// Of requests the ledger had already; it is unchanged by them.
    pub duplicates: u64,
}

/// Which usage is asked for. The default asks for everything.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct UsageQuery {
    /// Only this tenant's.
    pub tenant: Option<TenantId>,
    /// Only with this key.
    pub key: Option<KeyId>,
    /// Only of this model.
    pub model: Option<ModelName>,
    /// Finished at or after this, milliseconds since 1970.
    pub from_ms: Option<u64>,
    /// Finished before this, milliseconds since 1970.
    pub until_ms: Option<u64>,
    /// Accepted at or after this, milliseconds since 1970.
    pub begun_from_ms: Option<u64>,
    /// Accepted before this, milliseconds since 1970.
    pub begun_until_ms: Option<u64>,
    /// The newest so many requests, or the first so many lines of sums by stretch; none means all. Totals ignore it.
    pub limit: Option<u32>,
}

/// The usage of one tenant and model at one price.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageTotal {
    /// Who.
    pub tenant: TenantId,
    /// Of what.
    pub model: ModelName,
    /// At which price.
    pub class: BillingClass,
    /// Requests.
    pub requests: u64,
    /// Prompt tokens, cached ones included.
    pub prompt_tokens: u64,
    /// Prompt tokens found in a cache.
    pub cached_tokens: u64,
    /// Generated tokens.
    pub completion_tokens: u64,
}

/// The usage of one tenant and model at one price in one stretch of time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsagePeriod {
    /// When it begins, milliseconds since 1970.
    pub start_ms: u64,
    /// What was used in it.
    pub total: UsageTotal,
}

/// Reads usage as bills have it.
#[async_trait]
pub trait UsageReports: Ledger {
    /// Sums by stretch of `period_ms`, tenant, model and class, sorted by these; a request belongs to the stretch in which it
    /// finished. They are summed up when they are asked for: asking twice changes nothing, and what came late is in them.
    /// Empty stretches are left out.
    async fn periods(&self, query: &UsageQuery, period_ms: u64) -> Result<Vec<UsagePeriod>, LedgerError>;
}

/// Keeps usage.
#[async_trait]
pub trait Ledger: Send + Sync + 'static {
    /// Records events, all or none. An event of a request that is recorded already changes nothing.
    async fn record(&self, events: &[UsageEvent]) -> Result<Recorded, LedgerError>;

    /// Recorded requests, newest first.
    async fn usage(&self, query: &UsageQuery) -> Result<Vec<UsageEvent>, LedgerError>;

    /// Sums by tenant, model and class, sorted by these.
    async fn totals(&self, query: &UsageQuery) -> Result<Vec<UsageTotal>, LedgerError>;
}
