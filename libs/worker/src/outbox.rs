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
            for chunks in messages(chunks) {
                *batch_seq += 1;
                let batch = StepBatch {
                    worker: self.worker.clone(),
                    epoch: self.epoch,
                    batch_seq: *batch_seq,
                    chunks,
                };
                notes.push(Note::Step(frontend.clone(), batch));
            }
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

/// Bytes of scores and vectors after which a message is full. A server of the bus may refuse more than 1 MiB.
const FULL_BYTES: usize = 512 << 10;

/// One message for all chunks of a step, unless many tell of their prompts.
fn messages(chunks: Vec<Chunk>) -> Vec<Vec<Chunk>> {
    if chunks.iter().map(prompt_bytes).sum::<usize>() <= FULL_BYTES {
        return vec![chunks];
    }
    let (mut messages, mut bytes) = (vec![Vec::new()], 0);
    for chunk in chunks {
        bytes += prompt_bytes(&chunk);
        if bytes > FULL_BYTES && messages.last().is_some_and(|message| !message.is_empty()) {
            bytes = prompt_bytes(&chunk);
            messages.push(Vec::new());
        }
        if let Some(message) = messages.last_mut() {
            message.push(chunk);
        }
    }
    messages
}

/// At most what a chunk's scores and its vector occupy in a message.
fn prompt_bytes(chunk: &Chunk) -> usize {
    let scores = chunk.prompt_scores.as_ref().map_or(0, |part| {
        part.scores.iter().map(|score| 20 + 9 * score.top.len()).sum()
    });
    scores + 4 * chunk.embedding.len()
}

#[cfg(test)]
mod tests {
    use vlinders_types::{PromptScores, TokenScore};
    use vlinders_wire::encode_step_batch;

    use super::*;

    fn scored(handle: u64, tokens: usize) -> Chunk {
        let score = TokenScore {
            logprob: -1.5,
            rank: u32::MAX,
            top: vec![(u32::MAX, -2.5); 20],
        };
        let scores = vec![score; tokens];
        Chunk {
            handle,
            prompt_scores: Some(PromptScores { first: 1, scores }),
            ..Chunk::default()
        }
    }

    #[test]
    fn many_scores_go_out_in_several_messages_in_order_and_none_is_large() {
        let mut outbox = Outbox::new(WorkerId::new("w"), Epoch(1));
        let frontend = FrontendId::new("f");
        for handle in 0..30 {
            outbox.push_chunk(&frontend, scored(handle, 700));
            outbox.push_chunk(
                &frontend,
                Chunk {
                    handle,
                    ..Chunk::default()
                },
            );
        }
        let mut handles = Vec::new();
        let notes = outbox.take();
        assert!(notes.len() > 4, "{} messages", notes.len());
        for (batch_seq, note) in (1..).zip(notes) {
            let Note::Step(_, batch) = note else {
                panic!("only chunks were pushed")
            };
            assert_eq!(batch.batch_seq, batch_seq);
            assert!(encode_step_batch(&batch).len() < 600 << 10);
            handles.extend(batch.chunks.iter().map(|chunk| chunk.handle));
        }
        assert_eq!(
            handles,
            (0..30).flat_map(|handle| [handle, handle]).collect::<Vec<_>>()
        );
    }

    #[test]
    fn a_step_of_tokens_alone_is_one_message() {
        let mut outbox = Outbox::new(WorkerId::new("w"), Epoch(1));
        for handle in 0..5000 {
            outbox.push_chunk(
                &FrontendId::new("f"),
                Chunk {
                    handle,
                    ..Chunk::default()
                },
            );
        }
        assert_eq!(outbox.take().len(), 1);
    }
}
