//! The ledger: what was used, once for each request. The only crate that speaks SQL.

#[cfg(feature = "conformance")]
pub mod conformance;
mod contract;
mod sqlite;

pub use contract::{Ledger, LedgerError, Recorded, UsageQuery, UsageTotal};
pub use sqlite::SqliteLedger;
