//! The stream against a plain model: a list of messages, each asked for its state at every step.

use proptest::prelude::*;

use super::*;

const ACK_WAIT: Duration = Duration::from_secs(10);
const MAX_AGE: Duration = Duration::from_secs(60);
const DEDUP: Duration = Duration::from_secs(20);
const MAX_MESSAGES: usize = 4;
const MAX_DELIVER: u32 = 3;

#[derive(Clone, Copy, Debug)]
enum Step {
    Enqueue { id: u8, consumer: usize },
    Take { consumer: usize, max: usize },
    Settle { delivery: usize, settlement: Settlement },
    Wait { seconds: u64 },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let settlement = prop_oneof![
        Just(Settlement::Done),
        Just(Settlement::Progress),
        (0_u64..8).prop_map(|seconds| Settlement::GiveBack {
            delay: Duration::from_secs(seconds)
        }),
    ];
    let step = prop_oneof![
        3 => (0_u8..12, 0_usize..2).prop_map(|(id, consumer)| Step::Enqueue { id, consumer }),
        3 => (0_usize..2, 0_usize..4).prop_map(|(consumer, max)| Step::Take { consumer, max }),
        3 => (any::<usize>(), settlement).prop_map(|(delivery, settlement)| Step::Settle { delivery, settlement }),
        2 => (0_u64..15).prop_map(|seconds| Step::Wait { seconds }),
    ];
    proptest::collection::vec(step, 0..60)
}

struct Modelled {
    sequence: u64,
    consumer: usize,
    stored_at: Instant,
    count: u32,
    /// Not to be taken before; with the holder's delivery count while somebody has it.
    busy_until: Option<(Instant, Option<u32>)>,
}

#[derive(Default)]
struct Model {
    sequence: u64,
    messages: Vec<Modelled>,
    ids: Vec<(Instant, u8)>,
}

impl Model {
    fn advance(&mut self, now: Instant) {
        self.messages.retain(|message| now - message.stored_at < MAX_AGE);
        self.ids.retain(|(arrival, _)| now - *arrival < DEDUP);
        self.messages.retain(|message| match message.busy_until {
            Some((until, Some(_))) => until > now || message.count < MAX_DELIVER,
            Some((_, None)) | None => true,
        });
        for message in &mut self.messages {
            if message.busy_until.is_some_and(|(until, _)| until <= now) {
                message.busy_until = None;
            }
        }
    }

    fn enqueue(&mut self, now: Instant, id: u8, consumer: usize) -> Result<Enqueued, BusError> {
        if self.ids.iter().any(|(_, seen)| *seen == id) {
            return Ok(Enqueued::Duplicate);
        }
        if self.messages.len() == MAX_MESSAGES {
            return Err(BusError::Full { stream: "VL_REQ" });
        }
        self.ids.push((now, id));
        self.sequence += 1;
        let message = Modelled {
            sequence: self.sequence,
            consumer,
            stored_at: now,
            count: 0,
            busy_until: None,
        };
        self.messages.push(message);
        Ok(Enqueued::Stored)
    }

    fn take(&mut self, now: Instant, consumer: usize, max: usize) -> Vec<(u64, u32)> {
        let ready = self.messages.iter_mut();
        let ready = ready.filter(|message| message.consumer == consumer && message.busy_until.is_none());
        ready
            .take(max)
            .map(|message| {
                message.count += 1;
                message.busy_until = Some((now + ACK_WAIT, Some(message.count)));
                (message.sequence, message.count)
            })
            .collect()
    }

    fn settle(&mut self, now: Instant, (sequence, count): (u64, u32), settlement: Settlement) {
        let Some(index) = self
            .messages
            .iter()
            .position(|message| message.sequence == sequence)
        else {
            return;
        };
        let held = self.messages[index]
            .busy_until
            .is_some_and(|(_, holder)| holder == Some(count));
        match settlement {
            Settlement::Done => drop(self.messages.remove(index)),
            Settlement::Progress if held => {
                self.messages[index].busy_until = Some((now + ACK_WAIT, Some(count)));
            }
            Settlement::GiveBack { .. } if held && count == MAX_DELIVER => drop(self.messages.remove(index)),
            Settlement::GiveBack { delay } if held => {
                self.messages[index].busy_until = (!delay.is_zero()).then_some((now + delay, None));
            }
            Settlement::Progress | Settlement::GiveBack { .. } => {}
        }
    }
}

fn spec(consumer: usize) -> ConsumerSpec {
    ConsumerSpec {
        stream: StreamName::Requests,
        filter: Subject::new(format!("vl.req.{consumer}.*")),
        name: format!("consumer-{consumer}"),
        ack_wait: ACK_WAIT,
        max_deliver: MAX_DELIVER,
    }
}

fn stream() -> StreamState {
    let rules = StreamRules {
        max_messages: MAX_MESSAGES as u64,
        max_age: MAX_AGE,
        dedup_window: DEDUP,
    };
    StreamState::new(StreamName::Requests, rules, 1000)
}

/// Every message is on exactly the list its place says, and on no other.
fn assert_lists_agree(stream: &StreamState) {
    let mut listed = stream.unclaimed.len() + stream.timers.len();
    listed += stream
        .consumers
        .iter()
        .map(|consumer| consumer.ready.len())
        .sum::<usize>();
    assert_eq!(listed, stream.messages.len());
    for (sequence, stored) in &stream.messages {
        let found = match stored.place {
            Place::Unclaimed => stream.unclaimed.contains(sequence),
            Place::Ready { consumer } => stream.consumers[consumer].ready.contains(sequence),
            Place::InFlight { until, .. } | Place::Delayed { until, .. } => {
                stream.timers.contains(&(until, *sequence))
            }
        };
        assert!(found, "message {sequence} is not where it says");
    }
}

proptest! {
    #[test]
    fn a_stream_does_what_the_plain_model_does(steps in steps()) {
        let (mut stream, mut model) = (stream(), Model::default());
        let mut now = Instant::now();
        let mut deliveries = Vec::new();
        for consumer in 0..2 {
            prop_assert_eq!(stream.join(spec(consumer)).unwrap().0, consumer);
        }
        for step in steps {
            model.advance(now);
            match step {
                Step::Wait { seconds } => now += Duration::from_secs(seconds),
                Step::Enqueue { id, consumer } => {
                    let subject = Subject::new(format!("vl.req.{consumer}.q"));
                    let enqueued = stream.enqueue(now, &subject, &id.to_string(), Bytes::new());
                    prop_assert_eq!(enqueued, model.enqueue(now, id, consumer));
                }
                Step::Take { consumer, max } => {
                    let taken = stream.take(now, consumer, max);
                    let taken: Vec<_> = taken.iter().map(|it| (it.sequence, it.delivery_count)).collect();
                    prop_assert_eq!(&taken, &model.take(now, consumer, max));
                    deliveries.extend(taken);
                }
                Step::Settle { delivery, settlement } => {
                    if !deliveries.is_empty() {
                        let (sequence, count) = deliveries[delivery % deliveries.len()];
                        stream.settle(now, sequence, count, settlement);
                        model.settle(now, (sequence, count), settlement);
                    }
                }
            }
            model.advance(now);
            prop_assert_eq!(stream.pending(now), model.messages.len() as u64);
            assert_lists_agree(&stream);
        }
    }
}

#[test]
fn a_consumer_that_comes_late_gets_what_waited() {
    let (mut stream, now) = (stream(), Instant::now());
    stream
        .enqueue(now, &Subject::new("vl.req.0.q"), "a", Bytes::new())
        .unwrap();
    stream
        .enqueue(now, &Subject::new("vl.req.1.q"), "b", Bytes::new())
        .unwrap();
    let (consumer, _) = stream.join(spec(1)).unwrap();
    assert_eq!(stream.take(now, consumer, 9).len(), 1);
}

#[test]
fn a_consumer_that_changes_its_filter_leaves_what_it_no_longer_covers() {
    let (mut stream, now) = (stream(), Instant::now());
    let (consumer, _) = stream.join(spec(0)).unwrap();
    stream
        .enqueue(now, &Subject::new("vl.req.0.q"), "a", Bytes::new())
        .unwrap();
    let moved = ConsumerSpec {
        name: spec(0).name,
        ..spec(1)
    };
    assert_eq!(stream.join(moved).unwrap().0, consumer);
    assert!(stream.take(now, consumer, 9).is_empty());
    assert_lists_agree(&stream);
    let (consumer, _) = stream
        .join(ConsumerSpec {
            name: "new".to_owned(),
            ..spec(0)
        })
        .unwrap();
    assert_eq!(stream.take(now, consumer, 9).len(), 1);
}

#[test]
fn a_refused_message_is_not_remembered_as_seen() {
    let (mut stream, now) = (stream(), Instant::now());
    let (consumer, _) = stream.join(spec(0)).unwrap();
    let subject = Subject::new("vl.req.0.q");
    for id in 0..MAX_MESSAGES {
        stream
            .enqueue(now, &subject, &id.to_string(), Bytes::new())
            .unwrap();
    }
    assert!(stream.enqueue(now, &subject, "late", Bytes::new()).is_err());
    let taken = stream.take(now, consumer, 1);
    stream.settle(now, taken[0].sequence, 1, Settlement::Done);
    assert_eq!(
        stream.enqueue(now, &subject, "late", Bytes::new()),
        Ok(Enqueued::Stored)
    );
}
