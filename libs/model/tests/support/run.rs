//! Models of tiny checkpoints, run step by step.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use vlinders_kernel_api::{Backend, Executor, Urgency};
use vlinders_model::{LoadedModel, ModelSource, StepLimits};
use vlinders_types::{Batch, BatchRow, BlockId, SampleRow, SamplingParams, SequenceId, Span, TokenId};

/// Far from one another and out of order, so that a wrong block table shows. Seven blocks hold prompt and continuation.
pub(crate) const TABLE: [u32; 7] = [9, 3, 30, 1, 14, 0, 22];

/// A folder of golden files.
pub(crate) fn folder(family: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/goldens")
        .join(family)
}

/// A model ready to run.
pub(crate) struct Run {
    /// Outlives its executor.
    _backend: Box<dyn Backend>,
    pub(crate) model: LoadedModel,
    pub(crate) executor: Box<dyn Executor>,
}

impl Run {
    pub(crate) fn start(mut backend: Box<dyn Backend>, checkpoint: &str) -> Self {
        let source = ModelSource::folder(folder(checkpoint));
        let model = LoadedModel::load(&source, backend.as_mut(), &mut |_| {}).unwrap();
        let limits = StepLimits {
            block_count: 32,
            max_batch_tokens: 128,
            max_rows: 4,
            max_samples: 128,
            max_context_tokens: 256,
            urgency: Urgency::Decode,
        };
        let executor = backend.executor(&model.executor_spec(&limits)).unwrap();
        Self {
            _backend: backend,
            model,
            executor,
        }
    }

    pub(crate) fn forward(&mut self, batch: &Batch) {
        self.model.forward(self.executor.as_mut(), batch).unwrap();
    }

    /// Logits at every position of the prompt, computed `chunk` tokens at a time.
    pub(crate) fn prompt_logits(&mut self, prompt: &[TokenId], chunk: usize) -> Vec<f32> {
        let mut logits = Vec::new();
        for (index, tokens) in prompt.chunks(chunk).enumerate() {
            let mut batch = Batch::default();
            add_row(&mut batch, 1, tokens, index * chunk, TABLE, tokens.len());
            self.forward(&batch);
            logits.extend(self.executor.read_logits().unwrap());
            // The step ends with its draws, as it does when it serves.
            assert_eq!(self.executor.sample(&batch).unwrap().len(), tokens.len());
        }
        logits
    }
}

/// Adds a sequence's row with samples after its last `samples` tokens.
pub(crate) fn add_row(
    batch: &mut Batch,
    sequence: u64,
    tokens: &[TokenId],
    first: usize,
    table: [u32; 7],
    samples: usize,
) {
    let small = |number: usize| u32::try_from(number).unwrap();
    let (sequence, start) = (SequenceId(sequence), batch.tokens.len());
    let params = Arc::new(SamplingParams {
        temperature: 0.0,
        ..SamplingParams::default()
    });
    batch.rows.push(BatchRow {
        sequence,
        tokens: Span {
            start: small(start),
            count: small(tokens.len()),
        },
        first_position: small(first),
        blocks: Span {
            start: small(batch.blocks.len()),
            count: small(table.len()),
        },
    });
    batch.tokens.extend(tokens);
    batch.blocks.extend(table.map(BlockId));
    batch
        .samples
        .extend((tokens.len() - samples..tokens.len()).map(|index| SampleRow {
            sequence,
            token_index: small(start + index),
            position: small(first + index + 1),
            params: params.clone(),
            history: Span::default(),
            prompt_tokens: 0,
            banned: Arc::new([]),
            allowed: None,
        }));
}

/// Relative L2 distance.
pub(crate) fn distance(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let square = |number: f64| number * number;
    let pairs = found
        .iter()
        .zip(expected)
        .map(|(found, expected)| (f64::from(*found), f64::from(*expected)));
    let (error, norm) = pairs.fold((0.0, 0.0), |(error, norm), (found, expected)| {
        (error + square(found - expected), norm + square(expected))
    });
    (error / norm).sqrt()
}
