//! The bus over a real NATS server keeps every promise of a bus, and what only servers can do to it: come late, be too
//! old, refuse, stop and start again.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

mod conforms;
mod consumers;
mod outages;
mod refusals;
mod server;
mod tls;
mod usage;
