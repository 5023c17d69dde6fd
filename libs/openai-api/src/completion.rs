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
    /// What to complete; at least one, none of them empty.
    pub prompts: Vec<Prompt>,
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
    let prompts = raw.prompt.take().map_or_else(Vec::new, |prompts| prompts.0);
    if prompts.is_empty() {
        return Err(ApiError::invalid("prompt", "this field is required"));
    }
    let mut options = options::read(&mut raw)?;
    options.logprobs = logprobs(raw.logprobs)?;
    let echo = raw.echo.unwrap_or(false);
    if echo && options.logprobs.is_some() && options.stream && options.choices.computed > 1 {
        let text = "a stream of several choices does not tell echoed log-probabilities; set stream to false";
        return Err(ApiError::not_offered("n", text));
    }
    let answers = prompts.len() * options.choices.computed as usize;
    if answers > LIMITS.answers {
        let text = format!(
            "{answers} answers, prompts times choices, are more than {}",
            LIMITS.answers
        );
        return Err(ApiError::invalid("prompt", text));
    }
    Ok(CompletionRequest {
        model,
        prompts,
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
