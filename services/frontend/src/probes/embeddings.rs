//! `/v1/embeddings`: each input is a request of its own, with a bill of its own.

use std::sync::Arc;

use vlinders_openai_api::{ApiError, EmbeddingAnswer, EmbeddingRequest, UnknownFields, parse_embeddings};
use vlinders_types::{Request, Task, TokenId};

use super::{ask, check_length, pattern_of, tokens_of};
use crate::ServedModel;
use crate::app::App;
use crate::generate::{Submission, find_model};
use crate::http::RequestRecord;

/// Inputs as tokens.
pub(crate) struct Asked {
    model: Arc<ServedModel>,
    request: EmbeddingRequest,
    inputs: Vec<Vec<TokenId>>,
}

impl Asked {
    /// As the client named it, and what it is.
    pub(super) fn model(&self) -> (&str, &ServedModel) {
        (&self.request.model, &self.model)
    }

    /// Tokens of all inputs.
    pub(super) fn tokens(&self) -> usize {
        self.inputs.iter().map(Vec::len).sum()
    }
}

pub(super) fn prepare(app: &App, unknown: UnknownFields, body: &[u8]) -> Result<Asked, ApiError> {
    let mut request = parse_embeddings(body, unknown)?;
    let model = find_model(app, &request.model)?;
    if let Some(dimensions) = request.dimensions
        && dimensions > model.hidden
    {
        let text = format!(
            "{dimensions} is more than this model's vectors have ({})",
            model.hidden
        );
        return Err(ApiError::invalid("dimensions", text));
    }
    let inputs = std::mem::take(&mut request.inputs);
    let tokens = inputs.into_iter().map(|input| {
        let ids = tokens_of(&model, input, "input")?;
        check_length(&model, ids.len(), "input")?;
        Ok(ids)
    });
    let inputs = tokens.collect::<Result<_, ApiError>>()?;
    Ok(Asked {
        model,
        request,
        inputs,
    })
}

pub(super) async fn embed(
    app: &App,
    submission: &Submission,
    asked: Asked,
    record: &RequestRecord,
) -> Result<EmbeddingAnswer, ApiError> {
    let Asked {
        model,
        request,
        inputs,
    } = asked;
    let pattern = pattern_of(app, submission, &model, &request.options);
    let requests = (0..).zip(inputs).map(|(index, ids)| Request {
        request_id: pattern.request_id.of_choice(index),
        prompt_ids: ids,
        task: Task::Embed {
            pooling: model.pooling,
            dimensions: request.dimensions,
        },
        ..pattern.clone()
    });
    let told = ask(app, submission, requests.collect(), record).await?;
    Ok(EmbeddingAnswer {
        model: request.model,
        vectors: told.news.into_iter().map(|news| news.embedding).collect(),
        encoding: request.encoding,
        prompt_tokens: told.counts.prompt,
    })
}
