//! A device made of this process's memory.
//!
//! It does nothing before it is waited for, so a host that changes what is still on its way is found out. Fresh memory is full
//! of NaN. Copies outside what was allocated fail the test.

use std::alloc::{Layout, alloc, dealloc};
use std::collections::{BTreeMap, HashMap};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};

use vlinders_kernel_api::{KernelError, Urgency};
use vlinders_kernel_cuda::device::{Argument, Device, DeviceFacts, Graph, Launch, Stream};

use crate::library::Library;

/// Every bit set: NaN in each type of number.
const POISON: u8 = 0xFF;
const ALIGN: usize = 256;

#[derive(Clone, Debug)]
enum Work {
    Copy { to: u64, from: u64, bytes: usize },
    Clear { to: u64, bytes: usize },
    Launch(Started),
}

#[derive(Clone, Debug)]
struct Started {
    kernel: String,
    grid: [u32; 3],
    block: [u32; 3],
    shared_bytes: u32,
    arguments: Vec<Argument>,
}

#[derive(Default)]
struct State {
    /// Bytes of each allocation by its address.
    memory: BTreeMap<u64, usize>,
    pinned: usize,
    /// What each stream has to do, and what it records.
    streams: HashMap<usize, (Vec<Work>, Option<Vec<Work>>)>,
    graphs: HashMap<usize, Vec<Work>>,
    next: usize,
}

/// The device.
pub(crate) struct SimDevice {
    facts: DeviceFacts,
    state: Mutex<State>,
    /// Bytes that can be allocated.
    limit: usize,
    /// Kernels whose names begin like this do nothing.
    broken: Option<&'static str>,
    pub(crate) replays: AtomicUsize,
    pub(crate) launches: AtomicUsize,
}

impl SimDevice {
    pub(crate) fn new() -> Self {
        Self::with_limit(usize::MAX)
    }

    /// A device on which kernels whose names begin like this do nothing.
    pub(crate) fn without(kernel: &'static str) -> Self {
        Self {
            broken: Some(kernel),
            ..Self::new()
        }
    }

    pub(crate) fn with_limit(limit: usize) -> Self {
        Self {
            facts: DeviceFacts {
                name: "simulator".to_owned(),
                ordinal: 0,
                capability: (9, 0),
                // Few, and still more than tiny products have tiles: some of them are split.
                multiprocessors: 4,
                memory_bytes: limit as u64,
                shared_bytes_per_block: 227 << 10,
                driver_version: (13, 0),
            },
            state: Mutex::default(),
            limit,
            broken: None,
            replays: AtomicUsize::new(0),
            launches: AtomicUsize::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// What nobody gave back: allocations, pinned buffers, streams and recordings.
    pub(crate) fn left(&self) -> [usize; 4] {
        let state = self.lock();
        [
            state.memory.len(),
            state.pinned,
            state.streams.len(),
            state.graphs.len(),
        ]
    }

    fn add(&self, stream: Stream, work: Work) {
        let mut state = self.lock();
        let (queue, recording) = state.streams.get_mut(&stream.0).expect("a stream that lives");
        recording.as_mut().unwrap_or(queue).push(work);
    }

    fn do_work(&self, work: &Work) {
        match work {
            Work::Copy { to, from, bytes } => {
                // SAFETY: one side is an allocation of at least this size, checked when it was asked for; the caller of the
                // copy answers for the other side.
                unsafe { std::ptr::copy_nonoverlapping(*from as *const u8, *to as *mut u8, *bytes) };
            }
            Work::Clear { to, bytes } => {
                // SAFETY: as above.
                unsafe { std::ptr::write_bytes(*to as *mut u8, 0, *bytes) };
            }
            Work::Launch(started) => {
                self.launches.fetch_add(1, Ordering::Relaxed);
                let Started {
                    kernel,
                    grid,
                    block,
                    shared_bytes,
                    arguments,
                } = started;
                if self.broken.is_some_and(|broken| kernel.starts_with(broken)) {
                    return;
                }
                // SAFETY: whoever asked for the launch answers for its arguments.
                unsafe { Library::get().run(kernel, *grid, *block, *shared_bytes, arguments) };
            }
        }
    }
}

impl State {
    fn check(&self, address: u64, bytes: usize) {
        let (start, size) = self.memory.range(..=address).next_back().expect("an allocation");
        let end = address + bytes as u64;
        assert!(
            end <= start + *size as u64,
            "{bytes} bytes at {address:#x} leave an allocation of {size} bytes at {start:#x}"
        );
    }
}

fn layout(bytes: usize) -> Layout {
    Layout::from_size_align(bytes, ALIGN).unwrap()
}

impl Device for SimDevice {
    fn facts(&self) -> &DeviceFacts {
        &self.facts
    }

    fn free_bytes(&self) -> Result<u64, KernelError> {
        let used: usize = self.lock().memory.values().sum();
        Ok((self.limit - used.min(self.limit)) as u64)
    }

    fn allocate(&self, bytes: usize, what: &str) -> Result<u64, KernelError> {
        assert!(bytes > 0, "a real device gives no empty memory");
        if bytes as u64 > self.free_bytes()? {
            return Err(KernelError::OutOfMemory {
                what: what.to_owned(),
                bytes: bytes as u64,
            });
        }
        // SAFETY: the size is not 0.
        let start = unsafe { alloc(layout(bytes)) };
        assert!(!start.is_null());
        // SAFETY: it was just allocated with this size.
        unsafe { std::ptr::write_bytes(start, POISON, bytes) };
        self.lock().memory.insert(start as u64, bytes);
        Ok(start as u64)
    }

    unsafe fn release(&self, address: u64) {
        let bytes = self.lock().memory.remove(&address).expect("given back once");
        // SAFETY: it came from `allocate` with this size.
        unsafe { dealloc(address as *mut u8, layout(bytes)) };
    }

    fn pin(&self, bytes: usize, _what: &str) -> Result<NonNull<u8>, KernelError> {
        self.lock().pinned += 1;
        // SAFETY: the size is not 0, which `Layout` does not check but every caller keeps.
        let start = unsafe { std::alloc::alloc_zeroed(layout(bytes)) };
        Ok(NonNull::new(start).unwrap())
    }

    unsafe fn unpin(&self, start: NonNull<u8>, bytes: usize) {
        self.lock().pinned -= 1;
        // SAFETY: it came from `pin` with this size.
        unsafe { dealloc(start.as_ptr(), layout(bytes)) };
    }

    fn stream(&self, _urgency: Urgency) -> Result<Stream, KernelError> {
        let mut state = self.lock();
        state.next += 1;
        let stream = state.next;
        state.streams.insert(stream, Default::default());
        Ok(Stream(stream))
    }

    unsafe fn end_stream(&self, stream: Stream) {
        let (queue, recording) = self.lock().streams.remove(&stream.0).expect("ended once");
        assert!(
            queue.is_empty() && recording.is_none(),
            "a stream that has work left"
        );
    }

    unsafe fn upload(
        &self,
        stream: Stream,
        to: u64,
        from: *const u8,
        bytes: usize,
    ) -> Result<(), KernelError> {
        self.lock().check(to, bytes);
        let from = from as u64;
        self.add(stream, Work::Copy { to, from, bytes });
        Ok(())
    }

    unsafe fn download(
        &self,
        stream: Stream,
        to: *mut u8,
        from: u64,
        bytes: usize,
    ) -> Result<(), KernelError> {
        self.lock().check(from, bytes);
        let to = to as u64;
        self.add(stream, Work::Copy { to, from, bytes });
        Ok(())
    }

    unsafe fn clear(&self, stream: Stream, address: u64, bytes: usize) -> Result<(), KernelError> {
        self.lock().check(address, bytes);
        self.add(stream, Work::Clear { to: address, bytes });
        Ok(())
    }

    unsafe fn launch(&self, stream: Stream, launch: &Launch<'_>) -> Result<(), KernelError> {
        assert!(
            !launch.grid.contains(&0),
            "{}: a real device takes no empty grid",
            launch.kernel
        );
        let started = Started {
            kernel: launch.kernel.to_owned(),
            grid: launch.grid,
            block: launch.block,
            shared_bytes: launch.shared_bytes,
            arguments: launch.arguments.to_vec(),
        };
        self.add(stream, Work::Launch(started));
        Ok(())
    }

    fn wait(&self, stream: Stream) -> Result<(), KernelError> {
        let queue = {
            let mut state = self.lock();
            let (queue, recording) = state.streams.get_mut(&stream.0).expect("a stream that lives");
            assert!(
                recording.is_none(),
                "a real device refuses to wait while it records"
            );
            std::mem::take(queue)
        };
        queue.iter().for_each(|work| self.do_work(work));
        Ok(())
    }

    fn begin_capture(&self, stream: Stream) -> Result<bool, KernelError> {
        self.lock().streams.get_mut(&stream.0).unwrap().1 = Some(Vec::new());
        Ok(true)
    }

    fn end_capture(&self, stream: Stream) -> Result<Graph, KernelError> {
        let mut state = self.lock();
        let recorded = state.streams.get_mut(&stream.0).unwrap().1.take().unwrap();
        let is_launch = |work: &Work| matches!(work, Work::Launch(_));
        assert!(
            recorded.iter().all(is_launch),
            "copies are not recorded: their sources change"
        );
        state.next += 1;
        let graph = state.next;
        state.graphs.insert(graph, recorded);
        Ok(Graph(graph))
    }

    unsafe fn replay(&self, stream: Stream, graph: Graph) -> Result<(), KernelError> {
        self.replays.fetch_add(1, Ordering::Relaxed);
        let recorded = self.lock().graphs[&graph.0].clone();
        recorded.into_iter().for_each(|work| self.add(stream, work));
        Ok(())
    }

    unsafe fn end_graph(&self, graph: Graph) {
        self.lock().graphs.remove(&graph.0).expect("ended once");
    }
}
