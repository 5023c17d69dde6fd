//! Requests and cancellations.

use bytes::Bytes;
use vlinders_types::{
    Cancel, FrontendId, KeyId, ModelName, Request, SamplingParams, SpecialTokens, StopRules, TenantId,
    TextRules, TokenId,
};

use crate::check::{Check, encode, request_id_bytes};
use crate::limits::{
    MAX_ALLOWED_TOKEN_IDS, MAX_BAD_WORD_TOKENS, MAX_BAD_WORDS, MAX_CACHE_SALT_BYTES, MAX_CONTROL_BYTES,
    MAX_LOGIT_BIAS, MAX_MESSAGE_BYTES, MAX_SHOWN_SPECIAL, MAX_STOP_TEXT_BYTES, MAX_STOP_TEXTS,
    MAX_STOP_TOKEN_IDS, MAX_TOKENS, MAX_TOP_LOGPROBS, MAX_TRACE_PARENT_BYTES,
};
use crate::usage::billing_class;
use crate::{Fault, WireError, generated, task};

const REQUEST: Check = Check { message: "Request" };
const SAMPLING: Check = Check {
    message: "SamplingParams",
};
const STOP: Check = Check { message: "StopRules" };
const TEXT: Check = Check { message: "TextRules" };
const CANCEL: Check = Check { message: "Cancel" };

/// As bytes.
#[must_use]
pub fn encode_request(request: &Request) -> Bytes {
    encode(&generated::Request::from(request))
}

/// From bytes.
///
/// # Errors
/// Too large, malformed, or a field that breaks its rule.
pub fn decode_request(bytes: &[u8]) -> Result<Request, WireError> {
    REQUEST
        .decode::<generated::Request>(bytes, MAX_MESSAGE_BYTES)?
        .try_into()
}

/// As bytes.
#[must_use]
pub fn encode_cancel(cancel: &Cancel) -> Bytes {
    encode(&generated::Cancel {
        request_id: request_id_bytes(cancel.request_id),
        attempt: cancel.attempt,
        superseded: cancel.superseded,
    })
}

/// From bytes.
///
/// # Errors
/// Too large, malformed, or a field that breaks its rule.
pub fn decode_cancel(bytes: &[u8]) -> Result<Cancel, WireError> {
    let cancel: generated::Cancel = CANCEL.decode(bytes, MAX_CONTROL_BYTES)?;
    Ok(Cancel {
        request_id: CANCEL.request_id(&cancel.request_id)?,
        attempt: cancel.attempt,
        superseded: cancel.superseded,
    })
}

impl From<&Request> for generated::Request {
    fn from(request: &Request) -> Self {
        Self {
            request_id: request_id_bytes(request.request_id),
            attempt: request.attempt,
            tenant: request.tenant.as_str().to_owned(),
            key: request.key.as_str().to_owned(),
            model: request.model.as_str().to_owned(),
            frontend: request.frontend.as_str().to_owned(),
            handle: request.handle,
            created_ms: request.created_ms,
            deadline_ms: request.deadline_ms,
            stream: request.stream,
            prompt_ids: request.prompt_ids.clone(),
            emitted_ids: request.emitted_ids.clone(),
            sampling: Some((&request.sampling).into()),
            stop: Some((&request.stop).into()),
            priority: request.priority,
            cache_salt: request.cache_salt.clone(),
            trace_parent: request.trace_parent.clone(),
            published_us: request.published_us,
            task: task::to_wire(request.task),
            prompt_logprobs: request.prompt_logprobs.map(u32::from),
            constraint: request.constraint.as_ref().map(Into::into),
            prompt_billed_elsewhere: !request.bills_prompt,
            class: generated::BillingClass::from(request.class).into(),
            text: (request.text != TextRules::default()).then(|| (&request.text).into()),
        }
    }
}

impl TryFrom<generated::Request> for Request {
    type Error = WireError;

    fn try_from(wire: generated::Request) -> Result<Self, WireError> {
        let check = REQUEST;
        check.name("tenant", &wire.tenant)?;
        check.name("key", &wire.key)?;
        check.name("model", &wire.model)?;
        check.name("frontend", &wire.frontend)?;
        let in_order = wire.created_ms <= wire.deadline_ms;
        check.require("deadline_ms", in_order, Fault::Disagrees("created_ms"))?;
        check.require("prompt_ids", !wire.prompt_ids.is_empty(), Fault::Missing)?;
        check.length("prompt_ids", wire.prompt_ids.len(), MAX_TOKENS)?;
        let sampling = check.present("sampling", wire.sampling)?.try_into()?;
        let stop: StopRules = check.present("stop", wire.stop)?.try_into()?;
        let task = task::from_wire(wire.task, wire.prompt_ids.len())?;
        let prompt_logprobs = rivals(check, "prompt_logprobs", wire.prompt_logprobs)?;
        task::check_agreement(task, prompt_logprobs, &stop)?;
        let fits = wire.emitted_ids.len() <= stop.max_tokens as usize;
        check.require("emitted_ids", fits, Fault::Disagrees("stop.max_tokens"))?;
        if let Some(salt) = &wire.cache_salt {
            check.length("cache_salt", salt.len(), MAX_CACHE_SALT_BYTES)?;
        }
        if let Some(parent) = &wire.trace_parent {
            check.plain_text("trace_parent", parent, MAX_TRACE_PARENT_BYTES)?;
        }
        Ok(Self {
            request_id: check.request_id(&wire.request_id)?,
            attempt: wire.attempt,
            tenant: TenantId::new(&wire.tenant),
            key: KeyId::new(&wire.key),
            model: ModelName::new(&wire.model),
            frontend: FrontendId::new(&wire.frontend),
            handle: wire.handle,
            created_ms: wire.created_ms,
            deadline_ms: wire.deadline_ms,
            stream: wire.stream,
            prompt_ids: wire.prompt_ids,
            emitted_ids: wire.emitted_ids,
            sampling,
            stop,
            priority: wire.priority,
            cache_salt: wire.cache_salt,
            trace_parent: wire.trace_parent,
            published_us: wire.published_us,
            task,
            prompt_logprobs,
            constraint: wire.constraint.map(TryInto::try_into).transpose()?,
            bills_prompt: !wire.prompt_billed_elsewhere,
            class: billing_class(check, wire.class)?,
            text: wire.text.map(TryInto::try_into).transpose()?.unwrap_or_default(),
        })
    }
}

/// How many of the most likely tokens are asked for.
fn rivals(check: Check, field: &'static str, asked: Option<u32>) -> Result<Option<u8>, WireError> {
    let Some(count) = asked else { return Ok(None) };
    match u8::try_from(count) {
        Ok(count) if usize::from(count) <= MAX_TOP_LOGPROBS => Ok(Some(count)),
        Ok(_) | Err(_) => Err(check.fault(field, Fault::OutOfRange)),
    }
}

impl From<&SamplingParams> for generated::SamplingParams {
    fn from(sampling: &SamplingParams) -> Self {
        let bias = |(token, bias): &(TokenId, f32)| generated::LogitBias {
            token: *token,
            bias: *bias,
        };
        Self {
            temperature: sampling.temperature,
            top_p: sampling.top_p,
            top_k: sampling.top_k,
            min_p: sampling.min_p,
            presence_penalty: sampling.presence_penalty,
            frequency_penalty: sampling.frequency_penalty,
            repetition_penalty: sampling.repetition_penalty,
            logit_bias: sampling.logit_bias.iter().map(bias).collect(),
            seed: sampling.seed,
            logprobs: sampling.logprobs.map(u32::from),
            allowed_token_ids: sampling.allowed_token_ids.clone(),
            bad_words: sampling
                .bad_words
                .iter()
                .map(|tokens| generated::TokenRun {
                    tokens: tokens.clone(),
                })
                .collect(),
        }
    }
}

impl TryFrom<generated::SamplingParams> for SamplingParams {
    type Error = WireError;

    fn try_from(wire: generated::SamplingParams) -> Result<Self, WireError> {
        let check = SAMPLING;
        check.float("temperature", wire.temperature, 0.0..=100.0)?;
        check.positive("top_p", wire.top_p, 1.0)?;
        check.float("min_p", wire.min_p, 0.0..=1.0)?;
        check.float("presence_penalty", wire.presence_penalty, -2.0..=2.0)?;
        check.float("frequency_penalty", wire.frequency_penalty, -2.0..=2.0)?;
        check.positive("repetition_penalty", wire.repetition_penalty, 100.0)?;
        check.length("logit_bias", wire.logit_bias.len(), MAX_LOGIT_BIAS)?;
        for entry in &wire.logit_bias {
            check.float("logit_bias", entry.bias, -100.0..=100.0)?;
        }
        let sorted = wire
            .logit_bias
            .is_sorted_by(|left, right| left.token < right.token);
        check.require("logit_bias", sorted, Fault::NotSorted)?;
        let logprobs = rivals(check, "logprobs", wire.logprobs)?;
        check.length(
            "allowed_token_ids",
            wire.allowed_token_ids.len(),
            MAX_ALLOWED_TOKEN_IDS,
        )?;
        let sorted = wire.allowed_token_ids.is_sorted_by(|left, right| left < right);
        check.require("allowed_token_ids", sorted, Fault::NotSorted)?;
        check.length("bad_words", wire.bad_words.len(), MAX_BAD_WORDS)?;
        for word in &wire.bad_words {
            check.require("bad_words", !word.tokens.is_empty(), Fault::Missing)?;
            check.length("bad_words", word.tokens.len(), MAX_BAD_WORD_TOKENS)?;
        }
        Ok(Self {
            temperature: wire.temperature,
            top_p: wire.top_p,
            top_k: wire.top_k,
            min_p: wire.min_p,
            presence_penalty: wire.presence_penalty,
            frequency_penalty: wire.frequency_penalty,
            repetition_penalty: wire.repetition_penalty,
            logit_bias: wire
                .logit_bias
                .iter()
                .map(|entry| (entry.token, entry.bias))
                .collect(),
            seed: wire.seed,
            logprobs,
            allowed_token_ids: wire.allowed_token_ids,
            bad_words: wire.bad_words.into_iter().map(|word| word.tokens).collect(),
        })
    }
}

impl From<&StopRules> for generated::StopRules {
    fn from(stop: &StopRules) -> Self {
        Self {
            max_tokens: stop.max_tokens,
            min_tokens: stop.min_tokens,
            stop_token_ids: stop.stop_token_ids.clone(),
            stop: stop.stop.clone(),
            ignore_eos: stop.ignore_eos,
        }
    }
}

impl TryFrom<generated::StopRules> for StopRules {
    type Error = WireError;

    fn try_from(wire: generated::StopRules) -> Result<Self, WireError> {
        let check = STOP;
        let highest = u32::try_from(MAX_TOKENS).expect("2^20 fits");
        // Whether 0 is allowed depends on the task.
        check.whole("max_tokens", wire.max_tokens, 0..=highest)?;
        check.whole("min_tokens", wire.min_tokens, 0..=wire.max_tokens)?;
        check.length("stop_token_ids", wire.stop_token_ids.len(), MAX_STOP_TOKEN_IDS)?;
        check.length("stop", wire.stop.len(), MAX_STOP_TEXTS)?;
        for text in &wire.stop {
            check.require("stop", !text.is_empty(), Fault::Missing)?;
            check.length("stop", text.len(), MAX_STOP_TEXT_BYTES)?;
        }
        Ok(Self {
            max_tokens: wire.max_tokens,
            min_tokens: wire.min_tokens,
            stop_token_ids: wire.stop_token_ids,
            stop: wire.stop,
            ignore_eos: wire.ignore_eos,
        })
    }
}

impl From<&TextRules> for generated::TextRules {
    fn from(text: &TextRules) -> Self {
        let (shown_special, all_special_shown) = match &text.special {
            SpecialTokens::Hidden => (Vec::new(), false),
            SpecialTokens::Shown(tokens) => (tokens.clone(), false),
            SpecialTokens::AllShown => (Vec::new(), true),
        };
        Self {
            includes_stop: text.includes_stop,
            shown_special,
            all_special_shown,
        }
    }
}

impl TryFrom<generated::TextRules> for TextRules {
    type Error = WireError;

    fn try_from(wire: generated::TextRules) -> Result<Self, WireError> {
        TEXT.length("shown_special", wire.shown_special.len(), MAX_SHOWN_SPECIAL)?;
        let is_either = wire.shown_special.is_empty() || !wire.all_special_shown;
        TEXT.require("shown_special", is_either, Fault::Disagrees("all_special_shown"))?;
        let special = match (wire.all_special_shown, wire.shown_special) {
            (true, _) => SpecialTokens::AllShown,
            (false, tokens) if tokens.is_empty() => SpecialTokens::Hidden,
            (false, tokens) => SpecialTokens::Shown(tokens),
        };
        Ok(Self {
            includes_stop: wire.includes_stop,
            special,
        })
    }
}
