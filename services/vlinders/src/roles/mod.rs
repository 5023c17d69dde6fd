//! One role in a process of its own, over real servers.

mod database;
mod frontend;
mod process;
mod usage;
mod worker;

pub(crate) use frontend::run as run_frontend;
pub(crate) use usage::run as run_usage;
pub(crate) use worker::run as run_worker;
