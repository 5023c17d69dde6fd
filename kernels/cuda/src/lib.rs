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
pub mod device;
mod driver;
mod executor;
mod graphs;
mod images;
mod kernels;
mod kv_memory;
mod linear;
pub mod memory;
mod operation;
mod region;
mod scoring;
mod shape;
mod step;
mod weights;

pub use backend::{CudaBackend, CudaOptions};
pub use driver::{CudaDevice, NoCuda, probe};

/// Where this build's kernels come from: `embedded`, `prebuilt`, or `no` when there are none and each start compiles them.
pub const KERNELS: &str = images::ORIGIN;
