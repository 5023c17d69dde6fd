//! A gate that blocks are read or written behind: once closed and empty, nobody touches them any more.

use std::sync::{Arc, Mutex};

use tokio::sync::Notify;

/// Lets readers (or writers) in until it is closed, and tells when the last one has left.
#[derive(Clone, Debug)]
pub struct Gate(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Wakes [`Gate::drained`] when a closed gate has become empty.
    drained: Notify,
}

#[derive(Debug)]
struct State {
    closed: bool,
    inside: usize,
}

impl State {
    fn is_drained(&self) -> bool {
        self.closed && self.inside == 0
    }
}

impl Gate {
    /// An open gate with nobody inside.
    #[must_use]
    pub fn open() -> Self {
        let state = Mutex::new(State {
            closed: false,
            inside: 0,
        });
        Self(Arc::new(Shared {
            state,
            drained: Notify::new(),
        }))
    }

    /// Goes in, unless the gate is closed.
    #[must_use]
    pub fn enter(&self) -> Option<Pass> {
        let mut state = self.0.state.lock().expect("nothing panics while it is held");
        if state.closed {
            return None;
        }
        state.inside += 1;
        Some(Pass { gate: self.clone() })
    }

    /// Lets nobody in any more.
    pub fn close(&self) {
        let mut state = self.0.state.lock().expect("nothing panics while it is held");
        state.closed = true;
        if state.is_drained() {
            self.0.drained.notify_waiters();
        }
    }

    /// Whether it is closed and nobody is inside.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.0
            .state
            .lock()
            .expect("nothing panics while it is held")
            .is_drained()
    }

    /// Waits until it is closed and nobody is inside. Woken by [`close`](Self::close) and by dropped passes.
    pub async fn drained(&self) {
        loop {
            // Made before the look, so that a change between the look and the wait is not missed.
            let changed = self.0.drained.notified();
            if self.is_drained() {
                return;
            }
            changed.await;
        }
    }
}

/// Somebody is inside. May be moved to the thread that does the work.
#[derive(Debug)]
#[must_use = "the gate counts nobody inside once this is dropped"]
pub struct Pass {
    gate: Gate,
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut state = self.gate.0.state.lock().expect("nothing panics while it is held");
        state.inside -= 1;
        if state.is_drained() {
            self.gate.0.drained.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_closed_gate_is_drained_when_the_last_one_leaves() {
        let gate = Gate::open();
        let (first, second) = (gate.enter().unwrap(), gate.enter().unwrap());
        gate.close();
        assert!(gate.enter().is_none());
        drop(first);
        assert!(!gate.is_drained());
        let leave = async move {
            tokio::task::yield_now().await;
            drop(second);
        };
        tokio::join!(gate.drained(), leave);
        assert!(gate.is_drained());
    }

    #[tokio::test]
    async fn an_open_empty_gate_is_not_drained() {
        let gate = Gate::open();
        assert!(!gate.is_drained());
        tokio::join!(gate.drained(), async { gate.close() });
    }
}
