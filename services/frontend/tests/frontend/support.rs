//! A frontend and its scripted worker.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use vlinders_bus::{
    Bus, Consumer, ConsumerSpec, Delivery, InProcessBus, InProcessLimits, MemorySpools, Spool, SpoolOptions,
    StreamName, StreamRules, Subject, Subscription,
};
use vlinders_frontend::{
    AdminParts, Anonymous, Authenticator, Books, Entropy, FrontendConfig, FrontendHandle, FrontendParts,
    InProcessLimiter, Kept, Limiter, ServedModels, Tenants, start,
};
use vlinders_service_kit::{Clock, Metrics, Stage, Tasks, Traces};
use vlinders_types::{
    Beacon, Cancel, Chunk, Epoch, FaultKind, Finish, FinishReason, ModelName, Pool, Presence, Request,
    RequestFault, StepBatch, TokenCounts, WorkerId,
};
use vlinders_wire::subjects::{WorkerCall, beacon_subject, requests_of, tokens_subject, worker_subject};
use vlinders_wire::{decode_cancel, decode_request, encode_beacon, encode_step_batch};

use crate::model::served_model;

/// Longer than anything here takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// For `beacon_fresh`: the scripted worker sends few beacons, and answers nobody who asks whether it lives.
pub(crate) const QUIET: Duration = Duration::from_secs(600);
/// The model's context.
pub(crate) const CONTEXT: u32 = 100;
/// 256 bytes and one token that ends.
pub(crate) const VOCABULARY: u32 = 257;

pub(crate) struct World {
    pub(crate) bus: Arc<InProcessBus>,
    /// What the frontend is told of its connection to the bus.
    pub(crate) bus_is_up: Arc<AtomicBool>,
    pub(crate) tasks: Tasks,
    pub(crate) frontend: FrontendHandle,
    pub(crate) client: reqwest::Client,
    requests: Box<dyn Consumer>,
    cancels: Box<dyn Subscription>,
    batch_seq: AtomicU64,
}

/// What tests change.
pub(crate) struct Setting {
    pub(crate) config: FrontendConfig,
    pub(crate) queue_messages: u64,
    pub(crate) limiter: Arc<dyn Limiter>,
    pub(crate) authenticator: Arc<dyn Authenticator>,
    pub(crate) books: Books,
    pub(crate) tenants: Tenants,
    pub(crate) kept: Option<Kept>,
    pub(crate) admin: Option<AdminParts>,
}

impl Default for Setting {
    fn default() -> Self {
        Self {
            config: FrontendConfig {
                beacon_fresh: QUIET,
                ..Default::default()
            },
            queue_messages: 100,
            limiter: Arc::new(InProcessLimiter::unlimited(Arc::new(StoppedClock))),
            authenticator: Arc::new(Anonymous),
            books: Books::default(),
            tenants: Tenants::default(),
            kept: None,
            admin: None,
        }
    }
}

pub(crate) struct StoppedClock;
impl Clock for StoppedClock {
    fn now_ms(&self) -> u64 {
        1_700_000_000_000
    }
}

#[derive(Default)]
struct Counting(AtomicU64);
impl Entropy for Counting {
    fn next_u64(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::with(Setting::default()).await
    }

    pub(crate) async fn with(setting: Setting) -> Self {
        let bus = Arc::new(InProcessBus::new(InProcessLimits::default()));
        let rules = StreamRules {
            max_messages: setting.queue_messages,
            max_age: Duration::from_secs(600),
            dedup_window: Duration::from_secs(120),
        };
        bus.ensure_stream(StreamName::Requests, rules)
            .await
            .expect("a new stream");
        let requests = bus.consumer(consumer_spec()).await.expect("a new consumer");
        let cancel_subject = Subject::new(worker_subject(&worker(), WorkerCall::Cancel));
        let cancels = bus.subscribe(&cancel_subject).await.expect("a new subscription");
        let clock: Arc<dyn Clock> = Arc::new(StoppedClock);
        let tasks = Tasks::new();
        let bus_is_up = Arc::new(AtomicBool::new(true));
        let is_up = Arc::clone(&bus_is_up);
        let options = SpoolOptions::new(Arc::new(|| 0));
        let spool = Spool::open(Arc::new(MemorySpools::default()), options).await;
        let spool = spool.expect("memory can be written");
        let sending = spool
            .clone()
            .run(bus.clone(), tasks.stopping(Stage::Flush), |_load| {});
        tasks.spawn(Stage::Flush, "spool", sending);
        let parts = FrontendParts {
            bus: Arc::clone(&bus) as Arc<dyn Bus>,
            bus_is_up: Arc::new(move || is_up.load(Ordering::Relaxed)),
            spool,
            models: ServedModels::new(vec![served_model()]).expect("names differ"),
            authenticator: setting.authenticator,
            limiter: setting.limiter,
            books: setting.books,
            tenants: setting.tenants,
            clock,
            entropy: Arc::new(Counting::default()),
            tasks: tasks.clone(),
            metrics: Metrics::default(),
            traces: Traces::off(),
            kept: setting.kept,
            admin: setting.admin,
            config: setting.config,
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let frontend = start(parts, listener).await.expect("the bus is open");
        let world = Self {
            bus,
            bus_is_up,
            tasks,
            frontend,
            client: reqwest::Client::new(),
            requests,
            cancels,
            batch_seq: AtomicU64::new(0),
        };
        world.send_beacons().await;
        world
    }

    /// Lets the frontend know the worker, and waits until it does.
    pub(crate) async fn send_beacons(&self) {
        for pool in [Pool::Prefill, Pool::Decode] {
            let subject = Subject::new(beacon_subject(pool, &worker()));
            self.bus
                .publish(&subject, encode_beacon(&beacon_of(&worker(), pool, 1)))
                .await
                .expect("the bus is open");
        }
        let model = ModelName::new("tiny");
        within(async {
            while !self.frontend.is_served(&model) {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.frontend.address())
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> reqwest::RequestBuilder {
        self.client.post(self.url(path)).json(body)
    }

    pub(crate) fn chat(&self, extra: &Value) -> reqwest::RequestBuilder {
        self.post("/v1/chat/completions", &chat_body(extra))
    }

    pub(crate) async fn get(&self, path: &str) -> reqwest::Response {
        within(self.client.get(self.url(path)).send())
            .await
            .expect("an answer")
    }

    pub(crate) async fn metrics(&self) -> String {
        within(self.get("/metrics").await.text()).await.expect("text")
    }

    /// The next request in the queue, as a worker takes it.
    pub(crate) async fn take(&self) -> Request {
        let (request, delivery) = self.take_unacknowledged().await;
        delivery.control.ack().await.expect("the bus is open");
        request
    }

    /// The same, not acknowledged yet.
    pub(crate) async fn take_unacknowledged(&self) -> (Request, Delivery) {
        let delivery = within(self.requests.fetch(1, PATIENCE))
            .await
            .expect("the bus is open")
            .remove(0);
        let request = decode_request(&delivery.payload).expect("a valid request");
        (request, delivery)
    }

    pub(crate) async fn bus_pending(&self) -> u64 {
        self.bus
            .pending(StreamName::Requests)
            .await
            .expect("the bus is open")
    }

    pub(crate) async fn cancel(&mut self) -> Cancel {
        let incoming = within(self.cancels.next()).await.expect("the bus is open");
        decode_cancel(&incoming.payload).expect("a valid cancellation")
    }

    /// Takes what cancellations there are.
    pub(crate) async fn forget_cancels(&mut self) {
        let pause = Duration::from_millis(50);
        while tokio::time::timeout(pause, self.cancels.next()).await.is_ok() {}
    }

    /// Sends chunks of one step.
    pub(crate) async fn send(&self, request: &Request, chunks: Vec<Chunk>) {
        self.send_from(&worker(), Epoch(1), request, chunks).await;
    }

    /// The same from a life of any worker.
    pub(crate) async fn send_from(
        &self,
        worker: &WorkerId,
        epoch: Epoch,
        request: &Request,
        chunks: Vec<Chunk>,
    ) {
        let chunks = chunks
            .into_iter()
            .map(|chunk| Chunk {
                handle: request.handle,
                ..chunk
            })
            .collect();
        let batch = StepBatch {
            worker: worker.clone(),
            epoch,
            batch_seq: self.batch_seq.fetch_add(1, Ordering::Relaxed) + 1,
            chunks,
        };
        let subject = Subject::new(tokens_subject(&request.frontend));
        self.bus
            .publish(&subject, encode_step_batch(&batch))
            .await
            .expect("the bus is open");
    }

    /// Loses so many step batches on their way.
    pub(crate) fn lose_batches(&self, count: u64) {
        self.batch_seq.fetch_add(count, Ordering::Relaxed);
    }

    /// Answers a request with one chunk.
    pub(crate) async fn answer(&self, request: &Request, text: &str) {
        self.send(request, vec![last(0, 1, text, FinishReason::Stop)])
            .await;
    }
}

fn consumer_spec() -> ConsumerSpec {
    ConsumerSpec {
        stream: StreamName::Requests,
        filter: Subject::new(requests_of(&ModelName::new("tiny"))),
        name: "workers".to_owned(),
        ack_wait: PATIENCE,
        max_deliver: 3,
    }
}

pub(crate) fn worker() -> WorkerId {
    WorkerId::new("worker-1")
}

pub(crate) fn beacon_of(worker: &WorkerId, pool: Pool, epoch: u64) -> Beacon {
    Beacon {
        pool,
        worker: worker.clone(),
        epoch: Epoch(epoch),
        model: ModelName::new("tiny"),
        free_blocks: 10,
        total_blocks: 10,
        running: 0,
        max_running: 8,
        queued_tokens: 0,
        last_batch_seq: Vec::new(),
        presence: Presence::Serving,
        recent_prefixes: [].into(),
    }
}

pub(crate) fn chat_body(extra: &Value) -> Value {
    let mut body = json!({"model": "alias", "messages": [{"role": "user", "content": "hi"}]});
    for (key, value) in extra.as_object().expect("an object") {
        body[key] = value.clone();
    }
    body
}

/// A chunk of `count` tokens.
pub(crate) fn chunk(position: u32, count: u32, text: &str) -> Chunk {
    Chunk {
        position,
        ids: vec![65; count as usize],
        text: text.to_owned(),
        ..Chunk::default()
    }
}

/// The last chunk.
pub(crate) fn last(position: u32, count: u32, text: &str, reason: FinishReason) -> Chunk {
    let counts = TokenCounts {
        prompt: 7,
        cached: 0,
        completion: position + count,
    };
    let finish = Finish {
        reason,
        stop_text: None,
        counts,
        fault: None,
    };
    Chunk {
        finish: Some(finish),
        ..chunk(position, count, text)
    }
}

/// A chunk that reports a failure.
pub(crate) fn fault(position: u32, kind: FaultKind) -> Chunk {
    let mut chunk = last(position, 0, "", FinishReason::Error);
    let message = "the worker's own words".to_owned();
    chunk.finish.as_mut().expect("just set").fault = Some(RequestFault { kind, message });
    chunk
}

/// Fails the test instead of hanging it.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future)
        .await
        .expect("took too long")
}

/// Sends bytes as they are and reads to the end of the connection.
pub(crate) async fn raw(world: &World, bytes: &[u8]) -> String {
    let mut socket = TcpStream::connect(world.frontend.address())
        .await
        .expect("it listens");
    let (mut reader, mut writer) = socket.split();
    let mut text = Vec::new();
    // Writing may fail when the answer comes before the end of the request; reading tells.
    let write = async { drop(writer.write_all(bytes).await) };
    let read = async { drop(reader.read_to_end(&mut text).await) };
    within(async { tokio::join!(write, read) }).await;
    String::from_utf8_lossy(&text).into_owned()
}

/// Compares with a golden file; `VLINDERS_RENEW=1` writes it anew.
pub(crate) fn check_golden(name: &str, text: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name);
    if std::env::var_os("VLINDERS_RENEW").is_some() {
        std::fs::write(&path, text).expect("the golden folder is writable");
    }
    assert_eq!(
        std::fs::read_to_string(&path).expect("the golden file exists"),
        text,
        "{name}"
    );
}

/// Checks that an answer has the shape of an error, and returns its parts.
pub(crate) async fn check_error(response: reqwest::Response, status: u16, code: &str) -> Value {
    assert_eq!(response.status().as_u16(), status);
    assert_eq!(response.headers()["content-type"], "application/json");
    assert!(response.headers().contains_key("x-request-id"));
    let body: Value = within(response.json()).await.expect("errors are JSON");
    let error = body["error"].clone();
    let names: Vec<_> = error
        .as_object()
        .expect("an object")
        .keys()
        .map(String::as_str)
        .collect();
    assert_eq!(names, ["message", "type", "param", "code"]);
    assert_eq!(error["code"], code, "{error}");
    error
}
