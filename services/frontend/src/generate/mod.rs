//! `/v1/chat/completions` and `/v1/completions`: check, prepare, enqueue, answer.

mod chat;
mod choices;
mod failure;
mod form;
mod prepare;
mod prompts;
mod reader;
mod sse;
mod submit;
mod tally;
mod tools;
mod unary;
mod writer;

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::{Request, State};
use axum::http::HeaderValue;
use axum::response::Response;
use vlinders_ledger::Tokens;
use vlinders_openai_api::ApiError;
use vlinders_types::ModelName;

pub(crate) use chat::chat_prompt;
pub(crate) use failure::outcome;
pub(crate) use form::Forms;
use prepare::PrepareOrder;
pub(crate) use prepare::{Prepared, Preparer, check_tokens, find_model, model_not_found, text_error};
pub(crate) use submit::{Submission, enqueue, pattern, specs};

use crate::app::App;
use crate::http::{RequestContext, error_response, rate_headers, read_json};
use crate::limiter::Reservation;
use crate::probes::{self, Probe};
use crate::{Admission, Books, BudgetUnit, Caller, Cost, Exhausted};

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
    serve(app, (context, caller), Door::Answers(Endpoint::Chat), request).await
}

/// `/v1/completions`.
pub(crate) async fn completion(
    State(app): State<Arc<App>>,
    Extension(context): Extension<RequestContext>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Response {
    serve(
        app,
        (context, caller),
        Door::Answers(Endpoint::Completion),
        request,
    )
    .await
}

/// Where a request goes once it is let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Door {
    /// Tokens are drawn.
    Answers(Endpoint),
    /// Something is told of prompts.
    Probes(Probe),
}

/// A request whose tokens are known.
enum Understood {
    Answer(Box<Prepared>),
    Probe(Box<probes::Asked>),
}

impl Understood {
    /// Tokens it may use.
    fn most_tokens(&self) -> Tokens {
        match self {
            Self::Answer(prepared) => prepared.most_tokens(),
            Self::Probe(asked) => Tokens {
                prompt: asked.tokens(),
                ..Tokens::default()
            },
        }
    }

    fn model(&self) -> &ModelName {
        match self {
            Self::Answer(prepared) => &prepared.model.name,
            Self::Probe(asked) => &asked.model().name,
        }
    }
}

async fn understand(
    app: &Arc<App>,
    context: &RequestContext,
    (caller, door): (&Caller, Door),
    request: Request,
) -> Result<Understood, ApiError> {
    Ok(match door {
        Door::Answers(endpoint) => {
            let prepared = prepare(app, context, (caller, endpoint), request).await?;
            Understood::Answer(Box::new(prepared))
        }
        Door::Probes(probe) => {
            let asked = probes::prepare(app, context, (caller, probe), request).await?;
            Understood::Probe(Box::new(asked))
        }
    })
}

/// Lets a request in, and answers it.
pub(crate) async fn serve(
    app: Arc<App>,
    (context, caller): (RequestContext, Caller),
    door: Door,
    request: Request,
) -> Response {
    let understood = understand(&app, &context, (&caller, door), request).await;
    let priced = understood.and_then(|understood| {
        let rates = app.books.rates(&caller, understood.model(), context.class)?;
        Ok((understood, rates))
    });
    let (most, rates) = match &priced {
        Ok((understood, rates)) => (understood.most_tokens(), *rates),
        Err(_) => (Tokens::default(), None),
    };
    let cost = Cost {
        request: context.request_id,
        started_ms: app.clock.now_ms(),
        tokens: most.prompt + most.completion,
        nanos: rates.map_or(0, |rates| rates.most(most.prompt, most.completion).nanos()),
    };
    // Counted also when it could not be understood.
    let (limit, mut response) = match app.limiter.admit(&caller, &cost).await {
        Admission::Admitted(limit) => {
            let reservation = Reservation::new(app.settling.clone(), caller.clone(), cost, rates);
            context.record.reserved(reservation);
            let understood = priced.map(|(understood, _)| understood);
            let answered = match understood {
                Ok(Understood::Answer(prepared)) => answer(&app, context, caller, *prepared).await,
                Ok(Understood::Probe(asked)) => probes::answer(&app, context, caller, *asked).await,
                Err(error) => Err(error),
            };
            let response = answered.unwrap_or_else(|error| error_response(&error));
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

/// Reads and prepares a request, as far as its caller may.
async fn prepare(
    app: &Arc<App>,
    context: &RequestContext,
    (caller, endpoint): (&Caller, Endpoint),
    request: Request,
) -> Result<Prepared, ApiError> {
    let body = read_json(app, request).await?;
    let mut tokenize = context.span.below("tokenize");
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
    app.forms.check(&prepared).await?;
    context.span.prepared(endpoint, &prepared);
    context
        .record
        .prepared(&prepared.model.name, prepared.prompt_tokens());
    Ok(prepared)
}

async fn answer(
    app: &Arc<App>,
    context: RequestContext,
    caller: Caller,
    prepared: Prepared,
) -> Result<Response, ApiError> {
    let record = Arc::clone(&context.record);
    let submission = submit::Submission {
        request_id: context.request_id,
        caller,
        trace: context.span,
        class: context.class,
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
