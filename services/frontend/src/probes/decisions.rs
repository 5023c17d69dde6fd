//! `/v1/decisions`: a request for each label. The first one computes the context, the others find it in the prefix cache.

use std::sync::Arc;

use vlinders_openai_api::{
    ApiError, DecisionAnswer, DecisionContext, DecisionHead, DecisionRequest, UnknownFields, Usage,
    parse_decision,
};
use vlinders_types::{Request, Task, TokenId};

use super::{ask, check_length, pattern_of, tokens_of};
use crate::ServedModel;
use crate::app::App;
use crate::generate::{Submission, chat_prompt, find_model, text_error};
use crate::http::RequestRecord;
use crate::streams::News;

/// Contexts and labels as tokens.
pub(crate) struct Asked {
    model: Arc<ServedModel>,
    request: DecisionRequest,
    context: Vec<TokenId>,
    neutral: Option<Vec<TokenId>>,
    labels: Vec<Vec<TokenId>>,
}

impl Asked {
    /// As the client named it, and what it is.
    pub(super) fn model(&self) -> (&str, &ServedModel) {
        (&self.request.model, &self.model)
    }

    /// Tokens that are billed: each context with its first label.
    pub(super) fn tokens(&self) -> usize {
        let label = self.labels.first().map_or(0, Vec::len);
        let contexts = [Some(&self.context), self.neutral.as_ref()];
        contexts
            .into_iter()
            .flatten()
            .map(|context| context.len() + label)
            .sum()
    }
}

pub(super) fn prepare(app: &App, unknown: UnknownFields, body: &[u8]) -> Result<Asked, ApiError> {
    let request = parse_decision(body, unknown)?;
    let model = find_model(app, &request.model)?;
    let context = tokens_before(app, &model, &request.context)?;
    let neutral = request.neutral.as_ref();
    let neutral = neutral
        .map(|neutral| tokens_before(app, &model, neutral))
        .transpose()?;
    let mut labels = Vec::with_capacity(request.labels.len());
    for (index, label) in request.labels.iter().enumerate() {
        let name = format!("labels[{index}]");
        let ids = model.text.encode(label, false);
        let ids = ids.map_err(|error| text_error(&name, &error))?;
        if ids.is_empty() {
            return Err(ApiError::invalid(&name, "must hold at least one token"));
        }
        check_length(&model, context.len() + ids.len(), name_of(&request.context))?;
        labels.push(ids);
    }
    Ok(Asked {
        model,
        request,
        context,
        neutral,
        labels,
    })
}

fn name_of(context: &DecisionContext) -> &'static str {
    match context {
        DecisionContext::Input(_) => "input",
        DecisionContext::Chat(_) => "messages",
    }
}

fn tokens_before(
    app: &App,
    model: &ServedModel,
    context: &DecisionContext,
) -> Result<Vec<TokenId>, ApiError> {
    match context {
        DecisionContext::Input(input) => tokens_of(model, input.clone(), "input"),
        DecisionContext::Chat(chat) => chat_prompt(app, model, chat, false),
    }
}

pub(super) async fn decide(
    app: &App,
    submission: &Submission,
    asked: Asked,
    record: &RequestRecord,
) -> Result<DecisionAnswer, ApiError> {
    let Asked {
        model,
        request,
        context,
        neutral,
        labels,
    } = asked;
    let contexts: Vec<&[TokenId]> = [Some(&context), neutral.as_ref()]
        .into_iter()
        .flatten()
        .map(Vec::as_slice)
        .collect();
    let pattern = pattern_of(app, submission, &model, &request.options);
    let mut requests = Vec::with_capacity(contexts.len() * labels.len());
    for context in &contexts {
        for (index, label) in labels.iter().enumerate() {
            let number = u32::try_from(requests.len()).expect("labels are few");
            requests.push(Request {
                request_id: pattern.request_id.of_choice(number),
                bills_prompt: index == 0,
                ..scored(&pattern, context, label)
            });
        }
    }
    let told = ask(app, submission, requests, record).await?;
    let logprobs: Vec<f64> = told.news.iter().map(logprob).collect();
    let (own, neutral) = logprobs.split_at(labels.len());
    let head = DecisionHead {
        id: format!("decision-{}", submission.request_id),
        created: pattern.created_ms / 1000,
        model: request.model,
        usage: Usage::from(told.counts),
    };
    let labels = request.labels.into_iter().zip(own.iter().copied()).collect();
    Ok(DecisionAnswer::new(
        head,
        labels,
        (!neutral.is_empty()).then_some(neutral),
    ))
}

/// Asks how likely a label is after a context.
fn scored(pattern: &Request, context: &[TokenId], label: &[TokenId]) -> Request {
    Request {
        prompt_ids: [context, label].concat(),
        task: Task::Score {
            first: u32::try_from(context.len()).expect("checked against the model's context"),
        },
        prompt_logprobs: Some(0),
        ..pattern.clone()
    }
}

/// Of all tokens of a label.
fn logprob(news: &News) -> f64 {
    news.scores.iter().map(|score| f64::from(score.logprob)).sum()
}
