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

use super::failure::outcome;
use super::writer::Writer;
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
        answer,
        keep_alive,
        waiting: Vec::new(),
        is_done: false,
    };
    match tokio::time::timeout(keep_alive, events.answer.claim.stream().next()).await {
        Ok(news) if news.text.is_empty() && news.logprobs.is_empty() && news.end.is_some() => {
            let News { end, .. } = news;
            let end = end.expect("just looked at");
            events.answer.record.ended(&end);
            let (finish, counts) = outcome(end)?;
            let Events { answer, waiting, .. } = &mut events;
            let writer = &mut answer.writer;
            writer.opening(waiting);
            writer.closing(waiting, finish, counts);
            events.is_done = true;
        }
        Ok(news) => {
            events.answer.writer.opening(&mut events.waiting);
            events.write(news);
        }
        Err(_elapsed) => {
            events.answer.writer.opening(&mut events.waiting);
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
            match tokio::time::timeout(self.keep_alive, self.answer.claim.stream().next()).await {
                Ok(news) => self.write(news),
                Err(_elapsed) => self.waiting.extend_from_slice(KEEP_ALIVE),
            }
        }
        Some(std::mem::take(&mut self.waiting).into())
    }

    fn write(&mut self, news: News) {
        let Answer { writer, record, .. } = &mut self.answer;
        writer.news(&mut self.waiting, &news.text, &news.logprobs);
        let Some(end) = news.end else { return };
        self.is_done = true;
        record.ended(&end);
        match outcome(end) {
            Ok((finish, counts)) => writer.closing(&mut self.waiting, finish, counts),
            Err(error) => {
                record.failed(error.code);
                Writer::failure(&mut self.waiting, &error);
            }
        }
    }
}
