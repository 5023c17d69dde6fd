//! The ledger: what was used, once for each request, and the keys it was used with. The only crate that speaks SQL.

#[cfg(feature = "conformance")]
pub mod conformance;
mod contract;
mod keys;
mod money;
mod postgres;
mod rows;
mod selection;
mod sqlite;

pub use contract::{Ledger, LedgerError, Recorded, UsagePeriod, UsageQuery, UsageReports, UsageTotal};
pub use keys::{
    ApiKey, Budget, KeyDigest, KeyLimits, KeyRules, KeySecret, KeyStore, NewKey, NewSecret, NoRandomness,
    Scope, Scopes, StoredKey, UnknownScope, new_key_id,
};
pub use money::{Amount, Factor, PriceTable, Rates, Tokens};
pub use postgres::{PostgresLedger, PostgresOptions};
pub use sqlite::SqliteLedger;
