//! `vlinders usage`: usage events into Postgres.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::time::Instant;
use vlinders_ledger::{PostgresLedger, PostgresOptions};
use vlinders_usage::{UsageConfig, UsageParts};

use super::process::Starting;
use crate::greeting::greet_operators;
use crate::settings::UsageRoleSettings;
use crate::streams;

/// Between two looks for a database that is not up yet.
const RETRY: Duration = Duration::from_millis(500);

/// Runs until a signal.
///
/// # Errors
/// When the database, a port or a server does not allow it to start.
pub(crate) fn run(settings: UsageRoleSettings) -> anyhow::Result<()> {
    settings.log.start()?.block_on(serve(settings))
}

async fn serve(settings: UsageRoleSettings) -> anyhow::Result<()> {
    let starting = Starting::new()?;
    let health = starting.open_health_port(settings.health_listen).await?;
    let limit = settings.nats.start_limit;
    // Side by side: whichever refuses us is told at once, however long the other one lets us wait.
    let (process, ledger) =
        tokio::try_join!(starting.connect(settings.nats), open(settings.database, limit))?;
    streams::ensure_usage(&*process.bus).await?;
    let parts = UsageParts {
        bus: Arc::clone(&process.bus) as _,
        ledger: Arc::new(ledger),
        tasks: process.tasks.clone(),
        metrics: process.metrics.clone(),
        clock: Arc::clone(&process.clock),
    };
    vlinders_usage::start(UsageConfig::default(), parts).await?;
    greet_operators("usage", health)?;
    process.serve(Duration::ZERO).await
}

/// Opens the database. One that is not up yet is waited for; one that refuses us is not.
async fn open(options: PostgresOptions, limit: Duration) -> anyhow::Result<PostgresLedger> {
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
