//! Weights, widened to f32.

use std::sync::Arc;

use vlinders_kernel_api::{
    Backend, BackendFacts, Dtype, EmbeddingId, Executor, ExecutorSpec, KernelError, LinearId, LinearKind,
    LinearPart, RotaryId, TensorView, VectorId, check_parts,
};

use crate::executor::ReferenceExecutor;

/// The name in [`BackendFacts`] and errors.
pub(crate) const NAME: &str = "reference";

/// The oracle backend.
#[derive(Default)]
pub struct ReferenceBackend {
    weights: Arc<Weights>,
}

/// A projection `[outputs, inputs]`.
pub(crate) struct Linear {
    pub(crate) outputs: usize,
    pub(crate) inputs: usize,
    pub(crate) weight: Vec<f32>,
    pub(crate) bias: Vec<f32>,
}

/// A table `[vocabulary, hidden]`.
pub(crate) struct Embedding {
    pub(crate) vocabulary: usize,
    pub(crate) hidden: usize,
    pub(crate) table: Vec<f32>,
}

/// All that was uploaded.
#[derive(Default)]
pub(crate) struct Weights {
    pub(crate) embeddings: Vec<Embedding>,
    pub(crate) vectors: Vec<Vec<f32>>,
    pub(crate) linears: Vec<Linear>,
    pub(crate) rotaries: Vec<Vec<f32>>,
}

impl ReferenceBackend {
    /// A backend without weights.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn uploading(&mut self) -> Result<&mut Weights, KernelError> {
        let late = || KernelError::Device("an upload after the first executor".to_owned());
        Arc::get_mut(&mut self.weights).ok_or_else(late)
    }
}

fn next_id(length: usize) -> u32 {
    u32::try_from(length).expect("a model has fewer tensors than 2^32")
}

impl Backend for ReferenceBackend {
    fn facts(&self) -> BackendFacts {
        BackendFacts {
            name: NAME,
            detail: "plain loops, f64 sums, 1 thread".to_owned(),
        }
    }

    fn kv_dtype(&self, stored: Dtype) -> Dtype {
        match stored {
            Dtype::F32 => Dtype::F32,
            Dtype::F16 | Dtype::Bf16 => Dtype::Bf16,
        }
    }

    fn upload_embedding(&mut self, table: TensorView<'_>, _tied: bool) -> Result<EmbeddingId, KernelError> {
        let &[vocabulary, hidden] = table.shape else {
            let what = table.name.to_owned();
            return Err(KernelError::Shape {
                what,
                expected: vec![0, 0],
                found: table.shape.to_vec(),
            });
        };
        table.check_shape(&[vocabulary, hidden])?;
        let weights = self.uploading()?;
        weights.embeddings.push(Embedding {
            vocabulary,
            hidden,
            table: table.widen(),
        });
        Ok(EmbeddingId(next_id(weights.embeddings.len() - 1)))
    }

    fn upload_vector(&mut self, vector: TensorView<'_>) -> Result<VectorId, KernelError> {
        vector.check_shape(&[vector.bytes.len() / vector.dtype.bytes()])?;
        let weights = self.uploading()?;
        weights.vectors.push(vector.widen());
        Ok(VectorId(next_id(weights.vectors.len() - 1)))
    }

    fn upload_linear(&mut self, kind: LinearKind, parts: &[LinearPart<'_>]) -> Result<LinearId, KernelError> {
        let (outputs, inputs) = check_parts(NAME, kind, parts)?;
        let mut linear = Linear {
            outputs,
            inputs,
            weight: Vec::new(),
            bias: Vec::new(),
        };
        for part in parts {
            linear.weight.extend(part.weight.widen());
            match part.bias {
                Some(bias) => linear.bias.extend(bias.widen()),
                None => linear
                    .bias
                    .resize(linear.bias.len() + part.weight.shape()[0], 0.0),
            }
        }
        let weights = self.uploading()?;
        weights.linears.push(linear);
        Ok(LinearId(next_id(weights.linears.len() - 1)))
    }

    fn upload_rotary(&mut self, frequencies: &[f32]) -> Result<RotaryId, KernelError> {
        let weights = self.uploading()?;
        weights.rotaries.push(frequencies.to_vec());
        Ok(RotaryId(next_id(weights.rotaries.len() - 1)))
    }

    fn executor(&self, spec: &ExecutorSpec) -> Result<Box<dyn Executor>, KernelError> {
        spec.check(NAME)?;
        Ok(Box::new(ReferenceExecutor::new(Arc::clone(&self.weights), spec)))
    }
}
