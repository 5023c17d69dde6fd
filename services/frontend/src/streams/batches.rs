//! The order of step batches. Each worker numbers its batches to this frontend without gaps; a missing number means a
//! lost message, which the worker still has for some seconds.

use std::collections::HashMap;

use vlinders_types::{Beacon, Epoch, StepBatch, WorkerId};

/// Workers remembered; a restarted worker replaces itself.
const MAX_WORKERS: usize = 4096;

/// What to do about a batch, beside reading it. Chunks find their own order by position, so a batch that comes late
/// or twice is read like any other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// The next one, or an old one again.
    InOrder,
    /// Batches from this number on are missing before it.
    Missing {
        /// The first missing number.
        from_seq: u64,
    },
    /// Of a former life of the worker.
    Former,
}

/// The last batch of each worker.
#[derive(Default)]
pub(crate) struct BatchOrder {
    known: HashMap<WorkerId, Known>,
}

struct Known {
    epoch: Epoch,
    /// The largest number that came, or that was asked for again.
    last: u64,
    /// The number the worker's last beacon named, for each pool it belongs to.
    told: [u64; 2],
}

impl BatchOrder {
    /// Notes a batch.
    pub(crate) fn note(&mut self, batch: &StepBatch) -> Arrival {
        let fresh = Known::new(batch.epoch, batch.batch_seq);
        let Some(known) = self.known.get_mut(&batch.worker) else {
            self.remember(&batch.worker, fresh);
            return missing_before(1, batch.batch_seq);
        };
        match batch.epoch.cmp(&known.epoch) {
            std::cmp::Ordering::Less => Arrival::Former,
            std::cmp::Ordering::Greater => {
                *known = fresh;
                missing_before(1, batch.batch_seq)
            }
            // A worker that took us for gone, and hears of us again, counts anew.
            std::cmp::Ordering::Equal if batch.batch_seq == 1 => {
                *known = fresh;
                Arrival::InOrder
            }
            std::cmp::Ordering::Equal if batch.batch_seq <= known.last => Arrival::InOrder,
            std::cmp::Ordering::Equal => {
                let expected = known.last + 1;
                known.last = batch.batch_seq;
                missing_before(expected, batch.batch_seq)
            }
        }
    }

    /// Notes the number a worker's beacon says it sent last. A beacon may overtake the batch it names, so a batch
    /// counts as missing when the beacon before this one (of the same pool) named it already.
    pub(crate) fn note_sent(&mut self, beacon: &Beacon, sent: u64) -> Arrival {
        let is_known = self
            .known
            .get(&beacon.worker)
            .is_some_and(|known| known.epoch >= beacon.epoch);
        if !is_known {
            // Nothing of this life has come yet, though it may have been sent.
            self.remember(&beacon.worker, Known::new(beacon.epoch, 0));
        }
        let known = self.known.get_mut(&beacon.worker);
        let Some(known) = known.filter(|known| known.epoch == beacon.epoch) else {
            return Arrival::Former;
        };
        let told = std::mem::replace(&mut known.told[beacon.pool as usize], sent);
        if told <= known.last {
            return Arrival::InOrder;
        }
        let from_seq = known.last + 1;
        known.last = told;
        Arrival::Missing { from_seq }
    }
}

impl BatchOrder {
    fn remember(&mut self, worker: &WorkerId, fresh: Known) {
        if self.known.len() >= MAX_WORKERS {
            self.known.clear();
        }
        self.known.insert(worker.clone(), fresh);
    }
}

impl Known {
    const fn new(epoch: Epoch, last: u64) -> Self {
        Self {
            epoch,
            last,
            told: [0; 2],
        }
    }
}

fn missing_before(expected: u64, found: u64) -> Arrival {
    if found > expected {
        Arrival::Missing { from_seq: expected }
    } else {
        Arrival::InOrder
    }
}

#[cfg(test)]
mod tests {
    use vlinders_types::Pool;

    use super::*;
    use crate::lives::tests::beacon;

    fn batch(epoch: u64, batch_seq: u64) -> StepBatch {
        StepBatch {
            worker: WorkerId::new("w"),
            epoch: Epoch(epoch),
            batch_seq,
            chunks: Vec::new(),
        }
    }

    #[test]
    fn a_hole_is_reported_once_and_from_its_beginning() {
        let mut order = BatchOrder::default();
        let arrivals: Vec<_> = [1, 2, 5, 3, 4, 5, 6]
            .iter()
            .map(|seq| order.note(&batch(1, *seq)))
            .collect();
        let mut expected = [Arrival::InOrder; 7];
        expected[2] = Arrival::Missing { from_seq: 3 };
        assert_eq!(arrivals, expected);
    }

    #[test]
    fn a_new_life_counts_anew_and_the_former_is_over() {
        let mut order = BatchOrder::default();
        order.note(&batch(1, 7));
        assert_eq!(order.note(&batch(2, 1)), Arrival::InOrder);
        assert_eq!(order.note(&batch(1, 8)), Arrival::Former);
        assert_eq!(order.note(&batch(3, 2)), Arrival::Missing { from_seq: 1 });
    }

    #[test]
    fn a_worker_that_forgot_us_counts_anew() {
        let mut order = BatchOrder::default();
        order.note(&batch(1, 1));
        order.note(&batch(1, 2));
        assert_eq!(order.note(&batch(1, 1)), Arrival::InOrder);
        assert_eq!(order.note(&batch(1, 3)), Arrival::Missing { from_seq: 2 });
    }

    #[test]
    fn a_beacon_tells_of_batches_lost_at_the_end() {
        let mut order = BatchOrder::default();
        order.note(&batch(1, 1));
        assert_eq!(
            order.note_sent(&beacon("w", Pool::Decode, 1), 3),
            Arrival::InOrder
        );
        assert_eq!(
            order.note_sent(&beacon("w", Pool::Prefill, 1), 3),
            Arrival::InOrder
        );
        assert_eq!(
            order.note_sent(&beacon("w", Pool::Decode, 1), 3),
            Arrival::Missing { from_seq: 2 }
        );
        assert_eq!(
            order.note_sent(&beacon("w", Pool::Decode, 1), 3),
            Arrival::InOrder
        );
    }

    #[test]
    fn a_worker_of_which_nothing_came_is_noticed_by_its_beacons() {
        let mut order = BatchOrder::default();
        let told = beacon("w", Pool::Decode, 2);
        assert_eq!(order.note_sent(&told, 4), Arrival::InOrder);
        assert_eq!(order.note_sent(&told, 4), Arrival::Missing { from_seq: 1 });
        assert_eq!(order.note(&batch(2, 5)), Arrival::InOrder);
        assert_eq!(order.note_sent(&beacon("w", Pool::Decode, 1), 9), Arrival::Former);
    }
}
