//! The whole backend on a simulator: the same kernels, compiled for this processor, under the same executor that drives a GPU.
#![allow(
    clippy::unwrap_used,
    unsafe_code,
    reason = "helpers of tests fail like tests, and a device is made of plain memory"
)]

mod device;
mod draws;
mod goldens;
mod hand_off;
mod library;
mod quantised;
#[path = "../../../cpu/tests/random_model/mod.rs"]
mod random_model;
mod steps;
#[path = "../../../../libs/engine/tests/support/mod.rs"]
mod support;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use device::SimDevice;
use vlinders_kernel_cuda::{CudaBackend, CudaOptions};

/// Whether the tests run on a GPU of this machine instead, as `gpu-check` has them do.
fn on_gpu() -> bool {
    std::env::var_os("VLINDERS_TEST_GPU").is_some()
}

/// A backend on a simulator of its own. On a GPU the simulator has nothing to do.
fn simulated(records_steps: bool) -> (Arc<SimDevice>, CudaBackend) {
    let options = CudaOptions {
        records_steps,
        ..CudaOptions::default()
    };
    let device = Arc::new(SimDevice::new());
    let backend = match on_gpu() {
        true => CudaBackend::new(options).unwrap(),
        false => CudaBackend::on(Arc::clone(&device) as _, options),
    };
    (device, backend)
}

/// This crate's folder, also when the tests were built elsewhere.
fn crate_folder() -> PathBuf {
    let told = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    told.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).to_owned())
}
