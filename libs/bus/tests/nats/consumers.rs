//! What a pull at a server must not do to messages.

use std::time::{Duration, Instant};

use vlinders_bus::{Bus, Consumer, ConsumerSpec, NatsBus, StreamName};

use crate::server::{LONG, Server, everything, put, rules};

/// Far below any `ack_wait` here.
const SOON: Duration = Duration::from_secs(2);

async fn bench() -> (Server, NatsBus, Box<dyn Consumer>) {
    let server = Server::start();
    let bus = server.bus().await;
    bus.ensure_stream(StreamName::Requests, rules()).await.unwrap();
    let consumer = bus.consumer(everything(StreamName::Requests)).await.unwrap();
    (server, bus, consumer)
}

/// Starts a fetch and leaves it while it waits.
async fn leave(consumer: &dyn Consumer, max: usize) {
    let left = tokio::time::timeout(Duration::from_millis(100), consumer.fetch(max, LONG)).await;
    assert!(left.is_err(), "nothing is there");
}

#[tokio::test]
async fn a_left_pull_gives_back_at_once_what_it_gets() {
    let (_server, bus, leaver) = bench().await;
    leave(&*leaver, 10).await;
    let other = bus.consumer(everything(StreamName::Requests)).await.unwrap();
    put(&bus, "a").await;
    let began = Instant::now();
    let taken = other.fetch(1, LONG).await.unwrap();
    assert_eq!(&taken[0].payload[..], b"a");
    assert!(
        began.elapsed() < SOON,
        "not after ack_wait: {:?}",
        began.elapsed()
    );
}

#[tokio::test]
async fn a_dropped_consumer_gives_back_what_its_last_pull_gets() {
    let (_server, bus, leaver) = bench().await;
    leave(&*leaver, 10).await;
    drop(leaver);
    let other = bus.consumer(everything(StreamName::Requests)).await.unwrap();
    put(&bus, "a").await;
    let began = Instant::now();
    let taken = other.fetch(1, LONG).await.unwrap();
    assert_eq!(&taken[0].payload[..], b"a");
    assert!(
        began.elapsed() < SOON,
        "not after ack_wait: {:?}",
        began.elapsed()
    );
}

#[tokio::test]
async fn a_member_that_leaves_again_and_again_costs_one_delivery_at_most() {
    let (_server, bus, leaver) = bench().await;
    // More often than a message may be delivered: pulls that pile up would use up every delivery.
    for _ in 0..5 {
        leave(&*leaver, 4).await;
    }
    let other = bus.consumer(everything(StreamName::Requests)).await.unwrap();
    put(&bus, "a").await;
    let taken = other.fetch(1, SOON).await.unwrap();
    assert_eq!(taken.len(), 1, "it was not given up");
    assert!(taken[0].delivery_count <= 2, "{}", taken[0].delivery_count);
}

#[tokio::test]
async fn the_next_fetch_takes_over_a_left_pull() {
    let (_server, bus, consumer) = bench().await;
    leave(&*consumer, 4).await;
    let (taken, ()) = tokio::join!(consumer.fetch(4, SOON), async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        put(&bus, "a").await;
    });
    let taken = taken.unwrap();
    assert_eq!(taken.len(), 1);
    assert_eq!(taken[0].delivery_count, 1, "no other pull had it before");
}

#[tokio::test]
async fn a_fetch_that_cannot_wait_sees_what_is_there() {
    let (_server, bus, consumer) = bench().await;
    assert!(consumer.fetch(4, Duration::ZERO).await.unwrap().is_empty());
    leave(&*consumer, 4).await;
    let began = Instant::now();
    assert!(consumer.fetch(4, Duration::ZERO).await.unwrap().is_empty());
    assert!(began.elapsed() < SOON);
    put(&bus, "a").await;
    put(&bus, "b").await;
    // A pull that was left may have had one of them, and gives it back: it is there a moment later.
    let (since, mut taken) = (Instant::now(), Vec::new());
    while taken.len() < 2 {
        assert!(since.elapsed() < LONG, "{} of 2 came", taken.len());
        taken.extend(consumer.fetch(4, Duration::ZERO).await.unwrap());
    }
}

#[tokio::test]
async fn a_batch_comes_at_once_and_no_message_waits_for_a_full_one() {
    let (_server, bus, consumer) = bench().await;
    for number in 0..50 {
        put(&bus, &number.to_string()).await;
    }
    let began = Instant::now();
    assert_eq!(consumer.fetch(32, LONG).await.unwrap().len(), 32);
    assert_eq!(consumer.fetch(32, LONG).await.unwrap().len(), 18);
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
}

#[tokio::test]
async fn several_fetches_on_one_member_take_turns() {
    let (_server, bus, consumer) = bench().await;
    let (first, second, ()) = tokio::join!(consumer.fetch(1, LONG), consumer.fetch(1, LONG), async {
        put(&bus, "a").await;
        put(&bus, "b").await;
    });
    let payloads = [&first.unwrap()[0].payload[..], &second.unwrap()[0].payload[..]];
    assert_eq!(payloads, [&b"a"[..], &b"b"[..]]);
}

#[tokio::test]
async fn a_message_without_a_limit_of_deliveries_keeps_coming() {
    let server = Server::start();
    let bus = server.bus().await;
    bus.ensure_stream(StreamName::Requests, rules()).await.unwrap();
    let spec = ConsumerSpec {
        max_deliver: u32::MAX,
        ..everything(StreamName::Requests)
    };
    let consumer = bus.consumer(spec).await.unwrap();
    put(&bus, "a").await;
    for count in 1..20 {
        let taken = consumer.fetch(1, LONG).await.unwrap();
        assert_eq!(taken[0].delivery_count, count);
        taken[0].control.give_back(Duration::ZERO).await.unwrap();
    }
}
