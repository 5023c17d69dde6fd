//! Who may use the compute threads: whole decode steps first, prefill layer by layer in between.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use vlinders_kernel_api::Urgency;

/// One gate per backend. It is held for a step by decode executors, and for a layer at a time by prefill executors
/// when a decode executor waits. After each decode step a waiting prefill gets one layer, so neither starves.
#[derive(Default)]
pub(crate) struct ComputeGate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    is_held: bool,
    waiting_decode: usize,
    waiting_prefill: usize,
    /// A decode step has ended while a prefill was waiting: the prefill's layer is next.
    owes_prefill: bool,
}

/// The right to compute. Dropping it lets the next one in.
pub(crate) struct Pass {
    gate: Arc<ComputeGate>,
    urgency: Urgency,
}

impl State {
    /// Whether someone of this urgency may enter now.
    fn admits(&self, urgency: Urgency) -> bool {
        let others_first = match urgency {
            Urgency::Decode => self.owes_prefill && self.waiting_prefill > 0,
            Urgency::Prefill => self.waiting_decode > 0 && !self.owes_prefill,
        };
        !self.is_held && !others_first
    }

    fn waiting(&mut self, urgency: Urgency) -> &mut usize {
        match urgency {
            Urgency::Decode => &mut self.waiting_decode,
            Urgency::Prefill => &mut self.waiting_prefill,
        }
    }

    fn leave(&mut self, urgency: Urgency) {
        self.is_held = false;
        self.owes_prefill = match urgency {
            Urgency::Decode => self.waiting_prefill > 0,
            Urgency::Prefill => false,
        };
    }
}

impl ComputeGate {
    /// Waits for its turn.
    pub(crate) fn enter(self: &Arc<Self>, urgency: Urgency) -> Pass {
        let mut state = self.lock();
        *state.waiting(urgency) += 1;
        while !state.admits(urgency) {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        *state.waiting(urgency) -= 1;
        state.is_held = true;
        Pass {
            gate: Arc::clone(self),
            urgency,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pass {
    /// Between two layers: a prefill steps aside when a decode waits, and comes back after its step.
    pub(crate) fn between_layers(&mut self) {
        let wanted = match self.urgency {
            Urgency::Decode => false,
            Urgency::Prefill => self.gate.lock().waiting_decode > 0,
        };
        if wanted {
            self.step_aside();
        }
    }

    fn step_aside(&mut self) {
        let gate = Arc::clone(&self.gate);
        let mut state = gate.lock();
        state.leave(self.urgency);
        // Counted before the lock is given up, so that the decode step's end sees that a prefill waits.
        state.waiting_prefill += 1;
        gate.changed.notify_all();
        loop {
            state = gate.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            if state.admits(self.urgency) {
                break;
            }
        }
        state.waiting_prefill -= 1;
        state.is_held = true;
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.gate.lock().leave(self.urgency);
        self.gate.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    /// Waits until this many of one urgency stand at the gate.
    fn until_waiting(gate: &ComputeGate, urgency: Urgency, count: usize) {
        while *gate.lock().waiting(urgency) != count {
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_waiting_decode_goes_before_a_waiting_prefill() {
        let gate = Arc::new(ComputeGate::default());
        let (log, order) = mpsc::sync_channel(8);
        let first = gate.enter(Urgency::Prefill);
        std::thread::scope(|scope| {
            for urgency in [Urgency::Prefill, Urgency::Decode] {
                let (gate, log) = (&gate, log.clone());
                scope.spawn(move || {
                    let pass = gate.enter(urgency);
                    log.send(urgency).unwrap();
                    drop(pass);
                });
                until_waiting(gate, urgency, 1);
            }
            drop(first);
        });
        drop(log);
        assert_eq!(
            order.iter().collect::<Vec<_>>(),
            [Urgency::Decode, Urgency::Prefill]
        );
    }

    #[test]
    fn a_prefill_yields_between_layers_and_gets_one_between_decode_steps() {
        let gate = Arc::new(ComputeGate::default());
        let (log, order) = mpsc::sync_channel(64);
        let mut prefill = gate.enter(Urgency::Prefill);
        std::thread::scope(|scope| {
            let decode_log = log.clone();
            let decode_gate = &gate;
            scope.spawn(move || {
                for _ in 0..3 {
                    let pass = decode_gate.enter(Urgency::Decode);
                    decode_log.send("step").unwrap();
                    until_waiting(decode_gate, Urgency::Prefill, 1);
                    drop(pass);
                }
            });
            for _ in 0..3 {
                until_waiting(&gate, Urgency::Decode, 1);
                prefill.between_layers();
                log.send("layer").unwrap();
            }
        });
        drop(log);
        let order: Vec<_> = order.iter().collect();
        assert_eq!(order, ["step", "layer", "step", "layer", "step", "layer"]);
    }

    #[test]
    fn nobody_waits_for_a_prefill_that_is_not_there() {
        let gate = Arc::new(ComputeGate::default());
        for _ in 0..3 {
            drop(gate.enter(Urgency::Decode));
        }
        drop(gate.enter(Urgency::Prefill));
        gate.enter(Urgency::Prefill).between_layers();
    }
}
