//! Requests cancelled before they arrived: the cancellation overtakes the request in the queue.

use std::collections::{HashMap, VecDeque};

use vlinders_types::{Cancel, RequestId};

/// Remembered cancellations at most. The oldest go first; a forgotten one costs a prefill nobody reads.
const CAPACITY: usize = 4096;

/// Why an attempt is not wanted any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Burial {
    /// Nobody waits for the request.
    Cancelled,
    /// A newer attempt brings the answer.
    Superseded,
}

/// Remembers which attempts of which requests are not wanted any more.
#[derive(Default)]
pub(crate) struct Tombstones {
    buried: HashMap<RequestId, Buried>,
    order: VecDeque<RequestId>,
}

/// Attempts below these numbers are meant.
#[derive(Clone, Copy, Default)]
struct Buried {
    superseded_below: u32,
    cancelled_below: u32,
}

impl Tombstones {
    /// Remembers a cancellation.
    pub(crate) fn bury(&mut self, cancel: &Cancel) {
        let buried = self.buried.entry(cancel.request_id).or_insert_with(|| {
            self.order.push_back(cancel.request_id);
            Buried::default()
        });
        let below = if cancel.superseded {
            &mut buried.superseded_below
        } else {
            &mut buried.cancelled_below
        };
        *below = (*below).max(cancel.attempt.saturating_add(1));
        if self.order.len() > CAPACITY
            && let Some(oldest) = self.order.pop_front()
        {
            self.buried.remove(&oldest);
        }
    }

    /// Why this attempt is not wanted, if it is not.
    pub(crate) fn find(&self, request: RequestId, attempt: u32) -> Option<Burial> {
        let buried = self.buried.get(&request)?;
        // The newest attempt answers for a request that is cancelled after all.
        if attempt < buried.superseded_below {
            Some(Burial::Superseded)
        } else if attempt < buried.cancelled_below {
            Some(Burial::Cancelled)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cancel(number: u128, attempt: u32) -> Cancel {
        Cancel {
            request_id: RequestId(number),
            attempt,
            superseded: false,
        }
    }

    #[test]
    fn a_later_attempt_is_not_covered_by_an_earlier_cancellation() {
        let mut tombstones = Tombstones::default();
        tombstones.bury(&cancel(1, 1));
        tombstones.bury(&cancel(1, 0));
        let found = [0, 1, 2].map(|attempt| tombstones.find(RequestId(1), attempt));
        assert_eq!(found, [Some(Burial::Cancelled), Some(Burial::Cancelled), None]);
    }

    #[test]
    fn of_a_cancelled_request_only_the_newest_attempt_is_billed() {
        let mut tombstones = Tombstones::default();
        tombstones.bury(&Cancel {
            superseded: true,
            ..cancel(1, 0)
        });
        tombstones.bury(&cancel(1, 1));
        let found = [0, 1, 2].map(|attempt| tombstones.find(RequestId(1), attempt));
        assert_eq!(found, [Some(Burial::Superseded), Some(Burial::Cancelled), None]);
    }

    #[test]
    fn memory_is_bounded_and_the_oldest_goes_first() {
        let mut tombstones = Tombstones::default();
        for number in 0..=CAPACITY as u128 {
            tombstones.bury(&cancel(number, 0));
        }
        assert_eq!(tombstones.find(RequestId(0), 0), None);
        assert!(tombstones.find(RequestId(CAPACITY as u128), 0).is_some());
        assert_eq!(tombstones.buried.len(), CAPACITY);
    }
}
