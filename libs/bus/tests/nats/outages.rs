//! A server that goes away and comes back.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::time::{sleep, timeout};
use vlinders_bus::{Bus, BusError, ConsumerSpec, NatsBus, StreamName, Subject};

use crate::server::{LONG, SUBJECT, Server, everything, put, rules};

const OUTAGE: Duration = Duration::from_secs(2);

fn requests() -> ConsumerSpec {
    ConsumerSpec {
        ack_wait: Duration::from_secs(3),
        max_deliver: u32::MAX,
        ..everything(StreamName::Requests)
    }
}

/// Stores messages until told to stop; returns the ids that were accepted. What fails is tried again with its id.
async fn produce(bus: &NatsBus, producer: usize, stop: &AtomicBool) -> Vec<String> {
    let mut accepted = Vec::new();
    while !stop.load(Ordering::SeqCst) {
        let id = format!("{producer}.{}", accepted.len());
        let subject = Subject::new(SUBJECT);
        let payload = Bytes::from(id.clone());
        match bus
            .enqueue(StreamName::Requests, &subject, &id, payload.clone())
            .await
        {
            Ok(_) => accepted.push(id),
            Err(error) => assert!(error.is_retryable(), "{error}"),
        }
        sleep(Duration::from_millis(2)).await;
    }
    accepted
}

/// Takes and acknowledges until the stream is empty after the end of the load.
async fn consume(bus: &NatsBus, done: &Mutex<BTreeSet<String>>, stop: &AtomicBool) {
    let consumer = bus.consumer(requests()).await.unwrap();
    loop {
        let taken = match consumer.fetch(16, Duration::from_secs(1)).await {
            Ok(taken) => taken,
            Err(error) => {
                assert!(error.is_retryable(), "{error}");
                continue;
            }
        };
        if taken.is_empty() && stop.load(Ordering::SeqCst) && bus.pending(StreamName::Requests).await == Ok(0)
        {
            return;
        }
        for delivery in taken {
            let id = String::from_utf8_lossy(&delivery.payload).into_owned();
            done.lock().unwrap().insert(id);
            if let Err(error) = delivery.control.ack().await {
                assert!(error.is_retryable(), "{error}");
            }
        }
    }
}

#[tokio::test]
async fn a_restarted_server_loses_no_accepted_request() {
    let mut server = Server::start();
    let (left, right) = (server.bus().await, server.bus().await);
    left.ensure_stream(StreamName::Requests, rules()).await.unwrap();
    let (stop, done) = (AtomicBool::new(false), Mutex::new(BTreeSet::new()));
    let run = async {
        let (first, second, (), (), ()) = tokio::join!(
            produce(&left, 0, &stop),
            produce(&right, 1, &stop),
            consume(&left, &done, &stop),
            consume(&right, &done, &stop),
            async {
                sleep(Duration::from_secs(1)).await;
                server.kill();
                sleep(OUTAGE).await;
                server.run();
                sleep(Duration::from_secs(2)).await;
                stop.store(true, Ordering::SeqCst);
            }
        );
        first.into_iter().chain(second).collect::<BTreeSet<_>>()
    };
    let accepted = timeout(LONG * 3, run).await.expect("the load ends");
    let done = done.into_inner().unwrap();
    assert!(
        accepted.len() > 100,
        "there was a load: {} accepted",
        accepted.len()
    );
    let lost: Vec<_> = accepted.difference(&done).collect();
    assert!(
        lost.is_empty(),
        "{} of {} lost: {lost:?}",
        lost.len(),
        accepted.len()
    );
}

#[tokio::test]
async fn a_call_during_an_outage_ends_well_after_it() {
    let mut server = Server::start();
    let bus = server.bus().await;
    bus.ensure_stream(StreamName::Requests, rules()).await.unwrap();
    server.kill();
    let ((), ()) = tokio::join!(put(&bus, "a"), async {
        sleep(OUTAGE).await;
        server.run();
    });
    assert_eq!(bus.pending(StreamName::Requests).await, Ok(1));
}

#[tokio::test]
async fn a_fetch_that_waits_through_an_outage_gets_what_comes_after_it() {
    let mut server = Server::start();
    let bus = server.bus().await;
    bus.ensure_stream(StreamName::Requests, rules()).await.unwrap();
    let consumer = bus.consumer(requests()).await.unwrap();
    let (taken_at, put_at) = tokio::join!(
        async {
            let taken = consumer.fetch(4, LONG).await.unwrap();
            assert_eq!(&taken[0].payload[..], b"a");
            Instant::now()
        },
        async {
            sleep(Duration::from_millis(200)).await;
            server.kill();
            sleep(OUTAGE).await;
            server.run();
            put(&bus, "a").await;
            Instant::now()
        }
    );
    // The restarted server knows nothing of the pull: it is made again at once, not when it would have ended.
    assert!(taken_at.saturating_duration_since(put_at) < Duration::from_secs(1));
}

#[tokio::test]
async fn subscriptions_come_back_after_an_outage() {
    let mut server = Server::start();
    let bus = server.bus().await;
    let mut beacons = bus.subscribe(&Subject::new("vl.hb.*")).await.unwrap();
    server.kill();
    sleep(Duration::from_millis(200)).await;
    server.run();
    bus.publish(&Subject::new("vl.hb.a"), Bytes::from_static(b"alive"))
        .await
        .unwrap();
    let beacon = timeout(LONG, beacons.next()).await.unwrap().unwrap();
    assert_eq!(&beacon.payload[..], b"alive");
}

#[tokio::test]
async fn streams_and_consumers_in_memory_are_made_again() {
    let mut server = Server::start();
    let (maker, other) = (server.memory_bus().await, server.memory_bus().await);
    maker.ensure_stream(StreamName::Requests, rules()).await.unwrap();
    let consumer = other.consumer(requests()).await.unwrap();
    put(&maker, "before").await;
    server.kill();
    server.run();
    // Stored by the bus that knows the rules, fetched by one that does not, through a consumer that was lost too.
    put(&maker, "after").await;
    let began = Instant::now();
    let taken = loop {
        match consumer.fetch(4, LONG).await {
            Ok(taken) => break taken,
            Err(BusError::NoStream { .. }) if began.elapsed() < LONG => {}
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!(&taken[0].payload[..], b"after");
    taken[0].control.ack().await.unwrap();
}

#[tokio::test]
async fn an_idle_bus_makes_its_streams_again_when_the_server_comes_back() {
    let mut server = Server::start();
    let (maker, looker) = (server.memory_bus().await, server.memory_bus().await);
    maker.ensure_stream(StreamName::Requests, rules()).await.unwrap();
    server.kill();
    server.run();
    let began = Instant::now();
    while let Err(error) = looker.pending(StreamName::Requests).await {
        assert!(error.is_retryable(), "{error}");
        assert!(began.elapsed() < LONG, "{error}");
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_message_to_nobody_waits_only_so_long_for_a_connection() {
    let mut server = Server::start();
    let bus = server.bus().await;
    server.kill();
    let subject = Subject::new("vl.tok.f");
    let began = Instant::now();
    // The client's queue takes some; then each waits its limit.
    let mut last = Ok(());
    for _ in 0..3_000 {
        last = bus.publish(&subject, Bytes::from_static(b"batch")).await;
        if last.is_err() {
            break;
        }
    }
    assert!(matches!(last, Err(BusError::Closed(_))), "{last:?}");
    assert!(began.elapsed() < LONG);
    let asked = bus
        .request(&subject, Bytes::new(), Duration::from_millis(200))
        .await;
    assert!(matches!(asked, Err(BusError::Timeout { .. })), "{asked:?}");
}
