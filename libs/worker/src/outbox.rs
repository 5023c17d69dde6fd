//! What one turn of the loop has to tell the outside, collected so that a step costs one message per frontend.

use std::collections::HashMap;
use std::sync::Arc;

use vlinders_kv_transfer::Source;
use vlinders_types::{
    Chunk, Epoch, FrontendId, PrefixMark, Request, SequenceId, StepBatch, UsageEvent, WorkerId,
};

use crate::sequence::JobId;

/// One thing for the async side to do.
pub(crate) enum Note {
    /// Send tokens to a frontend.
    Step(FrontendId, StepBatch),
    /// Record a finished request, and then acknowledge its queue delivery if there is one.
    Ended(UsageEvent, Option<JobId>),
    /// Acknowledge a queue delivery: somebody answers for it now.
    Settle(JobId),
    /// Let the queue give a delivery to somebody else, at once.
    GiveBack(JobId),
    /// Stop caring for a queue delivery that a newer one of the same request replaces.
    Forget(JobId),
    /// Find a decode worker for a sequence.
    Offer(OfferOrder),
}

/// A sequence whose blocks are open for a decode worker.
pub(crate) struct OfferOrder {
    pub(crate) sequence: SequenceId,
    pub(crate) request: Arc<Request>,
    pub(crate) source: Arc<Source>,
    pub(crate) block_count: u32,
    /// Names of its full blocks, in their order.
    pub(crate) prefixes: Vec<PrefixMark>,
}

/// Collects notes, and chunks by frontend.
pub(crate) struct Outbox {
    worker: WorkerId,
    epoch: Epoch,
    /// Last `batch_seq` per frontend.
    batch_seqs: HashMap<FrontendId, u64>,
    chunks: Vec<(FrontendId, Vec<Chunk>)>,
    notes: Vec<Note>,
}

impl Outbox {
    pub(crate) fn new(worker: WorkerId, epoch: Epoch) -> Self {
        Self {
            worker,
            epoch,
            batch_seqs: HashMap::new(),
            chunks: Vec::new(),
            notes: Vec::new(),
        }
    }

    pub(crate) fn worker(&self) -> &WorkerId {
        &self.worker
    }

    pub(crate) fn push_chunk(&mut self, frontend: &FrontendId, chunk: Chunk) {
        // Few frontends: a scan is quicker than a map.
        match self.chunks.iter_mut().find(|(known, _)| known == frontend) {
            Some((_, chunks)) => chunks.push(chunk),
            None => self.chunks.push((frontend.clone(), vec![chunk])),
        }
    }

    pub(crate) fn push(&mut self, note: Note) {
        self.notes.push(note);
    }

    /// Everything since the last call. Tokens go first: what is settled or billed was sent before.
    pub(crate) fn take(&mut self) -> Vec<Note> {
        let mut notes = Vec::with_capacity(self.chunks.len() + self.notes.len());
        for (frontend, chunks) in self.chunks.drain(..) {
            let batch_seq = self.batch_seqs.entry(frontend.clone()).or_default();
            *batch_seq += 1;
            let batch = StepBatch {
                worker: self.worker.clone(),
                epoch: self.epoch,
                batch_seq: *batch_seq,
                chunks,
            };
            notes.push(Note::Step(frontend, batch));
        }
        notes.append(&mut self.notes);
        notes
    }

    /// Last `batch_seq` sent, per frontend.
    pub(crate) fn last_batch_seqs(&self) -> Vec<(FrontendId, u64)> {
        self.batch_seqs
            .iter()
            .map(|(frontend, seq)| (frontend.clone(), *seq))
            .collect()
    }

    /// A frontend that is gone needs no numbering any more.
    pub(crate) fn forget(&mut self, frontend: &FrontendId) {
        self.batch_seqs.remove(frontend);
    }
}
