//! Requests that draw nothing: `/v1/embeddings` and `/v1/decisions`. Each becomes some requests to workers, which end with
//! their prompts; a bounded number of them is under way at a time.

mod decisions;
mod embeddings;

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use vlinders_openai_api::{ApiError, Options, Prompt};
use vlinders_types::{FinishReason, TokenCounts, TokenId};

use crate::app::App;
use crate::generate::{Door, Submission, check_tokens, enqueue, outcome, pattern, serve, specs, text_error};
use crate::http::{RequestContext, RequestRecord, json_response, read_json};
use crate::streams::{End, News};
use crate::{Caller, ServedModel};

/// Requests of one call that are under way at a time.
const AT_ONCE: usize = 32;

/// What is asked of prompts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Probe {
    Embeddings,
    Decisions,
}

/// `/v1/embeddings`.
pub(crate) async fn embeddings(
    State(app): State<Arc<App>>,
    Extension(context): Extension<RequestContext>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Response {
    serve(app, (context, caller), Door::Probes(Probe::Embeddings), request).await
}

/// `/v1/decisions`.
pub(crate) async fn decisions(
    State(app): State<Arc<App>>,
    Extension(context): Extension<RequestContext>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Response {
    serve(app, (context, caller), Door::Probes(Probe::Decisions), request).await
}

/// A question whose tokens are known.
pub(crate) enum Asked {
    Embeddings(embeddings::Asked),
    Decision(decisions::Asked),
}

impl Asked {
    /// Tokens it uses.
    pub(crate) fn tokens(&self) -> u64 {
        match self {
            Self::Embeddings(asked) => asked.tokens() as u64,
            Self::Decision(asked) => asked.tokens() as u64,
        }
    }

    /// Whom it is asked of.
    pub(crate) fn model(&self) -> &ServedModel {
        match self {
            Self::Embeddings(asked) => asked.model().1,
            Self::Decision(asked) => asked.model().1,
        }
    }
}

/// Reads and prepares a question, as far as its caller may ask it.
pub(crate) async fn prepare(
    app: &Arc<App>,
    context: &RequestContext,
    (caller, probe): (&Caller, Probe),
    request: Request,
) -> Result<Asked, ApiError> {
    let body = read_json(app, request).await?;
    let unknown = caller.unknown_fields(app.config.unknown_fields);
    let preparing = Arc::clone(app);
    let work = move || match probe {
        Probe::Embeddings => embeddings::prepare(&preparing, unknown, &body.bytes).map(Asked::Embeddings),
        Probe::Decisions => decisions::prepare(&preparing, unknown, &body.bytes).map(Asked::Decision),
    };
    let asked = app.preparer.run(work).await?;
    let (name, model) = match &asked {
        Asked::Embeddings(asked) => asked.model(),
        Asked::Decision(asked) => asked.model(),
    };
    caller.require_model(name)?;
    let tokens = usize::try_from(asked.tokens()).unwrap_or(usize::MAX);
    context.record.prepared(&model.name, tokens);
    Ok(asked)
}

/// A question that was let in.
pub(crate) async fn answer(
    app: &App,
    context: RequestContext,
    caller: Caller,
    asked: Asked,
) -> Result<Response, ApiError> {
    let submission = Submission {
        request_id: context.request_id,
        caller,
        trace: context.span,
        class: context.class,
        first_attempt: context.first_attempt,
    };
    let record = &context.record;
    Ok(match asked {
        Asked::Embeddings(asked) => {
            let answer = embeddings::embed(app, &submission, asked, record).await?;
            json_response(StatusCode::OK, &answer)
        }
        Asked::Decision(asked) => {
            let answer = decisions::decide(app, &submission, asked, record).await?;
            json_response(StatusCode::OK, &answer)
        }
    })
}

/// What workers told of some prompts, in the order they were asked, and what that used.
struct Told {
    news: Vec<News>,
    counts: TokenCounts,
}

/// Asks workers, and waits for all of them. Whoever leaves meanwhile cancels what is under way and asks for no more.
async fn ask(
    app: &App,
    submission: &Submission,
    requests: Vec<vlinders_types::Request>,
    record: &RequestRecord,
) -> Result<Told, ApiError> {
    let mut told = Told {
        news: Vec::with_capacity(requests.len()),
        counts: TokenCounts::default(),
    };
    let mut requests = requests.into_iter();
    loop {
        let group: Vec<_> = requests.by_ref().take(AT_ONCE).collect();
        if group.is_empty() {
            record.ended(FinishReason::Stop, told.counts);
            return Ok(told);
        }
        ask_group(app, submission, group, record, &mut told).await?;
    }
}

async fn ask_group(
    app: &App,
    submission: &Submission,
    group: Vec<vlinders_types::Request>,
    record: &RequestRecord,
    told: &mut Told,
) -> Result<(), ApiError> {
    let mut specs = specs(app, submission, group);
    if let Some(first) = specs.first_mut() {
        // Whom it would follow went before with another group.
        first.is_follower = false;
    }
    let mut claim = enqueue(app, specs).await?;
    let first = told.news.len();
    told.news.resize_with(first + claim.count(), News::default);
    let mut open = claim.count();
    while open > 0 {
        let (index, news) = claim.next().await;
        let whole = &mut told.news[first + index];
        whole.scores.extend(news.scores);
        whole.embedding.extend(news.embedding);
        let Some(end) = news.end else { continue };
        open -= 1;
        let reason = match &end {
            End::Finished(finish) => finish.reason,
            End::GivenUp(_) => FinishReason::Error,
        };
        let (_, used) = outcome(end).inspect_err(|_error| record.broke_off(reason, None))?;
        let billed = claim.request(index).billed(used);
        let counts = &mut told.counts;
        counts.prompt = counts.prompt.saturating_add(billed.prompt);
        counts.cached = counts.cached.saturating_add(billed.cached);
    }
    Ok(())
}

/// The tokens of an input.
fn tokens_of(model: &ServedModel, input: Prompt, name: &str) -> Result<Vec<TokenId>, ApiError> {
    let ids = match input {
        Prompt::Text(text) => {
            let ids = model.text.encode(&text, true);
            ids.map_err(|error| text_error(name, &error))?
        }
        Prompt::Tokens(ids) => {
            check_tokens(name, ids.iter().copied(), model)?;
            ids
        }
    };
    if ids.is_empty() {
        return Err(ApiError::invalid(name, "must hold at least one token"));
    }
    Ok(ids)
}

/// Whether so many tokens fit the model.
fn check_length(model: &ServedModel, tokens: usize, name: &str) -> Result<(), ApiError> {
    let context = model.max_context_tokens;
    if u32::try_from(tokens).is_ok_and(|tokens| tokens <= context) {
        return Ok(());
    }
    let text = format!("{tokens} tokens are more than this model's context ({context})");
    Err(ApiError::invalid(name, text).with_code("context_length_exceeded"))
}

/// A request of this caller, treated as its client wishes and its key allows.
fn pattern_of(
    app: &App,
    submission: &Submission,
    model: &ServedModel,
    options: &Options,
) -> vlinders_types::Request {
    vlinders_types::Request {
        priority: submission.caller.priority(submission.class, options.priority),
        cache_salt: options.cache_salt.clone(),
        ..pattern(app, submission, &model.name)
    }
}
