//! Spool files in memory, which stand for a disk in tests: they outlive their holders, and lose on request what a real
//! disk loses.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::place::{CallCost, SpoolFile, SpoolPlace, SyncOrder};

/// A disk in memory. Clones are the same disk.
#[derive(Clone, Debug, Default)]
pub struct MemorySpools {
    disk: Arc<Mutex<Disk>>,
}

#[derive(Debug, Default)]
struct Disk {
    files: BTreeMap<u64, Contents>,
    last: u64,
    is_full: bool,
    time: Duration,
}

#[derive(Debug, Default)]
struct Contents {
    bytes: Vec<u8>,
    /// So many of them a loss of power leaves.
    synced: usize,
    is_held: bool,
    is_aside: bool,
}

impl MemorySpools {
    /// From now on nothing can be written, or it can again.
    pub fn set_full(&self, is_full: bool) {
        self.disk().is_full = is_full;
    }

    /// From now on calls seem to take so long.
    pub fn set_time(&self, time: Duration) {
        self.disk().time = time;
    }

    /// The machine loses power: what was not synced is gone.
    pub fn lose_power(&self) {
        for contents in self.disk().files.values_mut() {
            contents.bytes.truncate(contents.synced);
        }
    }

    /// Changes one byte, as a failing disk would.
    ///
    /// # Panics
    /// When there is no such byte.
    pub fn damage(&self, file_index: usize, byte_index: usize) {
        let mut disk = self.disk();
        let contents = disk.files.values_mut().nth(file_index);
        contents.expect("there is such a file").bytes[byte_index] ^= 0x10;
    }

    /// Files that hold something or are nobody's, and all their bytes. Those set aside do not count.
    #[must_use]
    pub fn left(&self) -> (usize, usize) {
        let disk = self.disk();
        let left = disk.files.values().filter(|contents| !contents.is_aside);
        let left = left.filter(|contents| !contents.is_held || contents.bytes.len() > super::HEADER_BYTES);
        left.fold((0, 0), |(count, bytes), contents| {
            (count + 1, bytes + contents.bytes.len())
        })
    }

    /// Files set aside.
    #[must_use]
    pub fn aside(&self) -> usize {
        self.disk()
            .files
            .values()
            .filter(|contents| contents.is_aside)
            .count()
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn file(&self, number: u64) -> Box<dyn SpoolFile> {
        Box::new(MemoryFile {
            place: self.clone(),
            number,
        })
    }
}

impl SpoolPlace for MemorySpools {
    fn name(&self) -> String {
        "memory".to_owned()
    }

    fn cost(&self) -> CallCost {
        CallCost::Seems(self.disk().time)
    }

    fn create(&self) -> io::Result<Box<dyn SpoolFile>> {
        let mut disk = self.disk();
        if disk.is_full {
            return Err(full());
        }
        disk.last += 1;
        let (number, contents) = (
            disk.last,
            Contents {
                is_held: true,
                ..Contents::default()
            },
        );
        disk.files.insert(number, contents);
        Ok(self.file(number))
    }

    fn adopt(&self) -> io::Result<Option<Box<dyn SpoolFile>>> {
        let mut disk = self.disk();
        let free = disk
            .files
            .iter_mut()
            .find(|(_, file)| !file.is_held && !file.is_aside);
        Ok(free.map(|(number, contents)| {
            contents.is_held = true;
            self.file(*number)
        }))
    }
}

fn full() -> io::Error {
    io::ErrorKind::StorageFull.into()
}

struct MemoryFile {
    place: MemorySpools,
    number: u64,
}

impl MemoryFile {
    fn with<T>(&self, act: impl FnOnce(&mut Contents) -> T) -> io::Result<T> {
        let mut disk = self.place.disk();
        let contents = disk.files.get_mut(&self.number).ok_or(io::ErrorKind::NotFound)?;
        Ok(act(contents))
    }
}

impl Drop for MemoryFile {
    fn drop(&mut self) {
        // Removed ones are not there any more.
        let _removed = self.with(|contents| contents.is_held = false);
    }
}

impl SpoolFile for MemoryFile {
    fn name(&self) -> String {
        format!("memory {}", self.number)
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.place.disk().is_full {
            // As a real disk does, it takes what it still has room for.
            self.with(|contents| contents.bytes.extend_from_slice(&bytes[..bytes.len() / 2]))?;
            return Err(full());
        }
        self.with(|contents| contents.bytes.extend_from_slice(bytes))
    }

    fn cut(&mut self, bytes: u64) -> io::Result<()> {
        self.with(|contents| {
            contents
                .bytes
                .truncate(usize::try_from(bytes).unwrap_or(usize::MAX));
            contents.synced = contents.synced.min(contents.bytes.len());
        })
    }

    fn read(&mut self) -> io::Result<Vec<u8>> {
        self.with(|contents| contents.bytes.clone())
    }

    fn sync_order(&self) -> io::Result<SyncOrder> {
        let (place, number) = (self.place.clone(), self.number);
        Ok(Box::new(move || {
            if let Some(contents) = place.disk().files.get_mut(&number) {
                contents.synced = contents.bytes.len();
            }
            Ok(())
        }))
    }

    fn remove(self: Box<Self>) -> io::Result<()> {
        self.place.disk().files.remove(&self.number);
        Ok(())
    }

    fn set_aside(self: Box<Self>) -> io::Result<()> {
        self.with(|contents| contents.is_aside = true)
    }
}
