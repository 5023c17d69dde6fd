//! The receiving end of a faulty bus: messages are lost, repeated and held here, so no task has to carry late ones.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::Instant;

use super::{Fate, draw::Act};
use crate::{BusError, Incoming, Reply, Subscription};

/// Late messages held for one subscriber; beyond it messages wait in the inner bus, which has its own limit.
const MOST_HELD: usize = 1024;

pub(super) struct FaultySubscription {
    inner: Box<dyn Subscription>,
    fate: Arc<Fate>,
    /// Which subscriber of the bus this is.
    number: u64,
    /// By when they are due, then by arrival.
    held: BTreeMap<(Instant, u64), Incoming>,
    arrivals: u64,
    /// Messages in order are not due before this.
    in_order_from: Instant,
    /// The inner bus is closed; what is held still comes.
    ended: bool,
}

impl FaultySubscription {
    pub(super) fn new(inner: Box<dyn Subscription>, fate: Arc<Fate>, number: u64) -> Self {
        let in_order_from = Instant::now();
        Self {
            inner,
            fate,
            number,
            held: BTreeMap::new(),
            arrivals: 0,
            in_order_from,
            ended: false,
        }
    }

    /// Decides what becomes of a message that arrived.
    fn accept(&mut self, incoming: Incoming) {
        let (faults, mut draw) = self.fate.draw(Act::Receive(self.number), &incoming.subject);
        if draw.happens(faults.drop) {
            return;
        }
        let now = Instant::now();
        let reply = incoming
            .reply
            .map(|reply| SharedReply(Arc::new(Mutex::new(Some(reply)))));
        let copies = if draw.happens(faults.duplicate) { 2 } else { 1 };
        for _ in 0..copies {
            let reorder = draw.happens(faults.reorder);
            let mut due = now.max(self.in_order_from);
            if reorder || draw.happens(faults.delay) {
                due += draw.up_to(faults.max_delay);
            }
            if !reorder {
                self.in_order_from = due;
            }
            self.arrivals += 1;
            let copy = Incoming {
                subject: incoming.subject.clone(),
                payload: incoming.payload.clone(),
                reply: reply.clone().map(|reply| Box::new(reply) as Box<dyn Reply>),
            };
            self.held.insert((due, self.arrivals), copy);
        }
    }

    /// The first held message and whether it may go out.
    fn first_due(&self) -> Option<Instant> {
        self.held.first_key_value().map(|((due, _), _)| *due)
    }
}

#[async_trait]
impl Subscription for FaultySubscription {
    async fn next(&mut self) -> Option<Incoming> {
        loop {
            let due = self.first_due();
            if due.is_some_and(|due| due <= Instant::now()) {
                return self.held.pop_first().map(|(_, incoming)| incoming);
            }
            if self.ended && due.is_none() {
                return None;
            }
            let late = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            // Both waits lose nothing when dropped: what arrived is held in `self`.
            tokio::select! {
                biased;
                incoming = self.inner.next(), if !self.ended && self.held.len() < MOST_HELD => match incoming {
                    Some(incoming) => self.accept(incoming),
                    None => self.ended = true,
                },
                () = late => {}
            }
        }
    }

    fn lost(&self) -> u64 {
        self.inner.lost()
    }
}

/// The right to answer, held by every copy of a question. The first answer counts.
#[derive(Clone)]
struct SharedReply(Arc<Mutex<Option<Box<dyn Reply>>>>);

#[async_trait]
impl Reply for SharedReply {
    async fn send(self: Box<Self>, payload: Bytes) -> Result<(), BusError> {
        let reply = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        match reply {
            Some(reply) => reply.send(payload).await,
            None => Ok(()),
        }
    }
}
