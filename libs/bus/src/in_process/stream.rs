//! One stream's messages and where each of them is. No waiting here: time comes in as an argument, and every call
//! first does what became due since the last.

mod seen;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::Instant;

use self::seen::SeenIds;
use super::LONGEST_WAIT;
use crate::{BusError, ConsumerSpec, Enqueued, StreamName, StreamRules, Subject};

/// What a consumer says about a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Settlement {
    /// Acknowledged or terminated: the message leaves the stream.
    Done,
    /// Still at work.
    Progress,
    /// For somebody else, after a while.
    GiveBack { delay: Duration },
}

/// A message on its way to a consumer.
pub(super) struct Taken {
    pub(super) sequence: u64,
    pub(super) subject: Subject,
    pub(super) payload: Bytes,
    pub(super) delivery_count: u32,
}

/// Where a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// No consumer's filter covers it yet.
    Unclaimed,
    /// In its consumer's ready list.
    Ready { consumer: usize },
    /// With somebody until then; in `timers`.
    InFlight { consumer: usize, until: Instant },
    /// Given back, not to be taken before then; in `timers`.
    Delayed { consumer: usize, until: Instant },
}

struct Stored {
    subject: Subject,
    payload: Bytes,
    stored_at: Instant,
    delivery_count: u32,
    place: Place,
}

struct ConsumerState {
    spec: ConsumerSpec,
    /// In order of arrival; what comes back goes to where it was.
    ready: BTreeSet<u64>,
    wake: Arc<Notify>,
}

/// One stream.
pub(super) struct StreamState {
    name: StreamName,
    rules: StreamRules,
    next_sequence: u64,
    /// By sequence number, so the first is the oldest.
    messages: BTreeMap<u64, Stored>,
    unclaimed: BTreeSet<u64>,
    /// When which message changes its place by itself.
    timers: BTreeSet<(Instant, u64)>,
    /// Never shrinks: a consumer's index is its identity. As many as there are names, which configuration fixes.
    consumers: Vec<ConsumerState>,
    seen: SeenIds,
}

impl StreamState {
    pub(super) fn new(name: StreamName, rules: StreamRules, remembered_ids: usize) -> Self {
        Self {
            name,
            rules,
            next_sequence: 1,
            messages: BTreeMap::new(),
            unclaimed: BTreeSet::new(),
            timers: BTreeSet::new(),
            consumers: Vec::new(),
            seen: SeenIds::new(remembered_ids),
        }
    }

    pub(super) fn set_rules(&mut self, rules: StreamRules) {
        self.rules = rules;
    }

    /// Messages stored and not yet settled for good.
    pub(super) fn pending(&mut self, now: Instant) -> u64 {
        self.advance(now);
        self.messages.len() as u64
    }

    /// When `take` may find something new although nobody did anything.
    pub(super) fn next_event(&self) -> Option<Instant> {
        self.timers.first().map(|(until, _)| *until)
    }

    pub(super) fn enqueue(
        &mut self,
        now: Instant,
        subject: &Subject,
        message_id: &str,
        payload: Bytes,
    ) -> Result<Enqueued, BusError> {
        self.advance(now);
        self.seen.forget(now, self.rules.dedup_window);
        if self.seen.contains(message_id) {
            return Ok(Enqueued::Duplicate);
        }
        if self.messages.len() as u64 >= self.rules.max_messages {
            return Err(BusError::Full {
                stream: self.name.name(),
            });
        }
        self.seen.remember(now, message_id);
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        let place = Place::Unclaimed;
        let stored = Stored {
            subject: subject.clone(),
            payload,
            stored_at: now,
            delivery_count: 0,
            place,
        };
        self.messages.insert(sequence, stored);
        self.unclaimed.insert(sequence);
        if let Some(consumer) = self
            .consumers
            .iter()
            .position(|consumer| consumer.spec.filter.matches(subject))
        {
            self.make_ready(sequence, consumer);
        }
        Ok(Enqueued::Stored)
    }

    /// Index and wake-up of the consumer of this name.
    pub(super) fn join(&mut self, mut spec: ConsumerSpec) -> Result<(usize, Arc<Notify>), BusError> {
        spec.ack_wait = spec.ack_wait.min(LONGEST_WAIT);
        let rival =
            |other: &&ConsumerState| other.spec.name != spec.name && other.spec.filter.overlaps(&spec.filter);
        if let Some(other) = self.consumers.iter().find(rival) {
            let other = other.spec.name.clone();
            return Err(BusError::Overlap {
                stream: self.name.name(),
                name: spec.name,
                other,
            });
        }
        let index = self
            .consumers
            .iter()
            .position(|known| known.spec.name == spec.name);
        let index = match index {
            Some(index) => {
                self.consumers[index].spec = spec;
                let ready = std::mem::take(&mut self.consumers[index].ready);
                for sequence in &ready {
                    self.set_place(*sequence, Place::Unclaimed);
                }
                self.unclaimed.extend(ready);
                index
            }
            None => {
                self.consumers.push(ConsumerState {
                    spec,
                    ready: BTreeSet::new(),
                    wake: Arc::default(),
                });
                self.consumers.len() - 1
            }
        };
        let filter = &self.consumers[index].spec.filter;
        let covered = |sequence: &u64| {
            self.messages
                .get(sequence)
                .is_some_and(|it| filter.matches(&it.subject))
        };
        let claimed: Vec<u64> = self.unclaimed.iter().copied().filter(covered).collect();
        for sequence in claimed {
            self.make_ready(sequence, index);
        }
        Ok((index, self.consumers[index].wake.clone()))
    }

    /// Takes the oldest ready messages, at most `max`.
    pub(super) fn take(&mut self, now: Instant, consumer: usize, max: usize) -> Vec<Taken> {
        self.advance(now);
        let until = now + self.consumers[consumer].spec.ack_wait;
        let mut taken = Vec::new();
        while taken.len() < max {
            let Some(sequence) = self.consumers[consumer].ready.pop_first() else {
                break;
            };
            self.set_timer(sequence, Place::InFlight { consumer, until }, until);
            let stored = self.messages.get_mut(&sequence).expect("what is ready is stored");
            stored.delivery_count += 1;
            taken.push(Taken {
                sequence,
                subject: stored.subject.clone(),
                payload: stored.payload.clone(),
                delivery_count: stored.delivery_count,
            });
        }
        taken
    }

    /// Settles a delivery. A late `Done` still counts, since the effect has happened; a late `Progress` or `GiveBack`
    /// does not, since the message is somebody else's by now.
    pub(super) fn settle(
        &mut self,
        now: Instant,
        sequence: u64,
        delivery_count: u32,
        settlement: Settlement,
    ) {
        self.advance(now);
        // Settled before, too old, or delivered too often: nothing is left to settle.
        let Some(stored) = self.messages.get(&sequence) else {
            return;
        };
        let holder = match stored.place {
            Place::InFlight { consumer, .. } if stored.delivery_count == delivery_count => Some(consumer),
            Place::InFlight { .. } | Place::Unclaimed | Place::Ready { .. } | Place::Delayed { .. } => None,
        };
        match (settlement, holder) {
            (Settlement::Done, _) => self.remove(sequence),
            (Settlement::Progress, Some(consumer)) => {
                let until = now + self.consumers[consumer].spec.ack_wait;
                self.set_timer(sequence, Place::InFlight { consumer, until }, until);
            }
            (Settlement::GiveBack { delay }, Some(consumer)) => {
                self.give_back(now, sequence, consumer, delay)
            }
            (Settlement::Progress | Settlement::GiveBack { .. }, None) => {}
        }
    }

    fn give_back(&mut self, now: Instant, sequence: u64, consumer: usize, delay: Duration) {
        if self.is_spent(sequence, consumer) {
            self.remove(sequence);
        } else if delay.is_zero() {
            self.make_ready(sequence, consumer);
        } else {
            let until = now + delay;
            self.set_timer(sequence, Place::Delayed { consumer, until }, until);
        }
    }

    /// Whether the message was delivered as often as it may be.
    fn is_spent(&self, sequence: u64, consumer: usize) -> bool {
        let most = self.consumers[consumer].spec.max_deliver;
        self.messages
            .get(&sequence)
            .is_some_and(|stored| stored.delivery_count >= most)
    }

    /// Does what became due.
    fn advance(&mut self, now: Instant) {
        while let Some((sequence, oldest)) = self.messages.first_key_value()
            && now.duration_since(oldest.stored_at) >= self.rules.max_age
        {
            self.remove(*sequence);
        }
        while let Some((until, sequence)) = self.timers.first().copied()
            && until <= now
        {
            let place = self
                .messages
                .get(&sequence)
                .expect("what has a timer is stored")
                .place;
            match place {
                Place::InFlight { consumer, .. } if self.is_spent(sequence, consumer) => {
                    self.remove(sequence)
                }
                Place::InFlight { consumer, .. } | Place::Delayed { consumer, .. } => {
                    self.make_ready(sequence, consumer);
                }
                Place::Unclaimed | Place::Ready { .. } => unreachable!("only these places have timers"),
            }
        }
    }

    /// Gives a message a new place and takes it off the list its old place was in.
    fn set_place(&mut self, sequence: u64, place: Place) {
        let stored = self
            .messages
            .get_mut(&sequence)
            .expect("only stored messages change their place");
        match std::mem::replace(&mut stored.place, place) {
            Place::Unclaimed => self.unclaimed.remove(&sequence),
            Place::Ready { consumer } => self.consumers[consumer].ready.remove(&sequence),
            Place::InFlight { until, .. } | Place::Delayed { until, .. } => {
                self.timers.remove(&(until, sequence))
            }
        };
    }

    fn make_ready(&mut self, sequence: u64, consumer: usize) {
        self.set_place(sequence, Place::Ready { consumer });
        self.consumers[consumer].ready.insert(sequence);
        self.consumers[consumer].wake.notify_one();
    }

    /// A place that ends by itself. Whoever waits for the earliest end must look again when it moved forward.
    fn set_timer(&mut self, sequence: u64, place: Place, until: Instant) {
        self.set_place(sequence, place);
        let earliest = self.next_event();
        self.timers.insert((until, sequence));
        if earliest.is_none_or(|earliest| until < earliest) {
            for consumer in &self.consumers {
                consumer.wake.notify_waiters();
            }
        }
    }

    fn remove(&mut self, sequence: u64) {
        self.set_place(sequence, Place::Unclaimed);
        self.messages.remove(&sequence);
    }
}

#[cfg(test)]
mod tests;
