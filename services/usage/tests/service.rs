//! Events reach the ledger once each, whatever the bus and the ledger do.

#![expect(
    clippy::unwrap_used,
    reason = "a failed step of a test ends it, here as in the test itself"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use vlinders_bus::{Bus, InProcessBus, InProcessLimits, StreamName, StreamRules, Subject};
use vlinders_ledger::conformance::event;
use vlinders_ledger::{Ledger, LedgerError, Recorded, SqliteLedger, UsageQuery, UsageTotal};
use vlinders_service_kit::{Metrics, SystemClock, Tasks};
use vlinders_types::UsageEvent;
use vlinders_usage::{UsageConfig, UsageParts, start};
use vlinders_wire::subjects;

struct Bench {
    bus: Arc<dyn Bus>,
    ledger: Arc<Failing>,
    tasks: Tasks,
    _folder: tempfile::TempDir,
}

/// Fails the first calls.
struct Failing {
    ledger: SqliteLedger,
    failures_left: AtomicU32,
}

#[async_trait]
impl Ledger for Failing {
    async fn record(&self, events: &[UsageEvent]) -> Result<Recorded, LedgerError> {
        let left = self
            .failures_left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        match left {
            Ok(_) => Err(LedgerError::Database {
                what: "is away",
                source: "on purpose".into(),
            }),
            Err(_) => self.ledger.record(events).await,
        }
    }
    async fn usage(&self, query: &UsageQuery) -> Result<Vec<UsageEvent>, LedgerError> {
        self.ledger.usage(query).await
    }
    async fn totals(&self, query: &UsageQuery) -> Result<Vec<UsageTotal>, LedgerError> {
        self.ledger.totals(query).await
    }
}

async fn bench(failures: u32) -> Bench {
    let bus: Arc<dyn Bus> = Arc::new(InProcessBus::new(InProcessLimits::default()));
    let rules = StreamRules {
        max_messages: 10_000,
        max_age: Duration::from_secs(3600),
        dedup_window: Duration::from_millis(1),
    };
    bus.ensure_stream(StreamName::Usage, rules).await.unwrap();
    bus.ensure_stream(StreamName::DeadLetters, rules).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let ledger = SqliteLedger::open(&folder.path().join("usage.sqlite")).unwrap();
    let ledger = Arc::new(Failing {
        ledger,
        failures_left: AtomicU32::new(failures),
    });
    let tasks = Tasks::new();
    let parts = UsageParts {
        bus: Arc::clone(&bus),
        ledger: Arc::clone(&ledger) as Arc<dyn Ledger>,
        tasks: tasks.clone(),
        metrics: Metrics::default(),
        clock: Arc::new(SystemClock),
    };
    let config = UsageConfig {
        batch: 7,
        retry: Duration::from_millis(5),
        ..UsageConfig::default()
    };
    start(config, parts).await.unwrap();
    Bench {
        bus,
        ledger,
        tasks,
        _folder: folder,
    }
}

impl Bench {
    async fn put(&self, event: &UsageEvent, id: &str) {
        let subject = Subject::new(subjects::usage_subject(&event.tenant));
        let bytes = vlinders_wire::encode_usage_event(event);
        self.bus
            .enqueue(StreamName::Usage, &subject, id, bytes)
            .await
            .unwrap();
    }

    /// Stops the service, which flushes, and reads the ledger.
    async fn recorded(self) -> Vec<UsageEvent> {
        self.tasks.stop(Duration::from_secs(10)).await.unwrap();
        assert_eq!(
            self.bus.pending(StreamName::Usage).await.unwrap(),
            0,
            "everything is acknowledged"
        );
        let mut recorded = self.ledger.usage(&UsageQuery::default()).await.unwrap();
        recorded.reverse();
        recorded
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_delivered_twice_are_recorded_once() {
    let bench = bench(0).await;
    for copy in ["a", "b", "c"] {
        for number in 0..50 {
            bench.put(&event(number), &format!("{number}-{copy}")).await;
        }
    }
    assert_eq!(bench.recorded().await, (0..50).map(event).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_was_away_loses_nothing() {
    let bench = bench(5).await;
    for number in 0..50 {
        bench.put(&event(number), &number.to_string()).await;
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(bench.recorded().await, (0..50).map(event).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreadable_event_is_kept_apart_and_holds_up_nobody() {
    let bench = bench(0).await;
    let subject = Subject::new("vl.usage.a");
    bench
        .bus
        .enqueue(StreamName::Usage, &subject, "bad", "not an event".into())
        .await
        .unwrap();
    bench.put(&event(1), "1").await;
    let bus = Arc::clone(&bench.bus);
    assert_eq!(bench.recorded().await, [event(1)]);
    assert_eq!(bus.pending(StreamName::DeadLetters).await.unwrap(), 1);
}
