//! Large zeroed memory, on huge pages where the system has them: streaming weights from 4 KiB pages costs up to 5 % more.

use std::ptr::NonNull;

use vlinders_kernel_api::KernelError;

/// Alignment of every region at least: a cache line, and the widest vector.
#[cfg(any(test, not(unix)))]
const LINE_BYTES: usize = 64;
/// Size of a huge page.
#[cfg(unix)]
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// Zeroed bytes, aligned to a cache line (or a huge page when larger than one), lazily backed by memory.
pub(crate) struct Region {
    start: NonNull<u8>,
    bytes: usize,
    mapping: Mapping,
}

// SAFETY: a region owns plain bytes; who may touch which is decided by its users.
unsafe impl Send for Region {}
// SAFETY: as above: `&Region` gives out only `&[T]`, and raw pointers whose users keep to disjoint ranges.
unsafe impl Sync for Region {}

impl Region {
    /// `bytes` zeros, or [`KernelError::OutOfMemory`] in the name of `what`.
    pub(crate) fn zeroed(bytes: usize, what: &str) -> Result<Self, KernelError> {
        let refused = || KernelError::OutOfMemory {
            what: what.to_owned(),
            bytes: bytes as u64,
        };
        let (mapping, start) = Mapping::zeroed(bytes).ok_or_else(refused)?;
        Ok(Self {
            start,
            bytes,
            mapping,
        })
    }

    /// Its first byte. Valid for reads and writes of the region's length as long as the region lives.
    pub(crate) fn as_ptr(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// The whole as numbers; a last part of a number is left out.
    pub(crate) fn as_slice<T: Number>(&self) -> &[T] {
        let count = self.bytes / size_of::<T>();
        // SAFETY: the region holds `count` aligned, initialised numbers, and writers need `&mut self`, except for
        // the users of `as_ptr`, who never make slices as well.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr().cast(), count) }
    }

    /// The whole as numbers to write.
    pub(crate) fn as_mut_slice<T: Number>(&mut self) -> &mut [T] {
        let count = self.bytes / size_of::<T>();
        // SAFETY: as in `as_slice`, and `&mut self` makes it the only view.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr().cast(), count) }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        self.mapping.release();
    }
}

/// Numbers whose every bit pattern is valid and which need no more than a cache line's alignment.
pub(crate) trait Number: Copy + Send + Sync + 'static {}
impl Number for u8 {}
impl Number for u16 {}
impl Number for u32 {}
impl Number for u64 {}
impl Number for f32 {}

/// What to give back to the system.
struct Mapping {
    start: NonNull<u8>,
    bytes: usize,
}

#[cfg(unix)]
impl Mapping {
    /// Maps at least `bytes` (a huge page more when large) and returns the aligned start within.
    fn zeroed(bytes: usize) -> Option<(Self, NonNull<u8>)> {
        let large = bytes >= HUGE_PAGE_BYTES;
        let mapped = if large {
            bytes.checked_add(HUGE_PAGE_BYTES)?
        } else {
            bytes.max(1)
        };
        // SAFETY: an anonymous private mapping at an address of the system's choice touches no memory of ours.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                mapped,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return None;
        }
        let mapping = Self {
            start: NonNull::new(start.cast())?,
            bytes: mapped,
        };
        let mut aligned = mapping.start.as_ptr();
        if large {
            aligned = aligned.wrapping_add(aligned.align_offset(HUGE_PAGE_BYTES));
            #[cfg(target_os = "linux")]
            // SAFETY: the range lies in the mapping made above. A refusal costs speed only, so it is ignored.
            let _ = unsafe { libc::madvise(aligned.cast(), bytes, libc::MADV_HUGEPAGE) };
        }
        Some((mapping, NonNull::new(aligned)?))
    }

    fn release(&mut self) {
        // SAFETY: `zeroed` mapped exactly this range, and only the region's drop comes here, once.
        let _ = unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}

#[cfg(not(unix))]
impl Mapping {
    /// Allocates `bytes` and a line more, and returns the aligned start within.
    fn zeroed(bytes: usize) -> Option<(Self, NonNull<u8>)> {
        let allocated = bytes.checked_add(LINE_BYTES)?;
        let layout = std::alloc::Layout::array::<u8>(allocated).ok()?;
        // SAFETY: the layout is not empty.
        let start = NonNull::new(unsafe { std::alloc::alloc_zeroed(layout) })?;
        let aligned = start
            .as_ptr()
            .wrapping_add(start.as_ptr().align_offset(LINE_BYTES));
        Some((
            Self {
                start,
                bytes: allocated,
            },
            NonNull::new(aligned)?,
        ))
    }

    fn release(&mut self) {
        let layout = std::alloc::Layout::array::<u8>(self.bytes).expect("the layout it was allocated with");
        // SAFETY: `zeroed` allocated it with this layout, and only the region's drop comes here, once.
        unsafe { std::alloc::dealloc(self.start.as_ptr(), layout) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_of_all_sizes_are_aligned_zeroed_and_writable() {
        for bytes in [0, 1, 64, 4096, (2 << 20) - 1, 2 << 20, (4 << 20) + 12] {
            let mut region = Region::zeroed(bytes, "test").unwrap();
            assert_eq!(region.as_ptr().align_offset(LINE_BYTES), 0);
            assert!(region.as_slice::<u8>().iter().all(|byte| *byte == 0));
            region.as_mut_slice::<u8>().fill(7);
            assert_eq!(region.as_slice::<u32>().len(), bytes / 4);
        }
    }

    #[test]
    fn more_than_there_is_is_an_error() {
        assert!(Region::zeroed(usize::MAX - 4096, "test").is_err());
    }
}
