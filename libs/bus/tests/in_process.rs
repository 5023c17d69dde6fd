//! The in-process bus keeps every promise of a bus, also behind a faulty bus that has no faults.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use vlinders_bus::faults::FaultyBus;
use vlinders_bus::{
    Bus, BusError, ConsumerSpec, InProcessBus, InProcessLimits, StreamName, StreamRules, Subject, conformance,
};

async fn fresh() -> Arc<dyn Bus> {
    Arc::new(InProcessBus::new(InProcessLimits::default()))
}

async fn faultless() -> Arc<dyn Bus> {
    Arc::new(FaultyBus::new(fresh().await, 1, Vec::new()))
}

#[tokio::test(start_paused = true)]
async fn the_in_process_bus_conforms() {
    conformance::run_all(fresh).await;
}

#[tokio::test(start_paused = true)]
async fn a_faulty_bus_without_faults_conforms() {
    conformance::run_all(faultless).await;
}

/// Runs a future to its end on this thread.
fn block_on(future: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build();
    runtime.expect("a runtime on one thread").block_on(future);
}

async fn produce(bus: &dyn Bus, producer: u64, messages: u64) {
    let subject = Subject::new("vl.req.m.q");
    for number in 0..messages {
        let id = format!("{producer}.{number}");
        while let Err(error) = bus
            .enqueue(StreamName::Requests, &subject, &id, Bytes::new())
            .await
        {
            assert_eq!(error, BusError::Full { stream: "VL_REQ" });
            tokio::task::yield_now().await;
        }
    }
}

async fn consume(bus: &dyn Bus, done: &AtomicU64, total: u64) {
    let spec = ConsumerSpec {
        stream: StreamName::Requests,
        filter: Subject::new("vl.req.>"),
        name: "all".to_owned(),
        ack_wait: Duration::from_secs(60),
        max_deliver: 1,
    };
    let consumer = bus.consumer(spec).await.expect("a consumer can join");
    while done.load(Ordering::SeqCst) < total {
        // Short at the end only: a lost wake-up in between would show as many of these.
        for delivery in consumer
            .fetch(3, Duration::from_millis(200))
            .await
            .expect("the bus is open")
        {
            delivery.control.ack().await.expect("the bus is open");
            done.fetch_add(1, Ordering::SeqCst);
        }
    }
}

#[test]
fn threads_that_put_and_take_at_once_lose_nothing() {
    const PRODUCERS: u64 = 3;
    const MESSAGES: u64 = 2000;
    let bus = InProcessBus::new(InProcessLimits::default());
    let minute = Duration::from_secs(60);
    let rules = StreamRules {
        max_messages: 8,
        max_age: minute,
        dedup_window: minute,
    };
    block_on(async {
        bus.ensure_stream(StreamName::Requests, rules)
            .await
            .expect("a stream can be made")
    });
    let (done, began) = (AtomicU64::new(0), Instant::now());
    std::thread::scope(|scope| {
        for producer in 0..PRODUCERS {
            let bus = &bus;
            scope.spawn(move || block_on(produce(bus, producer, MESSAGES)));
        }
        for _ in 0..3 {
            scope.spawn(|| block_on(consume(&bus, &done, PRODUCERS * MESSAGES)));
        }
    });
    assert_eq!(done.load(Ordering::SeqCst), PRODUCERS * MESSAGES);
    assert!(began.elapsed() < minute, "nobody slept over a message");
    block_on(async { assert_eq!(bus.pending(StreamName::Requests).await, Ok(0)) });
}
