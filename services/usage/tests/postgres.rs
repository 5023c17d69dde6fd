//! A Postgres server that goes away and comes back while usage flows.

#![expect(
    clippy::unwrap_used,
    reason = "a failed step of a test ends it, here as in the test itself"
)]

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};
use vlinders_bus::{Bus, InProcessBus, InProcessLimits, StreamName, StreamRules, Subject};
use vlinders_ledger::conformance::{PostgresServer, event};
use vlinders_ledger::{Ledger, PostgresLedger, PostgresOptions, UsageQuery};
use vlinders_service_kit::{Metrics, SystemClock, Tasks};
use vlinders_types::UsageEvent;
use vlinders_usage::{UsageConfig, UsageParts, start};
use vlinders_wire::{encode_usage_event, subjects};

const EVENTS: u32 = 1_200;

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

/// As one process of the usage service has it: its own connections, its own tasks.
async fn start_service(bus: &Arc<dyn Bus>, address: &str, tasks: &Tasks) {
    let options = PostgresOptions::parse(address).unwrap();
    let parts = UsageParts {
        bus: Arc::clone(bus),
        ledger: Arc::new(PostgresLedger::open(options).await.unwrap()),
        tasks: tasks.clone(),
        metrics: Metrics::default(),
        clock: Arc::new(SystemClock),
    };
    let config = UsageConfig {
        batch: 16,
        // Shorter than the outage, so that a forgotten event would come again while it lasts.
        ack_wait: Duration::from_secs(1),
        retry: Duration::from_millis(100),
        ..UsageConfig::default()
    };
    start(config, parts).await.unwrap();
}

/// Every event twice, over about six seconds.
async fn send_all(bus: &dyn Bus) {
    for number in 0..EVENTS {
        let event = event(number);
        let subject = Subject::new(subjects::usage_subject(&event.tenant));
        for time in ["first", "again"] {
            let id = format!("{time} {number}");
            let payload = encode_usage_event(&event);
            bus.enqueue(StreamName::Usage, &subject, &id, payload)
                .await
                .unwrap();
        }
        sleep(Duration::from_millis(4)).await;
    }
}

async fn crash_and_stop(server: &mut PostgresServer) {
    sleep(Duration::from_millis(500)).await;
    server.crash();
    sleep(Duration::from_secs(2)).await;
    server.start_again().await;
    sleep(Duration::from_millis(500)).await;
    server.stop();
    sleep(Duration::from_millis(500)).await;
    server.start_again().await;
}

async fn settle(bus: &dyn Bus) {
    let settled = timeout(Duration::from_secs(60), async {
        while bus.pending(StreamName::Usage).await.unwrap() > 0 {
            sleep(Duration::from_millis(50)).await;
        }
    });
    settled.await.expect("the stream empties");
}

#[tokio::test]
async fn nothing_is_lost_and_nothing_double_when_postgres_crashes_and_stops() {
    let mut server = PostgresServer::start().await;
    let address = server.new_database().await;
    let (bus, tasks) = (new_bus().await, Tasks::new());
    for _ in 0..2 {
        start_service(&bus, &address, &tasks).await;
    }
    tokio::join!(send_all(&*bus), crash_and_stop(&mut server));
    settle(&*bus).await;
    assert_eq!(bus.pending(StreamName::DeadLetters).await.unwrap(), 0);

    let options = PostgresOptions::parse(&address).unwrap();
    let ledger = PostgresLedger::open(options).await.unwrap();
    let recorded = ledger.usage(&UsageQuery::default()).await.unwrap();
    let expected: Vec<UsageEvent> = (0..EVENTS).rev().map(event).collect();
    assert!(
        recorded == expected,
        "{} rows for {EVENTS} events",
        recorded.len()
    );
    tasks.stop(Duration::from_secs(10)).await.unwrap();
}
