//! A small world for worker tests: the in-process bus, simulated engines, a byte-level tokenizer, and one frontend that
//! collects what it is sent.

#![expect(
    clippy::unwrap_used,
    reason = "a failed step of a test ends it, here as in the test itself"
)]

mod damaging;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use vlinders_bus::{
    Bus, ConsumerSpec, InProcessBus, InProcessLimits, MemorySpools, Spool, SpoolOptions, StreamName,
    StreamRules, Subject, Subscription,
};
use vlinders_engine::{Engine, SimEngine, SimOptions};
use vlinders_kernel_api::KvMemory;
use vlinders_kv_transfer::{Endpoint, EndpointConfig, MemTransport};
use vlinders_service_kit::{Clock, Metrics, Pulse, Stage, SystemClock, Tasks, Traces};
use vlinders_text::{ModelText, TextFiles};
use vlinders_types::{
    BillingClass, Cancel, Chunk, Epoch, Finish, FrontendId, KeyId, ModelName, PromptScores, Request,
    RequestId, SamplingParams, StopRules, Task, TenantId, TextRules, TokenId, TokenScore, UsageEvent,
    WorkerId,
};
use vlinders_wire::subjects;
use vlinders_worker::{Parting, Role, WorkerConfig, WorkerParts, start};

use self::damaging::Damaging;

/// Ids below this are bytes.
const BYTES: u32 = 256;
pub(crate) const END: TokenId = BYTES;

/// How a worker of this world is made.
#[derive(Clone)]
pub(crate) struct Shape {
    pub(crate) role: Role,
    pub(crate) blocks: u32,
    pub(crate) max_running: u32,
    pub(crate) caching: bool,
    /// Microseconds of one step.
    pub(crate) step_us: u64,
    /// Every so many blocks that arrive here are damaged on the way; 0 damages none.
    pub(crate) damage_every: u64,
    /// How long it may go on once it is asked to leave.
    pub(crate) drain_ms: u64,
    /// And what becomes of what it has not finished then.
    pub(crate) parting: Parting,
}

impl Shape {
    pub(crate) fn of(role: Role) -> Self {
        Self {
            role,
            blocks: 2048,
            max_running: 64,
            caching: true,
            step_us: 0,
            damage_every: 0,
            drain_ms: 5_000,
            parting: Parting::HandBack,
        }
    }
}

pub(crate) struct World {
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) tasks: Tasks,
    spool: Option<Spool>,
    pub(crate) metrics: Metrics,
    clock: Arc<dyn Clock>,
    mem: Arc<MemTransport>,
    text: Arc<ModelText>,
    model: ModelName,
    endpoints: Vec<Arc<Endpoint>>,
    workers: Vec<(WorkerId, Tasks)>,
    pub(crate) frontend: FrontendId,
    tokens: Box<dyn Subscription>,
}

/// What the client of one request has received.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Received {
    pub(crate) ids: Vec<TokenId>,
    pub(crate) text: String,
    pub(crate) finish: Option<Finish>,
    /// Of its prompt tokens, from the first that was asked for.
    pub(crate) scores: Vec<TokenScore>,
    first_score: Option<u32>,
    pub(crate) embedding: Vec<f32>,
    early: BTreeMap<u32, Chunk>,
}

impl World {
    pub(crate) async fn new(shapes: &[Shape]) -> Self {
        let bus: Arc<dyn Bus> = Arc::new(InProcessBus::new(InProcessLimits::default()));
        let rules = StreamRules {
            max_messages: 100_000,
            max_age: Duration::from_secs(3600),
            dedup_window: Duration::from_secs(120),
        };
        for stream in [StreamName::Requests, StreamName::Usage, StreamName::DeadLetters] {
            bus.ensure_stream(stream, rules).await.unwrap();
        }
        let frontend = FrontendId::new("frontend-1");
        let tokens = bus
            .subscribe(&Subject::new(subjects::tokens_subject(&frontend)))
            .await
            .unwrap();
        let tasks = Tasks::new();
        let options = SpoolOptions::new(Arc::new(|| 0));
        let spool = Spool::open(Arc::new(MemorySpools::default()), options)
            .await
            .unwrap();
        let stopping = tasks.stopping(Stage::Flush);
        tasks.spawn(
            Stage::Flush,
            "spool",
            spool.clone().run(bus.clone(), stopping, |_load| {}),
        );
        let mut world = Self {
            bus,
            tasks,
            spool: Some(spool),
            metrics: Metrics::default(),
            clock: Arc::new(SystemClock),
            mem: MemTransport::new(),
            text: Arc::new(byte_level_text()),
            model: ModelName::new("sim"),
            endpoints: Vec::new(),
            workers: Vec::new(),
            frontend,
            tokens,
        };
        for shape in shapes {
            world.add(shape).await;
        }
        world
    }

    pub(crate) async fn add(&mut self, shape: &Shape) {
        let number = self.workers.len() as u64;
        let worker = WorkerId::new(&format!("{}-{number}", shape.role.name()));
        let engine: Box<dyn Engine> = Box::new(SimEngine::new(SimOptions {
            vocabulary: BYTES + 1,
            block_count: shape.blocks,
            max_batch_tokens: 128,
            max_rows: 64,
            max_context_tokens: 1024,
            never_drawn: Arc::new([END]),
            cost: vlinders_engine::StepCost {
                base_us: shape.step_us,
                ..Default::default()
            },
            ..SimOptions::default()
        }));
        let memory: Arc<dyn KvMemory> = Arc::new(Damaging::new(engine.memory(), shape.damage_every));
        let clock = Arc::clone(&self.clock);
        let clock = Arc::new(move || clock.now_ms());
        let layout = engine.facts().layout_hash;
        let endpoint = EndpointConfig::new(worker.clone(), number + 1, [7; 32], layout, clock);
        let endpoint = Endpoint::new(endpoint, memory, vec![self.mem.clone()]).unwrap();
        let mut config = WorkerConfig::new(worker.clone(), Epoch(1), shape.role, self.model.clone());
        config.max_running = shape.max_running;
        config.enable_prefix_caching = shape.caching;
        config.prefill_chunk_tokens = 48;
        config.beacon_interval = Duration::from_millis(20);
        config.drain_limit = Duration::from_millis(shape.drain_ms);
        config.parting = shape.parting;
        // Nobody's patience ends while a test runs.
        config.ack_wait = Duration::from_secs(600);
        let tasks = Tasks::new();
        self.endpoints.push(Arc::clone(&endpoint));
        self.workers.push((worker, tasks.clone()));
        let parts = WorkerParts {
            bus: Arc::clone(&self.bus),
            spool: self.spool.clone().expect("the world runs"),
            engine,
            text: Arc::clone(&self.text),
            endpoint,
            tasks,
            metrics: self.metrics.clone(),
            traces: Traces::off(),
            clock: Arc::clone(&self.clock),
            pulse: Pulse::default(),
        };
        start(config, parts).await.unwrap();
    }

    /// A request whose prompt and settings follow from its number.
    pub(crate) fn request(&self, number: u64) -> Request {
        let length = 1 + (number * 37) % 150;
        // Some share a prefix, so that the prefix cache has something to find.
        let family = number % 3;
        let prompt = (0..length)
            .map(|index| ((index * 7 + family) % 256) as TokenId)
            .collect();
        let now_ms = self.clock.now_ms();
        Request {
            request_id: RequestId::from_parts(now_ms, u128::from(number)),
            attempt: 0,
            tenant: TenantId::new("tenant"),
            key: KeyId::new("key"),
            model: self.model.clone(),
            frontend: self.frontend.clone(),
            handle: number,
            created_ms: now_ms,
            deadline_ms: now_ms + 60_000,
            stream: number.is_multiple_of(2),
            prompt_ids: prompt,
            emitted_ids: Vec::new(),
            sampling: SamplingParams {
                temperature: if number.is_multiple_of(4) { 0.0 } else { 0.8 },
                seed: number,
                ..SamplingParams::default()
            },
            stop: StopRules {
                max_tokens: 1 + (number % 60) as u32,
                ..StopRules::default()
            },
            constraint: None,
            priority: 0,
            cache_salt: None,
            text: TextRules::default(),
            bills_prompt: true,
            class: BillingClass::Standard,
            trace_parent: None,
            published_us: None,
            task: Task::Generate,
            prompt_logprobs: None,
        }
    }

    pub(crate) async fn send(&self, request: &Request) {
        let subject = Subject::new(subjects::request_subject(&self.model, "default"));
        let id = subjects::request_message_id(request);
        let bytes = vlinders_wire::encode_request(request);
        self.bus
            .enqueue(StreamName::Requests, &subject, &id, bytes)
            .await
            .unwrap();
    }

    pub(crate) async fn send_raw(&self, bytes: &'static [u8]) {
        let subject = Subject::new(subjects::request_subject(&self.model, "default"));
        let stored = self
            .bus
            .enqueue(StreamName::Requests, &subject, "raw", bytes.into())
            .await;
        stored.unwrap();
    }

    pub(crate) async fn cancel(&self, request: &Request) {
        let cancel = Cancel {
            request_id: request.request_id,
            attempt: request.attempt,
            superseded: false,
        };
        self.bury(&cancel).await;
    }

    /// Tells every worker.
    pub(crate) async fn bury(&self, cancel: &Cancel) {
        for (worker, _) in &self.workers {
            let subject = Subject::new(subjects::worker_subject(worker, subjects::WorkerCall::Cancel));
            self.bus
                .publish(&subject, vlinders_wire::encode_cancel(cancel))
                .await
                .unwrap();
        }
    }

    /// Asks every worker for the batches of its life `epoch` from this number on.
    pub(crate) async fn ask_again(&self, epoch: u64, from_seq: u64) {
        let resend = vlinders_wire::Resend {
            frontend: self.frontend.clone(),
            epoch: Epoch(epoch),
            from_seq,
        };
        for (worker, _) in &self.workers {
            let subject = Subject::new(subjects::worker_subject(worker, subjects::WorkerCall::Resend));
            let bytes = vlinders_wire::encode_resend(&resend);
            // The answer comes when everything is sent.
            self.bus
                .request(&subject, bytes, Duration::from_secs(10))
                .await
                .unwrap();
        }
    }

    /// The next batch, when there is one now.
    pub(crate) async fn batch(&mut self) -> Option<vlinders_types::StepBatch> {
        let next = tokio::time::timeout(Duration::from_millis(50), self.tokens.next()).await;
        let incoming = next.ok()?.expect("the bus lives");
        Some(vlinders_wire::decode_step_batch(&incoming.payload).unwrap())
    }

    /// The next batch, which must come.
    pub(crate) async fn next_batch(&mut self) -> vlinders_types::StepBatch {
        let next = tokio::time::timeout(Duration::from_secs(30), self.tokens.next()).await;
        let incoming = next.expect("the stream goes on").expect("the bus lives");
        vlinders_wire::decode_step_batch(&incoming.payload).unwrap()
    }

    /// Collects until `count` streams have ended.
    pub(crate) async fn collect(&mut self, count: usize) -> BTreeMap<u64, Received> {
        let mut received: BTreeMap<u64, Received> = BTreeMap::new();
        let mut ended = 0;
        let all = async {
            while ended < count {
                let incoming = self.tokens.next().await.expect("the bus lives");
                let batch = vlinders_wire::decode_step_batch(&incoming.payload).unwrap();
                for chunk in batch.chunks {
                    ended += usize::from(take(received.entry(chunk.handle).or_default(), chunk));
                }
            }
        };
        let all = tokio::time::timeout(Duration::from_secs(30), all).await;
        assert!(
            all.is_ok(),
            "{ended} of {count} streams ended; open: {:?}",
            unfinished(&received)
        );
        received
    }

    /// The tokens of one stream that goes on after `emitted` tokens of an earlier attempt.
    pub(crate) async fn collect_from(&mut self, emitted: usize) -> Vec<TokenId> {
        let mut ids = Vec::new();
        loop {
            let incoming = self.tokens.next().await.expect("the bus lives");
            let batch = vlinders_wire::decode_step_batch(&incoming.payload).unwrap();
            for chunk in batch.chunks {
                assert_eq!((chunk.attempt, chunk.position as usize), (1, emitted + ids.len()));
                ids.extend(chunk.ids);
                if chunk.finish.is_some() {
                    return ids;
                }
            }
        }
    }

    /// Takes `count` usage events and checks that there are no more.
    pub(crate) async fn usage(&self, count: usize) -> Vec<UsageEvent> {
        let spec = ConsumerSpec {
            stream: StreamName::Usage,
            filter: Subject::new(subjects::ALL_USAGE),
            name: "test".to_owned(),
            ack_wait: Duration::from_secs(60),
            max_deliver: 3,
        };
        let consumer = self.bus.consumer(spec).await.unwrap();
        let mut events = Vec::new();
        while events.len() < count {
            let deliveries = consumer.fetch(1000, Duration::from_secs(10)).await.unwrap();
            assert!(!deliveries.is_empty(), "{} of {count} usage events", events.len());
            for delivery in deliveries {
                events.push(vlinders_wire::decode_usage_event(&delivery.payload).unwrap());
                delivery.control.ack().await.unwrap();
            }
        }
        let more = consumer.fetch(1000, Duration::from_millis(50)).await.unwrap();
        assert!(more.is_empty(), "{} usage events too many", more.len());
        events
    }

    /// The name and the tasks of the worker of this place.
    pub(crate) fn worker(&self, index: usize) -> (WorkerId, Tasks) {
        self.workers[index].clone()
    }

    /// Stops everything. The loops assert on the way that no block is lost; a panic there shows here.
    pub(crate) async fn stop(mut self) {
        // A hand-off's last word to its source may still be under way.
        let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
        while self
            .endpoints
            .iter()
            .any(|endpoint| endpoint.open_hand_offs() != Default::default())
        {
            assert!(tokio::time::Instant::now() < deadline, "hand-offs stay open");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(
            self.bus.pending(StreamName::Requests).await.unwrap(),
            0,
            "requests stay unacknowledged"
        );
        // The workers have the last ones.
        self.spool = None;
        for (_, tasks) in self.workers {
            tasks.stop(Duration::from_secs(30)).await.unwrap();
            assert!(!tasks.failed().is_cancelled(), "a task panicked");
        }
        self.tasks.stop(Duration::from_secs(10)).await.unwrap();
        assert!(!self.tasks.failed().is_cancelled(), "a task panicked");
    }
}

/// Takes a chunk and those that had overtaken it: prefill sends the first token, decode the others.
fn take(received: &mut Received, chunk: Chunk) -> bool {
    assert!(received.finish.is_none(), "a chunk after the last one");
    if let Some(part) = &chunk.prompt_scores {
        take_scores(received, part);
    }
    let known = u32::try_from(received.ids.len()).unwrap();
    if chunk.position < known {
        let end = chunk.position + u32::try_from(chunk.ids.len()).unwrap();
        assert!(end <= known, "a chunk that is half known cannot be cut");
        return false;
    }
    received.early.insert(chunk.position, chunk);
    while let Some(chunk) = received.early.remove(&u32::try_from(received.ids.len()).unwrap()) {
        received.ids.extend(chunk.ids);
        received.text.push_str(&chunk.text);
        received.finish = chunk.finish;
        received.embedding.extend(chunk.embedding);
    }
    received.finish.is_some()
}

/// Adds what follows; what was told before is the same again.
fn take_scores(received: &mut Received, part: &PromptScores) {
    let first = *received.first_score.get_or_insert(part.first);
    let at = (part.first - first) as usize;
    assert!(at <= received.scores.len(), "a hole in the scores");
    for (index, score) in part.scores.iter().enumerate() {
        match received.scores.get(at + index) {
            Some(known) => assert_eq!(known, score),
            None => received.scores.push(score.clone()),
        }
    }
}

fn unfinished(received: &BTreeMap<u64, Received>) -> HashMap<u64, usize> {
    received
        .iter()
        .filter(|(_, one)| one.finish.is_none())
        .map(|(handle, one)| (*handle, one.ids.len()))
        .collect()
}

/// Every byte is a token, and there is one more that ends a sequence.
fn byte_level_text() -> ModelText {
    let printable = |byte: &u32| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let mut beyond = 256;
    let vocabulary: serde_json::Map<String, serde_json::Value> = (0..BYTES)
        .map(|byte| {
            let code = if printable(&byte) {
                byte
            } else {
                beyond += 1;
                beyond - 1
            };
            (char::from_u32(code).unwrap().to_string(), json!(byte))
        })
        .collect();
    let tokenizer = json!({
        "version": "1.0",
        "added_tokens": [{"id": END, "content": "<end>", "special": true, "single_word": false,
                          "lstrip": false, "rstrip": false, "normalized": false}],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
        "model": {"type": "BPE", "vocab": vocabulary, "merges": []},
    });
    let (tokenizer, config) = (tokenizer.to_string(), json!({ "eos_token_id": END }).to_string());
    let files = TextFiles {
        tokenizer_json: tokenizer.as_bytes(),
        config: Some(config.as_bytes()),
        ..TextFiles::default()
    };
    ModelText::load(&files).unwrap()
}
