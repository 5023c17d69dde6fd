//! The CPU as a [`Backend`].

use std::sync::Arc;

use vlinders_kernel_api::{
    Backend, BackendFacts, Dtype, EmbeddingId, Executor, ExecutorSpec, KernelError, LinearId, LinearKind,
    LinearPart, RotaryId, TensorView, VectorId, check_parts,
};

use crate::IsaLevel;
use crate::executor::CpuExecutor;
use crate::gate::ComputeGate;
use crate::isa::Isa;
use crate::pack::PackedWeights;
use crate::peers::Peers;
use crate::pool::Pool;
use crate::weights::{Embedding, Weights};

/// The name in [`BackendFacts`] and errors.
pub(crate) const NAME: &str = "cpu";

/// How to use the CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuOptions {
    /// Threads that compute, the caller's included; none takes as many as the process may use.
    pub threads: Option<usize>,
    /// Instructions to use; none takes the best this CPU has. For tests and comparisons.
    pub force: Option<IsaLevel>,
}

/// Weights in memory and threads that compute.
pub struct CpuBackend {
    device: Device,
    weights: Arc<Weights>,
}

/// What executors share.
#[derive(Clone)]
pub(crate) struct Device {
    pub(crate) isa: Isa,
    pub(crate) pool: Arc<Pool>,
    pub(crate) gate: Arc<ComputeGate>,
    /// KV pools may be read by other processes.
    pub(crate) shared_kv: bool,
    /// Whoever holds the other slices of the model.
    pub(crate) peers: Option<Peers>,
}

impl CpuBackend {
    /// Starts the threads.
    ///
    /// # Errors
    /// [`KernelError::Unsupported`] when this CPU lacks the forced instructions.
    pub fn new(options: CpuOptions) -> Result<Self, KernelError> {
        let isa = match options.force {
            None => Isa::best(),
            Some(level) => Isa::new(level).ok_or_else(|| KernelError::Unsupported {
                backend: NAME,
                what: format!("{level} on this CPU"),
            })?,
        };
        let usable = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let pool = Arc::new(Pool::new(options.threads.unwrap_or_else(usable)));
        let device = Device {
            isa,
            pool,
            gate: Arc::default(),
            shared_kv: false,
            peers: None,
        };
        Ok(Self {
            device,
            weights: Arc::default(),
        })
    }

    /// Executors made from now on keep their KV pools where other processes of this host may read them, if asked for.
    /// That costs huge pages, unless the system grants them to shared memory too.
    #[must_use]
    pub fn with_shared_kv(mut self, shared: bool) -> Self {
        self.device.shared_kv = shared;
        self
    }

    /// The weights to come are this rank's slices: what projections back to the residual stream make is added up over all
    /// ranks, and a head that names a slice of the vocabulary is made whole. The first rank decides for all who computes
    /// first, so that no two executors wait for one another.
    #[must_use]
    pub fn with_peers(mut self, peers: Peers) -> Self {
        self.device.peers = Some(peers);
        self
    }

    fn uploading(&mut self) -> Result<&mut Weights, KernelError> {
        let late = || KernelError::Device("an upload after the first executor".to_owned());
        Arc::get_mut(&mut self.weights).ok_or_else(late)
    }
}

impl Backend for CpuBackend {
    fn facts(&self) -> BackendFacts {
        let detail = format!(
            "{}, {} threads",
            self.device.isa.level(),
            self.device.pool.threads()
        );
        BackendFacts { name: NAME, detail }
    }

    fn kv_dtype(&self, stored: Dtype) -> Dtype {
        match stored {
            Dtype::F32 => Dtype::F32,
            Dtype::F16 | Dtype::Bf16 => Dtype::Bf16,
        }
    }

    fn upload_embedding(&mut self, table: TensorView<'_>, tied: bool) -> Result<EmbeddingId, KernelError> {
        let embedding = Embedding::load(&self.device.pool, table, tied)?;
        Ok(EmbeddingId(self.uploading()?.add_embedding(embedding)))
    }

    fn upload_vector(&mut self, vector: TensorView<'_>) -> Result<VectorId, KernelError> {
        vector.check_shape(&[vector.bytes.len() / vector.dtype.bytes()])?;
        Ok(VectorId(self.uploading()?.add_vector(vector.widen())))
    }

    fn upload_linear(&mut self, kind: LinearKind, parts: &[LinearPart<'_>]) -> Result<LinearId, KernelError> {
        let shape = check_parts(NAME, kind, parts)?;
        let packed = PackedWeights::pack(&self.device.pool, kind, parts, shape)?;
        Ok(LinearId(self.uploading()?.add_linear(packed)))
    }

    fn upload_rotary(&mut self, frequencies: &[f32]) -> Result<RotaryId, KernelError> {
        Ok(RotaryId(self.uploading()?.add_rotary(frequencies)))
    }

    fn executor(&self, spec: &ExecutorSpec) -> Result<Box<dyn Executor>, KernelError> {
        let mut device = self.device.clone();
        if device.peers.as_ref().is_some_and(|peers| peers.rank() > 0) {
            device.gate = Arc::default();
        }
        let executor = CpuExecutor::new(device, Arc::clone(&self.weights), spec)?;
        Ok(Box::new(executor))
    }
}
