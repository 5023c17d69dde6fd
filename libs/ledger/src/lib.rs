//! The ledger: what was used, once for each request, the keys it was used with, and what is kept for tenants: responses,
//! files and batches. The only crate that speaks SQL.

#[cfg(feature = "conformance")]
pub mod conformance;
mod contract;
mod kept;
mod keys;
mod money;
mod postgres;
mod rows;
mod selection;
mod sqlite;
mod statements;

pub use contract::{Ledger, LedgerError, Recorded, UsagePeriod, UsageQuery, UsageReports, UsageTotal};
pub use kept::{
    Arrival, BatchEnding, BatchEvent, BatchStatus, BatchStore, Deletion, FilePage, FilePurpose, FileStore,
    IllegalBatchStep, KeptStore, LineResult, NewBatch, ResponseStore, StoredBatch, StoredFile,
    StoredResponse,
};
pub use keys::{
    ApiKey, Budget, KeyDigest, KeyLimits, KeyRules, KeySecret, KeyStore, NewKey, NewSecret, NoRandomness,
    Scope, Scopes, StoredKey, UnknownScope, new_key_id,
};
pub use money::{
    Amount, Factor, MeterBacklog, MeterEvent, MeterStore, Notice, Noticed, PriceTable, Rates, TenantAccount,
    TenantStore, Tokens,
};
pub use postgres::{PostgresLedger, PostgresOptions};
pub use sqlite::SqliteLedger;
