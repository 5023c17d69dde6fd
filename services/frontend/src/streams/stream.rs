//! One request's way back: the dispatcher pushes, the HTTP side takes. What is not yet taken is joined into one piece,
//! so a slow client costs memory for its text and nothing else.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use vlinders_types::{Chunk, ModelName, RequestId};

use super::assembly::{Assembly, End, GivenUp, News, Pushed, Tempo};

/// What a stream is for.
#[derive(Clone, Debug)]
pub(crate) struct StreamSpec {
    pub(crate) request_id: RequestId,
    pub(crate) model: ModelName,
    pub(crate) deadline: Instant,
    /// Whether tokens are delivered as they come; then their times are measured.
    pub(crate) is_streamed: bool,
    pub(crate) buffer_bytes: usize,
}

/// Shared by the dispatcher and the HTTP side.
pub(crate) struct Stream {
    pub(crate) spec: StreamSpec,
    assembly: Mutex<Assembly>,
    news: Notify,
}

impl Stream {
    pub(crate) fn new(spec: StreamSpec) -> Self {
        let assembly = Mutex::new(Assembly::new(spec.buffer_bytes));
        Self {
            spec,
            assembly,
            news: Notify::new(),
        }
    }

    /// Waits for news. Cancel-safe. After an end there are none.
    pub(crate) async fn next(&self) -> News {
        loop {
            let news = self.lock().take();
            if let Some(news) = news {
                return news;
            }
            // One reader: a push between the look and this wait leaves its permit.
            self.news.notified().await;
        }
    }

    /// Adds a chunk. Never waits.
    pub(crate) fn push(&self, chunk: Chunk) -> (Pushed, Option<Tempo>) {
        let (pushed, tempo) = self.lock().push(chunk);
        self.news.notify_one();
        (pushed, tempo.filter(|_| self.spec.is_streamed))
    }

    /// Ends the stream from this side. What was pending is still delivered before.
    pub(crate) fn give_up(&self, reason: GivenUp) {
        self.lock().end(End::GivenUp(reason));
        self.news.notify_one();
    }

    /// The attempt that counts.
    pub(crate) fn attempt(&self) -> u32 {
        self.lock().attempt()
    }

    /// Whether its last news has come.
    pub(crate) fn has_ended(&self) -> bool {
        self.lock().has_ended()
    }

    /// Whether something has waited for the client longer than this.
    pub(crate) fn is_stalled(&self, limit: Duration) -> bool {
        self.lock().waiting().is_some_and(|waiting| waiting > limit)
    }

    /// Whether a missing chunk was waited for longer than this.
    pub(crate) fn has_gap(&self, limit: Duration) -> bool {
        self.lock().missing().is_some_and(|missing| missing > limit)
    }

    fn lock(&self) -> MutexGuard<'_, Assembly> {
        self.assembly.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
