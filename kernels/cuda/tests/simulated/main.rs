//! The whole backend on a simulator: the same kernels, compiled for this processor, under the same executor that drives a GPU.
#![allow(
    clippy::unwrap_used,
    unsafe_code,
    reason = "helpers of tests fail like tests, and a device is made of plain memory"
)]

mod device;
mod goldens;
mod hand_off;
mod library;
#[path = "../../../cpu/tests/random_model/mod.rs"]
mod random_model;
mod steps;
#[path = "../../../../libs/engine/tests/support/mod.rs"]
mod support;

use std::sync::Arc;

use device::SimDevice;
use vlinders_kernel_cuda::{CudaBackend, CudaOptions};

/// A backend on a simulator of its own.
fn simulated(records_steps: bool) -> (Arc<SimDevice>, CudaBackend) {
    let device = Arc::new(SimDevice::new());
    let backend = CudaBackend::on(
        Arc::clone(&device) as _,
        CudaOptions {
            records_steps,
            ..CudaOptions::default()
        },
    );
    (device, backend)
}
