//! The message ids of the last while.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

pub(super) struct SeenIds {
    limit: usize,
    ids: HashSet<Arc<str>>,
    /// In order of arrival; holds exactly the ids of `ids`.
    arrivals: VecDeque<(Instant, Arc<str>)>,
}

impl SeenIds {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            ids: HashSet::new(),
            arrivals: VecDeque::new(),
        }
    }

    pub(super) fn contains(&self, id: &str) -> bool {
        self.ids.contains(id)
    }

    pub(super) fn remember(&mut self, now: Instant, id: &str) {
        while self.arrivals.len() >= self.limit.max(1) {
            self.forget_oldest();
        }
        let id: Arc<str> = id.into();
        self.arrivals.push_back((now, id.clone()));
        self.ids.insert(id);
    }

    /// Forgets what came `window` ago or earlier.
    pub(super) fn forget(&mut self, now: Instant, window: Duration) {
        while let Some((arrival, _)) = self.arrivals.front()
            && now.duration_since(*arrival) >= window
        {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((_, id)) = self.arrivals.pop_front() {
            self.ids.remove(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_ids_are_held_than_allowed() {
        let mut seen = SeenIds::new(2);
        let now = Instant::now();
        for id in ["a", "b", "c"] {
            seen.remember(now, id);
        }
        assert_eq!(["a", "b", "c"].map(|id| seen.contains(id)), [false, true, true]);
        seen.forget(now + Duration::from_secs(1), Duration::from_secs(1));
        assert!(seen.ids.is_empty() && seen.arrivals.is_empty());
    }
}
