//! One GPU: its context, memory, streams and recorded work.

use std::cell::Cell;
use std::ffi::c_void;
use std::ptr::NonNull;
use std::time::Instant;

use cudarc::driver::DriverError;
use cudarc::driver::result::{self, ctx, graph, primary_ctx, stream};
use cudarc::driver::sys;
use vlinders_kernel_api::{KernelError, Urgency};

use super::failure;
use super::modules::Modules;
use super::probe::{NoCuda, probe};
use crate::device::{Argument, Device, DeviceFacts, Graph, Launch, Stream};

/// Parameters of the largest kernel at most.
const MOST_ARGUMENTS: usize = 32;

thread_local! {
    /// The context that was made current on this thread, as an address.
    static CURRENT: Cell<usize> = const { Cell::new(0) };
}

/// A GPU that is in use.
pub struct CudaDevice {
    facts: DeviceFacts,
    handle: sys::CUdevice,
    context: sys::CUcontext,
    modules: Modules,
}

// SAFETY: the driver's handles may be used from any thread on which the context is current, which every call sees to.
unsafe impl Send for CudaDevice {}
// SAFETY: as above; the driver locks what it shares.
unsafe impl Sync for CudaDevice {}

impl CudaDevice {
    /// Takes the first visible device and loads the kernels.
    ///
    /// # Errors
    /// When there is none, or none of its kind has kernels in this build.
    pub fn open() -> Result<Self, KernelError> {
        let unusable = |reason: NoCuda| KernelError::Device(reason.to_string());
        let facts = probe().map_err(unusable)?;
        let ordinal = i32::try_from(facts.ordinal).expect("it came from the driver's signed count");
        let handle = result::device::get(ordinal).map_err(failure("the device cannot be opened"))?;
        // SAFETY: the handle is the driver's own.
        let context =
            unsafe { primary_ctx::retain(handle) }.map_err(failure("the device cannot be opened"))?;
        let mut device = Self {
            modules: Modules::default(),
            facts,
            handle,
            context,
        };
        device.enter()?;
        device.modules = Modules::load(&device.facts)?;
        Ok(device)
    }

    /// Bytes read and written per second by copies inside the device's memory: what its memory can do.
    ///
    /// # Errors
    /// When the device fails or has no memory left.
    pub fn copied_bytes_per_s(&self) -> Result<f64, KernelError> {
        const BYTES: usize = 1 << 30;
        const COPIES: u32 = 20;
        let stream = self.stream(Urgency::Prefill)?;
        let from = self.allocate(BYTES, "a measurement")?;
        let to = self.allocate(BYTES, "a measurement").inspect_err(|_| {
            // SAFETY: it was just taken, and nothing uses it.
            unsafe { self.release(from) };
        })?;
        let copy = || {
            // SAFETY: both sides have as many bytes and do not overlap.
            unsafe { result::memcpy_dtod_async(to, from, BYTES, raw(stream)) }
                .map_err(failure("a copy inside the device"))
        };
        let measured = copy().and_then(|()| self.wait(stream)).and_then(|()| {
            let started = Instant::now();
            (0..COPIES).try_for_each(|_| copy())?;
            self.wait(stream)?;
            Ok(2.0 * BYTES as f64 * f64::from(COPIES) / started.elapsed().as_secs_f64())
        });
        for address in [from, to] {
            // SAFETY: both were taken above, and the copies are done or the device is.
            unsafe { self.release(address) };
        }
        // SAFETY: it was made above and is not used any more.
        unsafe { self.end_stream(stream) };
        measured
    }

    /// Makes the context current on this thread. Nobody else in this process makes others current.
    fn enter(&self) -> Result<(), KernelError> {
        let own = self.context as usize;
        CURRENT.with(|current| {
            if current.get() != own {
                // SAFETY: the context is retained until `self` is dropped.
                unsafe { ctx::set_current(self.context) }.map_err(failure("the device cannot be entered"))?;
                current.set(own);
            }
            Ok(())
        })
    }
}

impl Drop for CudaDevice {
    fn drop(&mut self) {
        if self.enter().is_ok() {
            self.modules.unload();
        }
        CURRENT.with(|current| current.set(0));
        // SAFETY: it was retained once, and whoever used it is gone. A refusal at the end has nobody to be told to.
        let _ = unsafe { primary_ctx::release(self.handle) };
    }
}

fn raw(stream: Stream) -> sys::CUstream {
    stream.0 as sys::CUstream
}

/// What a refused request for memory means.
fn refused_memory(error: DriverError, bytes: usize, what: &str) -> KernelError {
    if error.0 == sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY {
        return KernelError::OutOfMemory {
            what: what.to_owned(),
            bytes: bytes as u64,
        };
    }
    failure(what)(error)
}

impl Device for CudaDevice {
    fn facts(&self) -> &DeviceFacts {
        &self.facts
    }

    fn free_bytes(&self) -> Result<u64, KernelError> {
        self.enter()?;
        let (free, _) = result::mem_get_info().map_err(failure("memory cannot be counted"))?;
        Ok(free as u64)
    }

    fn allocate(&self, bytes: usize, what: &str) -> Result<u64, KernelError> {
        self.enter()?;
        // Not from the driver's asynchronous pool: its memory can neither be registered for hand-offs nor recorded safely.
        // SAFETY: the context is current.
        unsafe { result::malloc_sync(bytes) }.map_err(|error| refused_memory(error, bytes, what))
    }

    unsafe fn release(&self, address: u64) {
        if self.enter().is_ok() {
            // A device that failed cannot take memory back either; its process ends.
            // SAFETY: the caller has it from `allocate` and gives it up.
            let _ = unsafe { result::free_sync(address) };
        }
    }

    fn pin(&self, bytes: usize, what: &str) -> Result<NonNull<u8>, KernelError> {
        self.enter()?;
        // SAFETY: the context is current; the flags ask for nothing special.
        let start =
            unsafe { result::malloc_host(bytes, 0) }.map_err(|error| refused_memory(error, bytes, what))?;
        // SAFETY: the driver gave as many bytes, which nobody else has.
        unsafe { std::ptr::write_bytes(start.cast::<u8>(), 0, bytes) };
        NonNull::new(start.cast()).ok_or_else(|| KernelError::Device(format!("{what}: no address")))
    }

    unsafe fn unpin(&self, start: NonNull<u8>, _bytes: usize) {
        if self.enter().is_ok() {
            // SAFETY: the caller has it from `pin` and gives it up.
            let _ = unsafe { result::free_host(start.as_ptr().cast::<c_void>()) };
        }
    }

    fn stream(&self, urgency: Urgency) -> Result<Stream, KernelError> {
        self.enter()?;
        let refused = failure("a stream cannot be made");
        let (least, greatest) = stream::get_priority_range().map_err(&refused)?;
        let priority = match urgency {
            Urgency::Decode => greatest,
            Urgency::Prefill => least,
        };
        let made = stream::create_with_priority(stream::StreamKind::NonBlocking, priority);
        Ok(Stream(made.map_err(refused)? as usize))
    }

    unsafe fn end_stream(&self, stream: Stream) {
        if self.enter().is_ok() {
            // SAFETY: the caller has it from `stream` and gives it up.
            let _ = unsafe { result::stream::destroy(raw(stream)) };
        }
    }

    unsafe fn upload(
        &self,
        stream: Stream,
        to: u64,
        from: *const u8,
        bytes: usize,
    ) -> Result<(), KernelError> {
        self.enter()?;
        // SAFETY: the caller answers for both sides.
        let done = unsafe { sys::cuMemcpyHtoDAsync_v2(to, from.cast(), bytes, raw(stream)) };
        done.result().map_err(failure("a copy to the device"))
    }

    unsafe fn download(
        &self,
        stream: Stream,
        to: *mut u8,
        from: u64,
        bytes: usize,
    ) -> Result<(), KernelError> {
        self.enter()?;
        // SAFETY: the caller answers for both sides.
        let done = unsafe { sys::cuMemcpyDtoHAsync_v2(to.cast(), from, bytes, raw(stream)) };
        done.result().map_err(failure("a copy from the device"))
    }

    unsafe fn clear(&self, stream: Stream, address: u64, bytes: usize) -> Result<(), KernelError> {
        self.enter()?;
        // SAFETY: the caller answers for the memory.
        unsafe { result::memset_d8_async(address, 0, bytes, raw(stream)) }.map_err(failure("clearing memory"))
    }

    unsafe fn launch(&self, stream: Stream, launch: &Launch<'_>) -> Result<(), KernelError> {
        self.enter()?;
        let function = self.modules.function(launch.kernel)?;
        assert!(
            launch.arguments.len() <= MOST_ARGUMENTS,
            "a kernel has at most {MOST_ARGUMENTS} parameters"
        );
        let mut words = [0_u64; MOST_ARGUMENTS];
        let mut places = [std::ptr::null_mut::<c_void>(); MOST_ARGUMENTS];
        for ((word, place), argument) in words.iter_mut().zip(&mut places).zip(launch.arguments) {
            *word = Argument::word(*argument);
            // The driver reads as many bytes as the parameter has, the lowest first, before the call returns.
            *place = std::ptr::from_mut(word).cast();
        }
        let ([x, y, z], [threads_x, threads_y, threads_z]) = (launch.grid, launch.block);
        // SAFETY: the function belongs to a loaded module; the caller answers for the arguments.
        let started = unsafe {
            result::launch_kernel(
                function,
                (x, y, z),
                (threads_x, threads_y, threads_z),
                launch.shared_bytes,
                raw(stream),
                &mut places[..launch.arguments.len()],
            )
        };
        started.map_err(failure(launch.kernel))
    }

    fn wait(&self, stream: Stream) -> Result<(), KernelError> {
        self.enter()?;
        // SAFETY: streams live until their owner ends them.
        unsafe { result::stream::synchronize(raw(stream)) }.map_err(failure("work on the device"))
    }

    fn begin_capture(&self, stream: Stream) -> Result<bool, KernelError> {
        self.enter()?;
        // Thread-local: other threads may go on to allocate and copy meanwhile.
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream lives.
        unsafe { result::stream::begin_capture(raw(stream), mode) }.map_err(failure("a recording"))?;
        Ok(true)
    }

    fn end_capture(&self, stream: Stream) -> Result<Graph, KernelError> {
        self.enter()?;
        // SAFETY: the stream lives and records.
        let recorded = unsafe { result::stream::end_capture(raw(stream)) }.map_err(failure("a recording"))?;
        let flags = sys::CUgraphInstantiate_flags(0);
        // SAFETY: the recording was just made.
        let made = unsafe { graph::instantiate(recorded, flags) };
        // SAFETY: what was made of it does not need it any more.
        let dropped = unsafe { graph::destroy(recorded) };
        dropped.map_err(failure("a recording"))?;
        Ok(Graph(made.map_err(failure("a recording"))? as usize))
    }

    unsafe fn replay(&self, stream: Stream, graph: Graph) -> Result<(), KernelError> {
        self.enter()?;
        // SAFETY: the caller answers for the recording.
        unsafe { graph::launch(graph.0 as sys::CUgraphExec, raw(stream)) }.map_err(failure("recorded work"))
    }

    unsafe fn end_graph(&self, graph: Graph) {
        if self.enter().is_ok() {
            // SAFETY: the caller gives it up.
            let _ = unsafe { graph::exec_destroy(graph.0 as sys::CUgraphExec) };
        }
    }
}
