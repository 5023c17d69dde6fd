//! A conversation made into a prompt, and how the answer's text will be read.

use std::sync::Arc;

use serde_json::{Map, Value};
use vlinders_openai_api::{ApiError, ChatRequest, Options};
use vlinders_text::ChatInput;
use vlinders_types::{SpecialTokens, TokenId};

use super::prepare::{Prepared, Wishes, encode, find_model, finish, text_error};
use super::reader::{CallReading, Reading, ThoughtReading};
use super::tools;
use super::writer::AnswerShape;
use crate::ServedModel;
use crate::app::App;

pub(super) fn prepare_chat(app: &App, request: ChatRequest) -> Result<Prepared, ApiError> {
    let model = find_model(app, &request.model)?;
    // An answer of a given form is that form from its first token on: it holds neither calls nor thoughts. A forced call is
    // the whole answer too.
    let is_free = request.options.wanted.is_none();
    let calls = tools::reading(&model, request.tools.as_ref())?.filter(|_| is_free);
    let constraint = tools::constraint(&model, request.tools.as_ref())?;
    if constraint.is_some() {
        tools::check_beside_forced(&request.options)?;
    }
    let text = chat_text(app, &model, &request)?;
    // The template has written the special tokens itself, unless the client says otherwise.
    let adds_special = request.options.adds_special_tokens.unwrap_or(false);
    let prompt_ids = encode(&model, "messages", &text, adds_special)?;
    let special = special_tokens(&model, &request.options, calls.as_ref());
    let thought = model
        .formats
        .reasoning
        .filter(|_| is_free && constraint.is_none())
        .map(|format| ThoughtReading {
            is_open: format.is_open_in(&text, request.continue_final_message),
            is_told: request.reasoning.is_told,
            text: Arc::clone(&model.text),
            special: special.clone(),
        });
    let shape = AnswerShape::Chat {
        logprobs: request.options.logprobs.is_some(),
        prompt_logprobs: request.options.prompt_logprobs,
        reading: Arc::new(Reading { calls, thought }),
    };
    let wishes = Wishes {
        asked_model: request.model,
        options: request.options,
        special,
        constraint,
        shape,
    };
    finish(app, model, ("messages", vec![prompt_ids]), wishes)
}

/// The tokens of a conversation as the model reads it.
pub(crate) fn chat_prompt(
    app: &App,
    model: &ServedModel,
    request: &ChatRequest,
    add_special: bool,
) -> Result<Vec<TokenId>, ApiError> {
    let text = chat_text(app, model, request)?;
    encode(model, "messages", &text, add_special)
}

/// The text of a conversation as the model's template writes it.
fn chat_text(app: &App, model: &ServedModel, request: &ChatRequest) -> Result<String, ApiError> {
    let tools = request.tools.as_ref();
    let input = ChatInput {
        messages: request
            .messages
            .iter()
            .map(vlinders_openai_api::Message::template_value)
            .collect(),
        tools: tools.map(|tools| tools.offered.iter().map(|tool| tool.definition.clone()).collect()),
        add_generation_prompt: request.add_generation_prompt,
        continue_final_message: request.continue_final_message,
        kwargs: template_arguments(model, request)?,
        now_ms: app.clock.now_ms(),
    };
    model
        .text
        .render_chat(&input)
        .map_err(|error| text_error("messages", &error))
}

/// The client's variables for the template, with what it wants of the model's reasoning.
fn template_arguments(model: &ServedModel, request: &ChatRequest) -> Result<Map<String, Value>, ApiError> {
    let mut arguments = request.template_arguments.clone();
    let Some(effort) = request.reasoning.effort else {
        return Ok(arguments);
    };
    if model.formats.reasoning.is_none() {
        // A model that does not think does as it is told by not thinking.
        return match request.reasoning.wants_thought() {
            Some(false) | None => Ok(arguments),
            Some(true) => Err(ApiError::not_offered(
                "reasoning_effort",
                "this model does not reason; leave it out or ask for none",
            )),
        };
    }
    arguments
        .entry("reasoning_effort")
        .or_insert_with(|| effort.into());
    let wants_thought = request.reasoning.wants_thought();
    arguments
        .entry("enable_thinking")
        .or_insert_with(|| wants_thought.into());
    Ok(arguments)
}

/// Special tokens that the answer's text must hold: all that the client wants, or those that calls and reasoning are
/// found by.
fn special_tokens(model: &ServedModel, options: &Options, calls: Option<&CallReading>) -> SpecialTokens {
    if options.shows_special {
        return SpecialTokens::AllShown;
    }
    let calls = calls.map_or(&[][..], |calls| calls.format.markers());
    let thoughts = model.formats.reasoning.map_or(&[][..], |format| format.markers());
    let mut shown = model.text.special_markers(calls);
    shown.extend(model.text.special_markers(thoughts));
    if shown.is_empty() {
        SpecialTokens::Hidden
    } else {
        SpecialTokens::Shown(shown)
    }
}
