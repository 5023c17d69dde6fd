//! From a body to a request for the queue: parsing, template, tokens, limits of the model. All of it computes, so it
//! runs off the async threads, a bounded number at a time.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::timeout;
use vlinders_ledger::Tokens;
use vlinders_openai_api::{
    ApiError, Choices, CompletionRequest, LIMITS, Options, Prompt, Truncation, UnknownFields, Wanted,
    parse_chat, parse_completion,
};
use vlinders_text::TextError;
use vlinders_types::{Constraint, SamplingParams, SpecialTokens, StopRules, TextRules, TokenId};

use super::chat::prepare_chat;
use super::events::TokensTold;
use super::writer::AnswerShape;
use super::{Endpoint, form};
use crate::ServedModel;
use crate::app::App;
use crate::http::HeldBody;

/// A request ready for the queue, and how its answer shall look.
pub(crate) struct Prepared {
    pub(crate) model: Arc<ServedModel>,
    pub(crate) asked_model: String,
    /// At least one.
    pub(crate) prompts: Vec<PreparedPrompt>,
    /// Answers to each prompt.
    pub(crate) choices: Choices,
    pub(crate) sampling: SamplingParams,
    /// Workers tell so much of the prompts.
    pub(crate) prompt_logprobs: Option<u8>,
    /// What holds for every prompt; the limit on tokens is each prompt's own.
    pub(crate) stop: StopRules,
    pub(crate) text: TextRules,
    /// The form of the answers, and the parameter that asked for it.
    pub(crate) wanted: Option<Wanted>,
    pub(crate) priority: i32,
    pub(crate) cache_salt: Option<String>,
    pub(crate) is_streamed: bool,
    pub(crate) includes_usage: bool,
    pub(crate) counts_continuously: bool,
    pub(crate) names_service_tier: bool,
    pub(crate) told: TokensTold,
    pub(crate) shape: AnswerShape,
}

/// One prompt.
pub(crate) struct PreparedPrompt {
    pub(crate) ids: Vec<TokenId>,
    /// Tokens that each answer may have.
    pub(crate) max_tokens: u32,
}

impl Prepared {
    /// The most tokens it may use, of its prompts and all answers to them.
    pub(crate) fn most_tokens(&self) -> Tokens {
        let answers = u64::from(self.choices.computed);
        let most = |prompt: &PreparedPrompt| answers * u64::from(prompt.max_tokens);
        Tokens {
            prompt: self.prompt_tokens() as u64,
            cached: 0,
            completion: self.prompts.iter().map(most).sum(),
        }
    }

    /// Tokens of all prompts.
    pub(crate) fn prompt_tokens(&self) -> usize {
        self.prompts.iter().map(|prompt| prompt.ids.len()).sum()
    }
}

/// What came, and how it is to be read.
pub(crate) struct PrepareOrder {
    pub(crate) endpoint: Endpoint,
    pub(crate) body: HeldBody,
    pub(crate) unknown: UnknownFields,
}

/// Prepares a bounded number of requests at a time.
pub(crate) struct Preparer {
    /// Running and waiting.
    places: Arc<Semaphore>,
    running: Arc<Semaphore>,
    /// How long one may wait for its turn; without a limit until it comes.
    patience: Option<Duration>,
}

impl Preparer {
    pub(crate) fn new(running: usize, waiting: usize) -> Self {
        Self {
            places: Arc::new(Semaphore::new(running + waiting)),
            running: Arc::new(Semaphore::new(running)),
            patience: None,
        }
    }

    /// Lets nobody wait for longer than this before the work begins.
    pub(crate) fn with_patience(self, patience: Duration) -> Self {
        Self {
            patience: Some(patience),
            ..self
        }
    }

    /// Prepares one request, or refuses when too many wait.
    pub(crate) async fn prepare(&self, app: Arc<App>, order: PrepareOrder) -> Result<Prepared, ApiError> {
        self.run(move || prepare(&app, &order)).await
    }

    /// Does other work of this kind in its turn, or refuses when too much waits.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let busy = || {
            ApiError::new(
                503,
                "overloaded",
                "too many requests are being prepared; try again soon",
            )
            .with_retry_after(1)
        };
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| busy())?;
        let turn = Arc::clone(&self.running).acquire_owned();
        let turn = match self.patience {
            None => turn.await,
            Some(patience) => timeout(patience, turn).await.map_err(|_late| busy())?,
        };
        let turn = turn.map_err(|_closed| busy())?;
        // The permits go with the work: a client that leaves does not make room for more before it is done.
        let work = tokio::task::spawn_blocking(move || {
            let _permits = (place, turn);
            work()
        });
        work.await.unwrap_or_else(|error| {
            tracing::error!(%error, "preparing a request panicked");
            Err(ApiError::new(
                500,
                "internal_error",
                "something went wrong on our side",
            ))
        })
    }
}

fn prepare(app: &App, order: &PrepareOrder) -> Result<Prepared, ApiError> {
    let (bytes, unknown) = (&order.body.bytes, order.unknown);
    match order.endpoint {
        Endpoint::Chat => prepare_chat(app, parse_chat(bytes, unknown)?),
        Endpoint::Completion => prepare_completion(app, parse_completion(bytes, unknown)?),
    }
}

pub(super) fn encode(
    model: &ServedModel,
    param: &str,
    text: &str,
    add_special: bool,
) -> Result<Vec<TokenId>, ApiError> {
    let ids = model.text.encode(text, add_special);
    ids.map_err(|error| text_error(param, &error))
}

fn prepare_completion(app: &App, request: CompletionRequest) -> Result<Prepared, ApiError> {
    let model = find_model(app, &request.model)?;
    let (mut prompts, mut echo) = (Vec::new(), Vec::new());
    for prompt in request.prompts {
        let (ids, text) = match prompt {
            Prompt::Text(text) => {
                let adds_special = request.options.adds_special_tokens.unwrap_or(true);
                (encode(&model, "prompt", &text, adds_special)?, text)
            }
            Prompt::Tokens(ids) => {
                check_tokens("prompt", ids.iter().copied(), &model)?;
                let text = if request.echo {
                    model.text.decode(&ids)
                } else {
                    String::new()
                };
                (ids, text)
            }
        };
        prompts.push(ids);
        echo.push(text);
    }
    let shape = AnswerShape::Completion {
        rivals: request.options.logprobs,
        prompt_logprobs: request.options.prompt_logprobs,
        echo: request.echo.then_some(echo),
    };
    let wishes = Wishes {
        // Nobody looks for markers in a plain text.
        special: if request.options.shows_special {
            SpecialTokens::AllShown
        } else {
            SpecialTokens::Hidden
        },
        asked_model: request.model,
        options: request.options,
        constraint: None,
        shape,
    };
    finish(app, model, ("prompt", prompts), wishes)
}

/// What is asked for beside the prompts.
pub(super) struct Wishes {
    pub(super) asked_model: String,
    pub(super) options: Options,
    pub(super) special: SpecialTokens,
    pub(super) constraint: Option<Constraint>,
    pub(super) shape: AnswerShape,
}

/// Holds everything against the model and joins it.
pub(super) fn finish(
    app: &App,
    model: Arc<ServedModel>,
    (prompt_name, prompts): (&str, Vec<Vec<TokenId>>),
    wishes: Wishes,
) -> Result<Prepared, ApiError> {
    let options = wishes.options;
    check_tokens(
        "logit_bias",
        options.logit_bias.iter().map(|(token, _)| *token),
        &model,
    )?;
    check_tokens("stop_token_ids", options.stop_token_ids.iter().copied(), &model)?;
    check_tokens(
        "allowed_token_ids",
        options.allowed_token_ids.iter().copied(),
        &model,
    )?;
    if options
        .logprobs
        .is_some_and(|rivals| u32::from(rivals) > model.vocabulary)
    {
        return Err(ApiError::invalid(
            "top_logprobs",
            "is more than this model has tokens",
        ));
    }
    let prompt_logprobs = told_of_prompts(&wishes.shape);
    let mut prompts = prompts;
    for ids in &mut prompts {
        truncate(&model, ids, &options);
    }
    check_told(&prompts, prompt_logprobs, model.vocabulary, &wishes.shape)?;
    let prompts = prompts.into_iter().map(|ids| {
        let max_tokens = max_tokens(&model, prompt_name, ids.len(), &options)?;
        Ok(PreparedPrompt { ids, max_tokens })
    });
    let prompts: Vec<PreparedPrompt> = prompts.collect::<Result<_, ApiError>>()?;
    let most = prompts.iter().map(|prompt| prompt.max_tokens).max().unwrap_or(1);
    let mut sampling = options.sampling(&default_sampling(&model), app.entropy.next_u64());
    sampling.bad_words = bad_words(&model, &options.bad_words)?;
    if options.choices.computed > options.choices.told {
        // The most likely answers are found by their tokens' log-probabilities.
        sampling.logprobs = sampling.logprobs.or(Some(0));
    }
    Ok(Prepared {
        prompt_logprobs,
        sampling,
        stop: options.stop_rules(most),
        text: TextRules {
            includes_stop: options.includes_stop,
            special: wishes.special,
        },
        choices: options.choices,
        model,
        asked_model: wishes.asked_model,
        prompts,
        wanted: form::wanted(wishes.constraint, options.wanted)?,
        priority: options.priority,
        cache_salt: options.cache_salt,
        is_streamed: options.stream,
        includes_usage: options.include_usage,
        counts_continuously: options.counts_continuously,
        names_service_tier: options.names_service_tier,
        told: TokensTold {
            ids: options.tells_token_ids,
            names: options.token_names,
        },
        shape: wishes.shape,
    })
}

/// The tokens of bad words, as they stand at the beginning of a text and behind a space.
fn bad_words(model: &ServedModel, words: &[String]) -> Result<Vec<Vec<TokenId>>, ApiError> {
    let mut runs = Vec::new();
    for (index, word) in words.iter().enumerate() {
        let name = format!("bad_words[{index}]");
        let bare = word.trim_start();
        for text in [bare.to_owned(), format!(" {bare}")] {
            let run = encode(model, &name, &text, false)?;
            if !run.is_empty() && !runs.contains(&run) {
                runs.push(run);
            }
        }
    }
    Ok(runs)
}

/// How many rivals of a prompt's tokens workers must tell; none when nothing is asked of the prompts.
fn told_of_prompts(shape: &AnswerShape) -> Option<u8> {
    match shape {
        AnswerShape::Chat { prompt_logprobs, .. } => *prompt_logprobs,
        AnswerShape::Completion {
            rivals,
            prompt_logprobs,
            echo,
        } => rivals.filter(|_| echo.is_some()).max(*prompt_logprobs),
    }
}

/// An answer that tells much of much must stay within bounds.
fn check_told(
    prompts: &[Vec<TokenId>],
    told: Option<u8>,
    vocabulary: u32,
    shape: &AnswerShape,
) -> Result<(), ApiError> {
    let Some(top) = told else { return Ok(()) };
    let name = match shape {
        AnswerShape::Chat { .. } => "prompt_logprobs",
        AnswerShape::Completion { prompt_logprobs, .. } if *prompt_logprobs == told => "prompt_logprobs",
        AnswerShape::Completion { .. } => "logprobs",
    };
    if u32::from(top) > vocabulary {
        return Err(ApiError::invalid(name, "is more than this model has tokens"));
    }
    let tokens: usize = prompts.iter().map(Vec::len).sum();
    let entries = tokens.saturating_mul(1 + usize::from(top));
    if entries > LIMITS.prompt_logprob_entries {
        let most = LIMITS.prompt_logprob_entries;
        let text = format!(
            "{top} rivals of each of {tokens} prompt tokens make more than {most} entries; ask for fewer"
        );
        return Err(ApiError::invalid(name, text));
    }
    Ok(())
}

/// Leaves the prompt's last tokens, if the client wants no more of it.
fn truncate(model: &ServedModel, ids: &mut Vec<TokenId>, options: &Options) {
    let kept = match options.truncation {
        None => return,
        Some(Truncation::Tokens(tokens)) => tokens,
        Some(Truncation::ToFit) => model
            .max_context_tokens
            .saturating_sub(options.max_tokens.unwrap_or(1)),
    };
    let kept = usize::try_from(kept).unwrap_or(usize::MAX);
    if ids.len() > kept {
        ids.drain(..ids.len() - kept);
    }
}

/// How many tokens the answer may have: what the client asked for, or else all that fits behind the prompt.
fn max_tokens(
    model: &ServedModel,
    prompt_name: &str,
    prompt_tokens: usize,
    options: &Options,
) -> Result<u32, ApiError> {
    let context = model.max_context_tokens;
    let left = u32::try_from(prompt_tokens)
        .ok()
        .and_then(|prompt| context.checked_sub(prompt))
        .unwrap_or(0);
    if prompt_tokens == 0 {
        return Err(ApiError::invalid(prompt_name, "must hold at least one token"));
    }
    if options.max_tokens == Some(0) && u32::try_from(prompt_tokens).is_ok_and(|prompt| prompt <= context) {
        return Ok(0);
    }
    if left == 0 {
        let text =
            format!("{prompt_tokens} tokens leave no room for an answer in this model's context ({context})");
        return Err(ApiError::invalid(prompt_name, text).with_code("context_length_exceeded"));
    }
    let highest = u32::try_from(LIMITS.max_tokens.max).unwrap_or(u32::MAX);
    let max_tokens = options.max_tokens.unwrap_or(left.min(highest));
    if max_tokens > left {
        let text = format!("{max_tokens} is more than this model allows ({left} left after your prompt)");
        return Err(ApiError::invalid(options.max_tokens_name(), text).with_code("context_length_exceeded"));
    }
    if options.min_tokens > max_tokens {
        let text = format!(
            "{} is more than this model allows ({left} left after your prompt)",
            options.min_tokens
        );
        return Err(ApiError::invalid("min_tokens", text).with_code("context_length_exceeded"));
    }
    Ok(max_tokens)
}

pub(crate) fn check_tokens(
    name: &str,
    mut tokens: impl Iterator<Item = TokenId>,
    model: &ServedModel,
) -> Result<(), ApiError> {
    match tokens.find(|token| *token >= model.vocabulary) {
        Some(token) => {
            let text = format!(
                "token {token} is outside this model's vocabulary of {}",
                model.vocabulary
            );
            Err(ApiError::invalid(name, text))
        }
        None => Ok(()),
    }
}

/// What the API says holds, over what the model's makers say, which the options come over.
fn default_sampling(model: &ServedModel) -> SamplingParams {
    let (advice, usual) = (model.text.default_sampling(), SamplingParams::default());
    SamplingParams {
        temperature: advice.temperature.unwrap_or(usual.temperature),
        top_p: advice.top_p.unwrap_or(usual.top_p),
        top_k: advice.top_k.unwrap_or(usual.top_k),
        min_p: advice.min_p.unwrap_or(usual.min_p),
        repetition_penalty: advice.repetition_penalty.unwrap_or(usual.repetition_penalty),
        ..usual
    }
}

pub(crate) fn find_model(app: &App, name: &str) -> Result<Arc<ServedModel>, ApiError> {
    app.models
        .find(name)
        .cloned()
        .ok_or_else(|| model_not_found(name))
}

/// The answer to a name nobody serves.
pub(crate) fn model_not_found(name: &str) -> ApiError {
    let error = ApiError::new(
        404,
        "model_not_found",
        format!("model: `{name}` is not served here"),
    );
    ApiError {
        param: Some("model".to_owned()),
        ..error
    }
}

pub(crate) fn text_error(param: &str, error: &TextError) -> ApiError {
    if error.is_callers_fault() {
        return ApiError::invalid(param, error);
    }
    tracing::error!(?error, "text of a request could not be prepared");
    ApiError::new(500, "internal_error", "something went wrong on our side")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_about_prompts_is_bounded_and_the_parameter_is_named() {
        let shape = |rivals: Option<u8>, prompt_logprobs| AnswerShape::Completion {
            rivals,
            prompt_logprobs,
            echo: Some(Vec::new()),
        };
        let refused = |length, shape: &AnswerShape| {
            let prompts = [vec![1; length], vec![1; length]];
            let told = told_of_prompts(shape);
            check_told(&prompts, told, 50, shape)
                .err()
                .and_then(|error| error.param)
        };
        assert_eq!(refused(1 << 18, &shape(None, Some(0))), None);
        assert_eq!(
            refused(1 << 18, &shape(None, Some(1))).as_deref(),
            Some("prompt_logprobs")
        );
        assert_eq!(
            refused(1 << 18, &shape(Some(1), Some(0))).as_deref(),
            Some("logprobs")
        );
        assert_eq!(refused(1 << 18, &shape(None, None)), None);
    }
}
