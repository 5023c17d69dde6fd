//! What the driver's management library tells of a GPU while it works: for metrics, never for decisions.

use std::ffi::{CString, c_char, c_int, c_uint, c_void};

use libloading::Library;

/// What the loader looks for: the driver brings it.
const NAME: &str = "libnvidia-ml.so.1";
const SUCCESS: c_int = 0;
/// The sensor of the chip itself.
const CHIP: c_int = 0;

/// A GPU at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GpuState {
    /// Percent of the last moments in which some kernel ran.
    pub busy_percent: u32,
    /// Bytes of its memory in use, by anybody.
    pub used_bytes: u64,
    /// Bytes of all of its memory.
    pub memory_bytes: u64,
    /// Of the chip.
    pub celsius: u32,
}

/// A look at the GPU that computes.
pub struct GpuWatch {
    library: Library,
    device: *mut c_void,
}

// SAFETY: the library may be called from any thread, and its handles are valid for all of them.
unsafe impl Send for GpuWatch {}
// SAFETY: as above.
unsafe impl Sync for GpuWatch {}

/// As the library fills them.
#[repr(C)]
#[derive(Default)]
struct Utilization {
    gpu: c_uint,
    memory: c_uint,
}

#[repr(C)]
#[derive(Default)]
struct Memory {
    total: u64,
    free: u64,
    used: u64,
}

type Init = unsafe extern "C" fn() -> c_int;
type HandleByUuid = unsafe extern "C" fn(*const c_char, *mut *mut c_void) -> c_int;
type ReadUtilization = unsafe extern "C" fn(*mut c_void, *mut Utilization) -> c_int;
type ReadMemory = unsafe extern "C" fn(*mut c_void, *mut Memory) -> c_int;
type ReadTemperature = unsafe extern "C" fn(*mut c_void, c_int, *mut c_uint) -> c_int;

impl GpuWatch {
    /// A watch of the GPU that [`crate::probe`] found. None where there is none, or no such library.
    #[must_use]
    pub fn open() -> Option<Self> {
        crate::probe().ok()?;
        Self::open_named(NAME, &crate::driver::uuid()?)
    }

    fn open_named(name: &str, uuid: &str) -> Option<Self> {
        // SAFETY: loading runs the library's initialisers: the operator who installed it answers for them.
        let library = unsafe { Library::new(name) }.ok()?;
        let uuid = CString::new(uuid).ok()?;
        let mut device = std::ptr::null_mut();
        {
            // SAFETY: the library's header declares it like this.
            let init = unsafe { library.get::<Init>(b"nvmlInit_v2\0") }.ok()?;
            // SAFETY: it takes nothing and may be called again.
            if unsafe { init() } != SUCCESS {
                return None;
            }
            // SAFETY: the library's header declares it like this.
            let handle = unsafe { library.get::<HandleByUuid>(b"nvmlDeviceGetHandleByUUID\0") }.ok()?;
            // SAFETY: the text ends with a zero, and the library writes one handle.
            if unsafe { handle(uuid.as_ptr(), &raw mut device) } != SUCCESS {
                return None;
            }
        }
        Some(Self { library, device })
    }

    /// How the GPU is now. None when it does not answer.
    #[must_use]
    pub fn look(&self) -> Option<GpuState> {
        let (mut utilization, mut memory) = (Utilization::default(), Memory::default());
        let mut celsius = 0;
        // SAFETY: the library's header declares it like this.
        let read = unsafe {
            self.library
                .get::<ReadUtilization>(b"nvmlDeviceGetUtilizationRates\0")
        };
        // SAFETY: the handle is the library's own, and it writes one such structure.
        let first = unsafe { read.ok()?(self.device, &raw mut utilization) };
        // SAFETY: as above.
        let read = unsafe { self.library.get::<ReadMemory>(b"nvmlDeviceGetMemoryInfo\0") };
        // SAFETY: as above.
        let second = unsafe { read.ok()?(self.device, &raw mut memory) };
        // SAFETY: as above.
        let read = unsafe { self.library.get::<ReadTemperature>(b"nvmlDeviceGetTemperature\0") };
        // SAFETY: as above, one number.
        let third = unsafe { read.ok()?(self.device, CHIP, &raw mut celsius) };
        ([first, second, third] == [SUCCESS; 3]).then_some(GpuState {
            busy_percent: utilization.gpu,
            used_bytes: memory.used,
            memory_bytes: memory.total,
            celsius,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    const STAND_IN: &str = r#"
        #include <cstring>
        extern "C" {
        int nvmlInit_v2() { return 0; }
        int nvmlDeviceGetHandleByUUID(const char* uuid, void** device) {
            *device = (void*)42;
            return strcmp(uuid, "GPU-one") == 0 ? 0 : 6;
        }
        int nvmlDeviceGetUtilizationRates(void* device, unsigned* rates) { rates[0] = 97; rates[1] = 3; return device != (void*)42; }
        int nvmlDeviceGetMemoryInfo(void*, unsigned long long* memory) { memory[0] = 1000; memory[1] = 400; memory[2] = 600; return 0; }
        int nvmlDeviceGetTemperature(void*, int sensor, unsigned* celsius) { *celsius = 61; return sensor; }
        }
    "#;

    #[test]
    fn a_stand_in_for_the_library_is_read_and_a_missing_one_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let (source, library) = (folder.path().join("nvml.cpp"), folder.path().join("nvml.so"));
        std::fs::write(&source, STAND_IN).unwrap();
        let mut command = Command::new("g++");
        command
            .args(["-shared", "-fPIC", "-o"])
            .arg(&library)
            .arg(&source);
        assert!(
            command
                .status()
                .expect("g++ is there (Debian's package g++)")
                .success()
        );
        let library = library.to_str().unwrap();
        let state = GpuWatch::open_named(library, "GPU-one").unwrap().look().unwrap();
        let expected = GpuState {
            busy_percent: 97,
            used_bytes: 600,
            memory_bytes: 1000,
            celsius: 61,
        };
        assert_eq!(state, expected);
        assert!(GpuWatch::open_named(library, "GPU-two").is_none());
        assert!(GpuWatch::open_named("libnvidia-ml-of-nobody.so", "GPU-one").is_none());
    }
}
