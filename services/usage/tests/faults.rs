//! From the bus into the ledger, with a bus and a ledger that fail.

#![expect(
    clippy::unwrap_used,
    reason = "a failed step of a test ends it, here as in the test itself"
)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use vlinders_bus::faults::{Faults, FaultyBus};
use vlinders_bus::{Bus, ConsumerSpec, InProcessBus, InProcessLimits, StreamName, StreamRules, Subject};
use vlinders_ledger::{Ledger, LedgerError, Recorded, UsageQuery, UsageTotal};
use vlinders_service_kit::{Metrics, Stage, SystemClock, Tasks};
use vlinders_types::{
    BillingClass, FinishReason, KeyId, ModelName, RequestId, TenantId, TokenCounts, UsageEvent, WorkerId,
};
use vlinders_usage::{UsageConfig, UsageParts, start};
use vlinders_wire::{decode_dead_letter, encode_usage_event, subjects};

/// A ledger in memory that fails as told.
#[derive(Default)]
struct TestLedger {
    rows: Mutex<BTreeMap<RequestId, UsageEvent>>,
    /// Calls that fail before it works again.
    failures: Mutex<u32>,
    /// Wrongly set up.
    is_unusable: bool,
    /// Refused for good.
    refused_key: Option<KeyId>,
}

#[async_trait]
impl Ledger for TestLedger {
    async fn record(&self, events: &[UsageEvent]) -> Result<Recorded, LedgerError> {
        let failures = *self.failures.lock().unwrap();
        if failures > 0 {
            *self.failures.lock().unwrap() -= 1;
            return Err(LedgerError::Database {
                what: "is away",
                source: "test".into(),
            });
        }
        if self.is_unusable {
            return Err(LedgerError::Unusable {
                what: "is closed to us",
                source: "a wrong password".into(),
            });
        }
        if events
            .iter()
            .any(|event| Some(&event.key) == self.refused_key.as_ref())
        {
            return Err(LedgerError::Refused {
                what: "refuses",
                source: "a cursed key".into(),
            });
        }
        let mut rows = self.rows.lock().unwrap();
        let mut recorded = Recorded::default();
        for event in events {
            let is_new = !rows.contains_key(&event.request_id);
            rows.entry(event.request_id).or_insert_with(|| event.clone());
            recorded.inserted += u64::from(is_new);
            recorded.duplicates += u64::from(!is_new);
        }
        Ok(recorded)
    }

    async fn usage(&self, _query: &UsageQuery) -> Result<Vec<UsageEvent>, LedgerError> {
        Ok(self.rows.lock().unwrap().values().cloned().collect())
    }

    async fn totals(&self, _query: &UsageQuery) -> Result<Vec<UsageTotal>, LedgerError> {
        unimplemented!("the service only records")
    }
}

fn event(number: u32) -> UsageEvent {
    UsageEvent {
        request_id: RequestId::from_parts(1, u128::from(number)),
        attempt: 0,
        tenant: TenantId::new("tenant"),
        key: KeyId::new(if number == 13 { "cursed" } else { "key" }),
        model: ModelName::new("model"),
        writer: WorkerId::new("decode-0"),
        counts: TokenCounts {
            prompt: number,
            cached: 0,
            completion: 7,
        },
        finish: FinishReason::Stop,
        stream: true,
        created_ms: 1,
        first_token_ms: None,
        finished_ms: 2,
        class: BillingClass::Standard,
    }
}

async fn send(bus: &dyn Bus, event: &UsageEvent, message_id: &str) {
    let subject = Subject::new(subjects::usage_subject(&event.tenant));
    while bus
        .enqueue(StreamName::Usage, &subject, message_id, encode_usage_event(event))
        .await
        .is_err()
    {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn new_bus() -> Arc<dyn Bus> {
    let bus = InProcessBus::new(InProcessLimits::default());
    let rules = StreamRules {
        max_messages: 10_000,
        max_age: Duration::from_secs(3600),
        dedup_window: Duration::from_secs(120),
    };
    for stream in [StreamName::Usage, StreamName::DeadLetters] {
        bus.ensure_stream(stream, rules).await.unwrap();
    }
    Arc::new(bus)
}

struct World {
    bus: Arc<dyn Bus>,
    ledger: Arc<TestLedger>,
    tasks: Tasks,
    metrics: Metrics,
}

impl World {
    async fn start(bus: Arc<dyn Bus>, ledger: TestLedger) -> Self {
        let world = Self {
            bus,
            ledger: Arc::new(ledger),
            tasks: Tasks::new(),
            metrics: Metrics::default(),
        };
        world.start_service().await;
        world
    }

    async fn start_service(&self) {
        let parts = UsageParts {
            bus: Arc::clone(&self.bus),
            ledger: Arc::clone(&self.ledger) as Arc<dyn Ledger>,
            tasks: self.tasks.clone(),
            metrics: self.metrics.clone(),
            clock: Arc::new(SystemClock),
        };
        let config = UsageConfig {
            batch: 4,
            ..UsageConfig::default()
        };
        start(config, parts).await.unwrap();
    }

    /// Waits until nothing on the stream is unsettled.
    async fn settle(&self) {
        tokio::time::timeout(Duration::from_secs(600), async {
            while self.bus.pending(StreamName::Usage).await.unwrap() > 0 {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
        .await
        .expect("the stream empties");
    }

    fn recorded(&self) -> Vec<u32> {
        self.ledger
            .rows
            .lock()
            .unwrap()
            .values()
            .map(|event| event.counts.prompt)
            .collect()
    }

    async fn letters(&self) -> Vec<(String, Bytes)> {
        let spec = ConsumerSpec {
            stream: StreamName::DeadLetters,
            filter: Subject::new(subjects::ALL_DEAD_LETTERS),
            name: "reader".to_owned(),
            ack_wait: Duration::from_secs(30),
            max_deliver: 1,
        };
        let letters = self
            .bus
            .consumer(spec)
            .await
            .unwrap()
            .fetch(100, Duration::ZERO)
            .await
            .unwrap();
        let letters = letters
            .iter()
            .map(|letter| decode_dead_letter(&letter.payload).unwrap());
        letters.map(|letter| (letter.reason, letter.payload)).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn every_event_is_recorded_once_and_acknowledged() {
    let world = World::start(new_bus().await, TestLedger::default()).await;
    for number in 0..10 {
        send(&*world.bus, &event(number), &format!("first {number}")).await;
        send(&*world.bus, &event(number), &format!("again {number}")).await;
    }
    world.settle().await;
    assert_eq!(world.recorded(), Vec::from_iter(0..10));
    let text = world.metrics.encode();
    assert!(
        text.contains("vlinders_usage_events_recorded_total{} 10"),
        "{text}"
    );
    assert!(
        text.contains("vlinders_usage_events_duplicate_total{} 10"),
        "{text}"
    );
}

#[tokio::test(start_paused = true)]
async fn nothing_is_acknowledged_while_the_ledger_is_away() {
    let bus = new_bus().await;
    for number in 0..4 {
        send(&*bus, &event(number), &number.to_string()).await;
    }
    let ledger = TestLedger {
        failures: Mutex::new(150),
        ..TestLedger::default()
    };
    let world = World::start(bus, ledger).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    // A second process would get what the first one seems to have forgotten.
    world.start_service().await;
    // Longer than the time after which that happens.
    tokio::time::sleep(Duration::from_secs(50)).await;
    assert_eq!(world.bus.pending(StreamName::Usage).await.unwrap(), 4);
    assert!(world.recorded().is_empty());
    world.settle().await;
    assert_eq!(world.recorded(), Vec::from_iter(0..4));
    let text = world.metrics.encode();
    assert!(
        text.contains("vlinders_usage_events_duplicate_total{} 0"),
        "{text}"
    );
    assert!(
        world.letters().await.is_empty(),
        "an absent ledger poisons nothing"
    );
}

#[tokio::test(start_paused = true)]
async fn an_unreadable_event_is_buried_with_its_reason_and_holds_up_nobody() {
    let world = World::start(new_bus().await, TestLedger::default()).await;
    let subject = Subject::new("vl.usage.tenant");
    let garbage = Bytes::from_static(b"\xff\xff garbage");
    world
        .bus
        .enqueue(StreamName::Usage, &subject, "bad", garbage.clone())
        .await
        .unwrap();
    send(&*world.bus, &event(1), "good").await;
    world.settle().await;
    assert_eq!(world.recorded(), [1]);
    let letters = world.letters().await;
    assert_eq!(letters.len(), 1);
    assert!(
        letters[0].0.starts_with("UsageEvent") && letters[0].1 == garbage,
        "{letters:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn an_event_the_ledger_refuses_is_buried_and_its_batch_recorded() {
    let ledger = TestLedger {
        refused_key: Some(KeyId::new("cursed")),
        ..TestLedger::default()
    };
    let bus = new_bus().await;
    for number in 11..16 {
        send(&*bus, &event(number), &number.to_string()).await;
    }
    let world = World::start(bus, ledger).await;
    world.settle().await;
    assert_eq!(world.recorded(), [11, 12, 14, 15]);
    let letters = world.letters().await;
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].0, "ledger: refuses: a cursed key");
}

#[tokio::test(start_paused = true)]
async fn a_ledger_that_is_set_up_wrongly_poisons_nothing() {
    let ledger = TestLedger {
        is_unusable: true,
        ..TestLedger::default()
    };
    let bus = new_bus().await;
    for number in 0..6 {
        send(&*bus, &event(number), &number.to_string()).await;
    }
    let world = World::start(bus, ledger).await;
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(world.bus.pending(StreamName::Usage).await.unwrap(), 6);
    assert!(world.letters().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_others_send_while_they_stop_is_recorded_before_the_end() {
    let world = World::start(new_bus().await, TestLedger::default()).await;
    let (bus, stopping) = (Arc::clone(&world.bus), world.tasks.stopping(Stage::Flush));
    world.tasks.spawn(Stage::Flush, "late sender", async move {
        stopping.cancelled().await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        for number in 0..9 {
            send(&*bus, &event(number), &number.to_string()).await;
        }
    });
    world.tasks.stop(Duration::from_secs(10)).await.unwrap();
    assert_eq!(world.recorded(), Vec::from_iter(0..9));
    assert_eq!(world.bus.pending(StreamName::Usage).await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_ledger_that_stays_away_does_not_keep_the_process_from_stopping() {
    let ledger = TestLedger {
        failures: Mutex::new(u32::MAX),
        ..TestLedger::default()
    };
    let world = World::start(new_bus().await, ledger).await;
    send(&*world.bus, &event(1), "1").await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    world.tasks.stop(Duration::from_secs(10)).await.unwrap();
    assert_eq!(
        world.bus.pending(StreamName::Usage).await.unwrap(),
        1,
        "the event is still on the bus"
    );
}

#[tokio::test(start_paused = true)]
async fn a_bus_that_repeats_refuses_and_forgets_changes_no_row() {
    for seed in 0..20 {
        let faults = Faults {
            refuse: 0.2,
            lose_confirmation: 0.3,
            lose_settlement: 0.3,
            ..Faults::default()
        };
        let faulty = Arc::new(FaultyBus::new(
            new_bus().await,
            seed,
            vec![(Subject::new(">"), faults)],
        ));
        let world = World::start(Arc::clone(&faulty) as Arc<dyn Bus>, TestLedger::default()).await;
        // Two processes take turns.
        world.start_service().await;
        for number in 0..30 {
            send(&*world.bus, &event(number), &number.to_string()).await;
        }
        tokio::time::sleep(Duration::from_secs(60)).await;
        faulty.heal();
        world.settle().await;
        assert_eq!(world.recorded(), Vec::from_iter(0..30), "seed {seed}");
        world.tasks.stop(Duration::from_secs(10)).await.unwrap();
    }
}
