//! What the executor asks of a device: memory, copies, launches. The driver answers, or in tests a simulator on the CPU.
//!
//! Everything in a stream happens in the order it was asked for, and after the call has returned. Addresses are those
//! of the device; whether the processor can follow them depends on the device.

use std::ptr::NonNull;

use vlinders_kernel_api::{KernelError, Urgency};

/// What is known of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceFacts {
    /// As its maker calls it.
    pub name: String,
    /// Its number among the visible ones.
    pub ordinal: u32,
    /// Compute capability, major and minor.
    pub capability: (u32, u32),
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// All of its memory.
    pub memory_bytes: u64,
    /// Shared memory that one block of threads may ask for.
    pub shared_bytes_per_block: u32,
    /// The newest CUDA version its driver speaks, as in 13.0.
    pub driver_version: (u32, u32),
}

impl DeviceFacts {
    /// For the log: name, capability, memory and driver.
    #[must_use]
    pub fn summary(&self) -> String {
        format!(
            "{}, compute {}.{}, {} multiprocessors, {:.1} GiB, CUDA driver {}.{}",
            self.name,
            self.capability.0,
            self.capability.1,
            self.multiprocessors,
            self.memory_bytes as f64 / f64::from(1 << 30),
            self.driver_version.0,
            self.driver_version.1
        )
    }
}

/// A queue of work on the device, made and ended by its [`Device`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream(pub usize);

/// A recorded run of launches, made and ended by its [`Device`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Graph(pub usize);

/// One value that a kernel takes, in the order of its parameters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Argument {
    /// An address in device memory, or 0 for nothing.
    Address(u64),
    /// A 32-bit number.
    U32(u32),
    /// A 64-bit number.
    U64(u64),
    /// A number in single precision.
    F32(f32),
}

impl Argument {
    /// The value's bytes from the lowest on, as the device reads them: as many as its type has.
    #[must_use]
    pub fn word(self) -> u64 {
        match self {
            Self::Address(word) | Self::U64(word) => word,
            Self::U32(word) => u64::from(word),
            Self::F32(value) => u64::from(value.to_bits()),
        }
    }
}

/// A kernel with everything that its start needs.
#[derive(Clone, Copy, Debug)]
pub struct Launch<'a> {
    /// Its name.
    pub kernel: &'a str,
    /// Blocks, x first.
    pub grid: [u32; 3],
    /// Threads of a block, x first.
    pub block: [u32; 3],
    /// Shared memory of a block that the kernel does not declare itself.
    pub shared_bytes: u32,
    /// One for each parameter.
    pub arguments: &'a [Argument],
}

/// A device with its memory.
///
/// Errors are sticky on real devices: after one, nothing that was computed can be trusted.
pub trait Device: Send + Sync {
    /// What is known of it.
    fn facts(&self) -> &DeviceFacts;

    /// Bytes of its memory that nobody uses.
    ///
    /// # Errors
    /// When the device does not answer; so for all below.
    fn free_bytes(&self) -> Result<u64, KernelError>;

    /// Takes memory, aligned to 256 bytes, of unspecified content. `what` names it in errors.
    ///
    /// # Errors
    /// [`KernelError::OutOfMemory`] when there is not as much.
    fn allocate(&self, bytes: usize, what: &str) -> Result<u64, KernelError>;

    /// Gives memory back.
    ///
    /// # Safety
    /// It came from [`allocate`](Self::allocate), is given back once, and no work that uses it is under way.
    unsafe fn release(&self, address: u64);

    /// Takes memory of this process that the device copies from and to at full speed; zeroed.
    ///
    /// # Errors
    /// [`KernelError::OutOfMemory`] when there is not as much.
    fn pin(&self, bytes: usize, what: &str) -> Result<NonNull<u8>, KernelError>;

    /// Gives it back.
    ///
    /// # Safety
    /// As [`release`](Self::release), for what came from [`pin`](Self::pin) with the same size.
    unsafe fn unpin(&self, start: NonNull<u8>, bytes: usize);

    /// Makes a queue of work. Work in a queue of [`Urgency::Decode`] goes before that of others.
    ///
    /// # Errors
    /// When the device refuses.
    fn stream(&self, urgency: Urgency) -> Result<Stream, KernelError>;

    /// Ends a queue. What is in it is still done.
    ///
    /// # Safety
    /// It came from [`stream`](Self::stream) and is not used any more.
    unsafe fn end_stream(&self, stream: Stream);

    /// Copies `bytes` bytes to the device.
    ///
    /// # Errors
    /// When the device fails.
    ///
    /// # Safety
    /// Both sides hold as many bytes, and nobody changes the source before the stream is done with it.
    unsafe fn upload(
        &self,
        stream: Stream,
        to: u64,
        from: *const u8,
        bytes: usize,
    ) -> Result<(), KernelError>;

    /// Copies `bytes` bytes from the device.
    ///
    /// # Errors
    /// When the device fails.
    ///
    /// # Safety
    /// Both sides hold as many bytes, and nobody uses the destination before the stream is done with it.
    unsafe fn download(
        &self,
        stream: Stream,
        to: *mut u8,
        from: u64,
        bytes: usize,
    ) -> Result<(), KernelError>;

    /// Makes `bytes` bytes zero.
    ///
    /// # Errors
    /// When the device fails.
    ///
    /// # Safety
    /// There are as many bytes, and no other work uses them meanwhile.
    unsafe fn clear(&self, stream: Stream, address: u64, bytes: usize) -> Result<(), KernelError>;

    /// Starts a kernel.
    ///
    /// # Errors
    /// When there is no such kernel for this device, or the device fails.
    ///
    /// # Safety
    /// The arguments are those that the kernel's text asks for, and what they point to is as large as it says.
    unsafe fn launch(&self, stream: Stream, launch: &Launch<'_>) -> Result<(), KernelError>;

    /// Waits until all work of the stream is done.
    ///
    /// # Errors
    /// When some of it failed.
    fn wait(&self, stream: Stream) -> Result<(), KernelError>;

    /// Records the work asked for from here to [`end_capture`](Self::end_capture) instead of doing it. Devices that cannot
    /// say no.
    ///
    /// # Errors
    /// When the device refuses.
    fn begin_capture(&self, stream: Stream) -> Result<bool, KernelError> {
        let _ = stream;
        Ok(false)
    }

    /// What was recorded.
    ///
    /// # Errors
    /// When something in between cannot be recorded.
    fn end_capture(&self, stream: Stream) -> Result<Graph, KernelError> {
        let _ = stream;
        Err(KernelError::Device("nothing was recorded".to_owned()))
    }

    /// Does recorded work once more, with the addresses and numbers it was recorded with.
    ///
    /// # Errors
    /// When the device fails.
    ///
    /// # Safety
    /// Everything it uses still exists.
    unsafe fn replay(&self, stream: Stream, graph: Graph) -> Result<(), KernelError> {
        let _ = (stream, graph);
        Err(KernelError::Device("nothing was recorded".to_owned()))
    }

    /// Forgets recorded work.
    ///
    /// # Safety
    /// It came from [`end_capture`](Self::end_capture) and is not used any more.
    unsafe fn end_graph(&self, graph: Graph) {
        let _ = graph;
    }
}
