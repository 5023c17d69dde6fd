//! What answers tell, and single events of streams.

use serde::Serialize;
use vlinders_openai_api::{
    CallFunction, ChatLogprobs, CompletionLogprobs, Delta, FinishWord, TokenNames, ToolCallDelta,
};
use vlinders_types::TokenId;

use super::reader::Piece;

/// Which usage a stream tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UsageTold {
    /// None.
    Never,
    /// In a chunk of its own at the end.
    AtTheEnd,
    /// In every chunk, as far as it is known.
    Always,
}

/// How an answer names tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TokensTold {
    /// Those of prompts and answers are listed by their ids.
    pub(crate) ids: bool,
    /// In log-probabilities.
    pub(crate) names: TokenNames,
}

/// What an event tells beside more of a message.
#[derive(Default)]
pub(super) struct ChatNews<'a> {
    pub(super) logprobs: Option<ChatLogprobs>,
    pub(super) ids: Option<&'a [TokenId]>,
    pub(super) finish: Option<FinishWord>,
}

/// What an event tells beside more of a text.
#[derive(Default)]
pub(super) struct CompletionNews<'a> {
    pub(super) logprobs: Option<CompletionLogprobs>,
    pub(super) ids: Option<&'a [TokenId]>,
    pub(super) prompt_ids: Option<&'a [TokenId]>,
    pub(super) finish: Option<FinishWord>,
}

/// A function's call has neither an id nor a place.
pub(super) fn delta(piece: &Piece, are_functions: bool) -> Delta<'_> {
    let function = |name, arguments| Delta {
        function_call: Some(CallFunction { name, arguments }),
        ..Delta::default()
    };
    match piece {
        Piece::Content(text) => Delta {
            content: Some(text),
            ..Delta::default()
        },
        Piece::Reasoning(text) => Delta {
            reasoning_content: Some(text),
            ..Delta::default()
        },
        Piece::Begin { name, .. } if are_functions => function(Some(name.as_str()), ""),
        Piece::Arguments { text, .. } if are_functions => function(None, text),
        Piece::Begin { index, id, name } => Delta {
            tool_calls: Some([ToolCallDelta::begin(*index, id, name)]),
            ..Delta::default()
        },
        Piece::Arguments { index, text } => Delta {
            tool_calls: Some([ToolCallDelta::arguments(*index, text)]),
            ..Delta::default()
        },
    }
}

pub(super) fn number(count: usize) -> u32 {
    u32::try_from(count).expect("choices, and tokens of a chunk, are far fewer")
}

pub(super) fn event(events: &mut Vec<u8>, value: &impl Serialize) {
    events.extend_from_slice(b"data: ");
    serde_json::to_writer(&mut *events, value).expect("writing our shapes to memory cannot fail");
    events.extend_from_slice(b"\n\n");
}

pub(super) fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("our shapes have text keys and no failing parts")
}
