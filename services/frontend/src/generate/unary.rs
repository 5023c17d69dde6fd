//! Whole answers.

use axum::body::Body;
use axum::http::HeaderValue;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::Response;
use vlinders_openai_api::{ApiError, Choices, FinishWord};
use vlinders_types::{TokenId, TokenLogprob};

use super::choices::best;
use super::tally::Tally;
use super::writer::Writer;
use crate::http::RequestRecord;
use crate::streams::Claim;

/// One complete choice.
#[derive(Debug, Default)]
pub(crate) struct WholeChoice {
    pub(crate) ids: Vec<TokenId>,
    pub(crate) text: String,
    pub(crate) logprobs: Vec<TokenLogprob>,
    /// Set once it has ended.
    pub(crate) finish: Option<FinishWord>,
}

/// Waits for the end of every choice, then answers. Workers send such an answer in one piece.
pub(crate) async fn respond(
    mut claim: Claim,
    mut writer: Writer,
    choices: Choices,
    record: &RequestRecord,
) -> Result<Response, ApiError> {
    let mut tally = Tally::new(&claim);
    let mut wholes: Vec<WholeChoice> = (0..claim.count()).map(|_| WholeChoice::default()).collect();
    let counts = loop {
        if let Some(counts) = tally.complete() {
            break counts;
        }
        let (index, news) = claim.next().await;
        if !news.scores.is_empty() {
            writer.scored(index / choices.computed as usize, news.scores);
        }
        let whole = &mut wholes[index];
        whole.ids.extend(news.ids);
        whole.text.push_str(&news.text);
        whole.logprobs.extend(news.logprobs);
        if let Some(end) = news.end {
            whole.finish = Some(tally.end(&claim, index, end, record)?);
        }
    };
    let told = best(wholes, choices, |whole| &whole.logprobs);
    let mut response = Response::new(Body::from(writer.whole(told, counts)));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}
