//! One role's activations, blocks and steps.
//!
//! Calls of the engine are kept until something must come back, and then started together. So a step that was seen before can be
//! replayed as one piece, and everything that depends on the batch is sent before the first kernel starts.

use std::sync::Arc;

use vlinders_kernel_api::{
    AttentionSpec, Dtype, EmbeddingId, Executor, ExecutorSpec, Head, KernelError, KvMemory, LinearId, Norm,
    QkNorm, RotaryId,
};
use vlinders_sampling::Sampler;
use vlinders_types::{Batch, PoolResult, SampleResult, ScoreResult};

use crate::attending::{tiled_shared_bytes, window_of};
use crate::attention::AttentionLimits;
use crate::buffers::{BufferBytes, Buffers, partials};
use crate::device::{Device, DeviceFacts, Stream};
use crate::drawing::DrawBuffers;
use crate::graphs::{Course, Graphs};
use crate::kernels::KernelNames;
use crate::kv_memory::CudaKvMemory;
use crate::linear;
use crate::operation::Operation;
use crate::region::Pinned;
use crate::shape::{self, Sizes, count};
use crate::step::{Capacity, DevicePlan, Step};
use crate::weights::Weights;

/// Rows of logits that come back at a time.
const ROWS_AT_ONCE: usize = 16;

/// Activations, the KV pool, and the step that is being computed.
pub(crate) struct CudaExecutor {
    pub(crate) device: Arc<dyn Device>,
    pub(crate) weights: Arc<Weights>,
    pub(crate) size: Sizes,
    spec: ExecutorSpec,
    pub(crate) memory: Arc<CudaKvMemory>,
    pub(crate) kernels: KernelNames,
    pub(crate) stream: OwnStream,
    pub(crate) step: Step,
    pub(crate) plan: DevicePlan,
    pub(crate) buffers: Buffers,
    pub(crate) draws: DrawBuffers,
    /// Results of splits that there is memory for.
    pub(crate) partials: u32,
    /// Asked for and not started yet.
    operations: Vec<Operation>,
    /// The step's arrays are on the device, laid out for this.
    sent: Option<Capacity>,
    /// They are laid out for a recording.
    pub(crate) is_filled_up: bool,
    graphs: Graphs,
    pub(crate) sampler: Sampler,
    /// Where logits come back to, `[ROWS_AT_ONCE, vocabulary]` of f32.
    returned: Pinned,
}

/// Whether the chip has the shared memory that the kernels ask for.
fn check_chip(facts: &DeviceFacts, size: &Sizes) -> Result<(), KernelError> {
    let needed = match size.dtype {
        Dtype::F32 => 0,
        Dtype::F16 | Dtype::Bf16 => tiled_shared_bytes(size.head_dim).max(linear::LARGEST_SHARED_BYTES),
    };
    if facts.shared_bytes_per_block < needed {
        let has = facts.shared_bytes_per_block;
        return shape::unsupported(format!(
            "{}: its blocks have {has} bytes of shared memory, and {needed} are needed for this model",
            facts.name
        ));
    }
    Ok(())
}

/// A stream that ends with its owner, after its work.
pub(crate) struct OwnStream {
    device: Arc<dyn Device>,
    stream: Stream,
}

impl OwnStream {
    pub(crate) fn stream(&self) -> Stream {
        self.stream
    }
}

impl Drop for OwnStream {
    fn drop(&mut self) {
        // What runs uses memory that goes next. A failed device runs nothing.
        let _ = self.device.wait(self.stream);
        // SAFETY: the executor made it and is gone.
        unsafe { self.device.end_stream(self.stream) };
    }
}

impl CudaExecutor {
    pub(crate) fn new(
        device: &Arc<dyn Device>,
        weights: Arc<Weights>,
        spec: &ExecutorSpec,
        records: bool,
    ) -> Result<Self, KernelError> {
        shape::check(spec)?;
        weights.check_dtype(spec.kv.dtype)?;
        let size = Sizes::of(spec);
        check_chip(device.facts(), &size)?;
        let stream = OwnStream {
            device: Arc::clone(device),
            stream: device.stream(spec.urgency)?,
        };
        let partials = partials(&size);
        let base = AttentionLimits {
            is_plain: size.dtype == Dtype::F32,
            group: size.group(),
            window: 0,
            partials,
        };
        let bytes = BufferBytes::of(&size, device.facts().multiprocessors);
        let buffers = Buffers::new(device, &bytes, stream.stream)?;
        device.wait(stream.stream)?;
        let vocabulary_bytes = size.vocabulary as usize * 4;
        Ok(Self {
            plan: DevicePlan::new(device, &size, base)?,
            draws: DrawBuffers::new(device, &size)?,
            returned: Pinned::new(device, ROWS_AT_ONCE * vocabulary_bytes, "logits")?,
            memory: Arc::new(CudaKvMemory::new(device, spec.kv, spec.block_count)?),
            kernels: KernelNames::of(size.dtype, size.head_dim),
            device: Arc::clone(device),
            weights,
            size,
            spec: spec.clone(),
            stream,
            step: Step::default(),
            buffers,
            partials,
            operations: Vec::new(),
            sent: None,
            is_filled_up: false,
            graphs: Graphs::new(records),
            sampler: Sampler::new(),
        })
    }

    fn ask(&mut self, operation: Operation) -> Result<(), KernelError> {
        self.operations.push(operation);
        Ok(())
    }

    /// Starts everything that was asked for, and returns at once.
    pub(crate) fn start_asked(&mut self) -> Result<(), KernelError> {
        let operations = std::mem::take(&mut self.operations);
        if operations.is_empty() {
            return Ok(());
        }
        let whole = self.sent.is_none();
        if whole {
            self.send(&operations)?;
        }
        let capacity = self.sent.expect("the step was sent a line above");
        let course = match self.is_filled_up && whole {
            true => self.graphs.course(capacity, &operations),
            false => Course::Launch,
        };
        match course {
            Course::Launch => self.start_all(&operations, capacity),
            Course::Record => self.record(&operations, capacity),
            // SAFETY: everything it uses belongs to this executor, which has it until it is dropped.
            Course::Replay(graph) => unsafe { self.device.replay(self.stream.stream, graph) },
        }
    }

    fn start_all(&self, operations: &[Operation], capacity: Capacity) -> Result<(), KernelError> {
        operations
            .iter()
            .try_for_each(|operation| self.start(operation, capacity))
    }

    /// Plans attention for the windows in use, and sends the step.
    fn send(&mut self, operations: &[Operation]) -> Result<(), KernelError> {
        let mut windows = Vec::new();
        for operation in operations {
            if let Operation::Attention(_, spec) = operation
                && !windows.contains(&window_of(spec))
            {
                windows.push(window_of(spec));
            }
        }
        self.plan.attend(&self.step, &windows)?;
        let exact = Capacity {
            tokens: count(self.step.tokens.len()),
            samples: count(self.step.sampled.len()),
        };
        let recorded = match self.plan.has_tiles() {
            true => None,
            false => self.graphs.capacity(&self.step, &self.size),
        };
        self.is_filled_up = recorded.is_some();
        let capacity = recorded.unwrap_or(exact);
        self.plan.send(&self.step, capacity, self.stream.stream)?;
        self.sent = Some(capacity);
        Ok(())
    }

    fn record(&mut self, operations: &[Operation], capacity: Capacity) -> Result<(), KernelError> {
        if !self.device.begin_capture(self.stream.stream)? {
            self.graphs.give_up();
            return self.start_all(operations, capacity);
        }
        let started = self.start_all(operations, capacity);
        // Ended in any case, or the stream stays unusable.
        let graph = self.device.end_capture(self.stream.stream);
        started?;
        let graph = graph?;
        self.graphs.keep(capacity, graph);
        // SAFETY: everything it uses belongs to this executor, which has it until it is dropped.
        unsafe { self.device.replay(self.stream.stream, graph) }
    }

    /// Shows the first `rows` rows of logits, some at a time, with the index of the first of them.
    pub(crate) fn read_rows(
        &mut self,
        rows: usize,
        see: &mut dyn FnMut(&mut Sampler, usize, &[f32]),
    ) -> Result<(), KernelError> {
        let row_bytes = self.size.vocabulary as usize * 4;
        let mut logits = Vec::new();
        for first in (0..rows).step_by(ROWS_AT_ONCE) {
            let bytes = ROWS_AT_ONCE.min(rows - first) * row_bytes;
            let from = self.buffers.logits.address() + (first * row_bytes) as u64;
            assert!(
                (first * row_bytes + bytes) <= self.buffers.logits.bytes(),
                "rows of the buffer"
            );
            // SAFETY: both sides have as many bytes, and nobody looks before the wait.
            unsafe {
                self.device
                    .download(self.stream.stream, self.returned.as_ptr(), from, bytes)
            }?;
            self.device.wait(self.stream.stream)?;
            let words = self.returned.as_slice()[..bytes].chunks_exact(4);
            logits.clear();
            logits.extend(words.map(|word| f32::from_le_bytes([word[0], word[1], word[2], word[3]])));
            see(&mut self.sampler, first, &logits);
        }
        // Also where nothing comes back: the step is over, and its blocks may be read.
        self.device.wait(self.stream.stream)
    }
}

impl Drop for CudaExecutor {
    fn drop(&mut self) {
        let _ = self.device.wait(self.stream.stream);
        for graph in self.graphs.drain() {
            // SAFETY: it was made here, and no work is under way.
            unsafe { self.device.end_graph(graph) };
        }
    }
}

impl Executor for CudaExecutor {
    fn plan(&mut self, batch: &Batch) -> Result<(), KernelError> {
        // A step that was given up half-way.
        self.operations.clear();
        if self.sent.take().is_some() {
            // Its arrays may still be on their way.
            self.device.wait(self.stream.stream)?;
        }
        self.spec.check_batch(batch)?;
        self.step.set(batch);
        Ok(())
    }

    fn embed(&mut self, table: EmbeddingId) -> Result<(), KernelError> {
        self.ask(Operation::Embed(table))
    }

    fn norm_project(&mut self, norm: Norm, projection: LinearId) -> Result<(), KernelError> {
        self.ask(Operation::NormProject(norm, projection))
    }

    fn rotary_append(
        &mut self,
        layer: u32,
        rotary: RotaryId,
        qk_norm: Option<QkNorm>,
    ) -> Result<(), KernelError> {
        assert!(layer < self.size.layers, "the layer is one of the model's");
        self.ask(Operation::RotaryAppend(layer, rotary, qk_norm))
    }

    fn attention(&mut self, layer: u32, spec: AttentionSpec) -> Result<(), KernelError> {
        self.ask(Operation::Attention(layer, spec))
    }

    fn project_residual(&mut self, projection: LinearId) -> Result<(), KernelError> {
        self.ask(Operation::ProjectResidual(projection))
    }

    fn feed_forward(&mut self, norm: Norm, gate_up: LinearId, down: LinearId) -> Result<(), KernelError> {
        self.ask(Operation::FeedForward(norm, gate_up, down))
    }

    fn score(&mut self, norm: Norm, head: Head, batch: &Batch) -> Result<Vec<ScoreResult>, KernelError> {
        self.start_asked()?;
        self.score_targets(norm, head, batch)
    }

    fn pool(&mut self, norm: Norm, batch: &Batch) -> Result<Vec<PoolResult>, KernelError> {
        self.start_asked()?;
        self.add_up(norm, batch)
    }

    fn logits(&mut self, norm: Norm, head: Head) -> Result<(), KernelError> {
        self.ask(Operation::Logits(norm, head))
    }

    fn sample(&mut self, batch: &Batch) -> Result<Vec<SampleResult>, KernelError> {
        assert_eq!(
            batch.samples.len(),
            self.step.sampled.len(),
            "the batch is the planned one"
        );
        self.start_asked()?;
        let results = self.draw(batch)?;
        self.sent = None;
        Ok(results)
    }

    fn read_logits(&mut self) -> Result<Vec<f32>, KernelError> {
        self.start_asked()?;
        let mut all = Vec::new();
        self.read_rows(self.step.sampled.len(), &mut |_, _, logits| {
            all.extend_from_slice(logits);
        })?;
        Ok(all)
    }

    fn memory(&self) -> Arc<dyn KvMemory> {
        Arc::clone(&self.memory) as Arc<dyn KvMemory>
    }
}
