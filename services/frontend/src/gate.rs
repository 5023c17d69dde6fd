//! Whether a server is asked at all. While it is away, one request in a while tries it and the others do not wait.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// What is known of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Up,
    /// One request may ask at this time.
    Down {
        ask_at: Instant,
    },
}

pub(crate) struct Gate {
    phase: Mutex<Phase>,
    pause: Duration,
}

impl Gate {
    /// Optimistic. A server that is away is left alone for `pause` at a time.
    pub(crate) fn new(pause: Duration) -> Self {
        Self {
            phase: Mutex::new(Phase::Up),
            pause,
        }
    }

    /// Whether this request asks the server.
    pub(crate) fn lets_ask(&self, now: Instant) -> bool {
        let mut phase = self.lock();
        match *phase {
            Phase::Up => true,
            Phase::Down { ask_at } if now < ask_at => false,
            Phase::Down { .. } => {
                let ask_at = now + self.pause;
                *phase = Phase::Down { ask_at };
                true
            }
        }
    }

    /// The server took a write. Whether that is news.
    pub(crate) fn answered(&self) -> bool {
        let mut phase = self.lock();
        std::mem::replace(&mut *phase, Phase::Up) != Phase::Up
    }

    /// The server failed. Whether that is news.
    pub(crate) fn failed(&self, now: Instant) -> bool {
        let mut phase = self.lock();
        let ask_at = now + self.pause;
        std::mem::replace(&mut *phase, Phase::Down { ask_at }) == Phase::Up
    }

    fn lock(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_server_that_is_away_is_asked_by_one_request_in_a_while() {
        let gate = Gate::new(Duration::from_secs(1));
        let now = Instant::now();
        assert!(gate.lets_ask(now) && gate.lets_ask(now) && !gate.answered());
        assert!(gate.failed(now), "news");
        assert!(!gate.failed(now), "no news");
        assert!(!gate.lets_ask(now));
        let later = now + Duration::from_secs(1);
        assert!(gate.lets_ask(later));
        assert!(!gate.lets_ask(later), "somebody asks already");
        assert!(gate.answered(), "news");
        assert!(gate.lets_ask(later) && gate.lets_ask(later));
    }
}
