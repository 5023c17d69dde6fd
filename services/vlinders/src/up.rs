//! `vlinders up`: every role in one process, over the in-process bus, with SQLite for usage.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::net::TcpListener;
use vlinders_billing::MeterParts;
use vlinders_bus::{Bus, InProcessBus, InProcessLimits, Spool, SpoolSync, SpoolUntil};
use vlinders_engine::{Engine, EngineFacts};
use vlinders_frontend::{
    AdminParts, Authenticator, Books, FrontendConfig, FrontendHandle, FrontendParts, InProcessLimiter, Kept,
    PastUse, ServedModel, ServedModels, SystemEntropy, Tenants,
};
use vlinders_kernel_api::Urgency;
use vlinders_kv_transfer::{KvTransport, MemTransport};
use vlinders_ledger::SqliteLedger;
use vlinders_service_kit::{Clock, Metrics, Pulse, StopSignals, SystemClock, Tasks, Traces};
use vlinders_types::{Epoch, ModelName};
use vlinders_usage::{UsageConfig, UsageParts};
use vlinders_worker::{Parting, Role};

use crate::credentials::Doorkeeping;
use crate::greeting::greet_clients;
use crate::operators::Opening;
use crate::serving::{Model, formats_of};
use crate::settings::{REQUESTS_OF_A_KEY, StripeSettings, UpRole, UpSettings, data_dir};
use crate::spool::{SpoolParts, SpoolSettings, open_spool};
use crate::streams;
use crate::watches::{watch_gpu, watch_queue};
use crate::workers::{Surroundings, WorkerOrder};

/// How long requests that run may go on after the first Ctrl-C.
const DRAIN: Duration = Duration::from_secs(20);
/// How long workers let cut-off requests go on.
const CUT: Duration = Duration::from_millis(100);
/// How long clients have to read their last event.
const PARTING: Duration = Duration::from_secs(1);
/// How long everything else may take to stop.
const STOP: Duration = Duration::from_secs(10);
/// Where usage waits for the ledger, in the data folder, and how long until that survives a loss of power.
const SPOOL: &str = "spool";
const SYNC: Duration = Duration::from_millis(200);
/// How long the workers may take to report themselves.
const READY: Duration = Duration::from_secs(3);

/// Runs until Ctrl-C.
///
/// # Errors
/// When the model, the port or the data folder does not allow it to start.
pub(crate) fn run(settings: UpSettings) -> anyhow::Result<()> {
    settings.log.start()?.block_on(serve(settings))
}

async fn serve(settings: UpSettings) -> anyhow::Result<()> {
    // The port comes first: a taken one should not cost the loading of a model.
    let listener = TcpListener::bind(settings.listen).await;
    let listener = listener.with_context(|| format!("--listen: cannot listen on {}", settings.listen))?;
    let mut up = Up::new(&settings).await?;
    let (model, engines) = tokio::task::block_in_place(|| {
        let model = Model::load(&settings.model, &settings.engine, false)?;
        let engines = Engines::new(&model, &settings)?;
        anyhow::Ok((model, engines))
    })?;
    // Who listens for beacons starts before who sends them: then everything is ready with the first ones.
    let handle = up
        .start_frontend(&settings, &model, engines.facts(), listener)
        .await?;
    up.start_workers(&settings, &model, engines).await?;
    // The roles have it; when they are gone nobody has.
    up.spool = None;
    until_served(&handle, &model.name).await;
    // Before the greeting: whoever reads it may stop us at once.
    let mut signals = StopSignals::watch().context("signals cannot be watched")?;
    greet_clients(
        settings.log.format(),
        handle.address(),
        &[model.name.as_str().to_owned()],
    )?;

    let (failed, front_failed) = (up.tasks.failed(), up.front.failed());
    let signal = tokio::select! {
        signal = signals.next() => signal,
        () = failed.cancelled() => "a failed task",
        () = front_failed.cancelled() => "a failed task",
    };
    tracing::info!(
        cause = signal,
        "stopping; running requests may finish, a second Ctrl-C ends them"
    );
    // The workers go on until the last stream has its answer.
    tokio::select! {
        drained = up.front.stop(DRAIN + PARTING) => {
            if let Err(late) = drained {
                tracing::warn!(%late, "requests are cut off");
            }
        }
        _ = signals.next() => tracing::warn!("requests are cut off"),
    }
    up.tasks
        .stop(STOP)
        .await
        .context("not everything stopped in time")?;
    // Answers that were cut have ended by now; their clients shall read so.
    if up.front.stop(PARTING).await.is_err() {
        tracing::warn!("some clients were not told that their answers are cut");
    }
    let any_failed = failed.is_cancelled() || front_failed.is_cancelled();
    anyhow::ensure!(!any_failed, "a task failed; the log has the reason");
    Ok(())
}

/// Waits for the workers' first beacons, so that whoever reads the greeting finds everything ready.
async fn until_served(handle: &FrontendHandle, model: &ModelName) {
    let served = async {
        while !handle.is_served(model) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    if tokio::time::timeout(READY, served).await.is_err() {
        tracing::warn!("no worker has reported itself yet");
    }
}

/// One engine per worker, over the same weights.
enum Engines {
    Split {
        prefill: Box<dyn Engine>,
        decode: Box<dyn Engine>,
    },
    Both(Box<dyn Engine>),
}

impl Engines {
    fn new(model: &Model, settings: &UpSettings) -> anyhow::Result<Self> {
        let count = match settings.role {
            UpRole::Split => 2,
            UpRole::Both => 1,
        };
        let decode = model.engine(&settings.engine, Urgency::Decode, count)?;
        Ok(match settings.role {
            UpRole::Split => Self::Split {
                prefill: model.engine(&settings.engine, Urgency::Prefill, 1)?,
                decode,
            },
            UpRole::Both => Self::Both(decode),
        })
    }

    /// The sizes of the engine that generates; those of all are alike.
    fn facts(&self) -> &EngineFacts {
        match self {
            Self::Split { decode, .. } => decode.facts(),
            Self::Both(engine) => engine.facts(),
        }
    }
}

/// The parts every role shares.
struct Up {
    /// The frontend's tasks stop first: what it has accepted needs everything else.
    front: Tasks,
    tasks: Tasks,
    metrics: Metrics,
    traces: Traces,
    clock: Arc<dyn Clock>,
    bus: Arc<dyn Bus>,
    /// Once it is open.
    ledger: Option<Arc<SqliteLedger>>,
    /// Until the roles are started.
    spool: Option<Spool>,
    mem: Arc<MemTransport>,
}

impl Up {
    /// The bus with its streams, and the ledger behind it.
    async fn new(settings: &UpSettings) -> anyhow::Result<Self> {
        let bus: Arc<dyn Bus> = Arc::new(InProcessBus::new(InProcessLimits::default()));
        streams::ensure_requests(&*bus, settings.queue).await?;
        streams::ensure_usage(&*bus).await?;
        let (tasks, metrics) = (Tasks::new(), Metrics::of_process(env!("CARGO_PKG_VERSION")));
        let mut up = Self {
            front: Tasks::new(),
            traces: settings.log.start_traces(&tasks, &metrics)?,
            tasks,
            metrics,
            clock: Arc::new(SystemClock),
            bus,
            ledger: None,
            spool: None,
            mem: MemTransport::new(),
        };
        watch_queue(Arc::clone(&up.bus), &up.tasks, &up.metrics);
        up.start_usage(settings).await?;
        up.spool = Some(up.open_spool(settings).await?);
        Ok(up)
    }

    async fn start_usage(&mut self, settings: &UpSettings) -> anyhow::Result<()> {
        let folder = data_dir(settings.data_dir.as_ref())?;
        std::fs::create_dir_all(&folder)
            .with_context(|| format!("--data-dir: cannot create {}", folder.display()))?;
        let path = folder.join(crate::ledger::LEDGER_FILE);
        let ledger = SqliteLedger::open(&path)
            .with_context(|| format!("--data-dir: cannot open {}", path.display()))?;
        let ledger = Arc::new(ledger);
        self.ledger = Some(Arc::clone(&ledger));
        if let Some(StripeSettings(config)) = &settings.stripe {
            let parts = MeterParts {
                ledger: Arc::clone(&ledger) as _,
                prices: settings.prices.clone().map(Arc::new),
                tasks: self.tasks.clone(),
                metrics: self.metrics.clone(),
                clock: Arc::clone(&self.clock),
            };
            vlinders_billing::start(config.clone(), parts);
        }
        let parts = UsageParts {
            bus: Arc::clone(&self.bus),
            ledger,
            tasks: self.tasks.clone(),
            metrics: self.metrics.clone(),
            clock: Arc::clone(&self.clock),
        };
        vlinders_usage::start(UsageConfig::default(), parts).await?;
        Ok(())
    }

    /// Keys lie beside usage.
    fn authenticator(&self, settings: &UpSettings) -> anyhow::Result<Arc<dyn Authenticator>> {
        let store = self.ledger.clone().context("the ledger is opened first")?;
        let doorkeeping = Doorkeeping {
            access: &settings.access,
            tokens: &settings.tokens,
            store: Some(store),
            clock: Arc::clone(&self.clock),
            tasks: &self.front,
            metrics: &self.metrics,
        };
        doorkeeping.begin()
    }

    async fn operators_port(&self, settings: &UpSettings) -> anyhow::Result<Option<AdminParts>> {
        let opening = Opening {
            access: &settings.access,
            store: self.ledger.clone().context("the ledger is opened first")?,
            clock: Arc::clone(&self.clock),
            metrics: &self.metrics,
        };
        opening.open(settings.admin.as_ref()).await
    }

    /// Usage lies beside keys.
    fn books(&self, settings: &UpSettings) -> anyhow::Result<Books> {
        let ledger = self.ledger.clone().context("the ledger is opened first")?;
        Ok(Books {
            reports: Some(ledger),
            prices: settings.prices.clone().map(Arc::new),
        })
    }

    fn limiter(&self, settings: &UpSettings, books: &Books) -> InProcessLimiter {
        let clock = Arc::clone(&self.clock);
        let past = books
            .reports
            .clone()
            .map(|reports| PastUse::new(reports, books.prices.clone()));
        let limiter = if settings.access.requires_keys {
            InProcessLimiter::per_minute(REQUESTS_OF_A_KEY, clock)
        } else {
            InProcessLimiter::unlimited(clock)
        };
        limiter.with_past(past.map(Arc::new))
    }

    fn spool(&self) -> anyhow::Result<Spool> {
        self.spool.clone().context("the roles have been started already")
    }

    async fn open_spool(&self, settings: &UpSettings) -> anyhow::Result<Spool> {
        let parts = SpoolParts {
            settings: &SpoolSettings {
                folder: data_dir(settings.data_dir.as_ref())?.join(SPOOL),
                sync: SpoolSync::Every(SYNC),
                confirm_within: None,
            },
            // The bus ends with this process: only the ledger remains.
            until: SpoolUntil::Handled,
            bus: Arc::clone(&self.bus),
            tasks: &self.tasks,
            metrics: &self.metrics,
            clock: Arc::clone(&self.clock),
        };
        open_spool(parts).await
    }

    async fn start_workers(
        &self,
        settings: &UpSettings,
        model: &Model,
        engines: Engines,
    ) -> anyhow::Result<()> {
        let surroundings = Surroundings {
            bus: Arc::clone(&self.bus),
            spool: self.spool()?,
            tasks: self.tasks.clone(),
            metrics: self.metrics.clone(),
            traces: self.traces.clone(),
            clock: Arc::clone(&self.clock),
            epoch: Epoch(self.clock.now_ms()),
        };
        if model.is_on_gpu() {
            watch_gpu(&self.tasks, &self.metrics);
        }
        let order = |role, name, engine| WorkerOrder {
            role,
            name,
            model,
            settings: &settings.engine,
            engine,
            transports: vec![Arc::clone(&self.mem) as Arc<dyn KvTransport>],
            // Workers stop after the frontend: what still runs then was cut off.
            drain_limit: CUT,
            parting: Parting::End,
            // Nobody starts this process again.
            pulse: Pulse::default(),
        };
        match engines {
            Engines::Split { prefill, decode } => {
                surroundings
                    .start(order(Role::Prefill, "prefill-0", prefill))
                    .await?;
                surroundings.start(order(Role::Decode, "decode-0", decode)).await
            }
            Engines::Both(engine) => surroundings.start(order(Role::Both, "worker-0", engine)).await,
        }
    }

    async fn start_frontend(
        &self,
        settings: &UpSettings,
        model: &Model,
        facts: &EngineFacts,
        listener: TcpListener,
    ) -> anyhow::Result<FrontendHandle> {
        let served = ServedModel {
            name: model.name.clone(),
            aliases: settings.model.aliases.clone(),
            formats: formats_of(&settings.model, &model.text),
            text: Arc::clone(&model.text),
            max_context_tokens: facts.max_context_tokens,
            vocabulary: facts.vocabulary,
            hidden: facts.hidden,
            pooling: model.pooling,
        };
        let config = FrontendConfig {
            request_deadline: settings.queue.request_deadline,
            drain: DRAIN,
            open_metrics: settings.access.open_metrics,
            ..FrontendConfig::default()
        };
        let books = self.books(settings)?;
        let parts = FrontendParts {
            bus: Arc::clone(&self.bus),
            // It lies in this process.
            bus_is_up: Arc::new(|| true),
            spool: self.spool()?,
            models: ServedModels::new(vec![served])?,
            authenticator: self.authenticator(settings)?,
            limiter: Arc::new(self.limiter(settings, &books)),
            books,
            clock: Arc::clone(&self.clock),
            entropy: Arc::new(SystemEntropy::default()),
            tasks: self.front.clone(),
            metrics: self.metrics.clone(),
            traces: self.traces.clone(),
            kept: self.ledger.clone().map(|store| Kept {
                store,
                rules: settings.kept.clone(),
            }),
            admin: self.operators_port(settings).await?,
            tenants: Tenants {
                store: self.ledger.clone().map(|ledger| ledger as _),
                webhook_secret: settings.webhook_secret.as_deref().map(Into::into),
            },
            config,
        };
        Ok(vlinders_frontend::start(parts, listener).await?)
    }
}
