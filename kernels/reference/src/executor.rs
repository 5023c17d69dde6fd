//! One step, operation by operation.

use std::sync::Arc;

use half::bf16;
use vlinders_kernel_api::{
    AttentionSpec, Dtype, EmbeddingId, Executor, ExecutorSpec, Head, KernelError, KvMemory, LinearId, Norm,
    QkNorm, RotaryId,
};
use vlinders_sampling::{SampleInput, Sampler};
use vlinders_types::{AwaitedMask, BLOCK_TOKENS, Batch, BlockId, PoolResult, SampleResult, ScoreResult};

use crate::backend::{Linear, Weights};
use crate::memory::ReferenceMemory;
use crate::ops;

/// Activations of the planned step and the pool.
pub(crate) struct ReferenceExecutor {
    weights: Arc<Weights>,
    spec: ExecutorSpec,
    memory: Arc<ReferenceMemory>,
    tokens: Vec<u32>,
    places: Vec<Place>,
    sampled_tokens: Vec<usize>,
    /// `[tokens, hidden]`.
    x: Vec<f32>,
    /// `[tokens, (query_heads + 2 kv_heads) head_dim]`.
    qkv: Vec<f32>,
    /// `[tokens, query_heads head_dim]`.
    context: Vec<f32>,
    /// `[samples, vocabulary]`.
    logits: Vec<f32>,
    sampler: Sampler,
}

/// Where one token stands.
struct Place {
    position: u32,
    /// The blocks of its row, as far as the token itself.
    table: Arc<[BlockId]>,
}

/// K or V, in the order of a block's tiles.
#[derive(Clone, Copy)]
enum Side {
    Key,
    Value,
}

impl ReferenceExecutor {
    pub(crate) fn new(weights: Arc<Weights>, spec: &ExecutorSpec) -> Self {
        Self {
            weights,
            spec: spec.clone(),
            memory: Arc::new(ReferenceMemory::new(spec.block_count, spec.kv.block_bytes())),
            tokens: Vec::new(),
            places: Vec::new(),
            sampled_tokens: Vec::new(),
            x: Vec::new(),
            qkv: Vec::new(),
            context: Vec::new(),
            logits: Vec::new(),
            sampler: Sampler::new(),
        }
    }

    fn head_dim(&self) -> usize {
        self.spec.kv.head_dim as usize
    }

    fn hidden(&self) -> usize {
        self.spec.hidden as usize
    }

    fn norm(&self, x: &[f32], norm: Norm) -> Vec<f32> {
        ops::rms_norm(x, &self.weights.vectors[norm.weight.0 as usize], norm.epsilon)
    }

    fn linear(&self, id: LinearId) -> &Linear {
        &self.weights.linears[id.0 as usize]
    }

    fn apply(&self, id: LinearId, x: &[f32]) -> Vec<f32> {
        let linear = self.linear(id);
        assert_eq!(linear.inputs, x.len(), "the projection fits its input");
        ops::matvec(&linear.weight, Some(&linear.bias), x, linear.outputs)
    }

    /// The logits after one of the planned tokens.
    fn logits_after(&self, token: usize, norm: Norm, head: Head) -> Vec<f32> {
        let normed = self.norm(&self.x[token * self.hidden()..][..self.hidden()], norm);
        match head {
            Head::Separate(linear) => self.apply(linear, &normed),
            Head::Tied(embedding) => {
                let embedding = &self.weights.embeddings[embedding.0 as usize];
                ops::matvec(&embedding.table, None, &normed, embedding.vocabulary)
            }
        }
    }

    /// Where in its block a token's elements start, and which block it is.
    fn slot(&self, place: &Place, position: u32, layer: u32, kv_head: u32, side: Side) -> (BlockId, usize) {
        let layout = &self.spec.kv;
        let block = place.table[(position / BLOCK_TOKENS) as usize];
        let side = match side {
            Side::Key => 0,
            Side::Value => layout.tile_bytes(),
        };
        let token = (position % BLOCK_TOKENS) as usize * self.head_dim() * layout.dtype.bytes();
        (
            block,
            layout.tile_offset(BlockId(0), kv_head, layer) + side + token,
        )
    }

    fn store(&self, (block, offset): (BlockId, usize), head: &[f32]) {
        let mut bytes = self.memory.lock(block);
        match self.spec.kv.dtype {
            Dtype::F32 => {
                for (slot, value) in bytes[offset..].chunks_exact_mut(4).zip(head) {
                    slot.copy_from_slice(&value.to_le_bytes());
                }
            }
            Dtype::Bf16 | Dtype::F16 => {
                for (slot, value) in bytes[offset..].chunks_exact_mut(2).zip(head) {
                    slot.copy_from_slice(&bf16::from_f32(*value).to_le_bytes());
                }
            }
        }
    }

    fn load(&self, (block, offset): (BlockId, usize), into: &mut Vec<f32>) {
        let bytes = self.memory.lock(block);
        let head_dim = self.head_dim();
        match self.spec.kv.dtype {
            Dtype::F32 => {
                let values = bytes[offset..].chunks_exact(4).take(head_dim);
                into.extend(values.map(|value| f32::from_le_bytes([value[0], value[1], value[2], value[3]])));
            }
            Dtype::Bf16 | Dtype::F16 => {
                let values = bytes[offset..].chunks_exact(2).take(head_dim);
                into.extend(values.map(|value| bf16::from_le_bytes([value[0], value[1]]).to_f32()));
            }
        }
    }

    /// Keys and values of one head that the token at `place` sees.
    fn visible(&self, place: &Place, layer: u32, kv_head: u32, window: Option<u32>) -> (Vec<f32>, Vec<f32>) {
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        for position in ops::first_visible(place.position, window)..=place.position {
            self.load(self.slot(place, position, layer, kv_head, Side::Key), &mut keys);
            self.load(
                self.slot(place, position, layer, kv_head, Side::Value),
                &mut values,
            );
        }
        (keys, values)
    }
}

impl Executor for ReferenceExecutor {
    fn plan(&mut self, batch: &Batch) -> Result<(), KernelError> {
        self.spec.check_batch(batch)?;
        self.tokens.clone_from(&batch.tokens);
        self.places.clear();
        for row in &batch.rows {
            let table: Arc<[BlockId]> = batch.blocks[row.blocks.range()].into();
            let positions = row.first_position..row.first_position + row.tokens.count;
            self.places.extend(positions.map(|position| Place {
                position,
                table: Arc::clone(&table),
            }));
        }
        self.sampled_tokens = batch
            .samples
            .iter()
            .map(|sample| sample.token_index as usize)
            .collect();
        Ok(())
    }

    fn embed(&mut self, table: EmbeddingId) -> Result<(), KernelError> {
        let embedding = &self.weights.embeddings[table.0 as usize];
        assert_eq!(
            embedding.hidden,
            self.hidden(),
            "the embedding fits the residual stream"
        );
        let row = |token: &u32| &embedding.table[*token as usize * embedding.hidden..][..embedding.hidden];
        self.x = self.tokens.iter().flat_map(row).copied().collect();
        Ok(())
    }

    fn norm_project(&mut self, norm: Norm, projection: LinearId) -> Result<(), KernelError> {
        let rows = self.x.chunks_exact(self.hidden());
        self.qkv = rows
            .flat_map(|x| self.apply(projection, &self.norm(x, norm)))
            .collect();
        Ok(())
    }

    fn rotary_append(
        &mut self,
        layer: u32,
        rotary: RotaryId,
        qk_norm: Option<QkNorm>,
    ) -> Result<(), KernelError> {
        let head_dim = self.head_dim();
        let (query_heads, kv_heads) = (self.spec.query_heads as usize, self.spec.kv.kv_heads as usize);
        let mut qkv = std::mem::take(&mut self.qkv);
        let frequencies = &self.weights.rotaries[rotary.0 as usize];
        for (place, qkv) in self
            .places
            .iter()
            .zip(qkv.chunks_exact_mut((query_heads + 2 * kv_heads) * head_dim))
        {
            for (index, head) in qkv.chunks_exact_mut(head_dim).enumerate() {
                let is_query = index < query_heads;
                if index < query_heads + kv_heads {
                    if let Some(norms) = qk_norm {
                        let normed = self.norm(head, if is_query { norms.query } else { norms.key });
                        head.copy_from_slice(&normed);
                    }
                    ops::rotate(head, frequencies, place.position);
                }
                if is_query {
                    continue;
                }
                let (side, kv_head) = match index - query_heads {
                    key if key < kv_heads => (Side::Key, key),
                    value => (Side::Value, value - kv_heads),
                };
                let kv_head = u32::try_from(kv_head).expect("below kv_heads, a u32");
                self.store(self.slot(place, place.position, layer, kv_head, side), head);
            }
        }
        self.qkv = qkv;
        Ok(())
    }

    fn attention(&mut self, layer: u32, spec: AttentionSpec) -> Result<(), KernelError> {
        let head_dim = self.head_dim();
        let group = self.spec.query_heads / self.spec.kv.kv_heads;
        let stride = (self.spec.query_heads + 2 * self.spec.kv.kv_heads) as usize * head_dim;
        let mut context = Vec::with_capacity(self.places.len() * self.spec.query_heads as usize * head_dim);
        for (place, qkv) in self.places.iter().zip(self.qkv.chunks_exact(stride)) {
            let mut queries = qkv.chunks_exact(head_dim);
            for kv_head in 0..self.spec.kv.kv_heads {
                let (keys, values) = self.visible(place, layer, kv_head, spec.window);
                for query in queries.by_ref().take(group as usize) {
                    context.extend(ops::attention(query, &keys, &values, spec.scale));
                }
            }
        }
        self.context = context;
        Ok(())
    }

    fn project_residual(&mut self, projection: LinearId) -> Result<(), KernelError> {
        let rows = self
            .context
            .chunks_exact(self.context.len() / self.places.len().max(1));
        let added: Vec<f32> = rows.flat_map(|context| self.apply(projection, context)).collect();
        add(&mut self.x, &added);
        Ok(())
    }

    fn feed_forward(&mut self, norm: Norm, gate_up: LinearId, down: LinearId) -> Result<(), KernelError> {
        let half = self.linear(gate_up).outputs / 2;
        let mut added = Vec::with_capacity(self.x.len());
        for x in self.x.chunks_exact(self.hidden()) {
            let gate_up = self.apply(gate_up, &self.norm(x, norm));
            let (gate, up) = gate_up.split_at(half);
            let inner: Vec<f32> = gate
                .iter()
                .zip(up)
                .map(|(gate, up)| ops::narrow(ops::silu(*gate) * f64::from(*up)))
                .collect();
            added.extend(self.apply(down, &inner));
        }
        add(&mut self.x, &added);
        Ok(())
    }

    fn score(&mut self, norm: Norm, head: Head, batch: &Batch) -> Result<Vec<ScoreResult>, KernelError> {
        let mut results = Vec::with_capacity(batch.scores.len());
        for row in &batch.scores {
            let targets = (row.token_index as usize..).zip(&batch.targets[row.targets.range()]);
            let mut scores = Vec::with_capacity(row.targets.count as usize);
            for (token, target) in targets {
                let logits = self.logits_after(token, norm, head);
                scores.push(self.sampler.score(&logits, *target, row.top));
            }
            results.push(ScoreResult {
                sequence: row.sequence,
                scores: scores.into_iter().collect(),
            });
        }
        Ok(results)
    }

    fn pool(&mut self, norm: Norm, batch: &Batch) -> Result<Vec<PoolResult>, KernelError> {
        let pooled = batch.pools.iter().map(|row| {
            let mut sum = row.so_far.to_vec();
            sum.resize(self.hidden(), 0.0);
            for token in row.tokens.range() {
                let normed = self.norm(&self.x[token * self.hidden()..][..self.hidden()], norm);
                for (sum, element) in sum.iter_mut().zip(normed) {
                    *sum += f64::from(element);
                }
            }
            PoolResult {
                sequence: row.sequence,
                sum: sum.into(),
            }
        });
        Ok(pooled.collect())
    }

    fn logits(&mut self, norm: Norm, head: Head) -> Result<(), KernelError> {
        let tokens = self.sampled_tokens.iter();
        self.logits = tokens
            .flat_map(|token| self.logits_after(*token, norm, head))
            .collect();
        Ok(())
    }

    fn sample(&mut self, batch: &Batch) -> Result<Vec<SampleResult>, KernelError> {
        let vocabulary = self.spec.vocabulary as usize;
        let mut logits = self.logits.clone();
        let rows = batch.samples.iter().zip(logits.chunks_exact_mut(vocabulary));
        let drawn = rows.map(|(row, logits)| {
            let input = SampleInput {
                params: &row.params,
                history: &batch.history[row.history.range()],
                prompt_tokens: row.prompt_tokens,
                banned: &row.banned,
                allowed: row.allowed.as_deref().map(AwaitedMask::wait),
                position: row.position,
            };
            SampleResult {
                sequence: row.sequence,
                sampled: self.sampler.sample(logits, input),
            }
        });
        Ok(drawn.collect())
    }

    fn read_logits(&mut self) -> Result<Vec<f32>, KernelError> {
        Ok(self.logits.clone())
    }

    fn memory(&self) -> Arc<dyn KvMemory> {
        Arc::clone(&self.memory) as Arc<dyn KvMemory>
    }
}

fn add(x: &mut [f32], added: &[f32]) {
    assert_eq!(
        x.len(),
        added.len(),
        "one addend for each element of the residual stream"
    );
    for (x, added) in x.iter_mut().zip(added) {
        *x += added;
    }
}
