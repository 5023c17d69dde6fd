//! The sources whose memory this process has mapped.
//!
//! A mapping keeps its source's memory alive, so it must go when the source does: a thread per source waits for the
//! end of a connection that carries nothing. It also ends a mapping that was not used for long.

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use vlinders_kernel_shared_memory::SharedView;

use super::WATCH;

/// By incarnation.
type Entries = HashMap<u64, Entry>;

struct Entry {
    view: Arc<SharedView>,
    watch: Arc<UnixStream>,
    used: bool,
}

/// All mapped sources. Dropping it ends the threads and the mappings nobody reads from.
pub(super) struct Views {
    idle: Duration,
    entries: Arc<Mutex<Entries>>,
}

fn locked(entries: &Mutex<Entries>) -> MutexGuard<'_, Entries> {
    entries.lock().expect("nothing panics while it is held")
}

impl Views {
    /// Mappings not used for `idle` are given up.
    pub(super) fn new(idle: Duration) -> Self {
        Self {
            idle,
            entries: Arc::default(),
        }
    }

    /// The mapping of the source of that life; made from `file` when there is none.
    pub(super) fn view(
        &self,
        incarnation: u64,
        address: &Path,
        file: Option<OwnedFd>,
    ) -> io::Result<Arc<SharedView>> {
        let mut entries = locked(&self.entries);
        if let Some(entry) = entries.get_mut(&incarnation) {
            entry.used = true;
            return Ok(Arc::clone(&entry.view));
        }
        let view = Arc::new(SharedView::open(&file.ok_or(ErrorKind::NotConnected)?)?);
        let watch = UnixStream::connect(address)?;
        (&watch).write_all(&[WATCH])?;
        watch.set_read_timeout(Some(self.idle))?;
        let watch = Arc::new(watch);
        let (watched, kept) = (Arc::clone(&watch), Arc::clone(&self.entries));
        thread::Builder::new()
            .name("kv-shm-watch".to_owned())
            .spawn(move || wait_for_end(&watched, &kept, incarnation))?;
        let used = true;
        let entry = Entry {
            view: Arc::clone(&view),
            watch,
            used,
        };
        entries.insert(incarnation, entry);
        Ok(view)
    }
}

impl Drop for Views {
    fn drop(&mut self) {
        for entry in locked(&self.entries).drain().map(|(_, entry)| entry) {
            // One that is gone already has ended too.
            let _ = entry.watch.shutdown(Shutdown::Both);
        }
    }
}

/// A thread's life: until the source ends, its mapping was not used for a while, or all are dropped.
fn wait_for_end(mut watch: &UnixStream, entries: &Mutex<Entries>, incarnation: u64) {
    loop {
        let waited = watch.read(&mut [0]);
        let mut entries = locked(entries);
        let is_idle = waited.is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
        let was_used = entries
            .get_mut(&incarnation)
            .is_some_and(|entry| std::mem::take(&mut entry.used));
        if !(is_idle && was_used) {
            entries.remove(&incarnation);
            return;
        }
    }
}
