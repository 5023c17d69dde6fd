//! Answers: read, timed and counted.

mod glance;
mod shape;
mod stream;

use serde_json::Value;

pub(crate) use self::shape::Usage;
use self::shape::{Answer, text_of_error};
pub(crate) use self::stream::{StreamReader, Streamed};

/// An error text longer than this helps nobody.
const ERROR_CHARS: usize = 200;

/// What was counted in an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counted {
    /// Chunks with content; a whole answer is one.
    pub(crate) chunks: u64,
    /// Entries of its log-probabilities, one for each token.
    pub(crate) listed_tokens: Option<u64>,
    /// It ended because it was long enough: no token ended it.
    pub(crate) ended_at_limit: bool,
    /// What the server says.
    pub(crate) usage: Option<Usage>,
}

/// What is wrong with an answer that came with status 200.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The stream ended without `[DONE]`.
    NoDone,
    /// The answer does not say why it ended.
    NoFinishReason,
    /// An error in the middle of the stream.
    ErrorEvent(String),
    /// It is not the JSON it should be.
    Malformed(String),
}

/// Reads a whole answer.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn read_whole(body: &[u8]) -> Result<Counted, Fault> {
    let answer: Answer = serde_json::from_slice(body).map_err(|error| Fault::Malformed(error.to_string()))?;
    if let Some(text) = answer.error_text() {
        return Err(Fault::ErrorEvent(text));
    }
    let reason = answer.finish_reason().ok_or(Fault::NoFinishReason)?;
    Ok(Counted {
        chunks: u64::from(answer.has_content()),
        listed_tokens: answer.listed_tokens(),
        ended_at_limit: reason == "length",
        usage: answer.usage,
    })
}

/// The message of a refusal, on one line.
pub(crate) fn refusal_text(body: &[u8]) -> String {
    let text = match serde_json::from_slice::<Value>(body) {
        Ok(value) => text_of_error(value.get("error").unwrap_or(&value)),
        Err(_) => String::from_utf8_lossy(body).into_owned(),
    };
    one_line(&text)
}

/// Without line breaks, and not too long.
pub(crate) fn one_line(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    let line = words.join(" ");
    match line.char_indices().nth(ERROR_CHARS) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_answers_of_both_endpoints_are_counted() {
        let chat = br#"{"choices":[{"message":{"role":"assistant","content":"Hi"},"logprobs":null,
            "finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}"#;
        let counted = read_whole(chat).unwrap();
        assert_eq!((counted.chunks, counted.ended_at_limit), (1, false));
        assert_eq!(counted.usage.unwrap().completion_tokens, 2);
        let completion =
            br#"{"choices":[{"text":"Hi","logprobs":{"tokens":["H","i"]},"finish_reason":"length"}]}"#;
        let counted = read_whole(completion).unwrap();
        assert_eq!((counted.listed_tokens, counted.ended_at_limit), (Some(2), true));
        assert_eq!(counted.usage, None);
    }

    #[test]
    fn wrong_whole_answers_are_told_apart() {
        assert_eq!(
            read_whole(br#"{"choices":[{"text":"x"}]}"#),
            Err(Fault::NoFinishReason)
        );
        assert!(matches!(read_whole(b"<html>"), Err(Fault::Malformed(_))));
        assert!(matches!(
            read_whole(br#"{"error":"no"}"#),
            Err(Fault::ErrorEvent(text)) if text == "no"
        ));
    }

    #[test]
    fn refusals_are_one_short_line() {
        assert_eq!(refusal_text(br#"{"error":{"message":"too\nlong"}}"#), "too long");
        assert_eq!(refusal_text(br#"{"detail":"x"}"#), r#"{"detail":"x"}"#);
        assert_eq!(refusal_text(b"bad\r\n gateway"), "bad gateway");
        assert_eq!(refusal_text("é".repeat(900).as_bytes()).chars().count(), 201);
    }
}
