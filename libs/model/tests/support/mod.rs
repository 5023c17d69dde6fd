//! A backend that only writes down what it is asked, and checkpoints to load into it.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use vlinders_kernel_api::{
    AttentionSpec, Backend, BackendFacts, Dtype, EmbeddingId, Executor, ExecutorSpec, Head, KernelError,
    KvMemory, LinearId, LinearKind, LinearPart, Norm, QkNorm, RotaryId, TensorView, VectorId,
};
use vlinders_types::{Batch, PoolResult, SampleResult, ScoreResult};

/// Where the golden checkpoints are.
pub(crate) fn golden(family: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/goldens")
        .join(family)
}

/// Calls, in order, as short texts.
pub(crate) type Log = Arc<Mutex<Vec<String>>>;

/// Ids count up over all uploads.
#[derive(Default)]
pub(crate) struct RecordingBackend {
    pub(crate) log: Log,
    next_id: u32,
}

impl RecordingBackend {
    fn record(&mut self, what: String) -> u32 {
        self.log
            .lock()
            .unwrap()
            .push(format!("{} = {what}", self.next_id));
        self.next_id += 1;
        self.next_id - 1
    }
}

impl Backend for RecordingBackend {
    fn facts(&self) -> BackendFacts {
        BackendFacts {
            name: "recording",
            detail: String::new(),
        }
    }

    fn kv_dtype(&self, stored: Dtype) -> Dtype {
        stored
    }

    fn upload_embedding(&mut self, table: TensorView<'_>, tied: bool) -> Result<EmbeddingId, KernelError> {
        Ok(EmbeddingId(
            self.record(format!("embedding {} tied={tied}", table.name)),
        ))
    }

    fn upload_vector(&mut self, vector: TensorView<'_>) -> Result<VectorId, KernelError> {
        Ok(VectorId(self.record(format!("vector {}", vector.name))))
    }

    fn upload_linear(&mut self, kind: LinearKind, parts: &[LinearPart<'_>]) -> Result<LinearId, KernelError> {
        let mut text = format!("{kind:?}");
        for part in parts {
            write!(text, " {}", part.weight.name()).unwrap();
            if let Some(bias) = part.bias {
                write!(text, " {}", bias.name).unwrap();
            }
        }
        Ok(LinearId(self.record(text)))
    }

    fn upload_rotary(&mut self, frequencies: &[f32]) -> Result<RotaryId, KernelError> {
        Ok(RotaryId(
            self.record(format!("rotary of {} pairs", frequencies.len())),
        ))
    }

    fn executor(&self, _spec: &ExecutorSpec) -> Result<Box<dyn Executor>, KernelError> {
        Ok(Box::new(RecordingExecutor(self.log.clone())))
    }
}

struct RecordingExecutor(Log);

impl RecordingExecutor {
    fn record(&self, what: String) -> Result<(), KernelError> {
        self.0.lock().unwrap().push(what);
        Ok(())
    }
}

impl Executor for RecordingExecutor {
    fn plan(&mut self, batch: &Batch) -> Result<(), KernelError> {
        self.record(format!("plan {}", batch.tokens.len()))
    }

    fn embed(&mut self, table: EmbeddingId) -> Result<(), KernelError> {
        self.record(format!("embed {}", table.0))
    }

    fn norm_project(&mut self, norm: Norm, projection: LinearId) -> Result<(), KernelError> {
        self.record(format!("norm_project {} {}", norm.weight.0, projection.0))
    }

    fn rotary_append(
        &mut self,
        layer: u32,
        rotary: RotaryId,
        norm: Option<QkNorm>,
    ) -> Result<(), KernelError> {
        let norms = norm.map(|norm| (norm.query.weight.0, norm.key.weight.0));
        self.record(format!("rotary_append {layer} {} {norms:?}", rotary.0))
    }

    fn attention(&mut self, layer: u32, spec: AttentionSpec) -> Result<(), KernelError> {
        self.record(format!("attention {layer} {} {:?}", spec.scale, spec.window))
    }

    fn project_residual(&mut self, projection: LinearId) -> Result<(), KernelError> {
        self.record(format!("project_residual {}", projection.0))
    }

    fn feed_forward(&mut self, norm: Norm, gate_up: LinearId, down: LinearId) -> Result<(), KernelError> {
        self.record(format!("feed_forward {} {} {}", norm.weight.0, gate_up.0, down.0))
    }

    fn score(&mut self, norm: Norm, head: Head, _batch: &Batch) -> Result<Vec<ScoreResult>, KernelError> {
        self.record(format!("score {} {head:?}", norm.weight.0))?;
        Ok(Vec::new())
    }

    fn pool(&mut self, norm: Norm, _batch: &Batch) -> Result<Vec<PoolResult>, KernelError> {
        self.record(format!("pool {}", norm.weight.0))?;
        Ok(Vec::new())
    }

    fn logits(&mut self, norm: Norm, head: Head) -> Result<(), KernelError> {
        self.record(format!("logits {} {head:?}", norm.weight.0))
    }

    fn sample(&mut self, _batch: &Batch) -> Result<Vec<SampleResult>, KernelError> {
        unreachable!("forward ends with the logits")
    }

    fn read_logits(&mut self) -> Result<Vec<f32>, KernelError> {
        unreachable!("forward ends with the logits")
    }

    fn memory(&self) -> Arc<dyn KvMemory> {
        unreachable!("forward knows no memory")
    }
}
