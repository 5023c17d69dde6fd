//! `vlinders up`: every role in one process, over the in-process bus, with SQLite for usage.

mod model;

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::net::TcpListener;
use vlinders_bus::{Bus, InProcessBus, InProcessLimits, StreamName, StreamRules};
use vlinders_engine::{Engine, EngineFacts};
use vlinders_frontend::{
    Anonymous, FrontendConfig, FrontendHandle, FrontendParts, InProcessLimiter, ServedModel, ServedModels,
    SystemEntropy,
};
use vlinders_kv_transfer::{Endpoint, EndpointConfig, KvTransport, MemTransport};
use vlinders_ledger::{Ledger, SqliteLedger};
use vlinders_service_kit::{Clock, Metrics, StopSignals, SystemClock, Tasks, init_logging};
use vlinders_types::{Epoch, ModelName, WorkerId};
use vlinders_usage::{UsageConfig, UsageParts};
use vlinders_worker::{Role, WorkerConfig, WorkerParts};

use self::model::{Engines, Model};
use crate::settings::{UpArgs, data_dir};

/// How long requests that run may go on after the first Ctrl-C.
const DRAIN: Duration = Duration::from_secs(20);
/// How long workers let cut-off requests go on.
const CUT: Duration = Duration::from_millis(100);
/// How long clients have to read their last event.
const PARTING: Duration = Duration::from_secs(1);
/// How long everything else may take to stop.
const STOP: Duration = Duration::from_secs(10);
/// How long the workers may take to report themselves.
const READY: Duration = Duration::from_secs(3);
/// Usage events held for the ledger at most.
const USAGE_MESSAGES: u64 = 1_000_000;

/// Runs until Ctrl-C.
///
/// # Errors
/// When a setting, the model, the port or the data folder does not allow it to start.
pub(crate) fn run(args: UpArgs) -> anyhow::Result<()> {
    args.check()?;
    init_logging(&args.log_level, args.log_format)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("no threads to be had")?;
    runtime.block_on(serve(args))
}

async fn serve(args: UpArgs) -> anyhow::Result<()> {
    // The port comes first: a taken one should not cost the loading of a model.
    let listener = TcpListener::bind(args.listen).await;
    let listener = listener.with_context(|| format!("--listen: cannot listen on {}", args.listen))?;
    let up = Up::new(&args).await?;
    let model = tokio::task::block_in_place(|| Model::load(&args))?;
    let engines = model.engines(&args)?;
    // Who listens for beacons starts before who sends them: then everything is ready with the first ones.
    let handle = up
        .start_frontend(&args, &model, engines.facts(), listener)
        .await?;
    up.start_workers(&args, &model, engines).await?;
    until_served(&handle, &model.name).await;
    // Before the greeting: whoever reads it may stop us at once.
    let mut signals = StopSignals::watch().context("signals cannot be watched")?;
    greet(&handle, &model.name)?;

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

/// Says where it listens, with a line to paste. On standard output, so that scripts can read it.
fn greet(handle: &FrontendHandle, model: &ModelName) -> anyhow::Result<()> {
    let address = handle.address();
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "vlinders is listening on http://{address} and serves {model}. Try:"
    )?;
    writeln!(
        out,
        "curl http://{address}/v1/chat/completions -H 'content-type: application/json' \
         -d '{{\"model\":\"{model}\",\"messages\":[{{\"role\":\"user\",\"content\":\"What is Vlinders?\"}}]}}'"
    )?;
    out.flush()?;
    Ok(())
}

/// The parts every role shares.
struct Up {
    /// The frontend's tasks stop first: what it has accepted needs everything else.
    front: Tasks,
    tasks: Tasks,
    metrics: Metrics,
    clock: Arc<dyn Clock>,
    bus: Arc<dyn Bus>,
    mem: Arc<MemTransport>,
    epoch: Epoch,
}

impl Up {
    /// The bus with its streams, and the ledger behind it.
    async fn new(args: &UpArgs) -> anyhow::Result<Self> {
        let bus: Arc<dyn Bus> = Arc::new(InProcessBus::new(InProcessLimits::default()));
        let deadline = Duration::from_secs(args.request_deadline_s);
        let rules = |max_messages, max_age| StreamRules {
            max_messages,
            max_age,
            dedup_window: Duration::from_secs(120),
        };
        let day = Duration::from_secs(24 * 3600);
        bus.ensure_stream(StreamName::Requests, rules(args.max_queued_requests, deadline))
            .await?;
        bus.ensure_stream(StreamName::Usage, rules(USAGE_MESSAGES, 7 * day))
            .await?;
        bus.ensure_stream(StreamName::DeadLetters, rules(USAGE_MESSAGES, 30 * day))
            .await?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let up = Self {
            front: Tasks::new(),
            tasks: Tasks::new(),
            metrics: Metrics::default(),
            epoch: Epoch(clock.now_ms()),
            clock,
            bus,
            mem: MemTransport::new(),
        };
        up.start_usage(args).await?;
        Ok(up)
    }

    async fn start_usage(&self, args: &UpArgs) -> anyhow::Result<()> {
        let folder = data_dir(args.data_dir.as_ref())?;
        std::fs::create_dir_all(&folder)
            .with_context(|| format!("--data-dir: cannot create {}", folder.display()))?;
        let path = folder.join(crate::usage::LEDGER_FILE);
        let ledger = SqliteLedger::open(&path)
            .with_context(|| format!("--data-dir: cannot open {}", path.display()))?;
        let ledger: Arc<dyn Ledger> = Arc::new(ledger);
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

    async fn start_workers(&self, args: &UpArgs, model: &Model, engines: Engines) -> anyhow::Result<()> {
        match engines {
            Engines::Split { prefill, decode } => {
                let (config, parts) = self.worker(args, model, Role::Prefill, "prefill-0", prefill)?;
                vlinders_prefill::start(config, parts).await?;
                let (config, parts) = self.worker(args, model, Role::Decode, "decode-0", decode)?;
                vlinders_decode::start(config, parts).await?;
            }
            Engines::Both(engine) => {
                let (config, parts) = self.worker(args, model, Role::Both, "worker-0", engine)?;
                vlinders_worker::start(config, parts).await?;
            }
        }
        Ok(())
    }

    fn worker(
        &self,
        args: &UpArgs,
        model: &Model,
        role: Role,
        name: &str,
        engine: Box<dyn Engine>,
    ) -> anyhow::Result<(WorkerConfig, WorkerParts)> {
        let worker = WorkerId::new(name);
        let mut config = WorkerConfig::new(worker.clone(), self.epoch, role, model.name.clone());
        config.max_running = args.max_num_seqs;
        config.prefill_chunk_tokens = args.prefill_chunk_tokens;
        config.enable_prefix_caching = args.enable_prefix_caching;
        // Workers stop after the frontend: what still runs then was cut off.
        config.drain_limit = CUT;
        let clock = Arc::clone(&self.clock);
        let clock = Arc::new(move || clock.now_ms());
        let secret = random_bytes::<40>().context("no random numbers to be had")?;
        let (incarnation, ticket_key) = secret.split_at(8);
        let incarnation = u64::from_le_bytes(incarnation.try_into()?);
        let layout_hash = engine.facts().layout_hash;
        let mut endpoint =
            EndpointConfig::new(worker, incarnation, ticket_key.try_into()?, layout_hash, clock);
        // A sequence may have an ended hand-off beside the one under way.
        endpoint.max_hand_offs = 4 * args.max_num_seqs as usize;
        endpoint.max_pulls = 4 * args.max_num_seqs as usize;
        let transports: Vec<Arc<dyn KvTransport>> = vec![Arc::clone(&self.mem) as Arc<dyn KvTransport>];
        let parts = WorkerParts {
            bus: Arc::clone(&self.bus),
            text: Arc::clone(&model.text),
            endpoint: Endpoint::new(endpoint, engine.memory(), transports)?,
            engine,
            tasks: self.tasks.clone(),
            metrics: self.metrics.clone(),
            clock: Arc::clone(&self.clock),
        };
        Ok((config, parts))
    }

    async fn start_frontend(
        &self,
        args: &UpArgs,
        model: &Model,
        facts: &EngineFacts,
        listener: TcpListener,
    ) -> anyhow::Result<FrontendHandle> {
        let served = ServedModel {
            name: model.name.clone(),
            aliases: args.aliases.clone(),
            text: Arc::clone(&model.text),
            max_context_tokens: facts.max_context_tokens,
            vocabulary: facts.vocabulary,
        };
        let config = FrontendConfig {
            request_deadline: Duration::from_secs(args.request_deadline_s),
            drain: DRAIN,
            ..FrontendConfig::default()
        };
        let parts = FrontendParts {
            bus: Arc::clone(&self.bus),
            models: ServedModels::new(vec![served])?,
            authenticator: Arc::new(Anonymous),
            limiter: Arc::new(InProcessLimiter::unlimited(Arc::clone(&self.clock))),
            clock: Arc::clone(&self.clock),
            entropy: Arc::new(SystemEntropy::default()),
            tasks: self.front.clone(),
            metrics: self.metrics.clone(),
            config,
        };
        Ok(vlinders_frontend::start(parts, listener).await?)
    }
}

fn random_bytes<const N: usize>() -> std::io::Result<[u8; N]> {
    use std::io::Read;
    let mut bytes = [0; N];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}
