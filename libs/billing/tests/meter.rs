//! Usage goes to a meter once, whatever the meter answers, and whoever dies on the way.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use vlinders_billing::{ApiAddress, MeterConfig, MeterParts, MeterValue, start};
use vlinders_ledger::conformance::event;
use vlinders_ledger::{
    Factor, Ledger, MeterBacklog, MeterStore, PriceTable, Rates, SqliteLedger, TenantStore,
};
use vlinders_service_kit::{Metrics, Stage, SystemClock, Tasks};
use vlinders_types::{ModelName, TenantId, UsageEvent};

const KEY: &str = "sk_test_of_this_test";
const PATIENCE: Duration = Duration::from_secs(30);

/// What the meter does with a call.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Answer {
    Take,
    /// Counts it and hangs up without a word.
    TakeAndVanish,
    Busy,
    Broken,
    Silent,
    Refuse,
}

/// A meter that counts each identifier once, as Stripe's does.
#[derive(Default)]
struct Meter {
    script: Vec<Answer>,
    calls: usize,
    /// Value by customer and identifier.
    counted: HashMap<(String, String), u64>,
    faults: Vec<String>,
}

impl Meter {
    fn fault(&mut self, what: impl Into<String>) {
        self.faults.push(what.into());
    }

    /// Notes a call, and says how to answer it.
    fn take(&mut self, head: &str, body: &str) -> Answer {
        let answer = self.script.get(self.calls).copied().unwrap_or(Answer::Take);
        self.calls += 1;
        let lower = head.to_ascii_lowercase();
        let has = |line: &str| lower.contains(line);
        if !head.starts_with("POST /v1/billing/meter_events HTTP/1.1") {
            self.fault(head);
        }
        if !has(&format!("authorization: bearer {KEY}"))
            || !has("content-type: application/x-www-form-urlencoded")
        {
            self.fault(head);
        }
        let fields: HashMap<_, _> = form_urlencoded::parse(body.as_bytes()).into_owned().collect();
        let field = |name: &str| fields.get(name).cloned().unwrap_or_default();
        let id = field("identifier");
        if !has(&format!("idempotency-key: {id}")) || id.is_empty() || id.len() > 100 {
            self.fault(format!("{id}: {head}"));
        }
        if field("event_name") != "tokens" || field("timestamp").parse::<u64>().is_err() || fields.len() != 5
        {
            self.fault(body);
        }
        let value = field("payload[value]").parse().unwrap_or(u64::MAX);
        if matches!(answer, Answer::Take | Answer::TakeAndVanish) {
            let place = (field("payload[stripe_customer_id]"), id);
            let before = self.counted.insert(place, value);
            if before.is_some_and(|before| before != value) {
                self.fault("one event with two values");
            }
        }
        answer
    }
}

type Shared = Arc<Mutex<Meter>>;

fn lock(meter: &Shared) -> std::sync::MutexGuard<'_, Meter> {
    meter.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve(mut socket: TcpStream, meter: Shared) -> std::io::Result<()> {
    let mut bytes = Vec::new();
    let (head, length) = loop {
        let mut piece = [0; 4096];
        let count = socket.read(&mut piece).await?;
        if count == 0 {
            return Ok(());
        }
        bytes.extend_from_slice(&piece[..count]);
        if let Some(end) = bytes.windows(4).position(|end| end == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                let is_length = name.eq_ignore_ascii_case("content-length");
                is_length.then(|| value.trim().parse::<usize>().ok())?
            });
            break (head, end + 4 + length.expect("a form has a length"));
        }
    };
    while bytes.len() < length {
        let mut piece = [0; 4096];
        let count = socket.read(&mut piece).await?;
        bytes.extend_from_slice(&piece[..count]);
    }
    let start = head.len() + 4;
    let body = String::from_utf8_lossy(&bytes[start..length]).into_owned();
    let answer = lock(&meter).take(&head, &body);
    let (status, headers, text) = match answer {
        Answer::Take => ("200 OK", "", "{\"object\":\"billing.meter_event\"}"),
        Answer::Busy => (
            "429 Too Many Requests",
            "retry-after: 0\r\n",
            "{\"error\":{\"code\":\"rate_limit\"}}",
        ),
        Answer::Broken => ("500 Internal Server Error", "", "oops"),
        Answer::Refuse => (
            "400 Bad Request",
            "",
            "{\"error\":{\"code\":\"resource_missing\"}}",
        ),
        Answer::TakeAndVanish => return Ok(()),
        Answer::Silent => {
            sleep(PATIENCE).await;
            return Ok(());
        }
    };
    let answer = format!(
        "HTTP/1.1 {status}\r\n{headers}content-length: {}\r\n\r\n{text}",
        text.len()
    );
    socket.write_all(answer.as_bytes()).await
}

/// A meter on a free port, which answers the first calls by this script.
async fn meter(script: &[Answer], tasks: &Tasks) -> (Shared, String) {
    let shared = Shared::default();
    lock(&shared).script = script.to_vec();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = format!("http://{}", listener.local_addr().expect("an address"));
    let (meter, stopping) = (Arc::clone(&shared), tasks.stopping(Stage::Store));
    let inner = tasks.clone();
    tasks.spawn(Stage::Store, "meter", async move {
        loop {
            let accepted = tokio::select! {
                () = stopping.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            let Ok((socket, _)) = accepted else { return };
            let (meter, stopping) = (Arc::clone(&meter), stopping.clone());
            inner.spawn(Stage::Store, "call", async move {
                tokio::select! {
                    () = stopping.cancelled() => {}
                    _served = serve(socket, meter) => {}
                }
            });
        }
    });
    (shared, address)
}

fn config(address: &str, value: MeterValue) -> MeterConfig {
    MeterConfig {
        address: ApiAddress::parse(address).expect("an address"),
        every: Duration::ZERO,
        tick: Duration::from_millis(5),
        answer_limit: Duration::from_millis(300),
        first_pause: Duration::from_millis(1),
        ..MeterConfig::new(KEY.to_owned(), "tokens".to_owned(), value)
    }
}

fn begin(config: MeterConfig, ledger: &Arc<SqliteLedger>, tasks: &Tasks) {
    let rates = Rates {
        prompt: 1_000_000,
        cached_prompt: 1_000_000,
        completion: 2_000_000,
        factor: Factor::WHOLE,
    };
    let prices = PriceTable::new("EUR").with_rates(Some(ModelName::new("model")), rates);
    let parts = MeterParts {
        ledger: Arc::clone(ledger) as _,
        prices: Some(Arc::new(prices)),
        tasks: tasks.clone(),
        metrics: Metrics::default(),
        clock: Arc::new(SystemClock),
    };
    start(config, parts);
}

async fn open(folder: &tempfile::TempDir) -> Arc<SqliteLedger> {
    let ledger = SqliteLedger::open(&folder.path().join("usage.sqlite")).expect("a ledger");
    for (tenant, customer) in [("a", "cus_a"), ("b", "cus_b")] {
        let mapped = ledger.set_customer(&TenantId::new(tenant), Some(customer)).await;
        assert!(mapped.expect("tenants can be changed"));
    }
    Arc::new(ledger)
}

async fn until(ledger: &SqliteLedger, expected: MeterBacklog) {
    let reached = async {
        while ledger.meter_backlog().await.expect("events can be counted") != expected {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, reached).await.expect("everything is taken");
}

fn tokens(events: &[UsageEvent], tenant: &str) -> u64 {
    let own = events.iter().filter(|event| event.tenant.as_str() == tenant);
    own.map(|event| u64::from(event.counts.prompt) + u64::from(event.counts.completion))
        .sum()
}

fn counted(meter: &Shared, customer: &str) -> u64 {
    let meter = lock(meter);
    let own = meter.counted.iter().filter(|((who, _), _)| who == customer);
    own.map(|(_, value)| *value).sum()
}

#[tokio::test]
async fn every_token_is_counted_once_whatever_the_meter_answers() {
    use Answer::{Broken, Busy, Silent, Take, TakeAndVanish};
    let folder = tempfile::tempdir().expect("a scratch folder");
    let ledger = open(&folder).await;
    let tasks = Tasks::new();
    let script = [
        Busy,
        TakeAndVanish,
        Broken,
        Silent,
        Take,
        TakeAndVanish,
        Busy,
        Busy,
    ];
    let (meter, address) = meter(&script, &tasks).await;
    let mut events = Vec::new();
    // Two senders, as two processes would be.
    for _ in 0..2 {
        begin(config(&address, MeterValue::Tokens), &ledger, &tasks);
    }
    for round in 0..5 {
        let more = Vec::from_iter((10 * round..10 * round + 10).map(event));
        ledger.record(&more).await.expect("recording works");
        ledger.record(&more).await.expect("recording works");
        events.extend(more);
        sleep(Duration::from_millis(10)).await;
    }
    until(&ledger, MeterBacklog::default()).await;
    assert_eq!(counted(&meter, "cus_a"), tokens(&events, "a"));
    assert_eq!(counted(&meter, "cus_b"), tokens(&events, "b"));
    assert!(lock(&meter).calls > script.len());
    assert_eq!(lock(&meter).faults, [""; 0]);
    tasks.stop(PATIENCE).await.expect("everything stops");
}

#[tokio::test]
async fn a_sender_that_dies_leaves_nothing_behind() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let ledger = open(&folder).await;
    let events = Vec::from_iter((0..6).map(event));
    ledger.record(&events).await.expect("recording works");
    // The first life sends, is not answered, and is over.
    let tasks = Tasks::new();
    let (first, address) = meter(&[Answer::TakeAndVanish; 2], &tasks).await;
    let life = Tasks::new();
    begin(config(&address, MeterValue::Nanos), &ledger, &life);
    let sent = async {
        while lock(&first).calls < 2 {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, sent).await.expect("both are sent");
    life.stop(PATIENCE).await.expect("it stops");
    drop(ledger);
    let ledger = open(&folder).await;
    begin(config(&address, MeterValue::Nanos), &ledger, &tasks);
    until(&ledger, MeterBacklog::default()).await;
    // Each token of a prompt costs one and each of an answer two.
    let cost = |tenant: &str| tokens(&events, tenant) + 3 * 10;
    assert_eq!(
        (counted(&first, "cus_a"), counted(&first, "cus_b")),
        (cost("a"), cost("b"))
    );
    assert_eq!(lock(&first).faults, [""; 0]);
    tasks.stop(PATIENCE).await.expect("everything stops");
}

#[tokio::test]
async fn what_can_never_be_taken_is_put_aside_and_holds_up_nothing() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let ledger = open(&folder).await;
    let mut unpriced = event(2);
    unpriced.model = ModelName::new("nobody knows its price");
    ledger
        .record(&[unpriced, event(4), event(3)])
        .await
        .expect("recording works");
    let tasks = Tasks::new();
    let (meter, address) = meter(&[Answer::Refuse], &tasks).await;
    begin(config(&address, MeterValue::Nanos), &ledger, &tasks);
    until(
        &ledger,
        MeterBacklog {
            waiting: 1,
            parked: 1,
        },
    )
    .await;
    assert_eq!(lock(&meter).counted.len(), 1);
    tasks.stop(PATIENCE).await.expect("everything stops");
}
