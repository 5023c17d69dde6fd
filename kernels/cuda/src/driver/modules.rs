//! The kernels as the device has them.

use std::collections::HashMap;
use std::ffi::CString;
use std::sync::{PoisonError, RwLock};

use cudarc::driver::result::{function, module};
use cudarc::driver::sys::{self, CUfunction_attribute};
use vlinders_kernel_api::KernelError;

use super::{failure, nvrtc};
use crate::device::DeviceFacts;
use crate::images::{IMAGES, ORIGIN};

/// Loaded kernels.
#[derive(Default)]
pub(super) struct Modules {
    modules: Vec<sys::CUmodule>,
    /// Those that were asked for, with all the shared memory they may have.
    functions: RwLock<HashMap<String, usize>>,
    shared_bytes: u32,
}

impl Modules {
    /// Loads what was built for this chip, or has it compiled now. The context is current.
    pub(super) fn load(facts: &DeviceFacts) -> Result<Self, KernelError> {
        let mut modules = Self {
            shared_bytes: facts.shared_bytes_per_block,
            ..Self::default()
        };
        let embedded = IMAGES.iter().try_for_each(|(_, image)| modules.add(image));
        match embedded {
            Ok(()) if !IMAGES.is_empty() => return Ok(modules),
            Ok(()) | Err(KernelError::Device(_)) => {}
            Err(error) => return Err(error),
        }
        // Nothing embedded, or nothing for this chip.
        modules.unload();
        for (name, image) in nvrtc::compile_all(facts.capability).map_err(|reason| {
            let (major, minor) = facts.capability;
            let what = format!("compute capability {major}.{minor} with {ORIGIN} kernels, and {reason}");
            KernelError::Unsupported {
                backend: "cuda",
                what,
            }
        })? {
            modules
                .add(&image)
                .map_err(|error| KernelError::Device(format!("{name}: {error}")))?;
        }
        Ok(modules)
    }

    fn add(&mut self, image: &[u8]) -> Result<(), KernelError> {
        // SAFETY: the image is a complete fatbin, cubin or text with its final zero, and the driver copies what it needs.
        let module = unsafe { module::load_data(image.as_ptr().cast()) };
        self.modules
            .push(module.map_err(failure("kernels cannot be loaded"))?);
        Ok(())
    }

    /// A kernel by its name.
    pub(super) fn function(&self, name: &str) -> Result<sys::CUfunction, KernelError> {
        let known = self.functions.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known.get(name) {
            return Ok(*known as sys::CUfunction);
        }
        drop(known);
        let found = self.find(name)?;
        let mut known = self.functions.write().unwrap_or_else(PoisonError::into_inner);
        known.insert(name.to_owned(), found as usize);
        Ok(found)
    }

    fn find(&self, name: &str) -> Result<sys::CUfunction, KernelError> {
        let text = CString::new(name).expect("names of kernels hold no zeros");
        let found = self.modules.iter().find_map(|module| {
            // SAFETY: the module is loaded until `unload`.
            unsafe { module::get_function(*module, text.clone()) }.ok()
        });
        let Some(found) = found else {
            return Err(KernelError::Device(format!("no kernel is called {name}")));
        };
        // SAFETY: the function was just found.
        let declared = unsafe {
            function::get_function_attribute(found, CUfunction_attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES)
        };
        let declared = declared.map_err(failure(name))?;
        let most = i32::try_from(self.shared_bytes).unwrap_or(i32::MAX) - declared;
        // Without this a kernel gets 48 KiB at most.
        let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // SAFETY: the function was just found.
        unsafe { function::set_function_attribute(found, attribute, most) }.map_err(failure(name))?;
        Ok(found)
    }

    /// Lets go of everything. The context is current, and no kernel runs.
    pub(super) fn unload(&mut self) {
        self.functions
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
        for module in self.modules.drain(..) {
            // SAFETY: it was loaded once and is taken off the list. A refusal at the end has nobody to be told to.
            let _ = unsafe { module::unload(module) };
        }
    }
}
