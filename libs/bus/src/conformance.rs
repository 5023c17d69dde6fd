//! What every implementation of [`Bus`] promises, one function a claim. Each wants a bus with nothing on it.
//!
//! The waits are short enough for a real broker and long enough for a busy machine; under paused time they cost nothing.

mod core;
mod queue;
mod redelivery;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

pub use self::core::{
    a_dropped_reply_is_a_timeout, a_request_nobody_serves_fails_at_once, a_request_reaches_who_serves_it,
    a_slow_subscriber_loses_alone_and_counts, an_ended_subscription_gets_nothing_more,
    messages_arrive_in_the_order_sent, publishing_to_nobody_is_no_error, the_first_answer_counts,
    wildcards_match_as_documented,
};
pub use self::queue::{
    a_consumer_takes_only_what_its_filter_covers, a_full_stream_refuses_and_keeps_what_it_has,
    a_second_message_with_the_same_id_is_not_stored, acknowledging_removes, consumers_of_one_name_share,
    consumers_that_overlap_are_refused, fetch_returns_at_most_what_was_asked_for, fetch_wakes_for_a_message,
    messages_come_in_the_order_put, messages_wait_for_their_consumer, new_rules_keep_the_messages,
    pending_counts_what_is_not_acknowledged, the_same_id_is_stored_again_after_the_window,
    too_old_messages_are_dropped,
};
pub use self::redelivery::{
    a_dropped_fetch_loses_nothing, a_late_acknowledgement_counts,
    a_message_given_back_comes_again_after_the_delay, a_message_is_delivered_at_most_max_deliver_times,
    an_unacknowledged_message_comes_again, progress_keeps_a_delivery, terminating_ends_a_message,
    who_waits_gets_what_another_gives_back,
};
use crate::{
    Bus, BusError, Consumer, ConsumerSpec, Delivery, Enqueued, StreamName, StreamRules, Subject, Subscription,
};

/// How long a delivery may stay unsettled in these claims.
const ACK_WAIT: Duration = Duration::from_secs(1);
/// Longer than a broker takes for anything, shorter than [`ACK_WAIT`].
const SHORT: Duration = Duration::from_millis(400);
/// A wait that only ends early.
const LONG: Duration = Duration::from_secs(10);
const STREAM: StreamName = StreamName::Requests;
/// A subject of [`STREAM`].
const SUBJECT: &str = "vl.req.model.default";

/// Checks every claim, each on a bus of its own.
pub async fn run_all(fresh: impl AsyncFn() -> Arc<dyn Bus>) {
    messages_arrive_in_the_order_sent(fresh().await).await;
    wildcards_match_as_documented(fresh().await).await;
    publishing_to_nobody_is_no_error(fresh().await).await;
    an_ended_subscription_gets_nothing_more(fresh().await).await;
    a_request_reaches_who_serves_it(fresh().await).await;
    the_first_answer_counts(fresh().await).await;
    a_request_nobody_serves_fails_at_once(fresh().await).await;
    a_dropped_reply_is_a_timeout(fresh().await).await;
    a_slow_subscriber_loses_alone_and_counts(fresh().await).await;

    messages_come_in_the_order_put(fresh().await).await;
    messages_wait_for_their_consumer(fresh().await).await;
    a_full_stream_refuses_and_keeps_what_it_has(fresh().await).await;
    a_second_message_with_the_same_id_is_not_stored(fresh().await).await;
    the_same_id_is_stored_again_after_the_window(fresh().await).await;
    acknowledging_removes(fresh().await).await;
    pending_counts_what_is_not_acknowledged(fresh().await).await;
    too_old_messages_are_dropped(fresh().await).await;
    consumers_of_one_name_share(fresh().await).await;
    consumers_that_overlap_are_refused(fresh().await).await;
    a_consumer_takes_only_what_its_filter_covers(fresh().await).await;
    fetch_returns_at_most_what_was_asked_for(fresh().await).await;
    fetch_wakes_for_a_message(fresh().await).await;
    new_rules_keep_the_messages(fresh().await).await;

    an_unacknowledged_message_comes_again(fresh().await).await;
    progress_keeps_a_delivery(fresh().await).await;
    terminating_ends_a_message(fresh().await).await;
    a_message_given_back_comes_again_after_the_delay(fresh().await).await;
    who_waits_gets_what_another_gives_back(fresh().await).await;
    a_message_is_delivered_at_most_max_deliver_times(fresh().await).await;
    a_late_acknowledgement_counts(fresh().await).await;
    a_dropped_fetch_loses_nothing(fresh().await).await;
}

/// A bus seen by a claim: everything that must work is expected to.
struct Bench {
    bus: Arc<dyn Bus>,
}

fn rules() -> StreamRules {
    StreamRules {
        max_messages: 100,
        max_age: Duration::from_secs(3600),
        dedup_window: Duration::from_secs(120),
    }
}

fn spec(name: &str, filter: &str) -> ConsumerSpec {
    ConsumerSpec {
        stream: STREAM,
        filter: Subject::new(filter),
        name: name.to_owned(),
        ack_wait: ACK_WAIT,
        max_deliver: 3,
    }
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

impl Bench {
    /// With the stream made.
    async fn with_stream(bus: Arc<dyn Bus>, rules: StreamRules) -> Self {
        bus.ensure_stream(STREAM, rules)
            .await
            .expect("a stream can be made");
        Self { bus }
    }

    async fn listen(&self, pattern: &str) -> Box<dyn Subscription> {
        self.bus
            .subscribe(&Subject::new(pattern))
            .await
            .expect("anybody can listen")
    }

    async fn send(&self, subject: &str, payload: &str) {
        self.bus
            .publish(&Subject::new(subject), bytes(payload))
            .await
            .expect("anybody can send");
    }

    async fn try_put(&self, subject: &str, id: &str) -> Result<Enqueued, BusError> {
        self.bus
            .enqueue(STREAM, &Subject::new(subject), id, bytes(id))
            .await
    }

    /// Stores a message whose payload is its id.
    async fn put(&self, id: &str) {
        assert_eq!(self.try_put(SUBJECT, id).await, Ok(Enqueued::Stored));
    }

    async fn consumer(&self, spec: ConsumerSpec) -> Box<dyn Consumer> {
        self.bus.consumer(spec).await.expect("a consumer can join")
    }

    async fn everything(&self) -> Box<dyn Consumer> {
        self.consumer(spec("all", "vl.req.>")).await
    }

    async fn pending(&self) -> u64 {
        self.bus.pending(STREAM).await.expect("the stream is there")
    }
}

async fn fetch(consumer: &dyn Consumer, max: usize, wait: Duration) -> Vec<Delivery> {
    consumer.fetch(max, wait).await.expect("the bus is open")
}

/// Fetches exactly one message.
async fn fetch_one(consumer: &dyn Consumer, wait: Duration) -> Delivery {
    let mut deliveries = fetch(consumer, 1, wait).await;
    assert_eq!(deliveries.len(), 1, "one message is there");
    deliveries.remove(0)
}

fn payloads(deliveries: &[Delivery]) -> Vec<String> {
    deliveries
        .iter()
        .map(|delivery| text(&delivery.payload))
        .collect()
}

fn text(payload: &Bytes) -> String {
    String::from_utf8_lossy(payload).into_owned()
}

/// The payload of the next message, if one comes soon.
async fn next_text(subscription: &mut dyn Subscription) -> Option<String> {
    let next = tokio::time::timeout(SHORT, subscription.next()).await;
    next.ok().flatten().map(|incoming| text(&incoming.payload))
}
