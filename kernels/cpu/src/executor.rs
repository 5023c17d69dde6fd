//! One role's activations and the operations of a step.

use std::sync::{Arc, Mutex};

use vlinders_kernel_api::{
    AttentionSpec, Dtype, EmbeddingId, Executor, ExecutorSpec, Head, KernelError, KvMemory, LinearId, Norm,
    QkNorm, RotaryId,
};
use vlinders_sampling::SampleInput;
use vlinders_types::{AwaitedMask, Batch, PoolResult, SampleResult, ScoreResult};

use crate::activations::{Layout, Packed, encode};
use crate::attention::{Attention, attend};
use crate::backend::{Device, NAME};
use crate::buffers::{Buffers, Sizes, ThreadMemory, lock};
use crate::elementwise::rms_norm;
use crate::gate::Pass;
use crate::gemm::{Output, Product, left_layout, multiply};
use crate::heads::HeadPass;
use crate::kv_memory::CpuKvMemory;
use crate::pack::PackedWeights;
use crate::peers::Peers;
use crate::shared::SharedMut;
use crate::step::Step;
use crate::weights::Weights;

/// Rows of a cheap pass that one thread takes at a time: about what waking another thread costs.
const ROWS_AT_ONCE: usize = 4;

/// Activations, the KV pool, and the step that is being computed.
pub(crate) struct CpuExecutor {
    pub(crate) device: Device,
    pub(crate) weights: Arc<Weights>,
    spec: ExecutorSpec,
    memory: Arc<CpuKvMemory>,
    step: Step,
    pub(crate) buffers: Buffers,
    pub(crate) threads: Vec<Mutex<ThreadMemory>>,
    /// Held from `embed` to `sample`.
    pass: Option<Pass>,
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
        let ranks = device.peers.as_ref().map_or(1, Peers::size);
        Ok(Self {
            memory: Arc::new(match device.shared_kv {
                true => CpuKvMemory::shared(spec.kv, spec.block_count)?,
                false => CpuKvMemory::new(spec.kv, spec.block_count)?,
            }),
            threads: (0..device.pool.threads())
                .map(|_| Mutex::new(ThreadMemory::new(&size)))
                .collect(),
            device,
            weights,
            spec: spec.clone(),
            step: Step::default(),
            buffers: Buffers::new(&size, ranks)?,
            pass: None,
        })
    }

    pub(crate) fn size(&self) -> Sizes {
        Sizes::of(&self.spec)
    }

    /// Waits for the right to compute, unless it is held already.
    pub(crate) fn enter(&mut self) -> &mut Pass {
        self.pass
            .get_or_insert_with(|| self.device.gate.enter(self.spec.urgency))
    }

    /// Adds what all ranks have made for the residual stream, when there are several.
    fn add_parts(&mut self) -> Result<(), KernelError> {
        let (Some(peers), Some(part)) = (&self.device.peers, &mut self.buffers.part) else {
            return Ok(());
        };
        let count = self.step.tokens.len() * self.spec.hidden as usize;
        let part = &mut part.as_mut_slice::<f32>()[..count];
        peers.sum(part)?;
        for (x, part) in self.buffers.x.as_mut_slice::<f32>().iter_mut().zip(part) {
            *x += *part;
        }
        Ok(())
    }

    /// Fills the left-hand side of `weights` with the normalised rows of `x` that `row_of` names, and returns its layout.
    pub(crate) fn norm_rows(
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
        let output = match &mut self.buffers.part {
            None => Output::Add(SharedMut::new(self.buffers.x.as_mut_slice())),
            Some(part) => Output::Store(SharedMut::new(part.as_mut_slice())),
        };
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
        self.add_parts()
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
        let output = match &mut self.buffers.part {
            None => Output::Add(SharedMut::new(self.buffers.x.as_mut_slice())),
            Some(part) => Output::Store(SharedMut::new(part.as_mut_slice())),
        };
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
        self.add_parts()
    }

    fn score(&mut self, norm: Norm, head: Head, batch: &Batch) -> Result<Vec<ScoreResult>, KernelError> {
        self.score_targets(norm, head, batch)
    }

    fn pool(&mut self, norm: Norm, batch: &Batch) -> Result<Vec<PoolResult>, KernelError> {
        Ok(self.add_up(norm, batch))
    }

    fn logits(&mut self, norm: Norm, head: Head) -> Result<(), KernelError> {
        let count = self.step.sampled.len();
        self.make_logits(norm, head, count, &|step, row| step.sampled[row])
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
                    allowed: row.allowed.as_deref().map(AwaitedMask::wait),
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

    fn end(&mut self) {
        self.pass = None;
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
