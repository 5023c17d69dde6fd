//! Two prefill and two decode workers behind the real frontend, of which one is gone at once under twenty running
//! requests: every answer is the undisturbed one, and every request has one bill. In real time, over real sockets.

#![expect(
    clippy::unwrap_used,
    reason = "a failed step of a test ends it, here as in the test itself"
)]

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;
use vlinders_bus::{
    Bus, ConsumerSpec, InProcessBus, InProcessLimits, MemorySpools, Spool, SpoolOptions, StreamName,
    StreamRules, Subject,
};
use vlinders_engine::{Engine, SimEngine, SimOptions, StepCost};
use vlinders_frontend::{
    Anonymous, FrontendConfig, FrontendHandle, FrontendParts, InProcessLimiter, ServedModel, ServedModels,
    SystemEntropy,
};
use vlinders_kv_transfer::{Endpoint, EndpointConfig, MemTransport};
use vlinders_service_kit::{Clock, Metrics, Stage, SystemClock, Tasks};
use vlinders_simulation::byte_level_text;
use vlinders_text::ModelText;
use vlinders_types::{Epoch, ModelName, UsageEvent, WorkerId};
use vlinders_wire::subjects::ALL_USAGE;
use vlinders_worker::{Role, StepTime, WorkerConfig, WorkerParts, start_simulated};

const REQUESTS: usize = 20;
const TOKENS: u64 = 150;
const PATIENCE: Duration = Duration::from_secs(60);

struct World {
    bus: Arc<dyn Bus>,
    mem: Arc<MemTransport>,
    text: Arc<ModelText>,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    /// The disk of the host.
    disk: MemorySpools,
    front: Tasks,
    /// Each in a process of its own, as it were.
    workers: Vec<(Role, Tasks)>,
    frontend: Option<FrontendHandle>,
}

/// What a client got, and what was billed.
#[derive(Debug, PartialEq)]
struct Answer {
    text: String,
    finish: String,
    completion_tokens: u64,
}

impl World {
    async fn new() -> Self {
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
            workers: Vec::new(),
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
            text: Arc::clone(&self.text),
            max_context_tokens: 1024,
            vocabulary: 257,
        };
        let parts = FrontendParts {
            bus: Arc::clone(&self.bus),
            bus_is_up: Arc::new(|| true),
            spool: self.spool(&self.front).await,
            models: ServedModels::new(vec![model]).unwrap(),
            authenticator: Arc::new(Anonymous),
            limiter: Arc::new(InProcessLimiter::unlimited(Arc::clone(&self.clock))),
            clock: Arc::clone(&self.clock),
            entropy: Arc::new(SystemEntropy::default()),
            tasks: self.front.clone(),
            metrics: self.metrics.clone(),
            config: FrontendConfig::default(),
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        self.frontend = Some(vlinders_frontend::start(parts, listener).await.unwrap());
    }

    async fn start_worker(&mut self, role: Role) {
        let number = self.workers.len() as u64;
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
        let mut config = WorkerConfig::new(worker, Epoch(1), role, ModelName::new("sim"));
        config.max_running = 32;
        config.prefill_chunk_tokens = 32;
        config.beacon_interval = Duration::from_millis(100);
        config.ack_wait = Duration::from_secs(2);
        let tasks = Tasks::new();
        let parts = WorkerParts {
            bus: Arc::clone(&self.bus),
            spool: self.spool(&tasks).await,
            endpoint: Endpoint::new(endpoint, engine.memory(), vec![self.mem.clone()]).unwrap(),
            engine,
            text: Arc::clone(&self.text),
            tasks: tasks.clone(),
            metrics: self.metrics.clone(),
            clock: Arc::clone(&self.clock),
        };
        start_simulated(config, parts, step_time).await.unwrap();
        self.workers.push((role, tasks));
    }

    /// Takes the first worker of this role away, as the sudden end of its process would.
    fn kill(&mut self, role: Role) {
        let victim = self.workers.iter().position(|(of, _)| *of == role).unwrap();
        self.workers.remove(victim).1.kill();
    }

    /// Exactly one bill for each request.
    async fn bills(&self) -> Vec<UsageEvent> {
        let spec = ConsumerSpec {
            stream: StreamName::Usage,
            filter: Subject::new(ALL_USAGE),
            name: "ledger".to_owned(),
            ack_wait: PATIENCE,
            max_deliver: 3,
        };
        let consumer = self.bus.consumer(spec).await.unwrap();
        let mut bills = Vec::new();
        while bills.len() < REQUESTS {
            let deliveries = consumer.fetch(100, Duration::from_secs(10)).await.unwrap();
            assert!(!deliveries.is_empty(), "{} of {REQUESTS} bills", bills.len());
            let read = |payload: &[u8]| vlinders_wire::decode_usage_event(payload).unwrap();
            bills.extend(deliveries.iter().map(|delivery| read(&delivery.payload)));
        }
        bills.sort_unstable_by_key(|bill| bill.request_id);
        bills.dedup_by_key(|bill| bill.request_id);
        assert_eq!(bills.len(), REQUESTS, "a request has two bills");
        bills
    }

    async fn stop(self) {
        self.front.stop(Duration::from_secs(10)).await.unwrap();
        for (_, tasks) in self.workers {
            tasks.stop(Duration::from_secs(10)).await.unwrap();
            assert!(!tasks.failed().is_cancelled(), "a task panicked");
        }
    }
}

/// The request of this number: greedy or seeded, streamed or whole. All prompts together keep two prefill workers busy for
/// 400 ms, and no answer is complete before 750 ms.
fn body(number: usize) -> Value {
    let mut body = json!({
        "model": "sim",
        "prompt": format!("{number} {}", "tell me more ".repeat(30 + number % 20)),
        "max_tokens": TOKENS,
        "temperature": if number.is_multiple_of(2) { 0.0 } else { 0.9 },
        "seed": number,
        "stream": !number.is_multiple_of(3),
    });
    if !number.is_multiple_of(3) {
        body["stream_options"] = json!({"include_usage": true});
    }
    body
}

fn read(answer: &str) -> Answer {
    let pieces: Vec<Value> = match answer.strip_suffix("data: [DONE]\n\n") {
        None => vec![serde_json::from_str(answer).unwrap()],
        Some(events) => {
            let events = events
                .split_terminator("\n\n")
                .filter_map(|event| event.strip_prefix("data: "));
            events.map(|event| serde_json::from_str(event).unwrap()).collect()
        }
    };
    let choices = || pieces.iter().map(|piece| &piece["choices"][0]);
    let finishes: Vec<_> = choices()
        .filter_map(|choice| choice["finish_reason"].as_str())
        .collect();
    let usages = pieces
        .iter()
        .filter_map(|piece| piece["usage"]["completion_tokens"].as_u64());
    let usages: Vec<_> = usages.collect();
    assert_eq!((finishes.len(), usages.len()), (1, 1), "{answer}");
    Answer {
        text: choices().filter_map(|choice| choice["text"].as_str()).collect(),
        finish: finishes[0].to_owned(),
        completion_tokens: usages[0],
    }
}

/// All answers; the worker of the role that is named goes away while the requests run.
async fn run(killed: Option<(Role, Duration)>) -> (BTreeMap<usize, Answer>, String) {
    let mut world = World::new().await;
    let url = format!(
        "http://{}/v1/completions",
        world.frontend.as_ref().unwrap().address()
    );
    let client = reqwest::Client::new();
    let mut asking = JoinSet::new();
    for number in 0..REQUESTS {
        let request = client.post(&url).json(&body(number));
        asking.spawn(async move {
            let answer = request.send().await.unwrap().text().await.unwrap();
            (number, read(&answer))
        });
    }
    if let Some((role, after)) = killed {
        tokio::time::sleep(after).await;
        world.kill(role);
        let waiting = world.bus.pending(StreamName::Requests).await.unwrap();
        assert!(
            role == Role::Decode || waiting > 0,
            "prefill had done its work already"
        );
    }
    let answers = tokio::time::timeout(PATIENCE, asking.join_all()).await;
    let answers: BTreeMap<_, _> = answers.expect("requests never end").into_iter().collect();
    let bills = world.bills().await;
    for bill in &bills {
        let told = (u64::from(bill.counts.completion), bill.finish.name());
        assert_eq!(told, (TOKENS, "length"), "{bill:?}");
        assert!(bill.counts.cached <= bill.counts.prompt);
    }
    let metrics = world.metrics.encode();
    world.stop().await;
    (answers, metrics)
}

async fn compare(role: Role, after: Duration) {
    let (expected, metrics) = run(None).await;
    assert!(!metrics.contains("vlinders_failovers_total{"), "{metrics}");
    assert!(expected.values().all(|answer| answer.completion_tokens == TOKENS));
    let (answers, metrics) = run(Some((role, after))).await;
    // Of what prefill held, the queue may have delivered everything again before the frontend saw a need to.
    let must_move = role == Role::Decode;
    assert!(
        !must_move || metrics.contains("vlinders_failovers_total{"),
        "nothing was lost: {metrics}"
    );
    for (number, answer) in &answers {
        assert_eq!(answer, &expected[number], "request {number}");
    }
    assert_eq!(answers.len(), REQUESTS);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decode_worker_that_is_gone_at_once_changes_no_token_and_no_bill() {
    compare(Role::Decode, Duration::from_millis(400)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prefill_worker_that_is_gone_at_once_changes_no_token_and_no_bill() {
    // While some of its prompts are computed, some are handed over and some wait.
    compare(Role::Prefill, Duration::from_millis(150)).await;
}
