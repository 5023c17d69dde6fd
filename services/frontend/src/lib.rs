//! The HTTP side: an OpenAI-compatible server in front of the queue. It checks, tokenizes and enqueues requests, and
//! turns the step batches that come back into answers and event streams. It knows nothing of blocks or kernels.
//!
//! [`start`] serves on a listener that is already bound; it stops with the [`Tasks`] it was given: first it takes no
//! new connections and requests, then running streams finish, then the tasks behind them end.

mod admin;
mod app;
mod auth;
mod books;
mod caller;
mod config;
mod dialects;
mod entropy;
mod gate;
mod generate;
mod http;
mod kept;
mod limiter;
mod lives;
mod metrics;
mod models;
mod probes;
mod server;
mod spans;
mod standing;
mod streams;
mod tap;
mod tokens;
mod usage;
mod waiting_room;
mod workers;

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use vlinders_bus::{Bus, BusError, Spool};
use vlinders_service_kit::{Clock, Metrics, Stage, Tasks, Traces};
use vlinders_types::{FrontendId, ModelName};

use crate::app::App;
use crate::generate::{Forms, Preparer};
use crate::limiter::Settling;
use crate::lives::Lives;
use crate::metrics::FrontendMetrics;
use crate::standing::Standing;
use crate::streams::{BatchOrder, Canceller, Failover, FailoverRules, Streams, WayBack};
use crate::tap::Tap;
use crate::workers::Workers;

pub use admin::AdminParts;
pub use auth::{
    Anonymous, Authenticator, Credentials, FixedKey, KeyAuthenticator, KeyCacheConfig, KeySource,
    TokenAuthenticator, TokenConfig, TokenFault,
};
pub use books::Books;
pub use caller::Caller;
pub use config::FrontendConfig;
pub use entropy::{Entropy, SystemEntropy};
pub use kept::{BatchRules, Kept, KeptRules, ResponseKeeping};
pub use limiter::{
    Admission, BudgetUnit, Cost, DuringOutage, Exhausted, InProcessLimiter, Limiter, PastUse, RateLimit,
    RedisAddress, RedisFault, RedisLimiter, RedisLimits, Used, Window,
};
pub use models::{ModelFormats, NameTaken, ServedModel, ServedModels};
pub use standing::Tenants;
pub use tap::TapForm;
pub use waiting_room::wait_on;

/// Tells at once, asking nobody, whether something is connected now.
pub type IsUp = Arc<dyn Fn() -> bool + Send + Sync>;

/// What a frontend is made of.
pub struct FrontendParts {
    /// Carries requests out and tokens back. Its request stream exists already.
    pub bus: Arc<dyn Bus>,
    /// Whether this process is connected to it now.
    pub bus_is_up: IsUp,
    /// Keeps bills until the bus has them. Whoever made it runs it.
    pub spool: Spool,
    /// What is served.
    pub models: ServedModels,
    /// Who may come in.
    pub authenticator: Arc<dyn Authenticator>,
    /// And how often.
    pub limiter: Arc<dyn Limiter>,
    /// What was used, and what it costs.
    pub books: Books,
    /// Who pays, and who may go on.
    pub tenants: Tenants,
    /// The time of day.
    pub clock: Arc<dyn Clock>,
    /// Ids and seeds.
    pub entropy: Arc<dyn Entropy>,
    /// Runs and stops everything.
    pub tasks: Tasks,
    /// Shown at `/metrics`; shared with the process's other roles.
    pub metrics: Metrics,
    /// What became of single requests; shared with the process's other roles.
    pub traces: Traces,
    /// Where things are kept for tenants, if anywhere.
    pub kept: Option<Kept>,
    /// The operators' port, if there is to be one.
    pub admin: Option<AdminParts>,
    /// Limits.
    pub config: FrontendConfig,
}

/// A frontend that could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The listener has no address.
    #[error("the listener cannot be used")]
    Listener(#[from] std::io::Error),
    /// The bus refused a subscription.
    #[error("cannot listen on the bus")]
    Bus(#[from] BusError),
}

/// A running frontend. Dropping it changes nothing: the frontend stops with its tasks.
#[derive(Clone)]
pub struct FrontendHandle {
    address: SocketAddr,
    app: Arc<App>,
}

impl FrontendHandle {
    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its name on the bus, new in every life.
    #[must_use]
    pub fn id(&self) -> &FrontendId {
        &self.app.frontend
    }

    /// Requests queued or running.
    #[must_use]
    pub fn requests_in_flight(&self) -> usize {
        self.app.streams.running()
    }

    /// Every path it answers, with a method that does, as its routes are written.
    #[must_use]
    pub fn routes() -> Vec<(&'static str, &'static str)> {
        http::routes()
            .into_iter()
            .map(|route| (route.method, route.path))
            .collect()
    }

    /// The same of the operators' port.
    #[must_use]
    pub fn admin_routes() -> Vec<(&'static str, &'static str)> {
        admin::routes()
    }

    /// Whether a prefill and a decode worker are alive for this model.
    #[must_use]
    pub fn is_served(&self, model: &ModelName) -> bool {
        self.app.workers.serve(model, self.app.config.beacon_fresh)
    }
}

fn failover_rules(config: &FrontendConfig) -> FailoverRules {
    FailoverRules {
        queue: config.queue.clone(),
        first_token_patience: config.first_token_patience,
        max_attempts: config.max_attempts,
        beacon_fresh: config.beacon_fresh,
    }
}

/// Subscribes to the bus, then serves on `listener`.
///
/// # Errors
/// When the bus cannot be listened on.
pub async fn start(parts: FrontendParts, listener: TcpListener) -> Result<FrontendHandle, StartError> {
    let address = listener.local_addr()?;
    let frontend = FrontendId::new(&format!("{:016x}", parts.entropy.next_u64()));
    let metrics = Arc::new(FrontendMetrics::new(parts.metrics));
    let workers = Arc::new(Workers::default());
    let (canceller, cancels) =
        Canceller::new(Arc::clone(&parts.bus), Arc::clone(&workers), Arc::clone(&metrics));
    let (tap, flow) = Tap::new(parts.config.tap, &parts.bus, &metrics);
    if let Some(flow) = flow {
        let end = parts.tasks.stopping(Stage::Flush);
        parts.tasks.spawn(Stage::Flush, "frontend-tap", flow.run(end));
    }
    let in_flight = parts.config.requests_in_flight;
    let streams = Streams::new(in_flight, canceller, tap, Arc::clone(&metrics));
    let lives = Arc::new(Lives::new(parts.config.beacon_fresh));
    let failover = Failover {
        bus: Arc::clone(&parts.bus),
        spool: parts.spool,
        frontend: frontend.clone(),
        streams: Arc::clone(&streams),
        lives: Arc::clone(&lives),
        workers: Arc::clone(&workers),
        clock: Arc::clone(&parts.clock),
        metrics: Arc::clone(&metrics),
        rules: failover_rules(&parts.config),
    };
    let way = Arc::new(WayBack {
        bus: Arc::clone(&parts.bus),
        frontend: frontend.clone(),
        streams: Arc::clone(&streams),
        workers: Arc::clone(&workers),
        lives,
        metrics: Arc::clone(&metrics),
        order: BatchOrder::default().into(),
    });
    streams::spawn(way, cancels, failover, &parts.tasks, &parts.config).await?;
    let app = Arc::new(App {
        uploads: Semaphore::new(parts.kept.as_ref().map_or(0, |kept| kept.rules.uploads)),
        kept: parts.kept,
        tracer: parts.traces.tracer("vlinders-frontend", frontend.as_str()),
        frontend,
        bus: parts.bus,
        bus_is_up: parts.bus_is_up,
        forms: Forms::new(
            &parts.models,
            parts.config.compiling,
            parts.config.waiting_to_compile,
        ),
        models: parts.models,
        authenticator: parts.authenticator,
        settling: Settling::start(Arc::clone(&parts.limiter), &parts.tasks, metrics.all()),
        limiter: parts.limiter,
        books: parts.books,
        standing: Standing::watch(&parts.tenants, &parts.tasks).await,
        tenants: parts.tenants,
        started_s: parts.clock.now_ms() / 1000,
        clock: parts.clock,
        entropy: parts.entropy,
        metrics,
        streams,
        workers,
        preparer: Preparer::new(parts.config.preparing, parts.config.waiting_to_prepare),
        body_memory: Arc::new(Semaphore::new(parts.config.body_memory_bytes / 1024)),
        stopping: parts.tasks.stopping(Stage::Intake),
        config: parts.config,
    });
    kept::start(&app, &parts.tasks);
    serve(&app, listener, parts.admin, &parts.tasks);
    Ok(FrontendHandle { address, app })
}

fn serve(app: &Arc<App>, clients: TcpListener, admin: Option<AdminParts>, tasks: &Tasks) {
    if let Some(admin) = admin {
        server::spawn(Arc::clone(app), admin::service(app, admin), tasks);
    }
    let clients = (http::router(Arc::clone(app)), clients);
    server::spawn(Arc::clone(app), clients, tasks);
}
