//! Which workers live, learned from their beacons.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use vlinders_types::{Beacon, ModelName, Pool, Presence, WorkerId};

/// A worker not heard of for so long is gone and gets no more cancellations.
const FORGOTTEN: Duration = Duration::from_secs(60);

/// The workers by pool and name.
#[derive(Default)]
pub(crate) struct Workers {
    seen: Mutex<HashMap<(Pool, WorkerId), Seen>>,
}

struct Seen {
    model: ModelName,
    is_draining: bool,
    at: Instant,
}

impl Workers {
    pub(crate) fn observe(&self, beacon: &Beacon) {
        let now = Instant::now();
        let is_draining = match beacon.presence {
            Presence::Serving => false,
            Presence::Draining => true,
            Presence::Left => {
                self.lock().remove(&(beacon.pool, beacon.worker.clone()));
                return;
            }
        };
        let seen = Seen {
            model: beacon.model.clone(),
            is_draining,
            at: now,
        };
        let mut all = self.lock();
        all.retain(|_, seen| now.duration_since(seen.at) < FORGOTTEN);
        all.insert((beacon.pool, beacon.worker.clone()), seen);
    }

    /// Everybody who may hold a request for this model, each once.
    pub(crate) fn of_model(&self, model: &ModelName) -> Vec<WorkerId> {
        let all = self.lock();
        let mut workers: Vec<_> = all
            .iter()
            .filter(|(_, seen)| seen.model == *model)
            .map(|((_, worker), _)| worker.clone())
            .collect();
        workers.sort_unstable();
        workers.dedup();
        workers
    }

    /// Whether both halves of inference are alive for this model.
    pub(crate) fn serve(&self, model: &ModelName, fresh: Duration) -> bool {
        self.serve_beside(None, model, fresh)
    }

    /// The same, if this worker takes no more work.
    pub(crate) fn serve_beside(
        &self,
        leaving: Option<&WorkerId>,
        model: &ModelName,
        fresh: Duration,
    ) -> bool {
        let (now, all) = (Instant::now(), self.lock());
        [Pool::Prefill, Pool::Decode].into_iter().all(|pool| {
            all.iter().any(|((of, worker), seen)| {
                *of == pool
                    && leaving != Some(worker)
                    && seen.model == *model
                    && !seen.is_draining
                    && now.duration_since(seen.at) < fresh
            })
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(Pool, WorkerId), Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lives::tests::beacon;

    #[tokio::test(start_paused = true)]
    async fn a_model_is_served_while_both_halves_are_fresh() {
        let (workers, model, fresh) = (Workers::default(), ModelName::new("m"), Duration::from_secs(3));
        workers.observe(&beacon("a", Pool::Prefill, 1));
        assert!(!workers.serve(&model, fresh));
        workers.observe(&beacon("a", Pool::Decode, 1));
        assert!(workers.serve(&model, fresh));
        assert_eq!(workers.of_model(&model), [WorkerId::new("a")]);
        workers.observe(&Beacon {
            presence: Presence::Draining,
            ..beacon("a", Pool::Decode, 1)
        });
        assert!(!workers.serve(&model, fresh));
        workers.observe(&beacon("a", Pool::Decode, 1));
        tokio::time::advance(fresh).await;
        assert!(!workers.serve(&model, fresh));
        tokio::time::advance(FORGOTTEN).await;
        workers.observe(&beacon("b", Pool::Decode, 1));
        assert_eq!(workers.of_model(&model), [WorkerId::new("b")]);
    }
}
