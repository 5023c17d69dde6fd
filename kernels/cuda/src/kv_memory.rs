//! The KV pool: one region of device memory, and pinned buffers through which blocks come and go.

use std::sync::{Arc, Condvar, Mutex, PoisonError};

use vlinders_kernel_api::{KernelError, KvLayout, KvMemory, Urgency};
use vlinders_types::BlockId;

use crate::device::{Device, Stream};
use crate::region::{Pinned, Region};

/// Blocks that are on their way at the same time: as many as connections of a hand-off, twice.
const LANES: usize = 8;
/// Pinned memory of all lanes at most, unless two blocks need more.
const MOST_STAGING_BYTES: usize = 256 << 20;

/// Blocks of one executor.
pub(crate) struct CudaKvMemory {
    device: Arc<dyn Device>,
    pool: Region,
    layout: KvLayout,
    block_count: u32,
    free: Mutex<Vec<Lane>>,
    returned: Condvar,
}

/// A pinned buffer of one block with a stream of its own, so that copies pass by what is computed.
struct Lane {
    staging: Pinned,
    stream: Stream,
}

impl CudaKvMemory {
    /// A pool of zeros: what was never written must at least be numbers.
    pub(crate) fn new(
        device: &Arc<dyn Device>,
        layout: KvLayout,
        block_count: u32,
    ) -> Result<Self, KernelError> {
        let block_bytes = layout.block_bytes();
        let too_large = || KernelError::OutOfMemory {
            what: "the KV pool".to_owned(),
            bytes: u64::MAX,
        };
        let bytes = block_bytes.checked_mul(block_count as usize);
        let pool = Region::new(device, bytes.ok_or_else(too_large)?, "the KV pool")?;
        let mut memory = Self {
            device: Arc::clone(device),
            pool,
            layout,
            block_count,
            free: Mutex::default(),
            returned: Condvar::new(),
        };
        for _ in 0..(MOST_STAGING_BYTES / block_bytes.max(1)).clamp(2, LANES) {
            let lane = Lane {
                staging: Pinned::new(device, block_bytes, "blocks on their way")?,
                stream: device.stream(Urgency::Prefill)?,
            };
            memory.lanes_mut().push(lane);
        }
        let stream = memory.lanes_mut()[0].stream;
        // SAFETY: the pool has as many bytes and nobody uses it yet.
        unsafe { device.clear(stream, memory.pool.address(), memory.pool.bytes()) }?;
        device.wait(stream)?;
        Ok(memory)
    }

    /// Where the pool begins on the device.
    pub(crate) fn address(&self) -> u64 {
        self.pool.address()
    }

    fn lanes_mut(&mut self) -> &mut Vec<Lane> {
        self.free.get_mut().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lends a lane to `work`, and waits for one while others have all of them.
    fn with_lane(&self, work: impl FnOnce(&mut Lane)) {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let mut lane = loop {
            match free.pop() {
                Some(lane) => break lane,
                None => free = self.returned.wait(free).unwrap_or_else(PoisonError::into_inner),
            }
        };
        drop(free);
        // Given back also when `work` panics, or the others would wait for ever.
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(&mut lane)));
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        free.push(lane);
        drop(free);
        self.returned.notify_one();
        if let Err(panic) = done {
            std::panic::resume_unwind(panic);
        }
    }

    fn address_of(&self, block: BlockId) -> u64 {
        assert!(block.0 < self.block_count, "the block is in the pool");
        self.pool.address() + u64::from(block.0) * self.layout.block_bytes() as u64
    }

    /// Copies what lies in the lane into the block, and waits.
    fn store(&self, lane: &Lane, block: BlockId) {
        let (to, bytes) = (self.address_of(block), self.layout.block_bytes());
        // SAFETY: the block has as many bytes, checked by `address_of`, and so has the lane, which is ours meanwhile; the
        // trait's rule keeps others away from the block.
        let copied = unsafe { self.device.upload(lane.stream, to, lane.staging.as_ptr(), bytes) };
        self.done(copied, lane);
    }

    fn done(&self, copied: Result<(), KernelError>, lane: &Lane) {
        let copied = copied.and_then(|()| self.device.wait(lane.stream));
        // The trait knows no failure, and a device that failed stays so: whoever asked must not go on with rubbish.
        copied.expect("the device copies blocks");
    }
}

impl Drop for CudaKvMemory {
    fn drop(&mut self) {
        let device = Arc::clone(&self.device);
        for lane in self.lanes_mut().drain(..) {
            let _ = device.wait(lane.stream);
            // SAFETY: it was made in `new`, and nobody uses a pool that is dropped.
            unsafe { device.end_stream(lane.stream) };
        }
    }
}

impl KvMemory for CudaKvMemory {
    fn block_count(&self) -> u32 {
        self.block_count
    }

    fn block_bytes(&self) -> usize {
        self.layout.block_bytes()
    }

    fn with_block(&self, block: BlockId, see: &mut dyn FnMut(&[u8])) {
        let (from, bytes) = (self.address_of(block), self.layout.block_bytes());
        self.with_lane(|lane| {
            // SAFETY: both sides have as many bytes, the lane is ours meanwhile, and the trait's rule keeps writers away.
            let copied = unsafe {
                self.device
                    .download(lane.stream, lane.staging.as_ptr(), from, bytes)
            };
            self.done(copied, lane);
            see(&lane.staging.as_slice()[..bytes]);
        });
    }

    fn write_block(&self, block: BlockId, bytes: &[u8]) {
        assert_eq!(
            bytes.len(),
            self.layout.block_bytes(),
            "exactly one block is written"
        );
        self.fill_block(block, &mut |into| into.copy_from_slice(bytes));
    }

    fn fill_block(&self, block: BlockId, fill: &mut dyn FnMut(&mut [u8])) {
        assert!(block.0 < self.block_count, "the block is in the pool");
        let bytes = self.layout.block_bytes();
        self.with_lane(|lane| {
            fill(&mut lane.staging.as_mut_slice()[..bytes]);
            self.store(lane, block);
        });
    }
}
