//! A cluster in one process: two prefill and two decode workers behind the real frontend, each with tasks of its own so
//! that it can go at once. In real time, over real sockets.

#![allow(dead_code, reason = "each test binary uses its own part")]

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use vlinders_bus::{
    Bus, InProcessBus, InProcessLimits, MemorySpools, Spool, SpoolOptions, StreamName, StreamRules,
};
use vlinders_engine::{Engine, SimEngine, SimOptions, StepCost};
use vlinders_frontend::{
    Anonymous, Books, FrontendConfig, FrontendHandle, FrontendParts, InProcessLimiter, ModelFormats,
    ServedModel, ServedModels, SystemEntropy, Tenants,
};
use vlinders_kv_transfer::{Endpoint, EndpointConfig, MemTransport};
use vlinders_service_kit::{Clock, Metrics, Pulse, Stage, SystemClock, Tasks, Traces, TracesConfig};
use vlinders_simulation::byte_level_text;
use vlinders_text::ModelText;
use vlinders_types::{Epoch, ModelName, WorkerId};
use vlinders_worker::{Role, StepTime, WorkerConfig, WorkerParts, start_simulated};

/// All its processes, as it were.
pub(crate) struct World {
    pub(crate) bus: Arc<dyn Bus>,
    mem: Arc<MemTransport>,
    text: Arc<ModelText>,
    clock: Arc<dyn Clock>,
    pub(crate) metrics: Metrics,
    /// The disk of the host.
    disk: MemorySpools,
    front: Tasks,
    started: u64,
    /// Each in a process of its own, as it were.
    workers: Vec<(WorkerId, Role, Tasks)>,
    /// Where every process sends its traces.
    traces: Option<TracesConfig>,
    frontend: Option<FrontendHandle>,
}

impl World {
    /// Starts it, and waits until it serves.
    pub(crate) async fn new(traces: Option<TracesConfig>) -> Self {
        let bus: Arc<dyn Bus> = Arc::new(InProcessBus::new(InProcessLimits::default()));
        let rules = StreamRules {
            max_messages: 10_000,
            max_age: Duration::from_secs(600),
            dedup_window: Duration::from_secs(120),
        };
        for stream in [StreamName::Requests, StreamName::Usage, StreamName::DeadLetters] {
            bus.ensure_stream(stream, rules).await.unwrap();
        }
        let mut world = Self {
            bus,
            mem: MemTransport::new(),
            text: byte_level_text(),
            clock: Arc::new(SystemClock),
            metrics: Metrics::default(),
            disk: MemorySpools::default(),
            front: Tasks::new(),
            started: 0,
            workers: Vec::new(),
            traces,
            frontend: None,
        };
        world.start_frontend().await;
        for role in [Role::Prefill, Role::Prefill, Role::Decode, Role::Decode] {
            world.start_worker(role).await;
        }
        let (frontend, model) = (world.frontend.clone().unwrap(), ModelName::new("sim"));
        while !frontend.is_served(&model) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        world
    }

    /// The spool of a process with these tasks.
    async fn spool(&self, tasks: &Tasks) -> Spool {
        let clock = Arc::clone(&self.clock);
        let options = SpoolOptions::new(Arc::new(move || clock.now_ms()));
        let spool = Spool::open(Arc::new(self.disk.clone()), options).await.unwrap();
        let (bus, stopping) = (Arc::clone(&self.bus), tasks.stopping(Stage::Flush));
        tasks.spawn(
            Stage::Flush,
            "spool",
            spool.clone().run(bus, stopping, |_load| {}),
        );
        spool
    }

    async fn start_frontend(&mut self) {
        let model = ServedModel {
            name: ModelName::new("sim"),
            aliases: Vec::new(),
            formats: ModelFormats::default(),
            text: Arc::clone(&self.text),
            max_context_tokens: 1024,
            vocabulary: 257,
            hidden: 8,
            pooling: vlinders_types::Pooling::LastToken,
        };
        let parts = FrontendParts {
            bus: Arc::clone(&self.bus),
            bus_is_up: Arc::new(|| true),
            spool: self.spool(&self.front).await,
            models: ServedModels::new(vec![model]).unwrap(),
            authenticator: Arc::new(Anonymous),
            limiter: Arc::new(InProcessLimiter::unlimited(Arc::clone(&self.clock))),
            books: Books::default(),
            tenants: Tenants::default(),
            clock: Arc::clone(&self.clock),
            entropy: Arc::new(SystemEntropy::default()),
            tasks: self.front.clone(),
            metrics: self.metrics.clone(),
            traces: self.traces(&self.front),
            kept: None,
            admin: None,
            config: FrontendConfig::default(),
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        self.frontend = Some(vlinders_frontend::start(parts, listener).await.unwrap());
    }

    async fn start_worker(&mut self, role: Role) {
        let number = self.started;
        self.started += 1;
        let step_time = StepTime::default();
        let spent = Arc::clone(&step_time);
        let options = SimOptions {
            vocabulary: 257,
            block_count: 2048,
            max_batch_tokens: 64,
            max_rows: 64,
            max_context_tokens: 1024,
            never_drawn: Arc::new([256]),
            cost: StepCost {
                base_us: 5_000,
                ..StepCost::default()
            },
            ..SimOptions::default()
        };
        let wait = move |time| *spent.lock().unwrap_or_else(PoisonError::into_inner) = time;
        let engine: Box<dyn Engine> = Box::new(SimEngine::with_wait(options, Box::new(wait)));
        let worker = WorkerId::new(&format!("{}-{number}", role.name()));
        let clock = Arc::clone(&self.clock);
        let endpoint = EndpointConfig::new(
            worker.clone(),
            number + 1,
            [7; 32],
            engine.facts().layout_hash,
            Arc::new(move || clock.now_ms()),
        );
        let mut config = WorkerConfig::new(worker.clone(), Epoch(1), role, ModelName::new("sim"));
        config.max_running = 32;
        config.prefill_chunk_tokens = 32;
        config.beacon_interval = Duration::from_millis(100);
        config.ack_wait = Duration::from_secs(2);
        config.drain_limit = Duration::ZERO;
        let tasks = Tasks::new();
        let parts = WorkerParts {
            bus: Arc::clone(&self.bus),
            spool: self.spool(&tasks).await,
            endpoint: Endpoint::new(endpoint, engine.memory(), vec![self.mem.clone()]).unwrap(),
            engine,
            text: Arc::clone(&self.text),
            tasks: tasks.clone(),
            metrics: self.metrics.clone(),
            traces: self.traces(&tasks),
            clock: Arc::clone(&self.clock),
            pulse: Pulse::default(),
        };
        start_simulated(config, parts, step_time).await.unwrap();
        self.workers.push((worker, role, tasks));
    }

    /// Takes the first worker of this role away, as the sudden end of its process would.
    pub(crate) fn kill(&mut self, role: Role) {
        self.kill_where(|_, of| of == role);
    }

    /// The same with the worker of this name.
    pub(crate) fn kill_worker(&mut self, name: &str) {
        self.kill_where(|worker, _| worker.as_str() == name);
    }

    fn kill_where(&mut self, is_victim: impl Fn(&WorkerId, Role) -> bool) {
        let mut workers = self.workers.iter();
        let victim = workers
            .position(|(worker, role, _)| is_victim(worker, *role))
            .unwrap();
        self.workers.remove(victim).2.kill();
    }

    /// Starts another worker of this role and asks the oldest one to leave.
    pub(crate) async fn replace(&mut self, role: Role) {
        self.start_worker(role).await;
        let mut workers = self.workers.iter();
        let oldest = workers.position(|(_, of, _)| *of == role).unwrap();
        let (_, _, tasks) = self.workers.remove(oldest);
        tasks.stop(Duration::from_secs(60)).await.unwrap();
        assert!(!tasks.failed().is_cancelled(), "a task panicked");
    }

    /// The traces of the process with these tasks.
    fn traces(&self, tasks: &Tasks) -> Traces {
        let config = self.traces.clone();
        config.map_or_else(Traces::off, |config| {
            Traces::start(config, tasks, &self.metrics).unwrap()
        })
    }

    /// Where the frontend takes requests.
    pub(crate) fn url(&self) -> String {
        let frontend = self.frontend.as_ref().unwrap();
        format!("http://{}/v1/completions", frontend.address())
    }

    /// Stops everything in order.
    pub(crate) async fn stop(self) {
        self.front.stop(Duration::from_secs(10)).await.unwrap();
        for (_, _, tasks) in self.workers {
            tasks.stop(Duration::from_secs(10)).await.unwrap();
            assert!(!tasks.failed().is_cancelled(), "a task panicked");
        }
    }
}
