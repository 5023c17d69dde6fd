//! The body of `/v1/completions`.

use crate::chat::required_model;
use crate::names::{self, Endpoint};
use crate::raw::{RawRequest, count_in};
use crate::values::{Logprobs, Whole};
use crate::{ApiError, LIMITS, Options, Prompt, UnknownFields, json, options};

/// A text to go on with.
#[derive(Clone, Debug, PartialEq)]
pub struct CompletionRequest {
    /// The model as the client names it.
    pub model: String,
    /// What to complete; not empty.
    pub prompt: Prompt,
    /// Begin the answer with the prompt.
    pub echo: bool,
    /// Everything else.
    pub options: Options,
}

/// Reads and checks a body.
///
/// # Errors
/// The 400 to answer with.
pub fn parse_completion(body: &[u8], unknown: UnknownFields) -> Result<CompletionRequest, ApiError> {
    json::check_depth(body)?;
    names::check(body, Endpoint::Completion, unknown)?;
    let mut raw: RawRequest = json::read(body)?;
    let model = required_model(&mut raw)?;
    let prompt = match raw.prompt.take() {
        None => return Err(ApiError::invalid("prompt", "this field is required")),
        Some(Prompt::Text(text)) if text.is_empty() => {
            return Err(ApiError::invalid("prompt", "must not be empty"));
        }
        Some(Prompt::Tokens(tokens)) if tokens.is_empty() => {
            return Err(ApiError::invalid("prompt", "must not be empty"));
        }
        Some(prompt) => prompt,
    };
    let mut options = options::read(&mut raw)?;
    options.logprobs = logprobs(raw.logprobs)?;
    let echo = raw.echo.unwrap_or(false);
    if echo && options.logprobs.is_some() {
        let text = "log-probabilities of the prompt are not offered yet; leave out echo or logprobs";
        return Err(ApiError::not_offered("logprobs", text));
    }
    Ok(CompletionRequest {
        model,
        prompt,
        echo,
        options,
    })
}

fn logprobs(asked: Option<Logprobs>) -> Result<Option<u8>, ApiError> {
    let count = match asked {
        None | Some(Logprobs::Flag(false)) => None,
        Some(Logprobs::Flag(true)) => {
            return Err(ApiError::invalid("logprobs", "must be a whole number here"));
        }
        Some(Logprobs::Count(count)) => Some(Whole(count)),
    };
    let count = count_in("logprobs", count, LIMITS.top_logprobs)?;
    Ok(count.map(|count| u8::try_from(count).expect("the range of top_logprobs lies inside 8 bits")))
}
