//! Fast kernels for CPUs: weights in panels, threads that step together, and paths for what the CPU can do.
//!
//! Results are batch-invariant: the order in which numbers are summed depends on shapes of the model and on the
//! instruction set, never on the batch, the chunking of a prompt, or the number of threads.
#![allow(
    unsafe_code,
    reason = "vector instructions, and buffers that threads fill in disjoint parts, need it; each use names its ground"
)]

mod activations;
mod attention;
#[cfg(target_arch = "x86_64")]
mod attention_bf16;
mod attention_f32;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod backend;
mod buffers;
mod elementwise;
mod executor;
mod gate;
mod gemm;
#[cfg(target_arch = "x86_64")]
mod gemm_avx2;
#[cfg(target_arch = "x86_64")]
mod gemm_avx512;
#[cfg(target_arch = "x86_64")]
mod gemm_bf16;
mod gemm_finish;
mod gemm_portable;
mod heads;
mod isa;
mod kv_memory;
mod math;
mod pack;
mod peers;
mod pool;
pub mod probe;
mod region;
mod scoring;
mod shared;
mod softmax;
mod step;
#[cfg(test)]
mod testing;
mod weights;

pub use backend::{CpuBackend, CpuOptions};
pub use isa::IsaLevel;
pub use peers::Peers;
