//! Messages into files, and files away when everything in them is settled.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;

use super::book::{FileNumber, Number};
use super::frame::{self, FILE_HEADER};
use super::place::{SpoolFile, SpoolPlace, SyncOrder};
use super::{HEADER_BYTES, Inner, SpoolLoad, SpoolSync};
use crate::teeth::bites;

/// Why messages are not written.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotWritten {
    /// There are as many bytes as may be.
    #[error("{bytes} bytes wait already")]
    Full { bytes: u64 },
    /// A subject or an id is longer than a frame has room for.
    #[error("a subject or an id is too long")]
    Unframeable,
    /// The disk does not take them.
    #[error(transparent)]
    Disk(#[from] io::Error),
}

/// The files this process holds.
#[derive(Default)]
pub(super) struct Files {
    held: BTreeMap<FileNumber, Held>,
    /// The one that is written.
    current: Option<FileNumber>,
    next: FileNumber,
}

struct Held {
    file: Box<dyn SpoolFile>,
    bytes: u64,
    is_adopted: bool,
    is_damaged: bool,
    /// Written since the last sync.
    is_dirty: bool,
}

/// What was found in a file that was nobody's.
#[derive(Debug)]
pub(super) struct Adopted {
    pub(super) name: String,
    pub(super) messages: usize,
    pub(super) damaged_bytes: usize,
    pub(super) torn_bytes: usize,
}

impl Files {
    /// Begins a new file to write to.
    pub(super) fn begin(&mut self, place: &dyn SpoolPlace) -> io::Result<FileNumber> {
        let mut file = place.create()?;
        if let Err(error) = begin_file(&mut *file) {
            // It holds nothing; whoever adopts it takes it away.
            let _left = file.remove();
            return Err(error);
        }
        let number = self.add(file, HEADER_BYTES as u64, false);
        self.current = Some(number);
        Ok(number)
    }

    fn add(&mut self, file: Box<dyn SpoolFile>, bytes: u64, is_adopted: bool) -> FileNumber {
        self.next += 1;
        let held = Held {
            file,
            bytes,
            is_adopted,
            is_damaged: false,
            is_dirty: false,
        };
        self.held.insert(self.next, held);
        self.next
    }

    fn bytes(&self, is_adopted: bool) -> u64 {
        let wanted = self.held.values().filter(|held| held.is_adopted == is_adopted);
        wanted.map(|held| held.bytes).sum()
    }

    /// The file to write so many bytes to.
    fn writable(
        &mut self,
        bytes: u64,
        file_bytes: u64,
        place: &dyn SpoolPlace,
    ) -> io::Result<(FileNumber, &mut Held)> {
        let has_room = |held: &Held| held.bytes <= HEADER_BYTES as u64 || held.bytes + bytes <= file_bytes;
        let current = self
            .current
            .filter(|current| self.held.get(current).is_some_and(has_room));
        let number = match current {
            Some(number) => number,
            None => self.begin(place)?,
        };
        Ok((number, self.held.get_mut(&number).expect("it is held")))
    }

    /// Takes what must be synced, which needs this lock no more.
    fn sync_orders(&mut self) -> Vec<io::Result<SyncOrder>> {
        let dirty = self.held.values_mut().filter(|held| held.is_dirty);
        dirty
            .map(|held| {
                held.is_dirty = false;
                held.file.sync_order()
            })
            .collect()
    }
}

fn begin_file(file: &mut dyn SpoolFile) -> io::Result<()> {
    file.append(FILE_HEADER)?;
    // A disk without room may say so only now.
    file.sync_order()?()
}

impl Held {
    /// Leaves no message.
    fn empty(&mut self) -> io::Result<()> {
        self.file.cut(HEADER_BYTES as u64)?;
        (self.bytes, self.is_dirty) = (HEADER_BYTES as u64, false);
        Ok(())
    }

    /// Adds frames; after an error there are none of them.
    fn append(&mut self, frames: &[u8], syncs: bool) -> Result<(), (io::Error, bool)> {
        let append = |file: &mut dyn SpoolFile| {
            file.append(frames)?;
            if syncs { file.sync_order()?() } else { Ok(()) }
        };
        match append(&mut *self.file) {
            Ok(()) => {
                self.bytes += frames.len() as u64;
                self.is_dirty = !syncs;
                Ok(())
            }
            Err(error) => {
                let is_whole = self.file.cut(self.bytes).is_ok();
                Err((error, is_whole))
            }
        }
    }
}

impl Inner {
    /// Writes those messages that are neither written nor settled.
    pub(super) fn write(&self, numbers: &[Number]) -> Result<(), NotWritten> {
        let mut files = self.files();
        let (mut todo, mut frames) = (Vec::new(), Vec::new());
        for (number, framed) in self.book().unwritten(numbers) {
            frame::encode(&framed.message, framed.kept_ms, &mut frames)
                .map_err(|_| NotWritten::Unframeable)?;
            todo.push(number);
        }
        if todo.is_empty() || bites("spool-not-written") {
            return Ok(());
        }
        let (own, more) = (files.bytes(false), frames.len() as u64);
        if own + more > self.options.max_bytes {
            return Err(NotWritten::Full { bytes: own });
        }
        let (number, held) = files.writable(more, self.options.file_bytes, &*self.place)?;
        let syncs = self.options.sync == SpoolSync::BeforeKept && !bites("spool-not-synced");
        if let Err((error, is_whole)) = held.append(&frames, syncs) {
            if !is_whole {
                // Half a frame at its end: nothing may come behind it.
                files.current = None;
            }
            return Err(error.into());
        }
        self.book().written(&todo, number);
        self.show(&files);
        Ok(())
    }

    /// Empties the current file and takes the others away, as far as everything in them is settled.
    pub(super) fn tidy(&self) {
        let files = &mut *self.files();
        let done: Vec<FileNumber> = {
            // Nothing is written meanwhile: whoever writes needs the files first.
            let book = self.book();
            let is_done = |number: &&FileNumber| book.is_done(**number) || bites("spool-emptied-early");
            let done = files.held.keys().filter(is_done);
            done.copied().collect()
        };
        for number in done {
            let is_current = files.current == Some(number);
            let held = files.held.get_mut(&number).expect("its key was there");
            if is_current {
                if held.bytes > HEADER_BYTES as u64
                    && let Err(error) = held.empty()
                {
                    tracing::warn!(%error, file = held.file.name(), "a spool file cannot be emptied");
                    files.current = None;
                }
                continue;
            }
            let held = files.held.remove(&number).expect("its key was there");
            let name = held.file.name();
            let gone = if held.is_damaged {
                held.file.set_aside()
            } else {
                held.file.remove()
            };
            if let Err(error) = gone {
                // It is sent again when it is adopted again.
                tracing::warn!(%error, file = name, "a spool file that is done stays");
            }
        }
        self.show(files);
    }

    /// What others may ask for without waiting for a disk.
    fn show(&self, files: &Files) {
        let bytes = |held: &Held| held.bytes.saturating_sub(HEADER_BYTES as u64);
        self.bytes
            .store(files.held.values().map(bytes).sum(), Ordering::Relaxed);
        let is_dirty = files.held.values().any(|held| held.is_dirty);
        self.is_dirty.store(is_dirty, Ordering::Relaxed);
    }

    /// Writes no more to the current file, which goes when everything in it is settled.
    pub(super) fn close(&self) {
        self.files().current = None;
    }

    /// Takes over one file that is nobody's, if there is one and there is room.
    pub(super) fn adopt(&self) -> io::Result<Option<Adopted>> {
        let mut files = self.files();
        if files.bytes(true) >= self.options.max_bytes {
            return Ok(None);
        }
        let Some(mut file) = self.place.adopt()? else {
            return Ok(None);
        };
        let (name, bytes) = (file.name(), file.read()?);
        if !bytes.starts_with(FILE_HEADER) && !FILE_HEADER.starts_with(&bytes) {
            file.set_aside()?;
            return Ok(Some(Adopted {
                name,
                messages: 0,
                damaged_bytes: bytes.len(),
                torn_bytes: 0,
            }));
        }
        let length = bytes.len();
        let scan = frame::scan(&Bytes::from(bytes).slice(HEADER_BYTES.min(length)..));
        let adopted = Adopted {
            name,
            messages: scan.found.len(),
            damaged_bytes: scan.damaged_bytes,
            torn_bytes: scan.torn_bytes,
        };
        let number = files.add(file, length as u64, true);
        let held = files.held.get_mut(&number).expect("it was just added");
        held.is_damaged = scan.damaged_bytes > 0;
        self.book().adopt(number, scan.found);
        self.show(&files);
        Ok(Some(adopted))
    }

    /// Brings everything written so far to where the loss of power does not reach.
    pub(super) fn sync(&self) {
        let orders = {
            let mut files = self.files();
            let orders = files.sync_orders();
            self.show(&files);
            orders
        };
        for order in orders {
            if let Err(error) = order.and_then(|order| order()) {
                tracing::error!(%error, place = %self.place.name(), "the spool cannot be synced");
            }
        }
    }

    /// How much waits.
    pub(super) fn load(&self) -> SpoolLoad {
        let book = self.book();
        let age = |oldest: u64| Duration::from_millis((self.options.now_ms)().saturating_sub(oldest));
        SpoolLoad {
            messages: book.len(),
            bytes: self.bytes.load(Ordering::Relaxed),
            oldest: book.oldest_ms().map(age),
        }
    }
}
