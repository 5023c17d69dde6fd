//! What both endpoints have in common: how tokens are drawn, when the answer ends, how it is delivered.

use vlinders_types::{SamplingParams, StopRules, TokenId};

use crate::raw::{RawRequest, count_in, label, whole_in};
use crate::values::Number;
use crate::{ApiError, LIMITS, NumberRange, TokenNames, Wanted, WholeRange, constraint};

/// Checked options. What the client left out is none, so that the model's own defaults can step in.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Options {
    /// See [`SamplingParams`].
    pub temperature: Option<f32>,
    /// See [`SamplingParams`].
    pub top_p: Option<f32>,
    /// See [`SamplingParams`]; 0 keeps all.
    pub top_k: Option<u32>,
    /// See [`SamplingParams`].
    pub min_p: Option<f32>,
    /// See [`SamplingParams`].
    pub presence_penalty: Option<f32>,
    /// See [`SamplingParams`].
    pub frequency_penalty: Option<f32>,
    /// See [`SamplingParams`].
    pub repetition_penalty: Option<f32>,
    /// Sorted by token, no token twice. Held against the vocabulary by whoever knows the model.
    pub logit_bias: Vec<(TokenId, f32)>,
    /// Only these may be drawn; empty allows all. Sorted, no token twice. Held against the vocabulary by whoever knows the
    /// model.
    pub allowed_token_ids: Vec<TokenId>,
    /// Texts whose tokens may not come up. None is empty.
    pub bad_words: Vec<String>,
    /// Tell the tokens of prompts and answers by their ids.
    pub tells_token_ids: bool,
    /// How tokens are written in log-probabilities.
    pub token_names: TokenNames,
    /// A client's own seed.
    pub seed: Option<u64>,
    /// How many answers to each prompt.
    pub choices: Choices,
    /// Report log-probabilities, and this many rivals of each token.
    pub logprobs: Option<u8>,
    /// Tell how likely the prompt's own tokens were, with this many rivals of each.
    pub prompt_logprobs: Option<u8>,
    /// Tokens to generate at most.
    pub max_tokens: Option<u32>,
    /// Whether the client used the newer name for it, `max_completion_tokens`.
    pub uses_newer_name: bool,
    /// Tokens before which nothing ends the answer.
    pub min_tokens: u32,
    /// Texts that end the answer.
    pub stop: Vec<String>,
    /// Tokens that end the answer. Held against the vocabulary by whoever knows the model.
    pub stop_token_ids: Vec<TokenId>,
    /// The model's own ends do not end the answer.
    pub ignore_eos: bool,
    /// The form the answer must have. Whether it can be enforced is for whoever knows the model.
    pub wanted: Option<Wanted>,
    /// Deliver token by token.
    pub stream: bool,
    /// End a stream with a chunk that counts the tokens.
    pub include_usage: bool,
    /// Larger goes first.
    pub priority: i32,
    /// Keeps cached prefixes apart.
    pub cache_salt: Option<String>,
    /// The stop text that ended the answer is part of it.
    pub includes_stop: bool,
    /// Special tokens are written out.
    pub shows_special: bool,
    /// Every chunk of a stream counts the tokens so far.
    pub counts_continuously: bool,
    /// Keep only the prompt's last tokens.
    pub truncation: Option<Truncation>,
    /// The tokenizer adds what it adds to a whole text; none leaves it to the endpoint.
    pub adds_special_tokens: Option<bool>,
    /// Whether the answer names its service tier: it does when the client named one.
    pub names_service_tier: bool,
}

/// How many answers to each prompt are computed, and how many of them are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choices {
    /// Told to the client.
    pub told: u32,
    /// Computed; the most likely ones of them are told. At least `told`.
    pub computed: u32,
}

impl Default for Choices {
    fn default() -> Self {
        Self { told: 1, computed: 1 }
    }
}

/// How many of a prompt's last tokens are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Truncation {
    /// As many as leave room for the answer.
    ToFit,
    /// This many, at least 1.
    Tokens(u32),
}

impl Options {
    /// The sampling parameters: the client's wishes over the model's defaults. `random_seed` is used when the
    /// client gave none.
    #[must_use]
    pub fn sampling(&self, defaults: &SamplingParams, random_seed: u64) -> SamplingParams {
        SamplingParams {
            temperature: self.temperature.unwrap_or(defaults.temperature),
            top_p: self.top_p.unwrap_or(defaults.top_p),
            top_k: self.top_k.unwrap_or(defaults.top_k),
            min_p: self.min_p.unwrap_or(defaults.min_p),
            presence_penalty: self.presence_penalty.unwrap_or(defaults.presence_penalty),
            frequency_penalty: self.frequency_penalty.unwrap_or(defaults.frequency_penalty),
            repetition_penalty: self.repetition_penalty.unwrap_or(defaults.repetition_penalty),
            logit_bias: self.logit_bias.clone(),
            seed: self.seed.unwrap_or(random_seed),
            logprobs: self.logprobs,
            allowed_token_ids: self.allowed_token_ids.clone(),
            // Their tokens are for whoever knows the model.
            bad_words: Vec::new(),
        }
    }

    /// The name under which the client gave the limit on tokens, for error texts.
    #[must_use]
    pub const fn max_tokens_name(&self) -> &'static str {
        if self.uses_newer_name {
            "max_completion_tokens"
        } else {
            "max_tokens"
        }
    }

    /// When the answer ends, once it is known how many tokens it may have.
    #[must_use]
    pub fn stop_rules(&self, max_tokens: u32) -> StopRules {
        StopRules {
            max_tokens,
            min_tokens: self.min_tokens,
            stop_token_ids: self.stop_token_ids.clone(),
            stop: self.stop.clone(),
            ignore_eos: self.ignore_eos,
        }
    }
}

/// Checks everything but the log-probabilities, whose form differs between the endpoints.
pub(crate) fn read(raw: &mut RawRequest) -> Result<Options, ApiError> {
    let mut options = Options {
        stop: raw.stop.take().map_or_else(Vec::new, |stop| stop.0),
        stop_token_ids: raw
            .stop_token_ids
            .take()
            .map_or_else(Vec::new, |ids| ids.0.iter().map(|id| id.0).collect()),
        ignore_eos: raw.ignore_eos.unwrap_or(false),
        includes_stop: raw.include_stop_str_in_output.unwrap_or(false),
        shows_special: !raw.skip_special_tokens.unwrap_or(true),
        truncation: truncation(raw)?,
        adds_special_tokens: raw.add_special_tokens,
        tells_token_ids: raw.return_token_ids.unwrap_or(false),
        token_names: match raw.return_tokens_as_token_ids {
            Some(true) => TokenNames::Ids,
            Some(false) | None => TokenNames::Texts,
        },
        ..Options::default()
    };
    read_vocabulary(raw, &mut options)?;
    read_sampling(raw, &mut options)?;
    read_lengths(raw, &mut options)?;
    read_delivery(raw, &mut options)?;
    options.choices = read_choices(raw, options.stream)?;
    read_prompt(raw, &mut options)?;
    options.wanted = constraint::read(raw, &options)?;
    Ok(options)
}

/// What is told of the prompt.
fn read_prompt(raw: &RawRequest, options: &mut Options) -> Result<(), ApiError> {
    let asked = count_in("prompt_logprobs", raw.prompt_logprobs, LIMITS.top_logprobs)?;
    options.prompt_logprobs =
        asked.map(|top| u8::try_from(top).expect("the range of top_logprobs lies inside 8 bits"));
    if options.stream && asked.is_some() {
        let text = "is not told in a stream; set stream to false";
        return Err(ApiError::not_offered("prompt_logprobs", text));
    }
    if options.max_tokens == Some(0) && options.choices.computed > 1 {
        let text = "more than one choice needs tokens to differ in; max_tokens is 0";
        return Err(ApiError::invalid("n", text));
    }
    Ok(())
}

fn read_sampling(raw: &mut RawRequest, options: &mut Options) -> Result<(), ApiError> {
    options.temperature = number_in("temperature", raw.temperature, LIMITS.temperature)?;
    // 0 means "only the most likely token", and so does the smallest number above it, which workers take.
    let top_p = number_in("top_p", raw.top_p, LIMITS.top_p)?;
    options.top_p = top_p.map(|top_p| top_p.max(f32::MIN_POSITIVE));
    options.min_p = number_in("min_p", raw.min_p, LIMITS.min_p)?;
    options.presence_penalty = number_in("presence_penalty", raw.presence_penalty, LIMITS.penalty)?;
    options.frequency_penalty = number_in("frequency_penalty", raw.frequency_penalty, LIMITS.penalty)?;
    options.repetition_penalty = number_in(
        "repetition_penalty",
        raw.repetition_penalty,
        LIMITS.repetition_penalty,
    )?;
    let top_k = whole_in("top_k", raw.top_k, LIMITS.top_k)?;
    options.top_k = top_k.map(|top_k| u32::try_from(top_k).unwrap_or(0));
    options.seed = match raw.seed.map(|seed| seed.0) {
        None => None,
        Some(seed) if !(LIMITS.seed_min..=LIMITS.seed_max).contains(&seed) => {
            return Err(ApiError::invalid("seed", format!("{seed} does not fit 64 bits")));
        }
        // A negative seed keeps its bits.
        Some(seed) => {
            Some(u64::try_from(seed & i128::from(u64::MAX)).expect("masked to 64 bits on this line"))
        }
    };
    for (token, bias) in raw.logit_bias.take().unwrap_or_default().0 {
        let bias = number_in("logit_bias", Some(Number(bias)), LIMITS.logit_bias)?.unwrap_or(0.0);
        options.logit_bias.push((token, bias));
    }
    Ok(())
}

/// Which tokens may be drawn at all.
fn read_vocabulary(raw: &mut RawRequest, options: &mut Options) -> Result<(), ApiError> {
    if let Some(tokens) = raw.allowed_token_ids.take() {
        options.allowed_token_ids = tokens.0.into_iter().map(|token| token.0).collect();
        options.allowed_token_ids.sort_unstable();
        options.allowed_token_ids.dedup();
    }
    options.bad_words = raw.bad_words.take().map_or_else(Vec::new, |words| words.0);
    for (index, word) in options.bad_words.iter().enumerate() {
        let name = format!("bad_words[{index}]");
        if word.trim().is_empty() {
            return Err(ApiError::invalid(&name, "must hold more than white space"));
        }
        if word.len() > LIMITS.bad_word_bytes {
            let text = format!("{} bytes are more than {}", word.len(), LIMITS.bad_word_bytes);
            return Err(ApiError::invalid(&name, text));
        }
    }
    if !options.bad_words.is_empty() && !options.allowed_token_ids.is_empty() {
        let text =
            "cannot be combined with allowed_token_ids: leave the tokens you do not want out of that list";
        return Err(ApiError::not_offered("bad_words", text));
    }
    Ok(())
}

/// `n` and `best_of`. A stream cannot be ranked before it is over.
fn read_choices(raw: &RawRequest, is_streamed: bool) -> Result<Choices, ApiError> {
    let told = count_in("n", raw.n, LIMITS.choices)?.unwrap_or(1);
    let computed = count_in("best_of", raw.best_of, LIMITS.choices)?.unwrap_or(told);
    if computed < told {
        let text = format!("{computed} is less than n ({told})");
        return Err(ApiError::invalid("best_of", text));
    }
    if computed > told && is_streamed {
        let text = "the best answers are known only when all are complete; leave out best_of or stream";
        return Err(ApiError::invalid("best_of", text));
    }
    Ok(Choices { told, computed })
}

fn truncation(raw: &RawRequest) -> Result<Option<Truncation>, ApiError> {
    let asked = whole_in(
        "truncate_prompt_tokens",
        raw.truncate_prompt_tokens,
        LIMITS.truncation,
    )?;
    Ok(match asked {
        None => None,
        Some(-1) => Some(Truncation::ToFit),
        Some(0) => {
            return Err(ApiError::invalid(
                "truncate_prompt_tokens",
                "must keep at least one token",
            ));
        }
        Some(tokens) => Some(Truncation::Tokens(
            u32::try_from(tokens).expect("the range of this parameter lies inside 32 bits"),
        )),
    })
}

fn read_lengths(raw: &RawRequest, options: &mut Options) -> Result<(), ApiError> {
    // Without a word of the prompt, an answer of no token would tell nothing.
    let tells_prompt = raw.prompt_logprobs.is_some() || raw.echo == Some(true);
    let range = WholeRange {
        min: if tells_prompt { 0 } else { LIMITS.max_tokens.min },
        ..LIMITS.max_tokens
    };
    let older = count_in("max_tokens", raw.max_tokens, range)?;
    let newer = count_in("max_completion_tokens", raw.max_completion_tokens, range)?;
    if let (Some(older), Some(newer)) = (older, newer)
        && older != newer
    {
        let text = format!("{newer} contradicts max_tokens ({older}); give one of them");
        return Err(ApiError::invalid("max_completion_tokens", text));
    }
    options.max_tokens = newer.or(older);
    options.uses_newer_name = newer.is_some();
    options.min_tokens = count_in("min_tokens", raw.min_tokens, LIMITS.min_tokens)?.unwrap_or(0);
    match options.max_tokens {
        Some(max) if options.min_tokens > max => {
            let text = format!("{} is more than max_tokens ({max})", options.min_tokens);
            Err(ApiError::invalid("min_tokens", text))
        }
        Some(_) | None => Ok(()),
    }
}

fn read_delivery(raw: &mut RawRequest, options: &mut Options) -> Result<(), ApiError> {
    options.stream = raw.stream.unwrap_or(false);
    if let Some(stream_options) = raw.stream_options.take() {
        if !options.stream {
            return Err(ApiError::invalid(
                "stream_options",
                "is only for streams; set stream to true",
            ));
        }
        if stream_options.include_obfuscation == Some(true) {
            let text = "is not offered by this server; leave it out";
            return Err(ApiError::not_offered("stream_options.include_obfuscation", text));
        }
        options.include_usage = stream_options.include_usage.unwrap_or(false);
        options.counts_continuously = stream_options.continuous_usage_stats.unwrap_or(false);
        if options.counts_continuously && !options.include_usage {
            let text = "needs include_usage set to true";
            return Err(ApiError::invalid("stream_options.continuous_usage_stats", text));
        }
    }
    let priority = whole_in("priority", raw.priority, LIMITS.priority)?.unwrap_or(0);
    options.priority = i32::try_from(priority).expect("the range of priorities lies inside 32 bits");
    options.cache_salt = label("cache_salt", raw.cache_salt.take())?;
    for (name, text) in [
        ("user", raw.user.take()),
        ("safety_identifier", raw.safety_identifier.take()),
        ("prompt_cache_key", raw.prompt_cache_key.take()),
    ] {
        label(name, text)?;
    }
    read_metadata(raw)?;
    match raw.service_tier.take().as_deref() {
        None => {}
        Some("auto" | "default") => options.names_service_tier = true,
        Some(_) => {
            return Err(ApiError::not_offered(
                "service_tier",
                "only auto and default are offered",
            ));
        }
    }
    Ok(())
}

fn read_metadata(raw: &mut RawRequest) -> Result<(), ApiError> {
    let metadata = raw.metadata.take().unwrap_or_default();
    if metadata.len() > LIMITS.metadata_entries {
        let text = format!(
            "{} entries are more than {}",
            metadata.len(),
            LIMITS.metadata_entries
        );
        return Err(ApiError::invalid("metadata", text));
    }
    for (key, value) in &metadata {
        let Some(text) = value.as_str() else {
            return Err(ApiError::invalid(
                "metadata",
                format!("the value of {key:?} must be a string"),
            ));
        };
        // 512 is what other servers of this API take as a value; a key is a name.
        if key.len() > LIMITS.name_bytes || text.len() > 2 * LIMITS.name_bytes {
            return Err(ApiError::invalid("metadata", "a key or value is too long"));
        }
    }
    Ok(())
}

fn number_in(name: &str, value: Option<Number>, range: NumberRange) -> Result<Option<f32>, ApiError> {
    let Some(Number(value)) = value else {
        return Ok(None);
    };
    if !(range.min..=range.max).contains(&value) {
        let text = format!("{value} is out of range ({} to {})", range.min, range.max);
        return Err(ApiError::invalid(name, text));
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "precision is lost, not range: checked above"
    )]
    Ok(Some(value as f32))
}
