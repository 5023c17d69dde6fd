//! Files as memory. The one place outside the kernels that needs `unsafe`: mapping a file cannot be had without.
#![expect(
    unsafe_code,
    reason = "weights are larger than memory to copy them into; the operating system pages them in"
)]

use std::fs::File;
use std::io;
use std::path::Path;

/// Maps the whole file at `path` for reading.
///
/// # Errors
/// When the file cannot be opened or mapped.
pub(crate) fn map_file(path: &Path) -> io::Result<memmap2::Mmap> {
    let file = File::open(path)?;
    // SAFETY: the map is private and read-only, so nothing here writes through it. What is left is another process that
    // changes or shortens the file meanwhile: weight files are immutable by the contract of `ModelSource::folder`, and
    // the map lives only as long as the upload. A changed byte would be a wrong weight; a shortened file a bus error.
    unsafe { memmap2::Mmap::map(&file) }
}
