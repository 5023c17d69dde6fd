//! Streamed answers: server-sent events.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::HeaderValue;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::Response;
use bytes::Bytes;
use vlinders_openai_api::ApiError;

use super::tally::Tally;
use super::writer::{ChoiceNews, Writer};
use crate::http::RequestRecord;
use crate::streams::{Claim, News};

/// A comment; clients pass over it, and proxies see that the stream lives.
const KEEP_ALIVE: &[u8] = b": keep-alive\n\n";

/// An answer under way.
pub(crate) struct Answer {
    pub(crate) claim: Claim,
    pub(crate) writer: Writer,
    pub(crate) record: Arc<RequestRecord>,
}

/// Answers with a stream. The status is decided by the first news, so that a request which fails at once fails with
/// its own status; if none comes for a while, the stream begins without.
pub(crate) async fn respond(answer: Answer, keep_alive: Duration) -> Result<Response, ApiError> {
    let mut events = Events {
        tally: Tally::new(&answer.claim),
        answer,
        keep_alive,
        waiting: Vec::new(),
        is_done: false,
    };
    match tokio::time::timeout(keep_alive, events.answer.claim.next()).await {
        // Nothing was written before it: it may still be answered with a status of its own.
        Ok((index, news)) if news.text.is_empty() && news.logprobs.is_empty() => events.write(index, news)?,
        Ok((index, news)) => events.write_or_fail(index, news),
        Err(_elapsed) => {
            events.answer.writer.opening(&mut events.waiting, 0);
            events.waiting.extend_from_slice(KEEP_ALIVE);
        }
    }
    let stream = futures::stream::unfold(events, |mut events| async move {
        let bytes = events.next().await?;
        Some((Ok::<_, Infallible>(bytes), events))
    });
    let mut response = Response::new(Body::from_stream(stream));
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/event-stream; charset=utf-8"),
    );
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

/// The events of one stream. Dropped with the body, and its claim with it.
struct Events {
    answer: Answer,
    tally: Tally,
    keep_alive: Duration,
    /// Written and not yet taken by the connection.
    waiting: Vec<u8>,
    is_done: bool,
}

impl Events {
    /// The next bytes; none at the end. Asked for only when the connection has room: a slow client is paused here.
    async fn next(&mut self) -> Option<Bytes> {
        while self.waiting.is_empty() {
            if self.is_done {
                return None;
            }
            match tokio::time::timeout(self.keep_alive, self.answer.claim.next()).await {
                Ok((index, news)) => self.write_or_fail(index, news),
                Err(_elapsed) => self.waiting.extend_from_slice(KEEP_ALIVE),
            }
        }
        Some(std::mem::take(&mut self.waiting).into())
    }

    fn write_or_fail(&mut self, index: usize, news: News) {
        if let Err(error) = self.write(index, news) {
            self.answer.record.failed(error.code);
            Writer::failure(&mut self.waiting, &error);
            self.is_done = true;
        }
    }

    /// Writes what is new of one choice. An error ends the whole stream; nothing is written of it here.
    fn write(&mut self, index: usize, news: News) -> Result<(), ApiError> {
        let Answer {
            claim,
            writer,
            record,
        } = &mut self.answer;
        let News {
            ids,
            text,
            logprobs,
            scores,
            embedding: _,
            end,
        } = news;
        if !scores.is_empty() {
            // Only streams of one choice for each prompt ask for them.
            writer.scored(index, scores);
        }
        let is_news = end.is_none() || !ids.is_empty() || !text.is_empty() || !logprobs.is_empty();
        if is_news {
            let news = ChoiceNews {
                ids: &ids,
                text: &text,
                logprobs: &logprobs,
            };
            writer.news(&mut self.waiting, index, news);
        }
        let Some(end) = end else { return Ok(()) };
        let finish = self.tally.end(claim, index, end, record)?;
        writer.opening(&mut self.waiting, index);
        writer.choice_end(&mut self.waiting, index, finish);
        if let Some(counts) = self.tally.complete() {
            writer.closing(&mut self.waiting, counts);
            self.is_done = true;
        }
        Ok(())
    }
}
