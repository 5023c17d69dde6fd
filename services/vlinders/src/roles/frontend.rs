//! `vlinders frontend`: the HTTP side of a cluster.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::net::TcpListener;
use vlinders_frontend::{
    AdminParts, Books, FrontendConfig, FrontendParts, InProcessLimiter, Kept, Limiter, PastUse, RedisLimiter,
    ServedModels, SystemEntropy, Tenants,
};
use vlinders_ledger::{PostgresLedger, PostgresOptions, PriceTable};

use super::database::open_database;
use super::process::{Process, Starting};
use crate::credentials::Doorkeeping;
use crate::greeting::greet_clients;
use crate::operators::Opening;
use crate::serving::served;
use crate::settings::{AccessSettings, AdminSettings, FrontendSettings, RateSettings};
use crate::streams;
use crate::watches::watch_queue;

/// How long clients have to read their last event.
const PARTING: Duration = Duration::from_secs(1);

/// Runs until a signal.
///
/// # Errors
/// When a model, the port or a server does not allow it to start.
pub(crate) fn run(settings: FrontendSettings) -> anyhow::Result<()> {
    settings.log.start()?.block_on(serve(settings))
}

async fn serve(settings: FrontendSettings) -> anyhow::Result<()> {
    // The port comes first: a taken one should not cost the waiting for others.
    let listener = TcpListener::bind(settings.listen).await;
    let listener = listener.with_context(|| format!("--listen: cannot listen on {}", settings.listen))?;
    let starting = Starting::new()?;
    let models = tokio::task::block_in_place(|| {
        let models: anyhow::Result<Vec<_>> = settings.models.iter().map(served).collect();
        anyhow::Ok(ServedModels::new(models?)?)
    })?;
    let open_metrics = settings.access.open_metrics;
    let limit = settings.nats.start_limit;
    let connected = Box::pin(starting.connect(settings.nats));
    let (listener, process) = vlinders_frontend::wait_on(listener, connected).await?;
    let process = process?;
    streams::ensure_requests(&*process.bus, settings.queue).await?;
    streams::make_missing(&*process.bus, settings.queue).await?;
    let ledger = ledger(settings.database, limit).await?;
    let (books, tenants) = accounts(ledger.clone(), settings.prices, settings.webhook_secret);
    let admin = operators_port(
        &settings.access,
        settings.admin.as_ref(),
        ledger.clone(),
        &process,
    )
    .await?;
    let names: Vec<String> = models.names().map(|(name, _)| name.to_owned()).collect();
    let bus = Arc::clone(&process.bus);
    let parts = FrontendParts {
        bus: Arc::clone(&process.bus) as _,
        bus_is_up: Arc::new(move || bus.is_up()),
        spool: process.open_spool(&settings.spool).await?,
        models,
        authenticator: Doorkeeping {
            store: ledger.clone().map(|ledger| ledger as _),
            access: &settings.access,
            tokens: &settings.tokens,
            clock: Arc::clone(&process.clock),
            tasks: &process.tasks,
            metrics: &process.metrics,
        }
        .begin()?,
        limiter: limiter(settings.rate, &books, &process)?,
        books,
        clock: Arc::clone(&process.clock),
        entropy: Arc::new(SystemEntropy::default()),
        tasks: process.tasks.clone(),
        metrics: process.metrics.clone(),
        kept: ledger.map(|store| Kept {
            store,
            rules: settings.kept,
        }),
        traces: settings.log.start_traces(&process.tasks, &process.metrics)?,
        admin,
        tenants,
        config: FrontendConfig {
            request_deadline: settings.queue.request_deadline,
            drain: settings.drain,
            tap: settings.tap,
            open_metrics,
            ..FrontendConfig::default()
        },
    };
    watch_queue(Arc::clone(&process.bus) as _, &process.tasks, &process.metrics);
    let handle = vlinders_frontend::start(parts, listener).await?;
    greet_clients(settings.log.format(), handle.address(), &names)?;
    process.serve(settings.drain + PARTING).await
}

/// What is known of usage and of those who pay for it.
fn accounts(
    ledger: Option<Arc<PostgresLedger>>,
    prices: Option<PriceTable>,
    webhook_secret: Option<String>,
) -> (Books, Tenants) {
    let books = Books {
        reports: ledger.clone().map(|ledger| ledger as _),
        prices: prices.map(Arc::new),
    };
    let tenants = Tenants {
        store: ledger.map(|ledger| ledger as _),
        webhook_secret: webhook_secret.map(Into::into),
    };
    (books, tenants)
}

/// Waits for the database, if there is one, as long as for the other servers.
async fn ledger(
    database: Option<PostgresOptions>,
    limit: Duration,
) -> anyhow::Result<Option<Arc<PostgresLedger>>> {
    Ok(match database {
        Some(database) => Some(Arc::new(open_database(database, limit).await?)),
        None => None,
    })
}

/// Operators are served where there are keys.
async fn operators_port(
    access: &AccessSettings,
    admin: Option<&AdminSettings>,
    ledger: Option<Arc<PostgresLedger>>,
    process: &Process,
) -> anyhow::Result<Option<AdminParts>> {
    let Some(store) = ledger else { return Ok(None) };
    let opening = Opening {
        access,
        store,
        clock: Arc::clone(&process.clock),
        metrics: &process.metrics,
    };
    opening.open(admin).await
}

fn limiter(rate: RateSettings, books: &Books, process: &Process) -> anyhow::Result<Arc<dyn Limiter>> {
    let clock = Arc::clone(&process.clock);
    let past = books.reports.clone().map(|reports| {
        let past = PastUse::new(reports, books.prices.clone());
        Arc::new(past)
    });
    Ok(match rate {
        RateSettings::Unlimited => Arc::new(InProcessLimiter::unlimited(clock).with_past(past)),
        RateSettings::Local { per_minute } => {
            Arc::new(InProcessLimiter::per_minute(per_minute, clock).with_past(past))
        }
        RateSettings::Shared { address, limits } => {
            let limiter = RedisLimiter::new(&address, limits, clock, &process.metrics)?;
            let limiter = Arc::new(limiter.with_past(past));
            limiter.watch(&process.tasks);
            limiter
        }
    })
}
