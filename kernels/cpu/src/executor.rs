//! One role's activations and the operations of a step.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vlinders_kernel_api::{
    AttentionSpec, Dtype, EmbeddingId, Executor, ExecutorSpec, Head, KernelError, KvMemory, LinearId, Norm,
    QkNorm, RotaryId,
};
use vlinders_sampling::{SampleInput, Sampler};
use vlinders_types::{Batch, SampleResult};

use crate::activations::{Layout, MAX_GROUP_ROWS, Packed, encode};
use crate::attention::{Attention, Scratch, attend};
use crate::backend::{Device, NAME};
use crate::elementwise::{rms_norm, rms_norm_in_place, rotate, store_bf16};
use crate::gate::Pass;
use crate::gemm::{Output, Product, left_layout, multiply};
use crate::isa::Isa;
use crate::kv_memory::CpuKvMemory;
use crate::pack::PackedWeights;
use crate::region::Region;
use crate::shared::SharedMut;
use crate::step::Step;
use crate::weights::{Embedding, Weights};

/// Rows of a cheap pass that one thread takes at a time: about what waking another thread costs.
const ROWS_AT_ONCE: usize = 4;

/// Activations, the KV pool, and the step that is being computed.
pub(crate) struct CpuExecutor {
    device: Device,
    weights: Arc<Weights>,
    spec: ExecutorSpec,
    memory: Arc<CpuKvMemory>,
    step: Step,
    buffers: Buffers,
    threads: Vec<Mutex<ThreadMemory>>,
    /// Held from `embed` to `sample`.
    pass: Option<Pass>,
}

struct Buffers {
    /// `[tokens, hidden]`.
    x: Region,
    /// `[tokens, (query_heads + 2 kv_heads) head_dim]`.
    qkv: Region,
    /// `[tokens, query_heads head_dim]`.
    context: Region,
    /// Left-hand sides made of the residual stream or of the context.
    left: Region,
    /// Left-hand side of the second product of the feed-forward.
    inner: Region,
    /// `[samples, vocabulary]`.
    logits: Region,
}

/// What each thread needs for itself.
struct ThreadMemory {
    /// One normalised row.
    row: Vec<f32>,
    /// One group of a left-hand side, row by row.
    words: Vec<u32>,
    attention: Scratch,
    sampler: Sampler,
    /// One row of logits, for the sampler to change.
    logits: Vec<f32>,
}

impl CpuExecutor {
    pub(crate) fn new(
        device: Device,
        weights: Arc<Weights>,
        spec: &ExecutorSpec,
    ) -> Result<Self, KernelError> {
        spec.check(NAME)?;
        if spec.kv.dtype == Dtype::F16 {
            return Err(KernelError::Unsupported {
                backend: NAME,
                what: "f16 keys and values".to_owned(),
            });
        }
        let size = Sizes::of(spec);
        let numbers = |rows: usize, columns: usize, what: &str| {
            let bytes = rows.checked_mul(columns).and_then(|count| count.checked_mul(4));
            let too_large = || KernelError::OutOfMemory {
                what: what.to_owned(),
                bytes: u64::MAX,
            };
            Region::zeroed(bytes.ok_or_else(too_large)?, what)
        };
        let widest = size.hidden.max(size.context());
        let rows = size.tokens.max(size.samples);
        let buffers = Buffers {
            x: numbers(size.tokens, size.hidden, "activations")?,
            qkv: numbers(size.tokens, size.qkv(), "activations")?,
            context: numbers(size.tokens, size.context(), "activations")?,
            left: numbers(1, Layout::most_words(rows, widest), "activations")?,
            inner: numbers(
                1,
                Layout::most_words(size.tokens, size.intermediate),
                "activations",
            )?,
            logits: numbers(size.samples, size.vocabulary, "logits")?,
        };
        let thread = || ThreadMemory {
            row: vec![0.0; size.hidden],
            words: vec![0; Layout::most_words(MAX_GROUP_ROWS, widest)],
            attention: Scratch::new(size.head_dim, size.query_heads / size.kv_heads),
            sampler: Sampler::new(),
            logits: Vec::new(),
        };
        Ok(Self {
            memory: Arc::new(CpuKvMemory::new(spec.kv, spec.block_count)?),
            threads: (0..device.pool.threads()).map(|_| Mutex::new(thread())).collect(),
            device,
            weights,
            spec: spec.clone(),
            step: Step::default(),
            buffers,
            pass: None,
        })
    }

    fn size(&self) -> Sizes {
        Sizes::of(&self.spec)
    }

    /// Waits for the right to compute, unless it is held already.
    fn enter(&mut self) -> &mut Pass {
        self.pass
            .get_or_insert_with(|| self.device.gate.enter(self.spec.urgency))
    }

    /// Fills the left-hand side of `weights` with the normalised rows of `x` that `row_of` names, and returns its layout.
    fn norm_rows(
        &mut self,
        norm: Norm,
        weights: &PackedWeights,
        count: usize,
        row_of: &(dyn Fn(&Step, usize) -> usize + Sync),
    ) -> Layout {
        let hidden = self.size().hidden;
        let Device { isa, pool, .. } = &self.device;
        let layout = left_layout(*isa, weights.storage, count, hidden);
        let packed = Packed::new(self.buffers.left.as_mut_slice(), layout);
        let x = self.buffers.x.as_slice::<f32>();
        let weight = self.weights.vector(norm.weight);
        let (step, threads) = (&self.step, &self.threads);
        pool.deal(layout.groups(), 1, &|thread, groups| {
            let mut memory = lock(&threads[thread]);
            let ThreadMemory {
                row: normed, words, ..
            } = &mut *memory;
            for group in groups {
                let words = &mut words[..layout.rows_in(group) * layout.steps()];
                for (index, words) in words.chunks_exact_mut(layout.steps()).enumerate() {
                    let source = row_of(step, group * layout.group_rows + index) * hidden;
                    rms_norm(*isa, &x[source..source + hidden], weight, norm.epsilon, normed);
                    encode(*isa, &layout, normed, words);
                }
                // SAFETY: each group is dealt to one thread.
                unsafe { packed.write_group(group, words) };
            }
        });
        layout
    }
}

impl Executor for CpuExecutor {
    fn plan(&mut self, batch: &Batch) -> Result<(), KernelError> {
        // A step that was given up half-way may still hold it.
        self.pass = None;
        self.spec.check_batch(batch)?;
        let size = self.size();
        self.step.set(batch, size.query_heads / size.kv_heads);
        Ok(())
    }

    fn embed(&mut self, table: EmbeddingId) -> Result<(), KernelError> {
        self.enter();
        let hidden = self.size().hidden;
        let table = self.weights.embedding(table);
        let tokens = &self.step.tokens;
        let x = SharedMut::new(self.buffers.x.as_mut_slice::<f32>());
        self.device.pool.deal(tokens.len(), ROWS_AT_ONCE, &|_, rows| {
            for row in rows {
                // SAFETY: each row is dealt to one thread.
                let into = unsafe { x.part(row * hidden, hidden) };
                table.read(tokens[row] as usize, into);
            }
        });
        Ok(())
    }

    fn norm_project(&mut self, norm: Norm, projection: LinearId) -> Result<(), KernelError> {
        self.enter().between_layers();
        let weights = Arc::clone(&self.weights);
        let linear = weights.linear(projection);
        assert_eq!(
            linear.outputs,
            self.size().qkv(),
            "the projection makes queries, keys and values"
        );
        let layout = self.norm_rows(norm, linear, self.step.tokens.len(), &|_, row| row);
        let output = Output::Store(SharedMut::new(self.buffers.qkv.as_mut_slice()));
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
        Ok(())
    }

    fn rotary_append(
        &mut self,
        layer: u32,
        rotary: RotaryId,
        qk_norm: Option<QkNorm>,
    ) -> Result<(), KernelError> {
        assert!(layer < self.spec.kv.layers, "the layer is one of the model's");
        self.enter();
        let size = self.size();
        let frequencies = self.weights.rotary(rotary);
        assert_eq!(
            2 * frequencies.len(),
            size.head_dim,
            "one frequency turns two elements of a head"
        );
        self.step.prepare_turns(rotary, frequencies);
        let weights = |norm: Norm| (self.weights.vector(norm.weight), norm.epsilon);
        let pass = HeadPass {
            isa: self.device.isa,
            size,
            layer,
            memory: &self.memory,
            norms: qk_norm.map(|norms| [weights(norms.query), weights(norms.key)]),
            step: &self.step,
        };
        let qkv = SharedMut::new(self.buffers.qkv.as_mut_slice::<f32>());
        self.device
            .pool
            .deal(self.step.tokens.len(), ROWS_AT_ONCE, &|_, rows| {
                for row in rows {
                    // SAFETY: each row is dealt to one thread.
                    let heads = unsafe { qkv.part(row * size.qkv(), size.qkv()) };
                    // SAFETY: each row is dealt to one thread, and `check_batch` gave it a place of its own.
                    unsafe { pass.turn_and_store(row, heads) };
                }
            });
        Ok(())
    }

    fn attention(&mut self, layer: u32, spec: AttentionSpec) -> Result<(), KernelError> {
        assert!(layer < self.spec.kv.layers, "the layer is one of the model's");
        self.enter();
        let size = self.size();
        let Device { isa, pool, .. } = &self.device;
        let job = Attention {
            memory: &self.memory,
            layer,
            scale: spec.scale,
            window: spec.window,
            group: size.query_heads / size.kv_heads,
            queries: self.buffers.qkv.as_slice(),
            stride: size.qkv(),
            blocks: &self.step.blocks,
            context: SharedMut::new(self.buffers.context.as_mut_slice()),
            context_stride: size.context(),
        };
        let (runs, threads) = (&self.step.runs, &self.threads);
        pool.deal(runs.len() * size.kv_heads, 1, &|thread, items| {
            let mut memory = lock(&threads[thread]);
            for item in items {
                let kv_head = u32::try_from(item % size.kv_heads).expect("below kv_heads, a u32");
                // SAFETY: nobody writes blocks during this operation, and each item is dealt to one thread.
                unsafe {
                    attend(
                        *isa,
                        &job,
                        runs[item / size.kv_heads],
                        kv_head,
                        &mut memory.attention,
                    )
                };
            }
        });
        Ok(())
    }

    fn project_residual(&mut self, projection: LinearId) -> Result<(), KernelError> {
        self.enter();
        let Device { isa, pool, .. } = &self.device;
        let linear = self.weights.linear(projection);
        let width = self.size().context();
        assert_eq!(
            linear.outputs,
            self.size().hidden,
            "the projection leads back to the residual stream"
        );
        let layout = left_layout(*isa, linear.storage, self.step.tokens.len(), width);
        let packed = Packed::new(self.buffers.left.as_mut_slice(), layout);
        let context = self.buffers.context.as_slice::<f32>();
        let threads = &self.threads;
        pool.deal(layout.groups(), 1, &|thread, groups| {
            let words = &mut lock(&threads[thread]).words;
            for group in groups {
                let words = &mut words[..layout.rows_in(group) * layout.steps()];
                for (index, words) in words.chunks_exact_mut(layout.steps()).enumerate() {
                    let row = group * layout.group_rows + index;
                    encode(*isa, &layout, &context[row * width..][..width], words);
                }
                // SAFETY: each group is dealt to one thread.
                unsafe { packed.write_group(group, words) };
            }
        });
        let output = Output::Add(SharedMut::new(self.buffers.x.as_mut_slice()));
        let left = self.buffers.left.as_slice();
        multiply(
            pool,
            *isa,
            &Product {
                weights: linear,
                left,
                layout,
                output,
            },
        );
        Ok(())
    }

    fn feed_forward(&mut self, norm: Norm, gate_up: LinearId, down: LinearId) -> Result<(), KernelError> {
        self.enter();
        let weights = Arc::clone(&self.weights);
        let (gate_up, down) = (weights.linear(gate_up), weights.linear(down));
        let size = self.size();
        assert_eq!(
            down.outputs, size.hidden,
            "the feed-forward leads back to the residual stream"
        );
        assert!(
            down.inputs <= size.intermediate,
            "the feed-forward is as wide as the executor was made for"
        );
        let layout = self.norm_rows(norm, gate_up, self.step.tokens.len(), &|_, row| row);
        let Device { isa, pool, .. } = &self.device;
        let inner = left_layout(*isa, down.storage, layout.rows, down.inputs);
        let output = Output::SiluMul(Packed::new(self.buffers.inner.as_mut_slice(), inner));
        let left = self.buffers.left.as_slice();
        multiply(
            pool,
            *isa,
            &Product {
                weights: gate_up,
                left,
                layout,
                output,
            },
        );
        let output = Output::Add(SharedMut::new(self.buffers.x.as_mut_slice()));
        let left = self.buffers.inner.as_slice();
        multiply(
            pool,
            *isa,
            &Product {
                weights: down,
                left,
                layout: inner,
                output,
            },
        );
        Ok(())
    }

    fn logits(&mut self, norm: Norm, head: Head) -> Result<(), KernelError> {
        self.enter().between_layers();
        let weights = Arc::clone(&self.weights);
        let linear = match head {
            Head::Separate(linear) => weights.linear(linear),
            Head::Tied(embedding) => match weights.embedding(embedding) {
                Embedding::Tied(packed) => packed,
                Embedding::Rows(_) => panic!("the embedding was not uploaded as tied"),
            },
        };
        assert_eq!(
            linear.outputs,
            self.size().vocabulary,
            "the head names every token"
        );
        let layout = self.norm_rows(norm, linear, self.step.sampled.len(), &|step, row| {
            step.sampled[row]
        });
        let output = Output::Store(SharedMut::new(self.buffers.logits.as_mut_slice()));
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
        Ok(())
    }

    fn sample(&mut self, batch: &Batch) -> Result<Vec<SampleResult>, KernelError> {
        assert_eq!(
            batch.samples.len(),
            self.step.sampled.len(),
            "the batch is the planned one"
        );
        self.enter();
        let vocabulary = self.size().vocabulary;
        let logits = self.buffers.logits.as_slice::<f32>();
        let mut results: Vec<SampleResult> = batch
            .samples
            .iter()
            .map(|row| SampleResult {
                sequence: row.sequence,
                sampled: None,
            })
            .collect();
        let (drawn, threads) = (SharedMut::new(&mut results), &self.threads);
        self.device.pool.deal(batch.samples.len(), 1, &|thread, rows| {
            let mut memory = lock(&threads[thread]);
            let ThreadMemory {
                sampler, logits: own, ..
            } = &mut *memory;
            for index in rows {
                let row = &batch.samples[index];
                let input = SampleInput {
                    params: &row.params,
                    history: &batch.history[row.history.range()],
                    prompt_tokens: row.prompt_tokens,
                    banned: &row.banned,
                    position: row.position,
                };
                own.clear();
                own.extend_from_slice(&logits[index * vocabulary..][..vocabulary]);
                let sampled = sampler.sample(own, input);
                let result = SampleResult {
                    sequence: row.sequence,
                    sampled,
                };
                // SAFETY: each row is dealt to one thread, and the result replaced holds nothing to drop.
                unsafe { drawn.set(index, result) };
            }
        });
        self.pass = None;
        Ok(results)
    }

    fn read_logits(&mut self) -> Result<Vec<f32>, KernelError> {
        // Tools may stop here, without a draw.
        self.pass = None;
        let count = self.step.sampled.len() * self.size().vocabulary;
        Ok(self.buffers.logits.as_slice()[..count].to_vec())
    }

    fn memory(&self) -> Arc<dyn KvMemory> {
        Arc::clone(&self.memory) as Arc<dyn KvMemory>
    }
}

/// What is done to the heads of one token between projection and attention.
struct HeadPass<'a> {
    isa: Isa,
    size: Sizes,
    layer: u32,
    memory: &'a CpuKvMemory,
    /// Weights and epsilon for queries and for keys.
    norms: Option<[(&'a [f32], f32); 2]>,
    step: &'a Step,
}

impl HeadPass<'_> {
    /// Normalises and rotates the query and key heads of `token`, and stores its keys and values.
    ///
    /// # Safety
    /// Nobody else uses the token's place in the KV blocks meanwhile.
    unsafe fn turn_and_store(&self, token: usize, heads: &mut [f32]) {
        let Sizes {
            query_heads,
            kv_heads,
            head_dim,
            ..
        } = self.size;
        let place = self.step.places[token];
        let (cosines, sines) = self.step.turns(token, head_dim / 2);
        let (turned, values) = heads.split_at_mut((query_heads + kv_heads) * head_dim);
        for (index, head) in turned.chunks_exact_mut(head_dim).enumerate() {
            if let Some(norms) = self.norms {
                let (weight, epsilon) = norms[usize::from(index >= query_heads)];
                rms_norm_in_place(self.isa, head, weight, epsilon);
            }
            rotate(self.isa, head, cosines, sines);
        }
        let keys = turned[query_heads * head_dim..].chunks_exact(head_dim);
        for (kv_head, (key, value)) in (0..).zip(keys.zip(values.chunks_exact(head_dim))) {
            // SAFETY: the caller is the only user of the token's place.
            let slots = unsafe {
                self.memory
                    .slots(place.block, kv_head, self.layer, place.position)
            };
            self.store(key, slots.0);
            self.store(value, slots.1);
        }
    }

    fn store(&self, head: &[f32], into: &mut [u8]) {
        match self.memory.layout().dtype {
            Dtype::F32 => {
                for (into, value) in into.as_chunks_mut::<4>().0.iter_mut().zip(head) {
                    *into = value.to_le_bytes();
                }
            }
            Dtype::Bf16 | Dtype::F16 => store_bf16(self.isa, head, into),
        }
    }
}

/// The spec's sizes, for indexing.
#[derive(Clone, Copy)]
struct Sizes {
    hidden: usize,
    query_heads: usize,
    kv_heads: usize,
    head_dim: usize,
    intermediate: usize,
    vocabulary: usize,
    tokens: usize,
    samples: usize,
}

impl Sizes {
    fn of(spec: &ExecutorSpec) -> Self {
        Self {
            hidden: spec.hidden as usize,
            query_heads: spec.query_heads as usize,
            kv_heads: spec.kv.kv_heads as usize,
            head_dim: spec.kv.head_dim as usize,
            intermediate: spec.intermediate as usize,
            vocabulary: spec.vocabulary as usize,
            tokens: spec.max_batch_tokens as usize,
            samples: spec.max_samples as usize,
        }
    }

    /// Columns of `qkv`.
    fn qkv(&self) -> usize {
        (self.query_heads + 2 * self.kv_heads) * self.head_dim
    }

    /// Columns of `context`.
    fn context(&self) -> usize {
        self.query_heads * self.head_dim
    }
}

/// Locks memory that only one thread uses at a time; it is scratch, so a panic leaves nothing invalid.
fn lock(memory: &Mutex<ThreadMemory>) -> MutexGuard<'_, ThreadMemory> {
    memory.lock().unwrap_or_else(PoisonError::into_inner)
}
