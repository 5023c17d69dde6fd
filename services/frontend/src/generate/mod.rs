//! `/v1/chat/completions` and `/v1/completions`: check, prepare, enqueue, answer.

mod admit;
mod chat;
mod choices;
mod events;
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

use axum::Extension;
use axum::extract::{Request, State};
use axum::response::Response;
use vlinders_ledger::Tokens;
use vlinders_openai_api::ApiError;
use vlinders_types::ModelName;

pub(crate) use admit::Admitting;
pub(crate) use chat::chat_prompt;
pub(crate) use failure::outcome;
pub(crate) use form::Forms;
use prepare::PrepareOrder;
pub(crate) use prepare::{Prepared, Preparer, check_tokens, find_model, model_not_found, text_error};
pub(crate) use submit::{Submission, enqueue, pattern, specs};

use crate::app::App;
use crate::http::{RequestContext, read_json};
use crate::probes::{self, Probe};
use crate::{Caller, Cost};

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
    let admitting = Admitting {
        app: &app,
        context: &context,
        caller: &caller,
    };
    let answered = async {
        match priced.map(|(understood, _)| understood)? {
            Understood::Answer(prepared) => answer(&app, context.clone(), caller.clone(), *prepared).await,
            Understood::Probe(asked) => probes::answer(&app, context.clone(), caller.clone(), *asked).await,
        }
    };
    admitting.answer((cost, rates), answered).await
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
    prepared.priority = caller.priority(context.class, prepared.priority);
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
        first_attempt: context.first_attempt,
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
