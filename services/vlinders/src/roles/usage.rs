//! `vlinders usage`: usage events into Postgres.

use std::sync::Arc;
use std::time::Duration;

use vlinders_billing::MeterParts;
use vlinders_usage::{UsageConfig, UsageParts};

use super::database::open_database;
use super::process::Starting;
use crate::greeting::greet_operators;
use crate::settings::{StripeSettings, UsageRoleSettings};
use crate::streams;

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
    let (process, ledger) = tokio::try_join!(
        starting.connect(settings.nats),
        open_database(settings.database, limit)
    )?;
    streams::ensure_usage(&*process.bus).await?;
    let ledger = Arc::new(ledger);
    if let Some(StripeSettings(config)) = settings.stripe {
        let parts = MeterParts {
            ledger: Arc::clone(&ledger) as _,
            prices: settings.prices.map(Arc::new),
            tasks: process.tasks.clone(),
            metrics: process.metrics.clone(),
            clock: Arc::clone(&process.clock),
        };
        vlinders_billing::start(config, parts);
    }
    let parts = UsageParts {
        bus: Arc::clone(&process.bus) as _,
        ledger,
        tasks: process.tasks.clone(),
        metrics: process.metrics.clone(),
        clock: Arc::clone(&process.clock),
    };
    vlinders_usage::start(UsageConfig::default(), parts).await?;
    greet_operators(settings.log.format(), "usage", health)?;
    process.serve(Duration::ZERO).await
}
