//! Requests cancelled before they arrived: the cancellation overtakes the request in the queue.

use std::collections::{HashMap, VecDeque};

use vlinders_types::{Cancel, RequestId};

/// Remembered cancellations at most. The oldest go first; a forgotten one costs a prefill nobody reads.
const CAPACITY: usize = 4096;

/// Remembers which attempts of which requests are not wanted any more.
#[derive(Default)]
pub(crate) struct Tombstones {
    attempts: HashMap<RequestId, u32>,
    order: VecDeque<RequestId>,
}

impl Tombstones {
    /// Remembers a cancellation.
    pub(crate) fn bury(&mut self, cancel: &Cancel) {
        match self.attempts.get_mut(&cancel.request_id) {
            Some(attempt) => *attempt = (*attempt).max(cancel.attempt),
            None => {
                self.attempts.insert(cancel.request_id, cancel.attempt);
                self.order.push_back(cancel.request_id);
            }
        }
        if self.order.len() > CAPACITY
            && let Some(oldest) = self.order.pop_front()
        {
            self.attempts.remove(&oldest);
        }
    }

    /// Whether this attempt was cancelled.
    pub(crate) fn covers(&self, request: RequestId, attempt: u32) -> bool {
        self.attempts
            .get(&request)
            .is_some_and(|cancelled| attempt <= *cancelled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cancel(number: u128, attempt: u32) -> Cancel {
        Cancel {
            request_id: RequestId(number),
            attempt,
        }
    }

    #[test]
    fn a_later_attempt_is_not_covered_by_an_earlier_cancellation() {
        let mut tombstones = Tombstones::default();
        tombstones.bury(&cancel(1, 1));
        tombstones.bury(&cancel(1, 0));
        assert!(tombstones.covers(RequestId(1), 0) && tombstones.covers(RequestId(1), 1));
        assert!(!tombstones.covers(RequestId(1), 2));
    }

    #[test]
    fn memory_is_bounded_and_the_oldest_goes_first() {
        let mut tombstones = Tombstones::default();
        for number in 0..=CAPACITY as u128 {
            tombstones.bury(&cancel(number, 0));
        }
        assert!(!tombstones.covers(RequestId(0), 0));
        assert!(tombstones.covers(RequestId(CAPACITY as u128), 0));
        assert_eq!(tombstones.attempts.len(), CAPACITY);
    }
}
