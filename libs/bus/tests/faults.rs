//! The faulty bus does each of its faults, and the same ones for the same seed.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use vlinders_bus::faults::{FaultPlan, Faults, FaultyBus};
use vlinders_bus::{
    Bus, BusError, ConsumerSpec, Enqueued, InProcessBus, InProcessLimits, StreamName, StreamRules, Subject,
};

const MESSAGES: u8 = 200;

fn faulty(seed: u64, faults: Faults) -> FaultyBus {
    let plan: FaultPlan = vec![
        (Subject::new("f.>"), faults),
        (Subject::new("vl.req.f.*"), faults),
    ];
    FaultyBus::new(
        Arc::new(InProcessBus::new(InProcessLimits::default())),
        seed,
        plan,
    )
}

/// Sends numbers and returns what a subscriber sees, in its order.
async fn seen(bus: &FaultyBus, subject: &str) -> Vec<u8> {
    let subject = Subject::new(subject);
    let mut subscription = bus.subscribe(&subject).await.expect("anybody can listen");
    for number in 0..MESSAGES {
        let _ = bus.publish(&subject, Bytes::copy_from_slice(&[number])).await;
    }
    let mut seen = Vec::new();
    while let Ok(Some(incoming)) = tokio::time::timeout(Duration::from_secs(60), subscription.next()).await {
        seen.push(incoming.payload[0]);
    }
    seen
}

fn all() -> Vec<u8> {
    (0..MESSAGES).collect()
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_does_the_same() {
    let faults = Faults {
        drop: 0.1,
        duplicate: 0.1,
        reorder: 0.2,
        max_delay: Duration::from_secs(1),
        ..Faults::default()
    };
    let first = seen(&faulty(5, faults), "f.a").await;
    assert_eq!(first, seen(&faulty(5, faults), "f.a").await);
    assert_ne!(first, seen(&faulty(6, faults), "f.a").await);
}

#[tokio::test(start_paused = true)]
async fn dropped_messages_are_missing() {
    let seen = seen(
        &faulty(
            1,
            Faults {
                drop: 0.3,
                ..Faults::default()
            },
        ),
        "f.a",
    )
    .await;
    assert!((100..180).contains(&seen.len()), "{}", seen.len());
    assert!(seen.is_sorted());
}

#[tokio::test(start_paused = true)]
async fn duplicated_messages_come_twice() {
    let mut seen = seen(
        &faulty(
            1,
            Faults {
                duplicate: 0.3,
                ..Faults::default()
            },
        ),
        "f.a",
    )
    .await;
    assert!(seen.len() > 220);
    seen.dedup();
    assert_eq!(seen, all());
}

#[tokio::test(start_paused = true)]
async fn delayed_messages_keep_their_order_and_come_late() {
    let began = tokio::time::Instant::now();
    let faults = Faults {
        delay: 0.1,
        max_delay: Duration::from_secs(2),
        ..Faults::default()
    };
    assert_eq!(seen(&faulty(1, faults), "f.a").await, all());
    assert!(began.elapsed() > Duration::from_secs(62));
}

#[tokio::test(start_paused = true)]
async fn reordered_messages_are_overtaken_and_not_lost() {
    let faults = Faults {
        reorder: 0.2,
        max_delay: Duration::from_secs(2),
        ..Faults::default()
    };
    let mut seen = seen(&faulty(1, faults), "f.a").await;
    assert!(!seen.is_sorted());
    seen.sort_unstable();
    assert_eq!(seen, all());
}

#[tokio::test(start_paused = true)]
async fn a_cut_ends_when_it_is_healed_and_spares_other_subjects() {
    let bus = faulty(1, Faults::CUT);
    assert_eq!(seen(&bus, "g.a").await, all());
    assert!(seen(&bus, "f.a").await.is_empty());
    bus.heal();
    assert_eq!(seen(&bus, "f.a").await, all());
}

#[tokio::test(start_paused = true)]
async fn a_lost_confirmation_had_its_effect() {
    let bus = faulty(
        1,
        Faults {
            lose_confirmation: 1.0,
            ..Faults::default()
        },
    );
    let rules = StreamRules {
        max_messages: 10,
        max_age: Duration::from_secs(60),
        dedup_window: Duration::from_secs(60),
    };
    bus.ensure_stream(StreamName::Requests, rules).await.unwrap();
    let subject = Subject::new("vl.req.f.q");
    let put = async || {
        bus.enqueue(StreamName::Requests, &subject, "1", Bytes::new())
            .await
    };
    assert!(matches!(put().await, Err(BusError::Timeout { .. })));
    assert_eq!(bus.pending(StreamName::Requests).await, Ok(1));
    bus.heal();
    assert_eq!(put().await, Ok(Enqueued::Duplicate));
}

#[tokio::test(start_paused = true)]
async fn a_duplicated_question_is_answered_once() {
    let bus = faulty(
        1,
        Faults {
            duplicate: 1.0,
            ..Faults::default()
        },
    );
    let mut served = bus.subscribe(&Subject::new("f.q")).await.unwrap();
    let subject = Subject::new("f.q");
    let (answer, ()) = tokio::join!(
        bus.request(&subject, Bytes::new(), Duration::from_secs(1)),
        async {
            for answer in [b"1", b"2"] {
                let reply = served.next().await.unwrap().reply.unwrap();
                reply.send(Bytes::copy_from_slice(answer)).await.unwrap();
            }
        }
    );
    assert_eq!(answer.unwrap(), "1");
}

#[tokio::test(start_paused = true)]
async fn a_lost_acknowledgement_brings_the_message_again() {
    let bus = faulty(
        1,
        Faults {
            lose_settlement: 1.0,
            ..Faults::default()
        },
    );
    let rules = StreamRules {
        max_messages: 10,
        max_age: Duration::from_secs(60),
        dedup_window: Duration::from_secs(60),
    };
    bus.ensure_stream(StreamName::Requests, rules).await.unwrap();
    let spec = ConsumerSpec {
        stream: StreamName::Requests,
        filter: Subject::new("vl.req.>"),
        name: "c".to_owned(),
        ack_wait: Duration::from_secs(1),
        max_deliver: 5,
    };
    let consumer = bus.consumer(spec).await.unwrap();
    bus.enqueue(
        StreamName::Requests,
        &Subject::new("vl.req.f.q"),
        "1",
        Bytes::new(),
    )
    .await
    .unwrap();
    for count in 1..=4 {
        let deliveries = consumer.fetch(1, Duration::from_secs(5)).await.unwrap();
        assert_eq!(deliveries[0].delivery_count, count);
        let _ = deliveries[0].control.ack().await;
    }
    bus.heal();
    let deliveries = consumer.fetch(1, Duration::from_secs(5)).await.unwrap();
    deliveries[0].control.ack().await.unwrap();
    assert_eq!(bus.pending(StreamName::Requests).await, Ok(0));
}
