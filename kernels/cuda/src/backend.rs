//! A GPU as a [`Backend`].

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use vlinders_kernel_api::{
    Backend, BackendFacts, Dtype, EmbeddingId, Executor, ExecutorSpec, KernelError, LinearId, LinearKind,
    LinearPart, RotaryId, TensorView, VectorId, check_parts,
};

use crate::device::Device;
use crate::driver::CudaDevice;
use crate::executor::CudaExecutor;
use crate::memory::{room_for_blocks, share_of};
use crate::self_check::self_check;
use crate::shape::NAME;
use crate::weights::{Uploader, Weights};

/// How to use a GPU.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CudaOptions {
    /// Steps that come again are recorded and replayed as one piece.
    pub records_steps: bool,
    /// Share of the device's memory to use, above 0 and at most 1.
    pub memory_share: f64,
}

impl Default for CudaOptions {
    fn default() -> Self {
        Self {
            records_steps: true,
            memory_share: 0.9,
        }
    }
}

/// Weights on a device, and the way to it.
pub struct CudaBackend {
    device: Arc<dyn Device>,
    options: CudaOptions,
    weights: Arc<Weights>,
    /// What the model is computed in, once it has asked.
    dtype: OnceLock<Dtype>,
    /// Gone with the first executor, and its pinned memory with it.
    uploader: Mutex<Option<Uploader>>,
}

impl CudaBackend {
    /// Takes the first visible GPU.
    ///
    /// # Errors
    /// When there is none, or no kernels for it.
    pub fn new(options: CudaOptions) -> Result<Self, KernelError> {
        Ok(Self::on(Arc::new(CudaDevice::open()?), options))
    }

    /// The same, once the device has shown that it computes what it should.
    ///
    /// # Errors
    /// As [`new`](Self::new), and when the device's results are wrong.
    pub fn checked(options: CudaOptions) -> Result<Self, KernelError> {
        Self::checked_on(Arc::new(CudaDevice::open()?), options)
    }

    /// The same on any device.
    ///
    /// # Errors
    /// As [`checked`](Self::checked).
    pub fn checked_on(device: Arc<dyn Device>, options: CudaOptions) -> Result<Self, KernelError> {
        self_check(&mut Self::on(Arc::clone(&device), options))?;
        Ok(Self::on(device, options))
    }

    /// The same on any device: tests bring one of their own.
    #[must_use]
    pub fn on(device: Arc<dyn Device>, options: CudaOptions) -> Self {
        Self {
            device,
            options,
            weights: Arc::default(),
            dtype: OnceLock::new(),
            uploader: Mutex::default(),
        }
    }

    /// What is needed for an upload. Refused after the first executor.
    fn uploading(&mut self) -> Result<(&mut Weights, &mut Uploader), KernelError> {
        let late = || KernelError::Device("an upload after the first executor".to_owned());
        let weights = Arc::get_mut(&mut self.weights).ok_or_else(late)?;
        let uploader = self.uploader.get_mut().unwrap_or_else(PoisonError::into_inner);
        if uploader.is_none() {
            *uploader = Some(Uploader::new(&self.device)?);
        }
        let uploader = uploader.as_mut().expect("it was made a line above");
        Ok((weights, uploader))
    }
}

impl Backend for CudaBackend {
    fn facts(&self) -> BackendFacts {
        BackendFacts {
            name: NAME,
            detail: format!("{}, {} kernels", self.device.facts().summary(), crate::KERNELS),
        }
    }

    /// As stored: the tensor cores multiply f16 and bf16 alike. Matrices that come later and are stored otherwise are rounded to it.
    fn kv_dtype(&self, stored: Dtype) -> Dtype {
        *self.dtype.get_or_init(|| stored)
    }

    fn upload_embedding(&mut self, table: TensorView<'_>, _tied: bool) -> Result<EmbeddingId, KernelError> {
        let dtype = self.dtype.get().copied();
        let (weights, uploader) = self.uploading()?;
        Ok(weights.add_embedding(uploader.table(table, dtype)?))
    }

    fn upload_vector(&mut self, vector: TensorView<'_>) -> Result<VectorId, KernelError> {
        vector.check_shape(&[vector.bytes.len() / vector.dtype.bytes()])?;
        let (weights, uploader) = self.uploading()?;
        Ok(weights.add_vector(uploader.vector(vector.name, &vector.widen())?))
    }

    fn upload_linear(&mut self, kind: LinearKind, parts: &[LinearPart<'_>]) -> Result<LinearId, KernelError> {
        check_parts(NAME, kind, parts)?;
        let dtype = self.dtype.get().copied();
        let (weights, uploader) = self.uploading()?;
        Ok(weights.add_linear(uploader.linear(kind, parts, dtype)?))
    }

    fn upload_rotary(&mut self, frequencies: &[f32]) -> Result<RotaryId, KernelError> {
        let (weights, uploader) = self.uploading()?;
        Ok(weights.add_rotary(uploader.vector("rotary frequencies", frequencies)?))
    }

    fn kv_room(&self, spec: &ExecutorSpec, among: u32) -> Result<Option<u64>, KernelError> {
        let facts = self.device.facts();
        let usable = share_of(facts.memory_bytes, self.options.memory_share);
        // Weights are there already, and what others of this machine have on the device counts too.
        let used = facts.memory_bytes.saturating_sub(self.device.free_bytes()?);
        Ok(Some(room_for_blocks(
            spec,
            usable,
            used,
            among,
            facts.multiprocessors,
        )))
    }

    fn executor(&self, spec: &ExecutorSpec) -> Result<Box<dyn Executor>, KernelError> {
        let mut uploader = self.uploader.lock().unwrap_or_else(PoisonError::into_inner);
        *uploader = None;
        drop(uploader);
        let weights = Arc::clone(&self.weights);
        let executor = CudaExecutor::new(&self.device, weights, spec, self.options.records_steps)?;
        Ok(Box::new(executor))
    }
}
