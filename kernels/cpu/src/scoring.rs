//! What a step tells of given tokens: logits some rows at a time, and sums of hidden states.

use std::sync::Arc;

use vlinders_kernel_api::{Head, KernelError, Norm, slice_of};
use vlinders_types::{Batch, PoolResult, ScoreResult, TokenId, TokenScore};

use crate::buffers::{ThreadMemory, lock};
use crate::elementwise::rms_norm;
use crate::executor::CpuExecutor;
use crate::gemm::{Output, Product, multiply};
use crate::shared::SharedMut;
use crate::step::Step;
use crate::weights::Embedding;

/// One token to score.
#[derive(Clone, Copy)]
struct Asked {
    /// The row of `x` after which it stands.
    after: usize,
    target: TokenId,
    top: u8,
}

impl CpuExecutor {
    /// Fills the first `count` rows of the logits, each after the row of `x` that `row_of` names.
    pub(crate) fn make_logits(
        &mut self,
        norm: Norm,
        head: Head,
        count: usize,
        row_of: &(dyn Fn(&Step, usize) -> usize + Sync),
    ) -> Result<(), KernelError> {
        self.enter().between_layers();
        let weights = Arc::clone(&self.weights);
        let linear = match head {
            Head::Separate(linear) => weights.linear(linear),
            Head::Tied(embedding) => match weights.embedding(embedding) {
                Embedding::Tied(packed) => packed,
                Embedding::Rows(_) => panic!("the embedding was not uploaded as tied"),
            },
        };
        let vocabulary = self.size().vocabulary;
        let is_slice = self.buffers.part.is_some() && linear.outputs < vocabulary;
        assert!(
            is_slice || linear.outputs == vocabulary,
            "the head names every token, or all ranks do together"
        );
        let layout = self.norm_rows(norm, linear, count, row_of);
        let output = match &mut self.buffers.part {
            Some(part) if is_slice => Output::Store(SharedMut::new(part.as_mut_slice())),
            _ => Output::Store(SharedMut::new(self.buffers.logits.as_mut_slice())),
        };
        let left = self.buffers.left.as_slice();
        multiply(
            &self.device.pool,
            self.device.isa,
            &Product {
                weights: linear,
                left,
                layout,
                output,
            },
        );
        if is_slice {
            self.gather_logits(count, linear.outputs)?;
        }
        Ok(())
    }

    /// Puts the slices of `count` rows of logits beside one another. Ranks hold neighbouring slices in their order, which
    /// differ by one token at most.
    fn gather_logits(&mut self, count: usize, own: usize) -> Result<(), KernelError> {
        let vocabulary = self.size().vocabulary;
        let (Some(peers), Some(part)) = (&self.device.peers, &self.buffers.part) else {
            return Ok(());
        };
        let logits = self.buffers.logits.as_mut_slice::<f32>();
        peers.gather(&part.as_slice::<f32>()[..count * own], &mut |all| {
            let mut rest = all;
            for rank in 0..peers.size() {
                let slice = slice_of(vocabulary, rank, peers.size());
                let (rows, others) = rest.split_at(count * slice.len());
                rest = others;
                for (row, from) in rows.chunks_exact(slice.len()).enumerate() {
                    logits[row * vocabulary..][slice.clone()].copy_from_slice(from);
                }
            }
        })
    }

    /// Scores all targets of the batch, as many at a time as there are rows for logits.
    pub(crate) fn score_targets(
        &mut self,
        norm: Norm,
        head: Head,
        batch: &Batch,
    ) -> Result<Vec<ScoreResult>, KernelError> {
        let asked: Vec<Asked> = batch
            .scores
            .iter()
            .flat_map(|row| {
                let targets = batch.targets[row.targets.range()].iter();
                targets.enumerate().map(|(index, target)| Asked {
                    after: row.token_index as usize + index,
                    target: *target,
                    top: row.top,
                })
            })
            .collect();
        let mut found: Vec<Option<TokenScore>> = vec![None; asked.len()];
        let at_once = self.size().logit_rows();
        for (asked, found) in asked.chunks(at_once).zip(found.chunks_mut(at_once)) {
            self.make_logits(norm, head, asked.len(), &|_, row| asked[row].after)?;
            self.read_scores(asked, found);
        }
        let mut found = found.into_iter();
        let result = |row: &vlinders_types::ScoreRow| ScoreResult {
            sequence: row.sequence,
            // All of a row are taken, also when one of them is missing.
            scores: found
                .by_ref()
                .take(row.targets.count as usize)
                .collect::<Vec<_>>()
                .into_iter()
                .collect(),
        };
        Ok(batch.scores.iter().map(result).collect())
    }

    fn read_scores(&mut self, asked: &[Asked], found: &mut [Option<TokenScore>]) {
        let vocabulary = self.size().vocabulary;
        let logits = self.buffers.logits.as_slice::<f32>();
        let (found, threads) = (SharedMut::new(found), &self.threads);
        self.device.pool.deal(asked.len(), 1, &|thread, rows| {
            let mut memory = lock(&threads[thread]);
            for index in rows {
                let Asked { target, top, .. } = asked[index];
                let row = &logits[index * vocabulary..][..vocabulary];
                let score = memory.sampler.score(row, target, top);
                // SAFETY: each row is dealt to one thread, and the none replaced holds nothing to drop.
                unsafe { found.set(index, score) };
            }
        });
    }

    /// Adds up the normalised rows of `x` that the batch names. One thread does it in order: beside the layers it is
    /// nothing.
    pub(crate) fn add_up(&mut self, norm: Norm, batch: &Batch) -> Vec<PoolResult> {
        if batch.pools.is_empty() {
            return Vec::new();
        }
        self.enter();
        let hidden = self.size().hidden;
        let isa = self.device.isa;
        let x = self.buffers.x.as_slice::<f32>();
        let weight = self.weights.vector(norm.weight);
        let mut memory = lock(&self.threads[0]);
        let ThreadMemory { row: normed, .. } = &mut *memory;
        let result = |row: &vlinders_types::PoolRow| {
            let mut sum = match row.so_far.is_empty() {
                true => vec![0.0; hidden],
                false => row.so_far.to_vec(),
            };
            for token in row.tokens.range() {
                rms_norm(isa, &x[token * hidden..][..hidden], weight, norm.epsilon, normed);
                for (sum, element) in sum.iter_mut().zip(normed.iter()) {
                    *sum += f64::from(*element);
                }
            }
            PoolResult {
                sequence: row.sequence,
                sum: sum.into(),
            }
        };
        batch.pools.iter().map(result).collect()
    }
}
