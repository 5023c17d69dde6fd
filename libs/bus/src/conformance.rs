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

/// Hands the names of all claims to another macro: `every_claim!(run)` is `run! { first_claim, second_claim, ... }`.
#[macro_export]
macro_rules! every_claim {
    ($each:ident) => {
        $each! {
            messages_arrive_in_the_order_sent,
            wildcards_match_as_documented,
            publishing_to_nobody_is_no_error,
            an_ended_subscription_gets_nothing_more,
            a_request_reaches_who_serves_it,
            the_first_answer_counts,
            a_request_nobody_serves_fails_at_once,
            a_dropped_reply_is_a_timeout,
            a_slow_subscriber_loses_alone_and_counts,
            messages_come_in_the_order_put,
            messages_wait_for_their_consumer,
            a_full_stream_refuses_and_keeps_what_it_has,
            a_second_message_with_the_same_id_is_not_stored,
            the_same_id_is_stored_again_after_the_window,
            acknowledging_removes,
            pending_counts_what_is_not_acknowledged,
            too_old_messages_are_dropped,
            consumers_of_one_name_share,
            consumers_that_overlap_are_refused,
            a_consumer_takes_only_what_its_filter_covers,
            fetch_returns_at_most_what_was_asked_for,
            fetch_wakes_for_a_message,
            new_rules_keep_the_messages,
            an_unacknowledged_message_comes_again,
            progress_keeps_a_delivery,
            terminating_ends_a_message,
            a_message_given_back_comes_again_after_the_delay,
            who_waits_gets_what_another_gives_back,
            a_message_is_delivered_at_most_max_deliver_times,
            a_late_acknowledgement_counts,
            a_dropped_fetch_loses_nothing,
        }
    };
}

/// Checks every claim, each on a bus of its own.
pub async fn run_all(fresh: impl AsyncFn() -> Arc<dyn Bus>) {
    macro_rules! run {
        ($($claim:ident,)*) => { $($claim(fresh().await).await;)* };
    }
    every_claim!(run);
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
