//! Claims about streams: what is stored, what is refused, who gets what.

use std::sync::Arc;
use std::time::Duration;

use super::{
    ACK_WAIT, Bench, LONG, SHORT, STREAM, SUBJECT, bytes, fetch, fetch_one, payloads, rules, spec, text,
};
use crate::{Bus, BusError, Enqueued, StreamName, StreamRules, Subject};

/// First in, first out.
pub async fn messages_come_in_the_order_put(bus: Arc<dyn Bus>) {
    let bench = Bench::with_stream(bus, rules()).await;
    let consumer = bench.everything().await;
    for id in ["a", "b", "c"] {
        bench.put(id).await;
    }
    let mut deliveries = fetch(&*consumer, 2, LONG).await;
    deliveries.extend(fetch(&*consumer, 2, LONG).await);
    assert_eq!(payloads(&deliveries), ["a", "b", "c"]);
    for delivery in deliveries {
        assert_eq!((delivery.subject.as_str(), delivery.delivery_count), (SUBJECT, 1));
    }
}

/// A message put before anybody consumes is delivered when somebody does.
pub async fn messages_wait_for_their_consumer(bus: Arc<dyn Bus>) {
    let bench = Bench::with_stream(bus, rules()).await;
    bench.put("early").await;
    let consumer = bench.everything().await;
    assert_eq!(text(&fetch_one(&*consumer, LONG).await.payload), "early");
}

/// A full stream refuses the new message; those it accepted stay. Room made by an acknowledgement is usable.
pub async fn a_full_stream_refuses_and_keeps_what_it_has(bus: Arc<dyn Bus>) {
    let bench = Bench::with_stream(
        bus,
        StreamRules {
            max_messages: 2,
            ..rules()
        },
    )
    .await;
    let consumer = bench.everything().await;
    bench.put("a").await;
    bench.put("b").await;
    let full = Err(BusError::Full {
        stream: STREAM.name(),
    });
    assert_eq!(bench.try_put(SUBJECT, "c").await, full);
    // A delivery that is not yet acknowledged still takes its place.
    let deliveries = fetch(&*consumer, 9, LONG).await;
    assert_eq!(payloads(&deliveries), ["a", "b"]);
    assert_eq!(bench.try_put(SUBJECT, "c").await, full);
    deliveries[0].control.ack().await.expect("the bus is open");
    // A broker may confirm an acknowledgement before it has made room.
    tokio::time::sleep(SHORT).await;
    assert_eq!(
        bench.try_put(SUBJECT, "c").await,
        Ok(Enqueued::Stored),
        "a refused id was not remembered"
    );
}

/// The second message with an id is recognised, also after the first one is done.
pub async fn a_second_message_with_the_same_id_is_not_stored(bus: Arc<dyn Bus>) {
    let bench = Bench::with_stream(bus, rules()).await;
    let consumer = bench.everything().await;
    bench.put("same").await;
    assert_eq!(bench.try_put(SUBJECT, "same").await, Ok(Enqueued::Duplicate));
    assert_eq!(
        bench.try_put("vl.req.other.default", "same").await,
        Ok(Enqueued::Duplicate)
    );
    fetch_one(&*consumer, LONG)
        .await
        .control
        .ack()
        .await
        .expect("the bus is open");
    assert_eq!(bench.try_put(SUBJECT, "same").await, Ok(Enqueued::Duplicate));
    assert!(fetch(&*consumer, 9, SHORT).await.is_empty());
}

/// An id is free again when its window is over.
pub async fn the_same_id_is_stored_again_after_the_window(bus: Arc<dyn Bus>) {
    let bench = Bench::with_stream(
        bus,
        StreamRules {
            dedup_window: SHORT,
            ..rules()
        },
    )
    .await;
    bench.put("same").await;
    tokio::time::sleep(SHORT * 3).await;
    bench.put("same").await;
    assert_eq!(bench.pending().await, 2);
}

/// An acknowledged message never comes again.
pub async fn acknowledging_removes(bus: Arc<dyn Bus>) {
    let bench = Bench::with_stream(bus, rules()).await;
    let consumer = bench.everything().await;
    bench.put("a").await;
    let delivery = fetch_one(&*consumer, LONG).await;
    delivery.control.ack().await.expect("the bus is open");
    assert_eq!(
        delivery.control.ack().await,
        Ok(()),
        "saying it twice does no harm"
    );
    assert!(fetch(&*consumer, 1, ACK_WAIT * 2).await.is_empty());
    assert_eq!(bench.pending().await, 0);
}

/// Stored and delivered messages count until they are acknowledged; streams are counted apart.
pub async fn pending_counts_what_is_not_acknowledged(bus: Arc<dyn Bus>) {
    let bench = Bench::with_stream(bus, rules()).await;
    bench
        .bus
        .ensure_stream(StreamName::Usage, rules())
        .await
        .expect("a stream can be made");
    let usage = Subject::new("vl.usage.tenant");
    let stored = bench
        .bus
        .enqueue(StreamName::Usage, &usage, "a", bytes("a"))
        .await;
    assert_eq!(stored, Ok(Enqueued::Stored), "ids are remembered per stream");
    let consumer = bench.everything().await;
    for id in ["a", "b", "c"] {
        bench.put(id).await;
    }
    let deliveries = fetch(&*consumer, 2, LONG).await;
    assert_eq!(bench.pending().await, 3);
    deliveries[0].control.ack().await.expect("the bus is open");
    tokio::time::sleep(SHORT).await;
    assert_eq!(bench.pending().await, 2);
    assert_eq!(bench.bus.pending(StreamName::Usage).await, Ok(1));
}

/// What nobody took in time is gone.
pub async fn too_old_messages_are_dropped(bus: Arc<dyn Bus>) {
    let short_lived = StreamRules {
        max_age: ACK_WAIT,
        dedup_window: SHORT,
        ..rules()
    };
    let bench = Bench::with_stream(bus, short_lived).await;
    let consumer = bench.everything().await;
    bench.put("a").await;
    // Nobody promises the moment: a server looks for old messages when it has time.
    let dropped = async {
        while bench.pending().await > 0 {
            tokio::time::sleep(SHORT).await;
        }
    };
    let waited = tokio::time::timeout(LONG, dropped).await;
    assert!(waited.is_ok(), "an old message is still there");
    assert!(fetch(&*consumer, 1, SHORT).await.is_empty());
}

/// Two members of one consumer get each message once between them.
pub async fn consumers_of_one_name_share(bus: Arc<dyn Bus>) {
    let bench = Bench::with_stream(bus, rules()).await;
    let (left, right) = (bench.everything().await, bench.everything().await);
    for number in 0..6 {
        bench.put(&number.to_string()).await;
    }
    let (first, second) = tokio::join!(fetch(&*left, 3, LONG), fetch(&*right, 3, LONG));
    let mut all = payloads(&first);
    all.extend(payloads(&second));
    all.extend(payloads(&fetch(&*left, 3, SHORT).await));
    all.sort();
    assert_eq!(all, ["0", "1", "2", "3", "4", "5"]);
}

/// A message of a work queue belongs to one consumer: a second name may not claim it too.
pub async fn consumers_that_overlap_are_refused(bus: Arc<dyn Bus>) {
    let bench = Bench::with_stream(bus, rules()).await;
    let _first = bench.consumer(spec("first", "vl.req.model.*")).await;
    let second = bench.bus.consumer(spec("second", "vl.req.>")).await;
    assert!(matches!(second, Err(BusError::Overlap { .. })));
    bench.consumer(spec("third", "vl.req.other.*")).await;
}

/// Messages of other subjects stay for their own consumer.
pub async fn a_consumer_takes_only_what_its_filter_covers(bus: Arc<dyn Bus>) {
    let bench = Bench::with_stream(bus, rules()).await;
    let left = bench.consumer(spec("left", "vl.req.left.*")).await;
    for (subject, id) in [
        ("vl.req.left.q", "a"),
        ("vl.req.right.q", "b"),
        ("vl.req.left.r", "c"),
    ] {
        assert_eq!(bench.try_put(subject, id).await, Ok(Enqueued::Stored));
    }
    assert_eq!(payloads(&fetch(&*left, 9, LONG).await), ["a", "c"]);
    let right = bench.consumer(spec("right", "vl.req.right.q")).await;
    assert_eq!(payloads(&fetch(&*right, 9, LONG).await), ["b"]);
}

/// No message is taken beyond those returned: another member can have the rest at once.
pub async fn fetch_returns_at_most_what_was_asked_for(bus: Arc<dyn Bus>) {
    let bench = Bench::with_stream(bus, rules()).await;
    let (left, right) = (bench.everything().await, bench.everything().await);
    for id in ["a", "b", "c"] {
        bench.put(id).await;
    }
    let held = fetch(&*left, 2, LONG).await;
    assert_eq!(payloads(&held), ["a", "b"]);
    let rest = fetch(&*right, 9, SHORT).await;
    assert_eq!(payloads(&rest), ["c"]);
}

/// A waiting fetch returns when a message comes, not when its wait is over, and empty when none comes.
pub async fn fetch_wakes_for_a_message(bus: Arc<dyn Bus>) {
    let bench = Bench::with_stream(bus, rules()).await;
    let consumer = bench.everything().await;
    let began = tokio::time::Instant::now();
    assert!(fetch(&*consumer, 1, SHORT).await.is_empty());
    assert!(began.elapsed() >= SHORT);
    let (delivery, ()) = tokio::join!(fetch_one(&*consumer, LONG), async {
        tokio::time::sleep(SHORT).await;
        bench.put("a").await;
    });
    assert_eq!(text(&delivery.payload), "a");
    assert!(began.elapsed() < LONG);
}

/// Making a stream again with other rules keeps its messages and follows the new rules.
pub async fn new_rules_keep_the_messages(bus: Arc<dyn Bus>) {
    let bench = Bench::with_stream(
        bus,
        StreamRules {
            max_messages: 1,
            ..rules()
        },
    )
    .await;
    bench.put("a").await;
    assert!(bench.try_put(SUBJECT, "b").await.is_err());
    bench
        .bus
        .ensure_stream(
            STREAM,
            StreamRules {
                max_messages: 2,
                ..rules()
            },
        )
        .await
        .expect("rules can change");
    bench
        .bus
        .ensure_stream(
            STREAM,
            StreamRules {
                max_messages: 2,
                ..rules()
            },
        )
        .await
        .expect("and stay");
    bench.put("b").await;
    assert_eq!(bench.pending().await, 2);
    let wait = Duration::from_secs(1);
    assert_eq!(
        payloads(&fetch(&*bench.everything().await, 9, wait).await),
        ["a", "b"]
    );
}
