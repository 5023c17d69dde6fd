//! The way back: from step batches on the bus to the clients' streams.

mod assembly;
mod batches;
mod canceller;
mod claim;
mod course;
mod failover;
mod scores;
mod stream;
mod sweep;
mod table;
mod tasks;

pub(crate) use assembly::{End, GivenUp, News};
pub(crate) use batches::BatchOrder;
pub(crate) use canceller::Canceller;
pub(crate) use claim::Claim;
pub(crate) use failover::{Failover, FailoverRules};
pub(crate) use stream::{Stream, StreamSpec};
pub(crate) use table::Streams;
#[cfg(test)]
pub(crate) use table::tests::request as test_request;
pub(crate) use tasks::{WayBack, spawn};
