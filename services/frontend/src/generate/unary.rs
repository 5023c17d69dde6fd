//! Whole answers.

use axum::body::Body;
use axum::http::HeaderValue;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::Response;
use vlinders_openai_api::ApiError;

use super::failure::outcome;
use super::writer::Writer;
use crate::http::RequestRecord;
use crate::streams::Claim;

/// Waits for the end, then answers. Workers send such an answer in one piece.
pub(crate) async fn respond(
    claim: Claim,
    writer: Writer,
    record: &RequestRecord,
) -> Result<Response, ApiError> {
    let (mut text, mut logprobs) = (String::new(), Vec::new());
    let end = loop {
        let news = claim.stream().next().await;
        text.push_str(&news.text);
        logprobs.extend(news.logprobs);
        if let Some(end) = news.end {
            break end;
        }
    };
    record.ended(&end);
    let (finish, counts) = outcome(end)?;
    let mut response = Response::new(Body::from(writer.whole(&text, &logprobs, finish, counts)));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}
