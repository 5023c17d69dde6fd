//! What every backend refuses before it computes.

use vlinders_types::{
    BLOCK_TOKENS, Batch, BatchRow, BlockId, PoolRow, SampleRow, ScoreRow, SequenceId, Span, TokenId,
    blocks_for_tokens,
};

use crate::{ExecutorSpec, KernelError, LinearKind, LinearPart};

impl ExecutorSpec {
    /// Whether the shapes can be computed at all.
    ///
    /// # Errors
    /// [`KernelError::Unsupported`] in the name of `backend`.
    pub fn check(&self, backend: &'static str) -> Result<(), KernelError> {
        let refuse = |what: String| Err(KernelError::Unsupported { backend, what });
        let KvSizes {
            kv_heads,
            head_dim,
            layers,
        } = KvSizes::of(self);
        if kv_heads == 0 || head_dim == 0 || layers == 0 || self.hidden == 0 || self.vocabulary == 0 {
            return refuse("a model with a size of zero".to_owned());
        }
        if !head_dim.is_multiple_of(2) {
            return refuse(format!("an odd head size ({head_dim})"));
        }
        if self.query_heads == 0 || !self.query_heads.is_multiple_of(kv_heads) {
            return refuse(format!(
                "{} query heads over {kv_heads} key/value heads",
                self.query_heads
            ));
        }
        if self.max_batch_tokens == 0 || self.max_rows == 0 || self.max_context_tokens == 0 {
            return refuse("an executor for no tokens".to_owned());
        }
        Ok(())
    }

    /// Whether `batch` fits this spec and does not contradict itself. What passes can be followed blindly: spans lie
    /// inside their arrays, rows tile the tokens in order, ids exist, and no two rows write the same block.
    ///
    /// # Errors
    /// [`KernelError::Batch`] with what is wrong.
    pub fn check_batch(&self, batch: &Batch) -> Result<(), KernelError> {
        at_most("rows", batch.rows.len(), self.max_rows)?;
        at_most("tokens", batch.tokens.len(), self.max_batch_tokens)?;
        at_most("samples", batch.samples.len(), self.max_samples)?;
        self.check_tokens("token", &batch.tokens)?;
        self.check_tokens("history token", &batch.history)?;
        if let Some(block) = batch.blocks.iter().find(|block| block.0 >= self.block_count) {
            return refuse(format!("block {} of a pool of {}", block.0, self.block_count));
        }
        let mut written = Vec::with_capacity(batch.rows.len() * 2);
        let mut next_token = 0;
        for row in &batch.rows {
            if row.tokens.start != next_token || row.tokens.count == 0 {
                return refuse(format!("{:?} does not follow the row before it", row.sequence));
            }
            self.check_row(batch, row, &mut written)?;
            next_token += row.tokens.count;
        }
        if next_token as usize != batch.tokens.len() {
            return refuse(format!("rows hold {next_token} of {} tokens", batch.tokens.len()));
        }
        written.sort_unstable();
        if let Some(pair) = written.windows(2).find(|pair| pair[0] == pair[1]) {
            return refuse(format!("block {} is written twice", pair[0].0));
        }
        let mut sequences: Vec<_> = batch.rows.iter().map(|row| row.sequence).collect();
        sequences.sort_unstable();
        if let Some(pair) = sequences.windows(2).find(|pair| pair[0] == pair[1]) {
            return refuse(format!("{:?} is in two rows", pair[0]));
        }
        batch
            .samples
            .iter()
            .try_for_each(|sample| self.check_sample(batch, sample))?;
        self.check_tokens("target token", &batch.targets)?;
        batch
            .scores
            .iter()
            .try_for_each(|score| check_score(batch, score))?;
        batch
            .pools
            .iter()
            .try_for_each(|pool| self.check_pool(batch, pool))
    }

    fn check_row(
        &self,
        batch: &Batch,
        row: &BatchRow,
        written: &mut Vec<BlockId>,
    ) -> Result<(), KernelError> {
        inside("token", row.tokens, batch.tokens.len())?;
        inside("block", row.blocks, batch.blocks.len())?;
        let end = u64::from(row.first_position) + u64::from(row.tokens.count);
        let Some(end) = u32::try_from(end)
            .ok()
            .filter(|end| *end <= self.max_context_tokens)
        else {
            return refuse(format!(
                "{end} tokens in a context of {}",
                self.max_context_tokens
            ));
        };
        let needed = blocks_for_tokens(end);
        if row.blocks.count < needed {
            return refuse(format!("{} blocks for {end} tokens", row.blocks.count));
        }
        let table = &batch.blocks[row.blocks.range()];
        let first_written = row.first_position / BLOCK_TOKENS;
        written.extend_from_slice(&table[first_written as usize..needed as usize]);
        Ok(())
    }

    fn check_sample(&self, batch: &Batch, sample: &SampleRow) -> Result<(), KernelError> {
        let row = row_of(batch, sample.sequence, sample.token_index)?;
        follows(row, sample.token_index, sample.position)?;
        inside("history", sample.history, batch.history.len())?;
        if sample.history.count > 0 && sample.prompt_tokens > sample.history.count {
            return refuse(format!(
                "{} prompt tokens in {:?}",
                sample.prompt_tokens, sample.history
            ));
        }
        self.check_tokens("banned token", &sample.banned)?;
        match sample
            .params
            .logit_bias
            .iter()
            .find(|(token, _)| *token >= self.vocabulary)
        {
            Some((token, _)) => refuse(format!("bias of token {token} of {}", self.vocabulary)),
            None => Ok(()),
        }
    }

    fn check_pool(&self, batch: &Batch, pool: &PoolRow) -> Result<(), KernelError> {
        let row = row_of(batch, pool.sequence, pool.tokens.start)?;
        inside_row("pooled", row, pool.tokens.start, pool.tokens.count)?;
        if !pool.so_far.is_empty() && pool.so_far.len() != self.hidden as usize {
            return refuse(format!(
                "a sum of {} for {} elements",
                pool.so_far.len(),
                self.hidden
            ));
        }
        Ok(())
    }

    fn check_tokens(&self, what: &str, tokens: &[TokenId]) -> Result<(), KernelError> {
        match tokens.iter().find(|token| **token >= self.vocabulary) {
            Some(token) => refuse(format!("{what} {token} of a vocabulary of {}", self.vocabulary)),
            None => Ok(()),
        }
    }
}

/// Checks the parts of a projection against one another and returns its `(outputs, inputs)`.
///
/// # Errors
/// [`KernelError::Shape`] when a part is no matrix, a bias does not fit, or the parts disagree;
/// [`KernelError::Unsupported`] when their dtypes differ.
pub fn check_parts(
    backend: &'static str,
    kind: LinearKind,
    parts: &[LinearPart<'_>],
) -> Result<(usize, usize), KernelError> {
    let unsupported = |what: String| KernelError::Unsupported { backend, what };
    let Some(first) = parts.first() else {
        return Err(unsupported("a projection without parts".to_owned()));
    };
    let mut outputs = 0;
    let [_, inputs] = first.weight.shape();
    for part in parts {
        let [rows, found] = part.weight.shape();
        part.weight.check()?;
        if found != inputs {
            return Err(KernelError::Shape {
                what: part.weight.name().to_owned(),
                expected: vec![rows, inputs],
                found: vec![rows, found],
            });
        }
        if let Some(bias) = part.bias {
            bias.check_shape(&[rows])?;
        }
        if part.weight.format() != first.weight.format() {
            return Err(unsupported(format!(
                "{}: parts of different formats",
                part.weight.name()
            )));
        }
        if rows == 0 || inputs == 0 {
            return Err(unsupported(format!(
                "{}: an empty projection",
                part.weight.name()
            )));
        }
        outputs += rows;
    }
    match kind {
        LinearKind::GateUp if parts.len() != 2 || parts[0].weight.shape() != parts[1].weight.shape() => {
            Err(unsupported(format!(
                "{}: gate and up of different shapes",
                first.weight.name()
            )))
        }
        LinearKind::GateUp | LinearKind::Plain | LinearKind::Head => Ok((outputs, inputs)),
    }
}

fn check_score(batch: &Batch, score: &ScoreRow) -> Result<(), KernelError> {
    inside("target", score.targets, batch.targets.len())?;
    let row = row_of(batch, score.sequence, score.token_index)?;
    inside_row("scored", row, score.token_index, score.targets.count)?;
    follows(row, score.token_index, score.position)
}

/// The row that the token at `index` belongs to, which must be this sequence's.
fn row_of(batch: &Batch, sequence: SequenceId, index: u32) -> Result<&BatchRow, KernelError> {
    let row = batch
        .rows
        .partition_point(|row| row.tokens.start + row.tokens.count <= index);
    match batch.rows.get(row).filter(|row| row.sequence == sequence) {
        Some(row) => Ok(row),
        None => refuse(format!("token {index} does not belong to {sequence:?}")),
    }
}

/// Whether `position` is the one after the row's token at `index`.
fn follows(row: &BatchRow, index: u32, position: u32) -> Result<(), KernelError> {
    let after = row.first_position + (index - row.tokens.start);
    if after.checked_add(1) == Some(position) {
        return Ok(());
    }
    refuse(format!("position {position} follows position {after}"))
}

/// Whether `count` tokens from `start` on, at least one, belong to `row`, which holds the first of them.
fn inside_row(what: &str, row: &BatchRow, start: u32, count: u32) -> Result<(), KernelError> {
    let left = row.tokens.start + row.tokens.count - start;
    if (1..=left).contains(&count) {
        return Ok(());
    }
    refuse(format!("{count} {what} tokens, {left} left in the row"))
}

struct KvSizes {
    kv_heads: u32,
    head_dim: u32,
    layers: u32,
}

impl KvSizes {
    fn of(spec: &ExecutorSpec) -> Self {
        Self {
            kv_heads: spec.kv.kv_heads,
            head_dim: spec.kv.head_dim,
            layers: spec.kv.layers,
        }
    }
}

fn refuse<T>(why: String) -> Result<T, KernelError> {
    Err(KernelError::Batch(why))
}

fn at_most(what: &str, count: usize, limit: u32) -> Result<(), KernelError> {
    if count <= limit as usize {
        return Ok(());
    }
    refuse(format!("{count} {what}, made for {limit}"))
}

fn inside(what: &str, span: Span, length: usize) -> Result<(), KernelError> {
    if u64::from(span.start) + u64::from(span.count) <= length as u64 {
        return Ok(());
    }
    refuse(format!("{what} span {span:?} outside an array of {length}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Dtype, KvLayout, Urgency};
    use std::sync::Arc;
    use vlinders_types::{SamplingParams, SequenceId};

    fn spec() -> ExecutorSpec {
        ExecutorSpec {
            kv: KvLayout {
                layers: 1,
                kv_heads: 2,
                head_dim: 4,
                dtype: Dtype::F32,
            },
            block_count: 8,
            hidden: 8,
            query_heads: 4,
            intermediate: 8,
            vocabulary: 10,
            max_batch_tokens: 40,
            max_rows: 2,
            max_samples: 2,
            max_context_tokens: 64,
            urgency: Urgency::Prefill,
        }
    }

    /// Two rows: 20 tokens from position 0, and one at position 16.
    fn batch() -> Batch {
        let span = |start, count| Span { start, count };
        let sample = |sequence, token_index, position| SampleRow {
            sequence: SequenceId(sequence),
            token_index,
            position,
            params: Arc::new(SamplingParams::default()),
            history: span(0, 2),
            prompt_tokens: 1,
            banned: Arc::new([3]),
            allowed: None,
        };
        Batch {
            rows: vec![
                BatchRow {
                    sequence: SequenceId(1),
                    tokens: span(0, 20),
                    first_position: 0,
                    blocks: span(0, 2),
                },
                BatchRow {
                    sequence: SequenceId(2),
                    tokens: span(20, 1),
                    first_position: 16,
                    blocks: span(2, 2),
                },
            ],
            tokens: vec![1; 21],
            blocks: vec![BlockId(0), BlockId(1), BlockId(2), BlockId(3)],
            samples: vec![sample(1, 19, 20), sample(2, 20, 17)],
            history: vec![1, 2],
            scores: vec![ScoreRow {
                sequence: SequenceId(1),
                token_index: 5,
                position: 6,
                targets: span(0, 15),
                top: 3,
            }],
            targets: vec![1; 15],
            pools: vec![PoolRow {
                sequence: SequenceId(1),
                tokens: span(2, 18),
                so_far: Arc::new([0.0; 8]),
            }],
        }
    }

    #[test]
    fn a_sound_batch_passes() {
        assert_eq!(spec().check_batch(&batch()), Ok(()));
        assert_eq!(spec().check("test"), Ok(()));
    }

    #[test]
    fn every_contradiction_is_refused() {
        type Break = fn(&mut Batch);
        let breaks: &[(&str, Break)] = &[
            ("token beyond the vocabulary", |batch| batch.tokens[5] = 10),
            ("block beyond the pool", |batch| batch.blocks[1] = BlockId(8)),
            ("history beyond the vocabulary", |batch| batch.history[0] = 10),
            ("a row without tokens", |batch| batch.rows[1].tokens.count = 0),
            ("a token left over", |batch| batch.tokens.push(1)),
            ("a row outside the tokens", |batch| batch.rows[1].tokens.count = 2),
            ("a span that overflows", |batch| {
                batch.rows[1].tokens.count = u32::MAX
            }),
            ("a table outside the blocks", |batch| {
                batch.rows[1].blocks.count = 3
            }),
            ("too few blocks", |batch| batch.rows[0].blocks.count = 1),
            ("a position beyond the context", |batch| {
                batch.rows[1].first_position = 64
            }),
            ("a position that overflows", |batch| {
                batch.rows[1].first_position = u32::MAX
            }),
            ("a block written twice", |batch| batch.blocks[3] = BlockId(0)),
            ("a sequence twice", |batch| batch.rows[1].sequence = SequenceId(1)),
            ("another's token", |batch| batch.samples[0].token_index = 20),
            ("a token that is not there", |batch| {
                batch.samples[1].token_index = 21
            }),
            ("a wrong position", |batch| batch.samples[1].position = 16),
            ("a history outside", |batch| batch.samples[0].history.count = 3),
            ("more prompt than history", |batch| {
                batch.samples[0].prompt_tokens = 3
            }),
            ("a banned token that is none", |batch| {
                batch.samples[0].banned = Arc::new([10])
            }),
            ("a target beyond the vocabulary", |batch| batch.targets[1] = 10),
            ("targets outside", |batch| batch.scores[0].targets.start = 1),
            ("a score of nothing", |batch| batch.scores[0].targets.count = 0),
            ("another's scores", |batch| {
                batch.scores[0].sequence = SequenceId(2);
            }),
            ("more targets than tokens before them", |batch| {
                (batch.scores[0].token_index, batch.scores[0].position) = (6, 7);
            }),
            ("a score at a wrong position", |batch| {
                batch.scores[0].position = 5
            }),
            ("a pool of nothing", |batch| batch.pools[0].tokens.count = 0),
            ("a pool beyond its row", |batch| batch.pools[0].tokens.count = 19),
            ("a pool that overflows", |batch| {
                batch.pools[0].tokens.count = u32::MAX
            }),
            ("a sum of another size", |batch| {
                batch.pools[0].so_far = Arc::new([0.0; 7])
            }),
            ("too many samples", |batch| {
                batch.samples.push(batch.samples[1].clone())
            }),
            ("too many tokens", |batch| batch.tokens.resize(41, 0)),
        ];
        for (name, contradiction) in breaks {
            let mut batch = batch();
            contradiction(&mut batch);
            let refused = spec().check_batch(&batch);
            assert!(matches!(refused, Err(KernelError::Batch(_))), "{name} passed");
        }
    }

    #[test]
    fn shared_prefix_blocks_may_be_read_by_two_rows() {
        let mut batch = batch();
        // Row 2 writes only its second block, so its first may be any full block that is not written now.
        batch.rows[0].first_position = 16;
        batch.rows[0].tokens.count = 20;
        batch.rows[0].blocks = Span { start: 0, count: 3 };
        batch.rows[1].blocks = Span { start: 3, count: 2 };
        batch.blocks = [7, 1, 2, 7, 3].map(BlockId).to_vec();
        batch.samples[0].position = 36;
        batch.scores[0].position = 22;
        assert_eq!(spec().check_batch(&batch), Ok(()));
    }
}
