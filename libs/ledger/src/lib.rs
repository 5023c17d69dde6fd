//! The ledger: what was used, once for each request. The only crate that speaks SQL.

#[cfg(feature = "conformance")]
pub mod conformance;
mod contract;
mod postgres;
mod rows;
mod selection;
mod sqlite;

pub use contract::{Ledger, LedgerError, Recorded, UsageQuery, UsageTotal};
pub use postgres::{PostgresLedger, PostgresOptions};
pub use sqlite::SqliteLedger;
