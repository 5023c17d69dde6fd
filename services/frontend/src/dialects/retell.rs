//! From the chat endpoint's answer to a dialect's, whole or event by event.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::{Body, BodyDataStream};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::response::Response;
use bytes::Bytes;
use futures::StreamExt;
use http_body_util::BodyExt;
use vlinders_openai_api::{
    ApiError, Retelling, ToldAnswer, ToldChunk, ToldEnd, ToldError, ToldFinish, ToldMessage, ToldUsage,
    in_own_names,
};

use crate::http::{Refusal, RequestRecord, error_response};
use crate::kept::Keeper;

/// Between events.
const GAP: &[u8] = b"\n\n";
const DATA: &[u8] = b"data: ";

/// Tells an answer in a dialect. An error gets the dialect's names; the layer around all routes knows its shape.
pub(super) async fn retell(
    response: Response,
    record: Arc<RequestRecord>,
    mut writer: impl Retelling,
    keeper: Option<Keeper>,
) -> Response {
    if !response.status().is_success() {
        return renamed(response, &writer);
    }
    let (mut head, body) = response.into_parts();
    head.headers.remove(CONTENT_LENGTH);
    let is_streamed = head
        .headers
        .get(CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
    if is_streamed {
        let retold = Retold {
            events: body.into_data_stream(),
            unread: Vec::new(),
            record,
            writer,
            keeper,
            is_open: false,
            finish: None,
            usage: ToldUsage::default(),
        };
        let stream = futures::stream::unfold(retold, |mut retold| async move {
            let bytes = retold.next().await?;
            Some((Ok::<_, Infallible>(bytes), retold))
        });
        return Response::from_parts(head, Body::from_stream(stream));
    }
    match whole(body, &record, &mut writer, keeper).await {
        Ok(body) => Response::from_parts(head, Body::from(body)),
        Err(error) => error_response(&error),
    }
}

/// The same error with the headers it came with.
fn renamed(response: Response, writer: &impl Retelling) -> Response {
    let Some(Refusal(error)) = response.extensions().get().cloned() else {
        return response;
    };
    let mut told = error_response(&in_own_names(error, writer));
    for (name, value) in response.headers() {
        told.headers_mut().insert(name, value.clone());
    }
    told.headers_mut().remove(CONTENT_LENGTH);
    told
}

async fn whole(
    body: Body,
    record: &RequestRecord,
    writer: &mut impl Retelling,
    keeper: Option<Keeper>,
) -> Result<Vec<u8>, ApiError> {
    let fault = || ApiError::new(500, "internal_error", "something went wrong on our side");
    let bytes = body.collect().await.map_err(|_| fault())?.to_bytes();
    let mut answer: ToldAnswer = serde_json::from_slice(&bytes).map_err(|error| {
        tracing::error!(%error, "an answer of ours cannot be read back");
        fault()
    })?;
    let choice = answer.choices.pop().ok_or_else(fault)?;
    let end = ToldEnd {
        finish: choice.finish_reason,
        stop_text: record.stop_text(),
        usage: answer.usage,
    };
    let message = choice.said();
    keep(keeper, writer, Some(&message), &end).await;
    Ok(writer.whole(&message, &end))
}

/// Keeps an answer that is complete, before its client knows that it is.
async fn keep(
    keeper: Option<Keeper>,
    writer: &mut impl Retelling,
    message: Option<&ToldMessage>,
    end: &ToldEnd,
) {
    if let Some(keeper) = keeper
        && let Some(answer) = writer.at_its_end(message, end)
        && !keeper.keep(&answer).await
    {
        writer.is_not_kept();
    }
}

/// A stream on its way from one shape to the other. Dropped with the body, and the request with it.
struct Retold<W> {
    events: BodyDataStream,
    /// The beginning of an event that is not complete.
    unread: Vec<u8>,
    record: Arc<RequestRecord>,
    writer: W,
    keeper: Option<Keeper>,
    is_open: bool,
    finish: Option<ToldFinish>,
    usage: ToldUsage,
}

impl<W: Retelling> Retold<W> {
    /// The next bytes; none at the end. Asked for only when the connection has room.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            let piece = self.events.next().await?.ok()?;
            self.unread.extend_from_slice(&piece);
            let mut written = Vec::new();
            while let Some(end) = self.unread.windows(GAP.len()).position(|pair| pair == GAP) {
                let event: Vec<u8> = self.unread.drain(..end + GAP.len()).collect();
                self.take(&mut written, &event[..end]).await;
            }
            if !written.is_empty() {
                return Some(written.into());
            }
        }
    }

    async fn take(&mut self, written: &mut Vec<u8>, event: &[u8]) {
        if !std::mem::replace(&mut self.is_open, true) {
            self.writer.opening(written, self.record.prompt_tokens());
        }
        match event.strip_prefix(DATA) {
            // A comment.
            None => self.writer.keep_alive(written),
            Some(b"[DONE]") => {
                let end = ToldEnd {
                    finish: self.finish.unwrap_or(ToldFinish::Stop),
                    stop_text: self.record.stop_text(),
                    usage: self.usage,
                };
                keep(self.keeper.take(), &mut self.writer, None, &end).await;
                self.writer.closing(written, &end);
            }
            Some(chunk) => match serde_json::from_slice(chunk) {
                Ok(chunk) => self.news(written, chunk),
                Err(error) => {
                    tracing::error!(%error, "an event of ours cannot be read back");
                    let error = ApiError::new(500, "internal_error", "something went wrong on our side");
                    self.writer.failure(written, &ToldError::of(&error));
                }
            },
        }
    }

    fn news(&mut self, written: &mut Vec<u8>, chunk: ToldChunk) {
        if let Some(error) = &chunk.error {
            self.writer.failure(written, error);
        }
        if let Some(usage) = chunk.usage {
            self.usage = usage;
        }
        for choice in chunk.choices {
            self.finish = choice.finish_reason.or(self.finish);
            self.writer.news(written, &choice.said());
        }
    }
}
