//! Usage events from the bus into the ledger, once each.
//!
//! An event is acknowledged after the ledger has committed it. Until then the stream keeps it, and what is delivered
//! again is recognised by its request. An event that can never be recorded is put among the dead letters with the
//! reason, so that it holds up no other.

mod poison;
mod recorder;
mod service;
mod teeth;

pub use service::{UsageConfig, UsageParts, start};
