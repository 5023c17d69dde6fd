//! The CUDA driver as a [`Device`](crate::device::Device). Nothing of CUDA is linked: libraries are looked for when the program runs.

mod device;
mod modules;
mod nvrtc;
mod probe;

use cudarc::driver::DriverError;
use vlinders_kernel_api::KernelError;

pub use device::CudaDevice;
pub(crate) use probe::uuid;
pub use probe::{NoCuda, probe};

/// The driver's words: name and explanation.
fn text_of(error: DriverError) -> String {
    let name = error.error_name().map_or_else(
        |_| format!("error {}", error.0 as u32),
        |name| name.to_string_lossy().into_owned(),
    );
    match error.error_string() {
        Ok(text) => format!("{name}: {}", text.to_string_lossy()),
        Err(_) => name,
    }
}

/// A refusal of the driver as this crate's error.
fn failure(what: &str) -> impl Fn(DriverError) -> KernelError {
    move |error| KernelError::Device(format!("{what}: {}", text_of(error)))
}
