//! Messages that must not be lost on their way to a stream: written to a file first, sent after, forgotten when the
//! stream has confirmed them. What a message says is not known here.
//!
//! What is lost of what [`Spool::keep`] has kept and no stream has confirmed:
//!
//! | when | lost |
//! |---|---|
//! | the process ends, however suddenly | nothing: its next life or a neighbour sends it |
//! | the machine loses power, [`SpoolSync::BeforeKept`] | nothing |
//! | the machine loses power, [`SpoolSync::Every`] | what was kept since the last sync |
//! | the machine loses power, [`SpoolSync::Never`] | what the system had not written by itself |
//! | the disk damages a frame | that message; it is told, and the file is set aside for people |
//! | the disk is lost, with [`SpoolOptions::confirm_within`] | nothing, but while the bus is away |
//! | the disk is lost, without it | everything |
//!
//! A message may be sent twice: by whoever was killed, and by whoever adopted its file. Its id makes that harmless.
//!
//! - `frame`: bytes of a message, and reading files whose end is torn
//! - `place`, `folder`, `memory`: where files lie, and who holds them
//! - `book`: which messages are kept and what is to be done with them
//! - `files`: messages into files, and files away when they are done
//! - `sending`: the task that sends

mod book;
mod files;
mod folder;
mod frame;
mod memory;
mod place;
mod sending;

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use self::book::{Book, Number};
use self::files::Files;
use crate::{StreamName, Subject};

pub use self::folder::FolderSpools;
pub use self::memory::MemorySpools;
pub use self::place::{CallCost, SpoolFile, SpoolPlace, SyncOrder};

/// Bytes of a file without messages.
const HEADER_BYTES: usize = frame::FILE_HEADER.len();
/// How long until a message is written again that could not be.
const WRITE_AGAIN: Duration = Duration::from_millis(200);

/// A message for a stream, as [`crate::Bus::enqueue`] takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpoolMessage {
    /// Which stream.
    pub stream: StreamName,
    /// On which subject.
    pub subject: Subject,
    /// Unique for what it says.
    pub id: String,
    /// What it says.
    pub payload: Bytes,
}

/// When what is kept survives a loss of power.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpoolSync {
    /// As soon as it is kept: every call waits for the disk.
    BeforeKept,
    /// After this time.
    Every(Duration),
    /// When the system thinks it time.
    Never,
}

/// When a message is settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpoolUntil {
    /// When its stream has it: for streams that outlive the process.
    Stored,
    /// When the stream has it and everything in the stream is acknowledged: for streams in this process's memory.
    Handled,
}

/// How a spool works.
#[derive(Clone)]
pub struct SpoolOptions {
    /// Bytes in own files at most. When they are full, [`Spool::keep`] waits. Files of others that are gone may hold as
    /// many.
    pub max_bytes: u64,
    /// A file that has grown to so many bytes is followed by another; it goes when everything in it is settled.
    pub file_bytes: u64,
    /// When what is kept survives a loss of power.
    pub sync: SpoolSync,
    /// When a message is settled.
    pub until: SpoolUntil,
    /// How long [`Spool::keep`] waits, once a message is written, until its stream has it too: for disks that go with
    /// their machine. Who has waited in vain makes nobody else wait until the bus takes messages again.
    pub confirm_within: Option<Duration>,
    /// Messages on their way to the bus at one time.
    pub in_flight: usize,
    /// How often files whose holders are gone are looked for.
    pub adopt_every: Duration,
    /// How long it goes on sending once asked to stop and nothing new has come. What is left then is sent by a neighbour
    /// or the next life.
    pub leave_within: Duration,
    /// The time of day, milliseconds since 1970.
    pub now_ms: Arc<dyn Fn() -> u64 + Send + Sync>,
}

impl SpoolOptions {
    /// The usual options: room for some hundred thousand small messages, five times a second safe from a loss of power.
    #[must_use]
    pub fn new(now_ms: Arc<dyn Fn() -> u64 + Send + Sync>) -> Self {
        Self {
            max_bytes: 64 << 20,
            file_bytes: 4 << 20,
            sync: SpoolSync::Every(Duration::from_millis(200)),
            until: SpoolUntil::Stored,
            confirm_within: None,
            in_flight: 32,
            adopt_every: Duration::from_secs(3),
            leave_within: Duration::from_secs(5),
            now_ms,
        }
    }
}

/// How much waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpoolLoad {
    /// Messages that are not settled.
    pub messages: usize,
    /// Bytes of messages in files. Those of settled ones count as long as others in their file are not.
    pub bytes: u64,
    /// How long the oldest message has waited.
    pub oldest: Option<Duration>,
}

/// A place where nothing can be kept.
#[derive(Debug, thiserror::Error)]
#[error("the spool in {place} cannot be written")]
pub struct SpoolUnusable {
    /// Which place.
    pub place: String,
    /// Why.
    #[source]
    pub source: std::io::Error,
}

/// Keeps messages until their streams have them. Clones are the same spool. [`Spool::run`] sends.
#[derive(Clone)]
pub struct Spool {
    handle: Arc<Handle>,
}

impl fmt::Debug for Spool {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Spool")
            .field("place", &self.handle.inner.place.name())
            .finish_non_exhaustive()
    }
}

/// Lives as long as somebody may keep something.
struct Handle {
    inner: Arc<Inner>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.inner.is_abandoned.store(true, Ordering::Release);
        self.inner.news.notify_one();
    }
}

struct Inner {
    place: Arc<dyn SpoolPlace>,
    options: SpoolOptions,
    /// Locked before `book` when both are, and only where it may block.
    files: Mutex<Files>,
    /// Never locked while a disk is waited for.
    book: Mutex<Book>,
    /// Wakes the task that sends.
    news: Notify,
    /// Wakes whoever waits for room.
    room: Notify,
    is_abandoned: AtomicBool,
    /// Of all messages in files.
    bytes: AtomicU64,
    /// Something was written since the last sync.
    is_dirty: AtomicBool,
    /// Whether the bus was last seen not to take something.
    is_stuck: AtomicBool,
}

impl Inner {
    fn files(&self) -> MutexGuard<'_, Files> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The bus does not take messages. One word for an outage, however many wait.
    fn stuck(&self, error: &dyn fmt::Display) {
        if !self.is_stuck.swap(true, Ordering::Relaxed) {
            let place = self.place.name();
            tracing::warn!(%error, %place, "the bus takes no messages of the spool now; they wait there");
        }
    }

    /// Does what may wait for a disk, where nobody else waits for it.
    async fn on_disk<T, F>(self: &Arc<Self>, act: F) -> T
    where
        T: Send + 'static,
        F: FnOnce(&Self) -> T + Send + 'static,
    {
        match self.place.cost() {
            CallCost::Blocks => {}
            CallCost::Seems(time) => {
                // Others get their turn before and after, as while a disk is busy.
                tokio::time::sleep(time / 2).await;
                let done = act(self);
                tokio::time::sleep(time / 2).await;
                return done;
            }
        }
        let inner = Arc::clone(self);
        match tokio::task::spawn_blocking(move || act(&inner)).await {
            Ok(done) => done,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // The runtime is going down, and this task with it.
            Err(_) => std::future::pending().await,
        }
    }
}

/// Tells when a message is in its stream.
#[derive(Debug)]
pub struct Confirmation(Stored);

#[derive(Debug)]
enum Stored {
    Known(bool),
    Awaited(oneshot::Receiver<()>),
}

impl Confirmation {
    /// True when the stream has it; false when this process will not send it any more.
    pub async fn is_stored(self) -> bool {
        match self.0 {
            Stored::Known(is_stored) => is_stored,
            Stored::Awaited(answer) => answer.await.is_ok(),
        }
    }

    /// Waits until this time at most.
    async fn by(mut self, deadline: Instant) -> Self {
        if let Stored::Awaited(answer) = &mut self.0
            && let Ok(told) = tokio::time::timeout_at(deadline, answer).await
        {
            self.0 = Stored::Known(told.is_ok());
        }
        self
    }
}

impl Spool {
    /// Makes a spool with a file of its own. What others have left is adopted by [`Spool::run`].
    ///
    /// # Errors
    /// When nothing can be written there.
    pub async fn open(place: Arc<dyn SpoolPlace>, options: SpoolOptions) -> Result<Self, SpoolUnusable> {
        let inner = Arc::new(Inner {
            place,
            options,
            files: Mutex::default(),
            book: Mutex::default(),
            news: Notify::new(),
            room: Notify::new(),
            is_abandoned: AtomicBool::new(false),
            bytes: AtomicU64::new(0),
            is_dirty: AtomicBool::new(false),
            is_stuck: AtomicBool::new(false),
        });
        let opened = inner.on_disk(|inner| inner.files().begin(&*inner.place)).await;
        opened.map_err(|source| SpoolUnusable {
            place: inner.place.name(),
            source,
        })?;
        Ok(Self {
            handle: Arc::new(Handle { inner }),
        })
    }

    /// Returns when all messages are safe from the end of this process: written, or in their streams already. With
    /// [`SpoolOptions::confirm_within`] they are in their streams, unless the bus is away. While
    /// neither the place nor the bus takes them, it waits: nothing is lost, and nothing goes on.
    pub async fn keep(&self, messages: Vec<SpoolMessage>) -> Vec<Confirmation> {
        if messages.is_empty() {
            return Vec::new();
        }
        let inner = &self.handle.inner;
        let now_ms = (inner.options.now_ms)();
        let (numbers, answers) = inner.book().enter(messages, now_ms);
        let numbers: Arc<[Number]> = numbers.into();
        let mut has_waited = false;
        loop {
            let room = inner.room.notified();
            let todo = Arc::clone(&numbers);
            let written = inner.on_disk(move |inner| inner.write(&todo)).await;
            inner.news.notify_one();
            let Err(error) = written else { break };
            if !has_waited {
                let place = inner.place.name();
                tracing::error!(%error, %place, messages = numbers.len(), "the spool cannot be written: its users wait");
                has_waited = true;
            }
            tokio::select! {
                () = room => {}
                () = tokio::time::sleep(WRITE_AGAIN) => {}
            }
        }
        if has_waited {
            tracing::info!(place = %inner.place.name(), "the spool's users go on");
        }
        let confirmations = answers
            .into_iter()
            .map(|answer| Confirmation(Stored::Awaited(answer)));
        self.confirmed(confirmations.collect()).await
    }

    /// Waits until the streams have what is kept, if that is wanted and the bus is there.
    async fn confirmed(&self, mut all: Vec<Confirmation>) -> Vec<Confirmation> {
        let inner = &self.handle.inner;
        let Some(limit) = inner.options.confirm_within else {
            return all;
        };
        if inner.is_stuck.load(Ordering::Relaxed) {
            return all;
        }
        let deadline = Instant::now() + limit;
        let mut is_late = false;
        for one in &mut all {
            let waiting = Confirmation(std::mem::replace(&mut one.0, Stored::Known(false)));
            *one = waiting.by(deadline).await;
            is_late |= matches!(one.0, Stored::Awaited(_));
        }
        if is_late {
            inner.stuck(&"it has not answered in time");
        }
        all
    }

    /// How much waits now.
    #[must_use]
    pub fn load(&self) -> SpoolLoad {
        self.handle.inner.load()
    }
}
