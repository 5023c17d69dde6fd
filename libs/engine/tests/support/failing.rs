//! A backend whose executors fail in the middle of a step.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use vlinders_kernel_api::{
    AttentionSpec, Backend, BackendFacts, Dtype, EmbeddingId, Executor, ExecutorSpec, Head, KernelError,
    KvMemory, LinearId, LinearKind, LinearPart, Norm, QkNorm, RotaryId, TensorView, VectorId,
};
use vlinders_types::{Batch, PoolResult, SampleResult, ScoreResult};

/// Fails in attention once `fails` is set.
pub(crate) struct Failing {
    pub(crate) inner: Box<dyn Backend>,
    pub(crate) fails: Arc<AtomicBool>,
}

impl Backend for Failing {
    fn facts(&self) -> BackendFacts {
        self.inner.facts()
    }

    fn kv_dtype(&self, stored: Dtype) -> Dtype {
        self.inner.kv_dtype(stored)
    }

    fn upload_embedding(&mut self, table: TensorView<'_>, tied: bool) -> Result<EmbeddingId, KernelError> {
        self.inner.upload_embedding(table, tied)
    }

    fn upload_vector(&mut self, vector: TensorView<'_>) -> Result<VectorId, KernelError> {
        self.inner.upload_vector(vector)
    }

    fn upload_linear(&mut self, kind: LinearKind, parts: &[LinearPart<'_>]) -> Result<LinearId, KernelError> {
        self.inner.upload_linear(kind, parts)
    }

    fn upload_rotary(&mut self, frequencies: &[f32]) -> Result<RotaryId, KernelError> {
        self.inner.upload_rotary(frequencies)
    }

    fn executor(&self, spec: &ExecutorSpec) -> Result<Box<dyn Executor>, KernelError> {
        Ok(Box::new(FailingExecutor {
            inner: self.inner.executor(spec)?,
            fails: Arc::clone(&self.fails),
        }))
    }
}

struct FailingExecutor {
    inner: Box<dyn Executor>,
    fails: Arc<AtomicBool>,
}

impl Executor for FailingExecutor {
    fn plan(&mut self, batch: &Batch) -> Result<(), KernelError> {
        self.inner.plan(batch)
    }

    fn embed(&mut self, table: EmbeddingId) -> Result<(), KernelError> {
        self.inner.embed(table)
    }

    fn norm_project(&mut self, norm: Norm, projection: LinearId) -> Result<(), KernelError> {
        self.inner.norm_project(norm, projection)
    }

    fn rotary_append(
        &mut self,
        layer: u32,
        rotary: RotaryId,
        norm: Option<QkNorm>,
    ) -> Result<(), KernelError> {
        self.inner.rotary_append(layer, rotary, norm)
    }

    fn attention(&mut self, layer: u32, spec: AttentionSpec) -> Result<(), KernelError> {
        if self.fails.load(Ordering::Relaxed) {
            return Err(KernelError::Device("the device fell off the bus".to_owned()));
        }
        self.inner.attention(layer, spec)
    }

    fn project_residual(&mut self, projection: LinearId) -> Result<(), KernelError> {
        self.inner.project_residual(projection)
    }

    fn feed_forward(&mut self, norm: Norm, gate_up: LinearId, down: LinearId) -> Result<(), KernelError> {
        self.inner.feed_forward(norm, gate_up, down)
    }

    fn score(&mut self, norm: Norm, head: Head, batch: &Batch) -> Result<Vec<ScoreResult>, KernelError> {
        self.inner.score(norm, head, batch)
    }

    fn pool(&mut self, norm: Norm, batch: &Batch) -> Result<Vec<PoolResult>, KernelError> {
        self.inner.pool(norm, batch)
    }

    fn logits(&mut self, norm: Norm, head: Head) -> Result<(), KernelError> {
        self.inner.logits(norm, head)
    }

    fn sample(&mut self, batch: &Batch) -> Result<Vec<SampleResult>, KernelError> {
        self.inner.sample(batch)
    }

    fn end(&mut self) {
        self.inner.end();
    }

    fn read_logits(&mut self) -> Result<Vec<f32>, KernelError> {
        self.inner.read_logits()
    }

    fn memory(&self) -> Arc<dyn KvMemory> {
        self.inner.memory()
    }
}
