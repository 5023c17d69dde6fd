//! What a step tells of given tokens: logits some rows at a time, and sums of hidden states.

use vlinders_kernel_api::{Head, KernelError, Norm};
use vlinders_types::{Batch, PoolResult, ScoreResult, TokenId, TokenScore};

use crate::buffers::logit_rows;
use crate::device::Argument::{Address, F32, U32};
use crate::executor::CudaExecutor;
use crate::kernels::POOL;
use crate::region::Region;
use crate::shape::count;

/// One token to score.
#[derive(Clone, Copy)]
struct Asked {
    /// The row of `x` after which it stands.
    after: u32,
    target: TokenId,
    top: u8,
}

impl CudaExecutor {
    /// Copies words to a region of their own and waits.
    fn lay_down(&self, bytes: &[u8], what: &str) -> Result<Region, KernelError> {
        let region = Region::new(&self.device, bytes.len(), what)?;
        let stream = self.stream.stream();
        // SAFETY: both sides have as many bytes, and the source lives until the wait.
        unsafe {
            self.device
                .upload(stream, region.address(), bytes.as_ptr(), bytes.len())
        }?;
        self.device.wait(stream)?;
        Ok(region)
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
                (row.token_index..).zip(targets).map(|(after, target)| Asked {
                    after,
                    target: *target,
                    top: row.top,
                })
            })
            .collect();
        let mut found: Vec<Option<TokenScore>> = Vec::with_capacity(asked.len());
        for asked in asked.chunks(logit_rows(&self.size) as usize) {
            let rows: Vec<u8> = asked.iter().flat_map(|asked| asked.after.to_le_bytes()).collect();
            let rows = self.lay_down(&rows, "scores")?;
            self.start_logits(norm, head, rows.address(), count(asked.len()))?;
            let vocabulary = self.size.vocabulary as usize;
            self.read_rows(asked.len(), &mut |sampler, first, logits| {
                let rows = asked[first..].iter().zip(logits.chunks_exact(vocabulary));
                found.extend(rows.map(|(asked, logits)| sampler.score(logits, asked.target, asked.top)));
            })?;
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

    /// Adds up the normalised rows of `x` that the batch names, on the device, each sum in order.
    pub(crate) fn add_up(&mut self, norm: Norm, batch: &Batch) -> Result<Vec<PoolResult>, KernelError> {
        if batch.pools.is_empty() {
            return Ok(Vec::new());
        }
        let hidden = self.size.hidden as usize;
        let weight = self.weights.vector(norm.weight);
        assert_eq!(
            weight.length, self.size.hidden,
            "a norm has one weight per element"
        );
        let mut sums = Vec::with_capacity(batch.pools.len() * hidden * 8);
        let mut items = Vec::with_capacity(batch.pools.len() * 8);
        for row in &batch.pools {
            let from = sums.len();
            sums.extend(row.so_far.iter().flat_map(|sum| sum.to_le_bytes()));
            sums.resize(from + hidden * 8, 0);
            items.extend(
                [row.tokens.start, row.tokens.count]
                    .into_iter()
                    .flat_map(u32::to_le_bytes),
            );
        }
        let items = self.lay_down(&items, "sums")?;
        let on_device = self.lay_down(&sums, "sums")?;
        let arguments = [
            Address(self.buffers.x.address()),
            Address(weight.address()),
            Address(items.address()),
            Address(on_device.address()),
            U32(count(batch.pools.len())),
            U32(self.size.hidden),
            F32(norm.epsilon),
        ];
        self.launch(POOL, [count(batch.pools.len()), 1, 1], 256, 0, &arguments)?;
        let stream = self.stream.stream();
        // SAFETY: both sides have as many bytes, and nobody looks before the wait.
        unsafe {
            self.device
                .download(stream, sums.as_mut_ptr(), on_device.address(), sums.len())
        }?;
        self.device.wait(stream)?;
        let words = sums.as_chunks::<8>().0;
        let results = batch.pools.iter().zip(words.chunks_exact(hidden));
        Ok(results
            .map(|(row, words)| PoolResult {
                sequence: row.sequence,
                sum: words.iter().map(|word| f64::from_le_bytes(*word)).collect(),
            })
            .collect())
    }
}
