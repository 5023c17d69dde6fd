//! Memory that is given back when it is dropped.

use std::ptr::NonNull;
use std::sync::Arc;

use vlinders_kernel_api::KernelError;

use crate::device::Device;

/// Memory of the device that is given back when it is dropped.
pub(crate) struct Region {
    device: Arc<dyn Device>,
    address: u64,
    bytes: usize,
}

impl Region {
    /// `bytes` bytes of unspecified content.
    pub(crate) fn new(device: &Arc<dyn Device>, bytes: usize, what: &str) -> Result<Self, KernelError> {
        // An empty region has an address too.
        let address = device.allocate(bytes.max(1), what)?;
        Ok(Self {
            device: Arc::clone(device),
            address,
            bytes,
        })
    }

    pub(crate) fn address(&self) -> u64 {
        self.address
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: `new` took it, this is its only owner, and owners wait for their streams before they let go.
        unsafe { self.device.release(self.address) };
    }
}

/// Pinned memory of this process.
pub(crate) struct Pinned {
    device: Arc<dyn Device>,
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: it is plain memory with one owner.
unsafe impl Send for Pinned {}
// SAFETY: shared references only read.
unsafe impl Sync for Pinned {}

impl Pinned {
    /// `bytes` zeros.
    pub(crate) fn new(device: &Arc<dyn Device>, bytes: usize, what: &str) -> Result<Self, KernelError> {
        let bytes = bytes.max(1);
        Ok(Self {
            device: Arc::clone(device),
            start: device.pin(bytes, what)?,
            bytes,
        })
    }

    pub(crate) fn as_ptr(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        // SAFETY: `pin` gave as many zeros; copies into it are waited for before it is read.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.bytes) }
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as above, and this is the only reference.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.bytes) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // SAFETY: `new` took it with this size, this is its only owner, and owners wait for their streams first.
        unsafe { self.device.unpin(self.start, self.bytes) };
    }
}
