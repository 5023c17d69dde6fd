//! Messages to the text of a prompt.

use serde_json::{Map, Value};

use crate::TextError;
use crate::messages::adapt;
use crate::template::ChatTemplate;

/// Put behind a message that is to be continued, so that its end can be found in the rendered text. The space shows
/// whether the template strips messages.
const CONTINUE_MARK: &str = "\u{2}CONTINUE\u{3} ";

/// What a chat template renders.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ChatInput {
    /// Messages in the shape of the OpenAI API: objects with `role`, `content`, `tool_calls`, ….
    pub messages: Vec<Value>,
    /// Tools in the shape of the OpenAI API. An empty list is as none.
    pub tools: Option<Vec<Value>>,
    /// End with the beginning of the model's answer.
    pub add_generation_prompt: bool,
    /// End inside the last message, so that the model continues it.
    pub continue_final_message: bool,
    /// More variables for the template. They cannot replace the ones above.
    pub kwargs: Map<String, Value>,
    /// What `strftime_now` shows, milliseconds since 1970.
    pub now_ms: u64,
}

pub(crate) fn render(template: &ChatTemplate, input: &ChatInput) -> Result<String, TextError> {
    let mut messages = input.messages.clone();
    messages
        .iter_mut()
        .for_each(|message| adapt(message, template.shape()));
    if !input.continue_final_message {
        return template.render(messages, input);
    }
    if input.add_generation_prompt {
        return Err(TextError::Messages(
            "continue_final_message and add_generation_prompt exclude one another",
        ));
    }
    let last = messages
        .last_mut()
        .ok_or(TextError::Messages("there is no message to continue"))?;
    mark_end(last)?;
    let mut text = template.render(messages, input)?;
    let mark = CONTINUE_MARK.trim_end();
    let end = text.rfind(mark).ok_or(TextError::Messages(
        "the last message cannot be continued: the model's chat template does not write it",
    ))?;
    let is_space_kept = text[end..].starts_with(CONTINUE_MARK);
    text.truncate(end);
    if !is_space_kept {
        text.truncate(text.trim_end().len());
    }
    Ok(text)
}

/// Puts the mark behind the last text of a message.
fn mark_end(message: &mut Value) -> Result<(), TextError> {
    let content = message.get_mut("content");
    let text = match content {
        Some(Value::Array(parts)) => parts
            .iter_mut()
            .rev()
            .find_map(|part| part.get_mut("text").filter(|text| text.is_string())),
        content => content,
    };
    match text {
        Some(Value::String(text)) => {
            text.push_str(CONTINUE_MARK);
            Ok(())
        }
        Some(_) | None => Err(TextError::Messages("the last message has no text to continue")),
    }
}
