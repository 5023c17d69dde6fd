//! Which devices there are.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;

use cudarc::driver::DriverError;
use cudarc::driver::result::device;
use cudarc::driver::sys::{self, CUdevice_attribute};

use super::text_of;
use crate::device::DeviceFacts;

/// Why no GPU can be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoCuda {
    /// The system has no driver.
    #[error("no CUDA driver (libcuda.so.1) was found")]
    NoDriver,
    /// The driver is there and finds nothing.
    #[error("the CUDA driver shows no device{}", visible_devices())]
    NoDevice,
    /// The driver is there and does not work.
    #[error("the CUDA driver refuses: {0}")]
    Refused(String),
    /// No device is new enough.
    #[error("{name} has compute capability {}.{}; the kernels need at least 8.0", .capability.0, .capability.1)]
    TooOld {
        /// The device.
        name: String,
        /// What it has.
        capability: (u32, u32),
    },
}

/// The oldest chips that have what the kernels use: bf16 arithmetic and asynchronous copies.
const OLDEST: (u32, u32) = (8, 0);

/// What narrows the choice, for the reader who wonders where a device is.
fn visible_devices() -> String {
    match std::env::var("CUDA_VISIBLE_DEVICES") {
        Ok(visible) => format!(" (CUDA_VISIBLE_DEVICES is `{visible}`)"),
        Err(_) => String::new(),
    }
}

/// The first visible device that the kernels run on. `CUDA_VISIBLE_DEVICES` decides which are visible and in which order.
/// Asked once per process.
///
/// # Errors
/// When there is none, with the reason.
pub fn probe() -> Result<DeviceFacts, NoCuda> {
    static FOUND: OnceLock<Result<DeviceFacts, NoCuda>> = OnceLock::new();
    FOUND.get_or_init(find).clone()
}

/// The found device's name for the management library, which counts all devices and not the visible ones.
pub(crate) fn uuid() -> Option<String> {
    let ordinal = i32::try_from(probe().ok()?.ordinal).ok()?;
    let uuid = device::get(ordinal).and_then(device::get_uuid).ok()?;
    Some(text_of_uuid(uuid.bytes.map(|byte| byte.to_ne_bytes()[0])))
}

/// As the management library writes it: groups of 4, 2, 2, 2 and 6 bytes.
fn text_of_uuid(bytes: [u8; 16]) -> String {
    let mut text = String::from("GPU");
    for (index, byte) in bytes.into_iter().enumerate() {
        if [0, 4, 6, 8, 10].contains(&index) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

fn find() -> Result<DeviceFacts, NoCuda> {
    // SAFETY: looking for a library loads it, which runs its initialisers: the operator who installed it answers for them.
    if !unsafe { sys::is_culib_present() } {
        return Err(NoCuda::NoDriver);
    }
    // A driver that lacks a function makes the bindings panic. That is a reason like others.
    catch_unwind(AssertUnwindSafe(ask))
        .unwrap_or_else(|_| Err(NoCuda::Refused("it lacks a function that is needed".to_owned())))
}

fn ask() -> Result<DeviceFacts, NoCuda> {
    cudarc::driver::result::init().map_err(refused)?;
    let count = device::get_count().map_err(refused)?;
    let mut last = NoCuda::NoDevice;
    for ordinal in 0..count {
        let facts = facts_of(ordinal).map_err(refused)?;
        if facts.capability >= OLDEST {
            return Ok(facts);
        }
        last = NoCuda::TooOld {
            name: facts.name,
            capability: facts.capability,
        };
    }
    Err(last)
}

fn facts_of(ordinal: i32) -> Result<DeviceFacts, DriverError> {
    use CUdevice_attribute as A;
    let handle = device::get(ordinal)?;
    // SAFETY: the handle is the driver's own.
    let attribute = |attribute| unsafe { device::get_attribute(handle, attribute) }.map(count_of);
    let mut version = 0;
    // SAFETY: the driver writes one number.
    unsafe { sys::cuDriverGetVersion(&raw mut version) }.result()?;
    let version = count_of(version);
    Ok(DeviceFacts {
        name: device::get_name(handle)?,
        ordinal: count_of(ordinal),
        capability: (
            attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ),
        multiprocessors: attribute(A::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        // SAFETY: the handle is the driver's own.
        memory_bytes: unsafe { device::total_mem(handle) }? as u64,
        shared_bytes_per_block: attribute(A::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
        driver_version: (version / 1000, version % 1000 / 10),
    })
}

/// Counts come as signed numbers.
fn count_of(number: i32) -> u32 {
    u32::try_from(number).unwrap_or(0)
}

fn refused(error: DriverError) -> NoCuda {
    if error.0 == sys::CUresult::CUDA_ERROR_NO_DEVICE {
        return NoCuda::NoDevice;
    }
    NoCuda::Refused(text_of(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_named_in_groups_of_hexadecimal() {
        let bytes = std::array::from_fn(|index| u8::try_from(index * 17).unwrap());
        assert_eq!(text_of_uuid(bytes), "GPU-00112233-4455-6677-8899-aabbccddeeff");
    }

    #[test]
    fn every_machine_has_a_device_or_one_reason() {
        match probe() {
            Ok(facts) => assert!(facts.capability >= OLDEST, "{}", facts.summary()),
            Err(reason) => {
                let text = reason.to_string();
                assert!(!text.is_empty() && !text.contains('\n'), "{text}");
            }
        }
        assert_eq!(probe(), probe());
    }
}
