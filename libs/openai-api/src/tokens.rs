//! `/tokenize` and `/detokenize`.

use serde::Serialize;
use vlinders_types::TokenId;

use crate::chat::{from_raw, required_model};
use crate::names::{self, Endpoint};
use crate::raw::RawRequest;
use crate::{ApiError, ChatRequest, Prompt, UnknownFields, json};

/// What to count and show as tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenizeRequest {
    /// The text, or where it comes from.
    pub text: TokenizedText,
    /// Add what the tokenizer adds to a whole text. A chat template writes special tokens itself.
    pub add_special_tokens: bool,
    /// Show each token's text beside its id.
    pub return_token_strs: bool,
}

/// The text that becomes tokens.
#[derive(Clone, Debug, PartialEq)]
pub enum TokenizedText {
    /// As it is.
    Prompt {
        /// The model as the client names it.
        model: String,
        /// May be empty.
        text: String,
    },
    /// As the model's template renders a conversation.
    Chat(Box<ChatRequest>),
}

/// Tokens to show as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DetokenizeRequest {
    /// The model as the client names it.
    pub model: String,
    /// Held against the vocabulary by whoever knows the model.
    pub tokens: Vec<TokenId>,
}

/// The answer of `/tokenize`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TokenizeAnswer {
    /// How many tokens there are.
    pub count: usize,
    /// How many the model's context holds, prompt and answer together.
    pub max_model_len: u32,
    /// The tokens.
    pub tokens: Vec<TokenId>,
    /// Their texts, when asked for. Bytes that are no whole character show as U+FFFD.
    pub token_strs: Option<Vec<String>>,
}

/// The answer of `/detokenize`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DetokenizeAnswer {
    /// The text; special tokens have none.
    pub prompt: String,
}

/// Reads and checks the body of `/tokenize`.
///
/// # Errors
/// The 400 to answer with.
pub fn parse_tokenize(body: &[u8], unknown: UnknownFields) -> Result<TokenizeRequest, ApiError> {
    json::check_depth(body)?;
    names::check(body, Endpoint::Tokenize, unknown)?;
    let mut raw: RawRequest = json::read(body)?;
    let return_token_strs = raw.return_token_strs.unwrap_or(false);
    let special = raw.add_special_tokens;
    let prompts = raw.prompt.take().map(|prompts| prompts.0);
    let (text, add_special_tokens) = match (prompts, raw.messages.is_some()) {
        (Some(_), true) => {
            return Err(ApiError::invalid(
                "prompt",
                "contradicts messages; give one of them",
            ));
        }
        (None, false) => {
            return Err(ApiError::invalid("prompt", "prompt or messages is required"));
        }
        (None, true) => {
            let chat = from_raw(raw)?;
            (TokenizedText::Chat(Box::new(chat)), special.unwrap_or(false))
        }
        (Some(mut prompts), false) => match (prompts.pop(), prompts.is_empty()) {
            (Some(Prompt::Text(text)), true) => {
                let model = required_model(&mut raw)?;
                (TokenizedText::Prompt { model, text }, special.unwrap_or(true))
            }
            (Some(Prompt::Text(_) | Prompt::Tokens(_)) | None, _) => {
                return Err(ApiError::invalid("prompt", "must be one string here"));
            }
        },
    };
    Ok(TokenizeRequest {
        text,
        add_special_tokens,
        return_token_strs,
    })
}

/// Reads and checks the body of `/detokenize`.
///
/// # Errors
/// The 400 to answer with.
pub fn parse_detokenize(body: &[u8], unknown: UnknownFields) -> Result<DetokenizeRequest, ApiError> {
    json::check_depth(body)?;
    names::check(body, Endpoint::Detokenize, unknown)?;
    let mut raw: RawRequest = json::read(body)?;
    let model = required_model(&mut raw)?;
    match raw.tokens {
        None => Err(ApiError::invalid("tokens", "this field is required")),
        Some(tokens) => Ok(DetokenizeRequest {
            model,
            tokens: tokens.0.into_iter().map(|token| token.0).collect(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokenize(body: &str) -> Result<TokenizeRequest, String> {
        parse_tokenize(body.as_bytes(), UnknownFields::Refuse).map_err(|error| error.message)
    }

    #[test]
    fn a_text_gets_special_tokens_and_a_conversation_does_not() {
        let text = tokenize(r#"{"model":"m","prompt":"hi"}"#).unwrap();
        assert!(text.add_special_tokens && !text.return_token_strs);
        let chat = tokenize(r#"{"model":"m","messages":[{"role":"user","content":"hi"}]}"#).unwrap();
        assert!(!chat.add_special_tokens);
        let asked = r#"{"model":"m","messages":[{"role":"user","content":"hi"}],"add_special_tokens":true}"#;
        assert!(tokenize(asked).unwrap().add_special_tokens);
    }

    #[test]
    fn a_text_or_a_conversation_is_needed_and_not_both() {
        assert!(tokenize(r#"{"model":"m"}"#).unwrap_err().starts_with("prompt: "));
        let both = r#"{"model":"m","prompt":"a","messages":[{"role":"user","content":"hi"}]}"#;
        assert!(tokenize(both).unwrap_err().contains("contradicts messages"));
        assert!(tokenize(r#"{"model":"m","prompt":[1,2]}"#).is_err());
        assert!(tokenize(r#"{"model":"m","prompt":"a","temperature":1}"#).is_err());
    }

    #[test]
    fn tokens_are_numbers_of_32_bits() {
        let read = |body: &str| parse_detokenize(body.as_bytes(), UnknownFields::Refuse);
        assert_eq!(read(r#"{"model":"m","tokens":[1,2]}"#).unwrap().tokens, [1, 2]);
        for bad in [
            r#"{"model":"m"}"#,
            r#"{"model":"m","tokens":[-1]}"#,
            r#"{"model":"m","tokens":"a"}"#,
        ] {
            assert_eq!(
                read(bad).unwrap_err().param.as_deref().map(|name| &name[..6]),
                Some("tokens")
            );
        }
    }
}
