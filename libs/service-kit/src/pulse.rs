//! Whether a loop that computes still turns.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// How often a watch looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What a loop shows of itself: that it is in a turn, and when it begins the next one. Only the loop writes. Clones are
/// the same pulse.
#[derive(Clone, Debug, Default)]
pub struct Pulse {
    /// Changes with each call; odd in a turn, even at rest.
    beats: Arc<AtomicU64>,
}

impl Pulse {
    /// A turn begins: from here on the loop waits for nobody.
    pub fn begin(&self) {
        let beats = self.beats.load(Ordering::Relaxed);
        self.beats.store((beats + 1) | 1, Ordering::Relaxed);
    }

    /// The turn is over: what follows may take as long as others like.
    pub fn rest(&self) {
        let beats = self.beats.load(Ordering::Relaxed);
        self.beats.store((beats + 1) & !1, Ordering::Relaxed);
    }

    /// Ends with `hung` cancelled once one turn was seen in so many looks, a second apart, that `limit` is over; or when
    /// `stopping` is cancelled. Looks are counted, not time: whoever was stopped or got no processor has not looked
    /// meanwhile either, and its loop is not to blame.
    pub async fn watch(self, limit: Duration, hung: CancellationToken, stopping: CancellationToken) {
        let mut looks = tokio::time::interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut watched = Watched::default();
        loop {
            tokio::select! {
                biased;
                () = stopping.cancelled() => return,
                _ = looks.tick() => {}
            }
            if watched.look(self.beats.load(Ordering::Relaxed)) > limit {
                hung.cancel();
                return;
            }
        }
    }
}

/// A turn and for how long it has been seen.
#[derive(Debug, Default)]
struct Watched {
    beats: u64,
    lasted: Duration,
}

impl Watched {
    /// How long the present turn has lasted, at least.
    fn look(&mut self, beats: u64) -> Duration {
        let is_in_a_turn = beats % 2 == 1;
        self.lasted = if is_in_a_turn && beats == self.beats {
            self.lasted + LOOK_EVERY
        } else {
            Duration::ZERO
        };
        self.beats = beats;
        self.lasted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Stage, Tasks};

    const LIMIT: Duration = Duration::from_secs(60);

    struct Watching {
        pulse: Pulse,
        hung: CancellationToken,
        _tasks: Tasks,
    }

    impl Watching {
        fn new() -> Self {
            let (pulse, hung, tasks) = (Pulse::default(), CancellationToken::new(), Tasks::new());
            let stopping = tasks.stopping(Stage::Flush);
            let watch = pulse.clone().watch(LIMIT, hung.clone(), stopping);
            tasks.spawn(Stage::Flush, "watch", watch);
            Self {
                pulse,
                hung,
                _tasks: tasks,
            }
        }

        async fn is_hung_after(&self, time: Duration) -> bool {
            tokio::time::sleep(time).await;
            self.hung.is_cancelled()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_turn_that_does_not_end_is_noticed() {
        let watching = Watching::new();
        watching.pulse.begin();
        assert!(!watching.is_hung_after(LIMIT).await);
        assert!(watching.is_hung_after(3 * LOOK_EVERY).await);
    }

    #[tokio::test(start_paused = true)]
    async fn one_turn_after_another_is_work() {
        let watching = Watching::new();
        for _ in 0..10 {
            watching.pulse.begin();
            assert!(!watching.is_hung_after(LIMIT / 2).await);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_work_may_wait_for_ever() {
        let watching = Watching::new();
        watching.pulse.begin();
        watching.pulse.rest();
        assert!(!watching.is_hung_after(100 * LIMIT).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_that_stood_still_is_not_blamed() {
        let watching = Watching::new();
        watching.pulse.begin();
        assert!(!watching.is_hung_after(LIMIT / 2).await);
        // Nobody looks while the clock goes on.
        tokio::time::advance(100 * LIMIT).await;
        assert!(!watching.is_hung_after(LOOK_EVERY).await);
    }
}
