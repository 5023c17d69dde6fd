//! Claims about deliveries that were not acknowledged.

use std::sync::Arc;
use std::time::Duration;

use super::{ACK_WAIT, Bench, LONG, SHORT, fetch, fetch_one, payloads, rules, text};
use crate::Bus;

/// After `ack_wait` it is somebody else's, and both know how often it was delivered.
pub async fn an_unacknowledged_message_comes_again(bus: Arc<dyn Bus>) {
    let bench = Bench::with_stream(bus, rules()).await;
    let (left, right) = (bench.everything().await, bench.everything().await);
    bench.put("a").await;
    let first = fetch_one(&*left, LONG).await;
    assert_eq!(first.delivery_count, 1);
    drop(first);
    assert!(fetch(&*right, 1, SHORT).await.is_empty(), "not before ack_wait");
    // Whoever waits is woken when the time of another one's delivery runs out.
    let began = tokio::time::Instant::now();
    let second = fetch_one(&*right, LONG).await;
    assert!(began.elapsed() <= ACK_WAIT * 2);
    assert_eq!(
        (text(&second.payload), second.delivery_count),
        ("a".to_owned(), 2)
    );
    second.control.ack().await.expect("the bus is open");
    assert!(fetch(&*left, 1, ACK_WAIT * 2).await.is_empty());
}

/// Each `progress` gives a whole `ack_wait` more.
pub async fn progress_keeps_a_delivery(bus: Arc<dyn Bus>) {
    let bench = Bench::with_stream(bus, rules()).await;
    let consumer = bench.everything().await;
    bench.put("a").await;
    let delivery = fetch_one(&*consumer, LONG).await;
    for _ in 0..4 {
        assert!(fetch(&*consumer, 1, ACK_WAIT / 2).await.is_empty());
        delivery.control.progress().await.expect("the bus is open");
    }
    delivery.control.ack().await.expect("the bus is open");
    assert!(fetch(&*consumer, 1, ACK_WAIT * 2).await.is_empty());
}

/// A terminated message never comes again and makes room.
pub async fn terminating_ends_a_message(bus: Arc<dyn Bus>) {
    let bench = Bench::with_stream(bus, rules()).await;
    let consumer = bench.everything().await;
    bench.put("a").await;
    fetch_one(&*consumer, LONG)
        .await
        .control
        .terminate()
        .await
        .expect("the bus is open");
    assert!(fetch(&*consumer, 1, ACK_WAIT * 2).await.is_empty());
    assert_eq!(bench.pending().await, 0);
}

/// Given back with a delay it comes after the delay; without one, at once. Either way it counts as delivered.
pub async fn a_message_given_back_comes_again_after_the_delay(bus: Arc<dyn Bus>) {
    let bench = Bench::with_stream(bus, rules()).await;
    let (left, right) = (bench.everything().await, bench.everything().await);
    bench.put("a").await;
    let delivery = fetch_one(&*left, LONG).await;
    delivery
        .control
        .give_back(Duration::ZERO)
        .await
        .expect("the bus is open");
    let delivery = fetch_one(&*right, SHORT).await;
    assert_eq!(delivery.delivery_count, 2);
    delivery
        .control
        .give_back(ACK_WAIT * 2)
        .await
        .expect("the bus is open");
    assert!(
        fetch(&*left, 1, ACK_WAIT).await.is_empty(),
        "not before the delay"
    );
    let delivery = fetch_one(&*left, ACK_WAIT * 2).await;
    assert_eq!(delivery.delivery_count, 3);
}

/// Whoever waits already gets what another gives back when its delay is over, not when `ack_wait` would have been.
pub async fn who_waits_gets_what_another_gives_back(bus: Arc<dyn Bus>) {
    let bench = Bench::with_stream(bus, rules()).await;
    let (left, right) = (bench.everything().await, bench.everything().await);
    bench.put("a").await;
    let delivery = fetch_one(&*left, LONG).await;
    let began = tokio::time::Instant::now();
    let (again, ()) = tokio::join!(fetch_one(&*right, LONG), async {
        tokio::time::sleep(ACK_WAIT / 10).await;
        delivery
            .control
            .give_back(ACK_WAIT / 10)
            .await
            .expect("the bus is open");
    });
    assert_eq!(again.delivery_count, 2);
    assert!(began.elapsed() < ACK_WAIT);
}

/// After the last allowed delivery it is not delivered any more, however that one ended.
pub async fn a_message_is_delivered_at_most_max_deliver_times(bus: Arc<dyn Bus>) {
    let bench = Bench::with_stream(bus, rules()).await;
    let consumer = bench.everything().await;
    bench.put("forgotten").await;
    for count in 1..=3 {
        assert_eq!(fetch_one(&*consumer, LONG).await.delivery_count, count);
    }
    assert!(fetch(&*consumer, 1, ACK_WAIT * 2).await.is_empty());
    bench.put("returned").await;
    for count in 1..=3 {
        let delivery = fetch_one(&*consumer, LONG).await;
        assert_eq!(delivery.delivery_count, count);
        delivery
            .control
            .give_back(Duration::ZERO)
            .await
            .expect("the bus is open");
    }
    assert!(fetch(&*consumer, 1, ACK_WAIT * 2).await.is_empty());
}

/// The effect has happened, so acknowledging after `ack_wait` ends the message if nobody else ended it first.
pub async fn a_late_acknowledgement_counts(bus: Arc<dyn Bus>) {
    let bench = Bench::with_stream(bus, rules()).await;
    let consumer = bench.everything().await;
    bench.put("a").await;
    let first = fetch_one(&*consumer, LONG).await;
    let second = fetch_one(&*consumer, LONG).await;
    assert_eq!(second.delivery_count, 2);
    first.control.ack().await.expect("the bus is open");
    assert!(fetch(&*consumer, 1, ACK_WAIT * 2).await.is_empty());
    assert_eq!(bench.pending().await, 0);
}

/// A fetch that is dropped while it waits takes no message with it.
pub async fn a_dropped_fetch_loses_nothing(bus: Arc<dyn Bus>) {
    let bench = Bench::with_stream(bus, rules()).await;
    let (left, right) = (bench.everything().await, bench.everything().await);
    let waiting = tokio::time::timeout(SHORT, fetch(&*left, 5, LONG));
    assert!(waiting.await.is_err());
    bench.put("a").await;
    // A broker may have sent it to whoever left; it comes again after `ack_wait` at the latest.
    let delivery = fetch_one(&*right, ACK_WAIT * 3).await;
    assert_eq!(text(&delivery.payload), "a");
    delivery.control.ack().await.expect("the bus is open");

    for number in 0..20 {
        let id = format!("m{number}");
        // The message and the end of the wait come together.
        let (cancelled, ()) = tokio::join!(tokio::time::timeout(SHORT / 8, left.fetch(1, LONG)), async {
            tokio::time::sleep(SHORT / 8).await;
            bench.put(&id).await;
        });
        let deliveries = match cancelled {
            Ok(fetched) => fetched.expect("the bus is open"),
            Err(_) => fetch(&*right, 1, ACK_WAIT * 3).await,
        };
        assert_eq!(payloads(&deliveries), [id]);
        deliveries[0].control.ack().await.expect("the bus is open");
    }
}
