//! The reader's side: another process's region, read-only.

use std::io;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;

use rustix::fs::SealFlags;
use rustix::mm::{MapFlags, ProtFlags};

/// Another process's [`SharedRegion`](crate::SharedRegion), mapped for reading. The bytes change whenever their owner
/// writes them, so none are ever lent out: they can only be copied.
pub struct SharedView {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: a view only copies from its mapping, which any thread may do.
unsafe impl Send for SharedView {}
// SAFETY: as above.
unsafe impl Sync for SharedView {}

impl SharedView {
    /// Maps the file behind `file`, which a peer has sent.
    ///
    /// # Errors
    /// When it is empty, or not sealed: a file that can shrink would kill the process that reads where it ended.
    pub fn open(file: &OwnedFd) -> io::Result<Self> {
        let seals = rustix::fs::fcntl_get_seals(file)?;
        if !seals.contains(SealFlags::SHRINK) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the peer's memory is not sealed against shrinking",
            ));
        }
        let size = rustix::fs::fstat(file)?.st_size;
        let bytes = usize::try_from(size).map_err(|_| io::ErrorKind::InvalidInput)?;
        // SAFETY: a mapping at an address of the system's choice touches no memory of ours.
        let start = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                bytes,
                ProtFlags::READ,
                MapFlags::SHARED,
                file,
                0,
            )?
        };
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, bytes })
    }

    /// Copies bytes from `offset` on; false when they are not all there. Bytes their owner writes meanwhile arrive in
    /// any state: whoever needs to know compares a checksum of the copy.
    #[must_use]
    pub fn copy(&self, offset: usize, into: &mut [u8]) -> bool {
        let fits = offset <= self.bytes && into.len() <= self.bytes - offset;
        if fits {
            let from = self.start.as_ptr().wrapping_add(offset);
            // SAFETY: the range lies in the mapping, checked above, whose file cannot shrink, checked in `open`;
            // `into` is borrowed, so it lies elsewhere. Bytes have no invalid states, and no reference to the
            // mapping is ever made.
            unsafe { std::ptr::copy_nonoverlapping(from, into.as_mut_ptr(), into.len()) };
        }
        fits
    }
}

impl Drop for SharedView {
    fn drop(&mut self) {
        // SAFETY: `open` mapped exactly this range, and nothing is borrowed from it.
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd, AsRawFd};
    use std::sync::atomic::Ordering;

    use super::*;
    use crate::SharedRegion;

    fn given(region: &SharedRegion) -> OwnedFd {
        region.as_fd().try_clone_to_owned().unwrap()
    }

    #[test]
    fn a_view_sees_what_its_owner_writes_and_nothing_beyond() {
        let region = SharedRegion::zeroed(10_000).unwrap();
        let view = SharedView::open(&given(&region)).unwrap();
        region.words()[100].store(u64::from_le_bytes(*b"12345678"), Ordering::Relaxed);
        let mut copied = [0; 10];
        assert!(view.copy(799, &mut copied));
        assert_eq!(&copied, b"\x0012345678\0");
        assert!(view.copy(9_990, &mut copied));
        assert!(!view.copy(9_991, &mut copied));
        assert!(!view.copy(usize::MAX, &mut copied));
        drop(region);
        assert!(view.copy(799, &mut copied), "a view outlives its region");
        assert_eq!(&copied, b"\x0012345678\0");
    }

    #[test]
    fn who_has_the_descriptor_can_neither_write_nor_resize() {
        let region = SharedRegion::zeroed(4096).unwrap();
        let file = std::fs::File::from(given(&region));
        assert!(std::os::unix::fs::FileExt::write_at(&file, b"x", 0).is_err());
        assert!(file.set_len(1).is_err());
        assert!(file.set_len(8192).is_err());
        let again = std::fs::OpenOptions::new()
            .write(true)
            .open(format!("/proc/self/fd/{}", file.as_raw_fd()))
            .unwrap();
        assert!(std::os::unix::fs::FileExt::write_at(&again, b"x", 0).is_err());
    }

    #[test]
    fn memory_that_can_shrink_is_refused() {
        let flags = rustix::fs::MemfdFlags::ALLOW_SEALING;
        let file = rustix::fs::memfd_create("test", flags).unwrap();
        rustix::fs::ftruncate(&file, 4096).unwrap();
        assert!(SharedView::open(&file).is_err());
    }
}
