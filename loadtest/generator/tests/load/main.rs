//! The load generator against servers that answer by script, over pipes, in time that tests move.

mod ends;
mod latency;
mod report;
mod requests;
mod server;
