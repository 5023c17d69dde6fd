//! The owner's side: zeroed memory with a descriptor.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::mm::{Advice, MapFlags, ProtFlags};

/// Zeroed bytes, aligned to a page, backed by memory only where they were ever written.
///
/// Its descriptor may be given away: the file is sealed, so that whoever has it can neither change its size nor
/// write. Only this mapping, made before the seal, can be written through.
pub struct SharedRegion {
    start: NonNull<u8>,
    bytes: usize,
    file: OwnedFd,
}

// SAFETY: a region owns plain bytes; who may touch which is decided by its users.
unsafe impl Send for SharedRegion {}
// SAFETY: as above: `&SharedRegion` gives out atomics, and a raw pointer whose users answer for what they do with it.
unsafe impl Sync for SharedRegion {}

impl SharedRegion {
    /// `bytes` zeros.
    ///
    /// # Errors
    /// When there is not so much memory, or `bytes` is 0.
    pub fn zeroed(bytes: usize) -> io::Result<Self> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = rustix::fs::memfd_create("vlinders-kv", flags)?;
        rustix::fs::ftruncate(&file, bytes as u64)?;
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a mapping at an address of the system's choice touches no memory of ours.
        let start = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                bytes,
                access,
                MapFlags::SHARED | MapFlags::NORESERVE,
                &file,
                0,
            )?
        };
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        let region = Self { start, bytes, file };
        // SAFETY: the range is the mapping made above. A refusal costs speed only, so it is ignored.
        let _ = unsafe { rustix::mm::madvise(start.as_ptr().cast(), bytes, Advice::LinuxHugepage) };
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::FUTURE_WRITE | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&region.file, seals)?;
        Ok(region)
    }

    /// Its first byte. Valid for reads and writes of [`bytes`](Self::bytes) bytes as long as the region lives.
    #[must_use]
    pub fn as_ptr(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// Its size.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The whole as words; a last part of a word is left out.
    #[must_use]
    pub fn words(&self) -> &[AtomicU64] {
        // SAFETY: the region is aligned to a page and initialised; atomics may be shared, also between processes.
        // Users of `as_ptr` answer for not touching the same bytes at the same time without atomics.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr().cast(), self.bytes / size_of::<AtomicU64>()) }
    }
}

impl AsFd for SharedRegion {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for SharedRegion {
    fn drop(&mut self) {
        // SAFETY: `zeroed` mapped exactly this range, and nothing borrowed from the region is left.
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}
