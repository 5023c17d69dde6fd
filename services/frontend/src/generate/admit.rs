//! What a key may use, asked before a request is answered.

use std::sync::Arc;
use std::time::Duration;

use axum::http::HeaderValue;
use axum::response::Response;
use vlinders_ledger::Rates;
use vlinders_openai_api::ApiError;

use crate::app::App;
use crate::books::Books;
use crate::http::{RequestContext, error_response, rate_headers};
use crate::limiter::{BudgetUnit, Reservation};
use crate::{Admission, Caller, Cost, Exhausted};

/// Whose request is to come in.
#[derive(Clone, Copy)]
pub(crate) struct Admitting<'a> {
    pub(crate) app: &'a Arc<App>,
    pub(crate) context: &'a RequestContext,
    pub(crate) caller: &'a Caller,
}

impl Admitting<'_> {
    /// Counts a request that uses no tokens, and lets it be answered.
    pub(crate) async fn answer_for_nothing(
        self,
        answer: impl Future<Output = Result<Response, ApiError>>,
    ) -> Response {
        let cost = Cost {
            request: self.context.request_id,
            started_ms: self.app.clock.now_ms(),
            tokens: 0,
            nanos: 0,
        };
        self.answer((cost, None), answer).await
    }

    /// Counts a request and keeps for it what it may use, and lets it be answered. It is not when a limit is reached.
    pub(crate) async fn answer(
        self,
        (cost, rates): (Cost, Option<Rates>),
        answer: impl Future<Output = Result<Response, ApiError>>,
    ) -> Response {
        let Self { app, context, caller } = self;
        let (limit, mut response) = match app.limiter.admit(caller, &cost).await {
            Admission::Admitted(limit) => {
                let reservation = Reservation::new(app.settling.clone(), caller.clone(), cost, rates);
                context.record.reserved(reservation);
                let response = answer.await.unwrap_or_else(|error| error_response(&error));
                (Some(limit), response)
            }
            Admission::Refused {
                limit,
                why,
                retry_after,
            } => (
                Some(limit),
                refused(&app.books, (why, cost), whole_seconds(retry_after)),
            ),
            Admission::Unavailable { retry_after } => {
                let text = "the limits cannot be checked now; try again soon";
                let error = ApiError::new(503, "limiter_unavailable", text);
                (
                    None,
                    error_response(&error.with_retry_after(whole_seconds(retry_after))),
                )
            }
        };
        if let Some(limit) = limit {
            rate_headers(response.headers_mut(), limit);
        }
        response
    }
}

/// A limit of the key is reached.
fn refused(books: &Books, (why, cost): (Exhausted, Cost), seconds: u32) -> Response {
    let tokens = cost.tokens;
    let (code, text) = match why {
        Exhausted::Requests => (
            "rate_limit_exceeded",
            format!("too many requests for this key; try again in {seconds} s"),
        ),
        Exhausted::Tokens => (
            "rate_limit_exceeded",
            format!(
                "too many tokens for this key: this request may use {tokens}; try again in {seconds} s, or lower \
                 max_tokens"
            ),
        ),
        Exhausted::Streams { most } => (
            "rate_limit_exceeded",
            format!("{most} requests of this key may run at one time; try again when one has ended"),
        ),
        Exhausted::Budget { unit, left } => {
            let (most, left) = match unit {
                BudgetUnit::Tokens => (format!("use {tokens} tokens"), left.to_string()),
                BudgetUnit::Nanos => (format!("cost {}", books.shown(cost.nanos)), books.shown(left)),
            };
            let text = format!(
                "this request may {most} and {left} are left of this key's budget; lower max_tokens, or wait \
                 {seconds} s for the next one"
            );
            ("insufficient_quota", text)
        }
    };
    let mut response = error_response(&ApiError::new(429, code, text).with_retry_after(seconds));
    if matches!(why, Exhausted::Budget { .. }) {
        // Whoever tries again by itself would do so for hours.
        let no = HeaderValue::from_static("false");
        response.headers_mut().insert("x-should-retry", no);
    }
    response
}

/// At least one: zero would ask for a retry at once.
fn whole_seconds(time: Duration) -> u32 {
    u32::try_from(time.as_millis().div_ceil(1000).max(1)).unwrap_or(u32::MAX)
}
