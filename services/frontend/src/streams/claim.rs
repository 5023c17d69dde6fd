//! The HTTP side's hold on the streams of one request: reading all of them in turn, and letting go.

use std::sync::Arc;

use tokio::sync::Notify;
use vlinders_types::Request;

use super::assembly::News;
use super::stream::Stream;
use super::table::Streams;

/// The streams of one request, by choice. Dropping it before their end cancels what still runs: that is how a client's
/// leaving reaches the engine.
pub(crate) struct Claim {
    streams: Vec<Arc<Stream>>,
    table: Arc<Streams>,
    /// Something has come for one of the streams.
    news: Arc<Notify>,
    /// Whose turn it is to be looked at first, so that a busy choice does not starve the others.
    turn: usize,
}

impl Claim {
    pub(super) fn new(streams: Vec<Arc<Stream>>, table: Arc<Streams>, news: Arc<Notify>) -> Self {
        Self {
            streams,
            table,
            news,
            turn: 0,
        }
    }

    /// The stream that whoever opened the claim puts into the queue.
    pub(crate) fn first(&self) -> &Stream {
        &self.streams[0]
    }

    /// What the stream of this index asks for.
    pub(crate) fn request(&self, index: usize) -> &Request {
        &self.streams[index].spec.request
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.streams.len()
    }

    /// The streams, for somebody who outlives the claim.
    pub(crate) fn share(&self) -> Vec<Arc<Stream>> {
        self.streams.clone()
    }

    /// The first one is in the queue: those that wait for nobody's token may follow.
    pub(crate) fn begin_others(&self) {
        let others = self.streams.iter().skip(1);
        self.table
            .release(others.filter(|stream| !stream.spec.is_follower));
    }

    /// Waits for news, and says of which stream. Cancel-safe. After all have ended there are none.
    pub(crate) async fn next(&mut self) -> (usize, News) {
        loop {
            for place in 0..self.streams.len() {
                let index = (self.turn + place) % self.streams.len();
                if let Some(news) = self.streams[index].take() {
                    self.turn = index + 1;
                    return (index, news);
                }
            }
            // One reader: a push between the look and this wait leaves its permit.
            self.news.notified().await;
        }
    }

    /// The client is told that the request was refused, though it may be in the queue: nobody shall be billed for it.
    pub(crate) fn disown(self) {
        for stream in &self.streams {
            self.table.abandon(stream.handle(), true);
        }
    }

    /// The request never reached the queue: there is nothing to cancel.
    pub(crate) fn withdraw(self) {
        for stream in &self.streams {
            self.table.remove(stream.handle());
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        for stream in &self.streams {
            self.table.abandon(stream.handle(), false);
        }
    }
}
