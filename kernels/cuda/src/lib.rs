//! Fast kernels for NVIDIA GPUs. Nothing of CUDA is linked: the same program starts on machines without a GPU, where
//! [`probe`] says why there is none.
//!
//! The executor speaks to a [`device::Device`]. That is the CUDA driver, or in tests a simulator that runs the same kernels
//! on the CPU.
#![allow(
    unsafe_code,
    reason = "a C library is called and memory is shared with a device; each use names its ground"
)]

mod attending;
mod attention;
mod backend;
mod buffers;
mod coded;
pub mod device;
mod drawing;
mod driver;
mod executor;
mod graphs;
mod images;
mod kernels;
mod kv_memory;
mod linear;
pub mod memory;
mod nvml;
mod operation;
mod region;
mod scoring;
mod self_check;
mod shape;
mod step;
mod weights;

pub use backend::{CudaBackend, CudaOptions};
pub use driver::{CudaDevice, NoCuda, probe};
pub use nvml::{GpuState, GpuWatch};

/// Where this build's kernels come from: `embedded`, `prebuilt`, or `no` when there are none and each start compiles them.
pub const KERNELS: &str = images::ORIGIN;

/// Bytes read and written per second by copies inside the first visible GPU's memory: what its memory can do.
///
/// # Errors
/// When there is no GPU, it fails or has no memory left.
pub fn copied_bytes_per_s() -> Result<f64, vlinders_kernel_api::KernelError> {
    CudaDevice::open()?.copied_bytes_per_s()
}
