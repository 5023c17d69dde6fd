//! Ranks of one process that hold slices of one model, and what they do together.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use vlinders_kernel_api::KernelError;

use crate::backend::NAME;

/// One rank's seat among its peers. Each rank computes on a thread of its own, and all of them do the same operations in the
/// same order: an operation that adds up or collects waits until the last rank has come to it.
#[derive(Clone)]
pub struct Peers {
    meeting: Arc<Meeting>,
    rank: usize,
    size: usize,
}

struct Meeting {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// What each rank has brought.
    brought: Vec<Vec<f32>>,
    arrived: usize,
    /// Counts operations that are complete.
    complete: u64,
    /// Of the last complete operation. Nobody comes to the next one before having read it.
    result: Vec<f32>,
    is_abandoned: bool,
}

impl Peers {
    /// Seats for `size` ranks, in their order.
    #[must_use]
    pub fn of(size: usize) -> Vec<Self> {
        let state = State {
            brought: vec![Vec::new(); size],
            arrived: 0,
            complete: 0,
            result: Vec::new(),
            is_abandoned: false,
        };
        let meeting = Arc::new(Meeting {
            state: Mutex::new(state),
            changed: Condvar::new(),
        });
        let seat = |rank| Self {
            meeting: Arc::clone(&meeting),
            rank,
            size,
        };
        (0..size).map(seat).collect()
    }

    /// From 0 up.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// How many there are.
    #[must_use]
    pub fn size(&self) -> usize {
        self.size
    }

    /// Ends all waiting, now and later, with an error: a rank that has failed does not come any more.
    pub fn abandon(&self) {
        self.lock().is_abandoned = true;
        self.meeting.changed.notify_all();
    }

    /// Every rank's values become their sum, added in the order of ranks.
    pub(crate) fn sum(&self, values: &mut [f32]) -> Result<(), KernelError> {
        let add = |brought: &[Vec<f32>], result: &mut Vec<f32>| {
            result.clone_from(&brought[0]);
            for values in &brought[1..] {
                for (sum, value) in result.iter_mut().zip(values) {
                    *sum += value;
                }
            }
        };
        let own = values.to_vec();
        self.meet(&own, add, &mut |result| values.copy_from_slice(result))
    }

    /// Shows the parts of all ranks, one after the other, to each of them.
    pub(crate) fn gather(&self, part: &[f32], see: &mut dyn FnMut(&[f32])) -> Result<(), KernelError> {
        let collect = |brought: &[Vec<f32>], result: &mut Vec<f32>| {
            result.clear();
            for part in brought {
                result.extend_from_slice(part);
            }
        };
        self.meet(part, collect, see)
    }

    fn meet(
        &self,
        values: &[f32],
        combine: impl Fn(&[Vec<f32>], &mut Vec<f32>),
        see: &mut dyn FnMut(&[f32]),
    ) -> Result<(), KernelError> {
        let mut guard = self.lock();
        let state = &mut *guard;
        let own = &mut state.brought[self.rank];
        own.clear();
        own.extend_from_slice(values);
        state.arrived += 1;
        let turn = state.complete;
        if state.arrived == self.size {
            combine(&state.brought, &mut state.result);
            state.arrived = 0;
            state.complete += 1;
            self.meeting.changed.notify_all();
        }
        while guard.complete == turn && !guard.is_abandoned {
            guard = self
                .meeting
                .changed
                .wait(guard)
                .unwrap_or_else(PoisonError::into_inner);
        }
        if guard.is_abandoned {
            let what = format!("{NAME}: another rank of this model has failed");
            return Err(KernelError::Device(what));
        }
        see(&guard.result);
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.meeting.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_and_parts_are_those_of_all_ranks_in_their_order() {
        let seats = Peers::of(3);
        let run = |peers: &Peers| {
            let mut sums = Vec::new();
            for round in 0..200_u8 {
                let own = f32::from(round) + [0.0, 100.0, 1e8][peers.rank()];
                let mut values = [own, -own];
                peers.sum(&mut values).unwrap();
                sums.push(values);
                let mut seen = Vec::new();
                let part = vec![own; peers.rank() + 1];
                peers.gather(&part, &mut |all| seen = all.to_vec()).unwrap();
                assert_eq!(seen.len(), 6);
                assert_eq!(
                    [seen[0], seen[1], seen[3]],
                    [0.0, 100.0, 1e8].map(|base| f32::from(round) + base)
                );
            }
            sums
        };
        let sums = std::thread::scope(|scope| {
            let threads: Vec<_> = seats.iter().map(|peers| scope.spawn(|| run(peers))).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect::<Vec<_>>()
        });
        for (round, sum) in (0_u8..).zip(&sums[0]) {
            let round = f32::from(round);
            let expected = (round + (round + 100.0)) + (round + 1e8);
            assert_eq!(sum, &[expected, -expected]);
        }
        assert!(sums.iter().all(|other| other == &sums[0]));
    }

    #[test]
    fn whoever_waits_for_a_rank_that_has_failed_is_told() {
        let seats = Peers::of(2);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| seats[0].sum(&mut [1.0]));
            seats[1].abandon();
            assert!(waiting.join().unwrap().is_err());
        });
        assert!(seats[0].gather(&[1.0], &mut |_| ()).is_err(), "and later too");
    }
}
