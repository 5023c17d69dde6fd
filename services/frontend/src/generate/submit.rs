//! Putting a prepared request into the queue.

use std::sync::Arc;

use tokio::time::Instant;
use vlinders_bus::{BusError, StreamName, Subject};
use vlinders_openai_api::{ApiError, Envelope};
use vlinders_types::{
    BillingClass, ModelName, Request, RequestId, SamplingParams, StopRules, Task, TextRules,
};
use vlinders_wire::encode_request;
use vlinders_wire::subjects::{request_message_id, request_subject};

use super::choices::seed_of_choice;
use super::events::UsageTold;
use super::prepare::{Prepared, PreparedPrompt};
use super::prompts::Prompts;
use super::writer::{AnswerShape, ChoiceCounts, Writer, WriterParts};
use crate::Caller;
use crate::app::App;
use crate::spans::{RequestSpan, published_us};
use crate::streams::{Claim, StreamSpec};

/// Names this build in every answer.
const FINGERPRINT: &str = concat!("fp_vlinders_", env!("CARGO_PKG_VERSION"));
/// Seconds after which a full queue may have room again.
const QUEUE_RETRY_S: u32 = 1;

/// Who asks, under which id and at which price.
pub(crate) struct Submission {
    pub(crate) request_id: RequestId,
    pub(crate) caller: Caller,
    pub(crate) trace: RequestSpan,
    pub(crate) class: BillingClass,
    pub(crate) first_attempt: u32,
}

/// Opens a stream and enqueues the request. From here on, dropping the claim cancels it.
pub(crate) async fn submit(
    app: &App,
    submission: Submission,
    prepared: Prepared,
) -> Result<(Claim, Writer), ApiError> {
    let (specs, writer) = split(app, submission, prepared);
    Ok((enqueue(app, specs).await?, writer))
}

/// Opens streams and enqueues their requests.
pub(crate) async fn enqueue(app: &App, specs: Vec<StreamSpec>) -> Result<Claim, ApiError> {
    if app.stopping.is_cancelled() {
        let text = "the server is shutting down; try again";
        return Err(ApiError::new(503, "shutting_down", text).with_retry_after(QUEUE_RETRY_S));
    }
    let claim = app.streams.open(specs).map_err(|_too_many| {
        ApiError::new(503, "overloaded", "too many requests are running; try again soon")
            .with_retry_after(QUEUE_RETRY_S)
    })?;
    let request = claim.request(0);
    let subject = Subject::new(request_subject(&request.model, &app.config.queue));
    let message_id = request_message_id(request);
    let payload = encode_request(request);
    let stored = app
        .bus
        .enqueue(StreamName::Requests, &subject, &message_id, payload);
    match stored.await {
        Ok(_stored) => {
            claim.begin_others();
            Ok(claim)
        }
        Err(error) => Err(refused(claim, &error)),
    }
}

fn refused(claim: Claim, error: &BusError) -> ApiError {
    match error {
        BusError::Full { .. } => {
            claim.withdraw();
            let text = "the queue is full; try again soon";
            ApiError::new(429, "queue_full", text).with_retry_after(QUEUE_RETRY_S)
        }
        BusError::TooLarge { .. } => {
            claim.withdraw();
            ApiError::new(
                413,
                "request_too_large",
                "the request is larger than the queue carries",
            )
        }
        // It may have been stored all the same.
        BusError::NoResponders { .. }
        | BusError::Timeout { .. }
        | BusError::Closed(_)
        | BusError::Refused(_)
        | BusError::InvalidSubject { .. }
        | BusError::NoStream { .. }
        | BusError::Overlap { .. } => {
            tracing::error!(request = %claim.request(0).request_id, %error, "request not enqueued");
            claim.disown();
            ApiError::new(
                503,
                "queue_unavailable",
                "the queue is not reachable; try again soon",
            )
            .with_retry_after(QUEUE_RETRY_S)
        }
    }
}

/// Parts the prepared request into what goes to the worker and what stays for the answer.
fn split(app: &App, submission: Submission, prepared: Prepared) -> (Vec<StreamSpec>, Writer) {
    let created_ms = app.clock.now_ms();
    let prompt_tokens = u32::try_from(prepared.prompt_tokens()).unwrap_or(u32::MAX);
    let prefix = match &prepared.shape {
        AnswerShape::Chat { .. } => "chatcmpl",
        AnswerShape::Completion { .. } => "cmpl",
    };
    let envelope = Envelope {
        id: format!("{prefix}-{}", submission.request_id),
        created: created_ms / 1000,
        model: prepared.asked_model,
        system_fingerprint: FINGERPRINT,
        service_tier: prepared.names_service_tier.then_some("default"),
    };
    let pattern = Request {
        stream: prepared.is_streamed,
        sampling: prepared.sampling,
        stop: prepared.stop,
        constraint: prepared.wanted.map(|wanted| wanted.constraint),
        text: prepared.text,
        priority: prepared.priority,
        cache_salt: prepared.cache_salt,
        prompt_logprobs: prepared.prompt_logprobs,
        ..pattern(app, &submission, &prepared.model.name)
    };
    let counts = ChoiceCounts {
        choices: (prepared.choices.told as usize) * prepared.prompts.len(),
        per_prompt: prepared.choices.told as usize,
        prompt_tokens,
    };
    let usage = match (prepared.includes_usage, prepared.counts_continuously) {
        (false, _) => UsageTold::Never,
        (true, false) => UsageTold::AtTheEnd,
        (true, true) => UsageTold::Always,
    };
    let ids = prepared.prompts.iter().map(|prompt| prompt.ids.clone()).collect();
    let prompts = Prompts::new(Arc::clone(&prepared.model.text), ids);
    let requests = requests(&pattern, prepared.prompts, prepared.choices.computed);
    let specs = specs(app, &submission, requests);
    let writer = Writer::new(WriterParts {
        envelope,
        shape: prepared.shape,
        usage,
        told: prepared.told,
        counts,
        id: submission.request_id,
        prompts,
    });
    (specs, writer)
}

/// A request of this caller that asks for nothing yet.
pub(crate) fn pattern(app: &App, submission: &Submission, model: &ModelName) -> Request {
    let created_ms = app.clock.now_ms();
    let deadline_ms = u64::try_from(app.config.request_deadline.as_millis()).unwrap_or(u64::MAX);
    let parent = submission.trace.parent();
    Request {
        request_id: submission.request_id,
        attempt: submission.first_attempt,
        tenant: submission.caller.tenant.clone(),
        key: submission.caller.key.clone(),
        model: model.clone(),
        frontend: app.frontend.clone(),
        // Given by the table of streams.
        handle: 0,
        created_ms,
        deadline_ms: created_ms.saturating_add(deadline_ms),
        stream: false,
        prompt_ids: Vec::new(),
        emitted_ids: Vec::new(),
        sampling: SamplingParams::default(),
        stop: StopRules::default(),
        constraint: None,
        text: TextRules::default(),
        bills_prompt: true,
        class: submission.class,
        priority: 0,
        cache_salt: None,
        trace_parent: parent.map(|parent| parent.to_string()),
        published_us: published_us(parent),
        task: Task::Generate,
        prompt_logprobs: None,
    }
}

/// Streams for requests; those that are not billed for their prompts follow the one before them that is.
pub(crate) fn specs(app: &App, submission: &Submission, requests: Vec<Request>) -> Vec<StreamSpec> {
    let deadline = Instant::now() + app.config.request_deadline;
    let spec = |request: Request| StreamSpec {
        is_follower: !request.bills_prompt,
        request,
        span: submission.trace.span.clone(),
        deadline,
        buffer_bytes: app.config.stream_buffer_bytes,
    };
    requests.into_iter().map(spec).collect()
}

/// A request for each choice of each prompt. The first one of each prompt goes before the others and is billed for the
/// prompt.
fn requests(pattern: &Request, prompts: Vec<PreparedPrompt>, choices: u32) -> Vec<Request> {
    let mut requests = Vec::with_capacity(prompts.len() * choices as usize);
    for (prompt, index) in prompts.iter().zip(0_u32..) {
        for choice in 0..choices {
            let mut request = pattern.clone();
            request.request_id = pattern.request_id.of_choice(index * choices + choice);
            request.prompt_ids.clone_from(&prompt.ids);
            request.stop.max_tokens = prompt.max_tokens;
            request.sampling.seed = seed_of_choice(pattern.sampling.seed, choice);
            request.bills_prompt = choice == 0;
            if choice > 0 {
                // The first one tells it for all.
                request.prompt_logprobs = None;
            }
            if prompt.max_tokens == 0 {
                let from_second = u32::from(!prompt.ids.is_empty());
                let nothing = u32::try_from(prompt.ids.len()).unwrap_or(u32::MAX);
                let first = request.prompt_logprobs.map_or(nothing, |_| from_second);
                request.task = Task::Score { first };
                request.prompt_logprobs = Some(request.prompt_logprobs.unwrap_or(0));
            }
            requests.push(request);
        }
    }
    requests
}
