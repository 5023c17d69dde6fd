//! Usage events stay for other readers, and count as done when the usage consumer has acknowledged them.

use std::time::Duration;

use bytes::Bytes;
use vlinders_bus::{Bus, BusError, Enqueued, NatsBus, StreamName, StreamRules, Subject};

use crate::server::{LONG, Server, everything, rules};

const USAGE: StreamName = StreamName::Usage;

async fn give(bus: &NatsBus, number: u32) -> Result<Enqueued, BusError> {
    bus.enqueue(
        USAGE,
        &Subject::new("vl.usage.tenant"),
        &number.to_string(),
        Bytes::new(),
    )
    .await
}

#[tokio::test]
async fn acknowledged_events_are_done_and_can_still_be_read() {
    let server = Server::start();
    let bus = server.bus().await;
    bus.ensure_stream(USAGE, rules()).await.unwrap();
    for number in 0..4 {
        give(&bus, number).await.unwrap();
    }
    assert_eq!(bus.pending(USAGE).await, Ok(4), "also before anybody consumes");
    let consumer = bus.consumer(everything(USAGE)).await.unwrap();
    let taken = consumer.fetch(3, LONG).await.unwrap();
    assert_eq!(bus.pending(USAGE).await, Ok(4));
    for delivery in &taken {
        delivery.control.ack().await.unwrap();
    }
    assert_eq!(bus.pending(USAGE).await, Ok(1));
    // Somebody else, of another name, reads all of them later.
    let mut reader = everything(USAGE);
    reader.name = "reader".to_owned();
    let reader = bus.consumer(reader).await.unwrap();
    assert_eq!(reader.fetch(10, LONG).await.unwrap().len(), 4);
    assert_eq!(bus.pending(USAGE).await, Ok(1), "a reader changes nothing");
}

#[tokio::test]
async fn a_full_stream_forgets_the_oldest_that_are_done_and_nothing_else() {
    let server = Server::start();
    let bus = server.bus().await;
    let few = StreamRules {
        max_messages: 10,
        ..rules()
    };
    bus.ensure_stream(USAGE, few).await.unwrap();
    let consumer = bus.consumer(everything(USAGE)).await.unwrap();
    for number in 0..10 {
        give(&bus, number).await.unwrap();
    }
    let full = Err(BusError::Full { stream: "VL_USAGE" });
    assert_eq!(give(&bus, 10).await, full, "nothing is done");
    let taken = consumer.fetch(3, LONG).await.unwrap();
    for delivery in &taken {
        delivery.control.ack().await.unwrap();
    }
    for number in 10..13 {
        assert_eq!(give(&bus, number).await, Ok(Enqueued::Stored));
    }
    assert_eq!(give(&bus, 13).await, full, "the rest is not done");
    let rest = consumer.fetch(20, Duration::from_secs(1)).await.unwrap();
    assert_eq!(rest.len(), 10, "every event that was not done is still there");
}
