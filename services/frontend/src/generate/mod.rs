//! `/v1/chat/completions` and `/v1/completions`: check, prepare, enqueue, answer.

mod choices;
mod failure;
mod prepare;
mod prompts;
mod sse;
mod submit;
mod tally;
mod unary;
mod writer;

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::{Request, State};
use axum::response::Response;
use vlinders_openai_api::ApiError;

use prepare::PrepareOrder;
pub(crate) use prepare::{
    Prepared, Preparer, chat_prompt, check_tokens, find_model, model_not_found, text_error,
};

use crate::app::App;
use crate::http::{RequestContext, error_response, rate_headers, read_json};
use crate::{Admission, Caller};

/// Which endpoint a request came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    Chat,
    Completion,
}

/// `/v1/chat/completions`.
pub(crate) async fn chat(
    State(app): State<Arc<App>>,
    Extension(context): Extension<RequestContext>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Response {
    serve(app, (context, caller), Endpoint::Chat, request).await
}

/// `/v1/completions`.
pub(crate) async fn completion(
    State(app): State<Arc<App>>,
    Extension(context): Extension<RequestContext>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Response {
    serve(app, (context, caller), Endpoint::Completion, request).await
}

async fn serve(
    app: Arc<App>,
    (context, caller): (RequestContext, Caller),
    endpoint: Endpoint,
    request: Request,
) -> Response {
    let (limit, result) = match app.limiter.admit(&caller).await {
        Admission::Admitted(limit) => (limit, answer(&app, context, caller, endpoint, request).await),
        Admission::Refused { limit, retry_after } => {
            let seconds = whole_seconds(retry_after);
            let text = format!("too many requests for this key; try again in {seconds} s");
            (
                Some(limit),
                Err(ApiError::new(429, "rate_limit_exceeded", text).with_retry_after(seconds)),
            )
        }
        Admission::Unavailable { retry_after } => {
            let seconds = whole_seconds(retry_after);
            let text = "the limits cannot be checked now; try again soon";
            (
                None,
                Err(ApiError::new(503, "limiter_unavailable", text).with_retry_after(seconds)),
            )
        }
    };
    let mut response = result.unwrap_or_else(|error| error_response(&error));
    if let Some(limit) = limit {
        rate_headers(response.headers_mut(), limit);
    }
    response
}

/// At least one: zero would ask for a retry at once.
fn whole_seconds(time: Duration) -> u32 {
    u32::try_from(time.as_millis().div_ceil(1000).max(1)).unwrap_or(u32::MAX)
}

async fn answer(
    app: &Arc<App>,
    context: RequestContext,
    caller: Caller,
    endpoint: Endpoint,
    request: Request,
) -> Result<Response, ApiError> {
    let trace = context.span;
    let body = read_json(app, request).await?;
    let mut tokenize = trace.below("tokenize");
    let order = PrepareOrder {
        endpoint,
        body,
        unknown: caller.unknown_fields(app.config.unknown_fields),
    };
    let mut prepared = app.preparer.prepare(Arc::clone(app), order).await?;
    caller.require_model(&prepared.asked_model)?;
    if let Some(highest) = caller.max_priority {
        prepared.priority = prepared.priority.min(highest);
    }
    tokenize.set("gen_ai.usage.input_tokens", prepared.prompt_tokens() as u64);
    tokenize.end();
    trace.prepared(endpoint, &prepared);
    let record = Arc::clone(&context.record);
    record.prepared(&prepared.model.name, prepared.prompt_tokens());
    let submission = submit::Submission {
        request_id: context.request_id,
        caller,
        trace,
    };
    let (is_streamed, choices) = (prepared.is_streamed, prepared.choices);
    let (claim, writer) = submit::submit(app, submission, prepared).await?;
    record.enqueued(claim.share());
    if is_streamed {
        let answer = sse::Answer {
            claim,
            writer,
            record,
        };
        sse::respond(answer, app.config.keep_alive).await
    } else {
        unary::respond(claim, writer, choices, &record).await
    }
}
