//! The database at the start of a process.

use std::time::Duration;

use anyhow::Context;
use tokio::time::Instant;
use vlinders_ledger::{PostgresLedger, PostgresOptions};

/// Between two looks for a database that is not up yet.
const RETRY: Duration = Duration::from_millis(500);

/// Opens the database. One that is not up yet is waited for; one that refuses us is not.
pub(super) async fn open_database(
    options: PostgresOptions,
    limit: Duration,
) -> anyhow::Result<PostgresLedger> {
    let end = Instant::now() + limit;
    let mut is_told = false;
    loop {
        match PostgresLedger::open(options.clone()).await {
            Err(error) if error.is_retryable() && Instant::now() + RETRY < end => {
                if !is_told {
                    tracing::warn!(%error, "waiting for the database");
                    is_told = true;
                }
                tokio::time::sleep(RETRY).await;
            }
            opened => return opened.context("--database-url"),
        }
    }
}
