//! Blocks that somebody may still touch although their hand-off is over.

use std::sync::Mutex;

use vlinders_types::RequestId;

use crate::Gate;

/// Gates of ended hand-offs that have not drained. Entries leave by themselves: every look removes drained ones.
#[derive(Debug, Default)]
pub(crate) struct Quarantine {
    entries: Mutex<Vec<Entry>>,
}

#[derive(Debug)]
struct Entry {
    request: RequestId,
    attempt: u32,
    gate: Gate,
}

impl Quarantine {
    /// Closes the gate and keeps it until it has drained. True when it has drained already.
    pub(crate) fn hold(&self, request: RequestId, attempt: u32, gate: &Gate) -> bool {
        gate.close();
        if gate.is_drained() {
            return true;
        }
        let entry = Entry {
            request,
            attempt,
            gate: gate.clone(),
        };
        self.entries
            .lock()
            .expect("nothing panics while it is held")
            .push(entry);
        false
    }

    /// Hand-offs whose blocks may still be touched.
    pub(crate) fn count(&self) -> usize {
        let mut entries = self.entries.lock().expect("nothing panics while it is held");
        entries.retain(|entry| !entry.gate.is_drained());
        entries.len()
    }

    /// Waits until nothing of this request's attempt can be touched any more.
    pub(crate) async fn quiesced(&self, request: RequestId, attempt: u32) {
        while let Some(gate) = self.held(request, attempt) {
            gate.drained().await;
        }
    }

    fn held(&self, request: RequestId, attempt: u32) -> Option<Gate> {
        let mut entries = self.entries.lock().expect("nothing panics while it is held");
        entries.retain(|entry| !entry.gate.is_drained());
        let found = entries
            .iter()
            .find(|entry| entry.request == request && entry.attempt == attempt)?;
        Some(found.gate.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_hand_off_is_held_until_its_last_read_is_done() {
        let (quarantine, gate, request) = (Quarantine::default(), Gate::open(), RequestId(1));
        let pass = gate.enter().unwrap();
        assert!(!quarantine.hold(request, 0, &gate));
        quarantine.quiesced(request, 1).await;
        assert_eq!(quarantine.count(), 1);
        tokio::join!(quarantine.quiesced(request, 0), async { drop(pass) });
        assert_eq!(quarantine.count(), 0);
    }

    #[test]
    fn an_empty_gate_is_not_held() {
        let quarantine = Quarantine::default();
        assert!(quarantine.hold(RequestId(1), 0, &Gate::open()));
        assert_eq!(quarantine.count(), 0);
    }
}
