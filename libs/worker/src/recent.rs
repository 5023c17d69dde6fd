//! Step batches sent lately, for a frontend that missed some of them.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use vlinders_types::FrontendId;

/// So long a batch can be had again. A frontend notices a hole with the next batch or beacon, within a second.
const KEPT: Duration = Duration::from_secs(5);
/// Bytes kept for one frontend at most; the oldest batches make way.
const MAX_BYTES: usize = 16 << 20;
/// How often batches of frontends that get nothing any more are looked for.
const PURGE: Duration = Duration::from_secs(1);

/// Shared by the outlet, which fills it, and the task that answers frontends.
#[derive(Clone, Default)]
pub(crate) struct RecentBatches {
    kept: Arc<Mutex<Kept>>,
}

#[derive(Default)]
struct Kept {
    frontends: HashMap<FrontendId, Lane>,
    purged: Option<Instant>,
}

/// What one frontend was sent, oldest first.
#[derive(Default)]
struct Lane {
    batches: VecDeque<Sent>,
    bytes: usize,
}

struct Sent {
    batch_seq: u64,
    at: Instant,
    payload: Bytes,
}

impl RecentBatches {
    /// Keeps a batch that is being sent.
    pub(crate) fn keep(&self, frontend: &FrontendId, batch_seq: u64, payload: Bytes) {
        let now = Instant::now();
        let mut kept = self.lock();
        if kept.purged.is_none_or(|at| now.duration_since(at) >= PURGE) {
            kept.purged = Some(now);
            kept.frontends.retain(|_, lane| {
                lane.expire(now);
                !lane.batches.is_empty()
            });
        }
        let lane = kept.frontends.entry(frontend.clone()).or_default();
        if batch_seq == 1 {
            // Counted anew: older numbers would mean something else.
            *lane = Lane::default();
        }
        lane.push(Sent {
            batch_seq,
            at: now,
            payload,
        });
        lane.expire(now);
    }

    /// What there is of the batches from this number on, in order.
    pub(crate) fn since(&self, frontend: &FrontendId, from_seq: u64) -> Vec<Bytes> {
        let now = Instant::now();
        let mut kept = self.lock();
        let Some(lane) = kept.frontends.get_mut(frontend) else {
            return Vec::new();
        };
        lane.expire(now);
        let wanted = lane.batches.iter().filter(|sent| sent.batch_seq >= from_seq);
        wanted.map(|sent| sent.payload.clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lane {
    fn push(&mut self, sent: Sent) {
        self.bytes += sent.payload.len();
        self.batches.push_back(sent);
        while self.bytes > MAX_BYTES {
            self.drop_oldest();
        }
    }

    fn expire(&mut self, now: Instant) {
        while let Some(oldest) = self.batches.front()
            && now.duration_since(oldest.at) >= KEPT
        {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        if let Some(oldest) = self.batches.pop_front() {
            self.bytes -= oldest.payload.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(batch_seq: u64) -> Bytes {
        batch_seq.to_le_bytes().to_vec().into()
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_older_than_five_seconds_is_gone() {
        let (recent, frontend) = (RecentBatches::default(), FrontendId::new("f"));
        for batch_seq in 1..=3 {
            recent.keep(&frontend, batch_seq, payload(batch_seq));
            tokio::time::advance(Duration::from_secs(2)).await;
        }
        assert_eq!(recent.since(&frontend, 1), [payload(2), payload(3)]);
        assert_eq!(recent.since(&frontend, 3), [payload(3)]);
        assert_eq!(recent.since(&FrontendId::new("other"), 1), Vec::<Bytes>::new());
        tokio::time::advance(KEPT).await;
        recent.keep(&FrontendId::new("other"), 1, payload(1));
        assert_eq!(recent.lock().frontends.len(), 1, "a silent frontend costs memory");
    }

    #[tokio::test(start_paused = true)]
    async fn large_batches_push_the_oldest_out() {
        let (recent, frontend) = (RecentBatches::default(), FrontendId::new("f"));
        for batch_seq in 1..=5 {
            recent.keep(&frontend, batch_seq, vec![0; MAX_BYTES / 2].into());
        }
        assert_eq!(recent.since(&frontend, 1).len(), 2);
        recent.keep(&frontend, 6, vec![0; MAX_BYTES + 1].into());
        assert_eq!(recent.since(&frontend, 1).len(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn numbers_of_a_former_count_are_not_mixed_with_new_ones() {
        let (recent, frontend) = (RecentBatches::default(), FrontendId::new("f"));
        recent.keep(&frontend, 7, payload(7));
        recent.keep(&frontend, 1, payload(1));
        assert_eq!(recent.since(&frontend, 1), [payload(1)]);
    }
}
