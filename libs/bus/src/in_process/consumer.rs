//! Taking messages from a stream and settling them.

use std::pin::pin;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::stream::{Settlement, Taken};
use super::{LONGEST_WAIT, SharedStream, closed};
use crate::{BusError, Consumer, Delivery, DeliveryControl};

/// One member of a consumer.
pub(super) struct QueueConsumer {
    pub(super) stream: SharedStream,
    /// The consumer's place in the stream.
    pub(super) index: usize,
    /// Woken when a message becomes ready, or when the earliest timer moved forward.
    pub(super) wake: Arc<Notify>,
    pub(super) closed: CancellationToken,
}

impl QueueConsumer {
    fn delivery(&self, taken: Taken) -> Delivery {
        let control = QueueControl {
            stream: self.stream.clone(),
            sequence: taken.sequence,
            delivery_count: taken.delivery_count,
            closed: self.closed.clone(),
        };
        Delivery {
            subject: taken.subject,
            payload: taken.payload,
            delivery_count: taken.delivery_count,
            control: Box::new(control),
        }
    }
}

#[async_trait]
impl Consumer for QueueConsumer {
    async fn fetch(&self, max: usize, wait: Duration) -> Result<Vec<Delivery>, BusError> {
        let deadline = Instant::now() + wait.min(LONGEST_WAIT);
        loop {
            let mut wake = pin!(self.wake.notified());
            // Registered before the look: what comes between the look and the wait wakes us.
            wake.as_mut().enable();
            if self.closed.is_cancelled() {
                return Err(closed());
            }
            let now = Instant::now();
            let next_event = {
                let mut state = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
                let taken = state.take(now, self.index, max);
                // No wait lies between taking and returning: a dropped fetch has taken nothing.
                if !taken.is_empty() || max == 0 || now >= deadline {
                    return Ok(taken.into_iter().map(|taken| self.delivery(taken)).collect());
                }
                state.next_event()
            };
            let until = next_event.map_or(deadline, |event| event.min(deadline));
            tokio::select! {
                biased;
                () = self.closed.cancelled() => {}
                () = wake => {}
                () = tokio::time::sleep_until(until) => {}
            }
        }
    }
}

/// The right to settle one delivery.
struct QueueControl {
    stream: SharedStream,
    sequence: u64,
    delivery_count: u32,
    closed: CancellationToken,
}

impl QueueControl {
    fn settle(&self, settlement: Settlement) -> Result<(), BusError> {
        if self.closed.is_cancelled() {
            return Err(closed());
        }
        let mut state = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        state.settle(Instant::now(), self.sequence, self.delivery_count, settlement);
        Ok(())
    }
}

#[async_trait]
impl DeliveryControl for QueueControl {
    async fn ack(&self) -> Result<(), BusError> {
        self.settle(Settlement::Done)
    }

    async fn progress(&self) -> Result<(), BusError> {
        self.settle(Settlement::Progress)
    }

    async fn give_back(&self, delay: Duration) -> Result<(), BusError> {
        self.settle(Settlement::GiveBack {
            delay: delay.min(LONGEST_WAIT),
        })
    }

    async fn terminate(&self) -> Result<(), BusError> {
        self.settle(Settlement::Done)
    }
}
