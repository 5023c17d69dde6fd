//! The usage service: events from the bus into the ledger, acknowledged after the commit.

mod service;

pub use service::{UsageConfig, UsageParts, start};
