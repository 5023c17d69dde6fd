//! Tells the many chunks that only carry text from the few that carry more, without parsing them.

use std::sync::LazyLock;

use memchr::memmem::Finder;

static CHAT_TEXT: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"content\":"));
static COMPLETION_TEXT: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"text\":"));
static FINISH: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"finish_reason\":"));
static USAGE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"usage\":"));

/// Whether the chunk has text, and neither an end nor usage. A chunk for which this is false may be anything and is
/// to be parsed.
///
/// A name in quotes and a colon cannot stand inside a JSON text, where quotes are escaped; so a name that is found
/// names a value.
pub(crate) fn is_text_alone(chunk: &[u8]) -> bool {
    let has_text = match value_after(&CHAT_TEXT, chunk).or_else(|| value_after(&COMPLETION_TEXT, chunk)) {
        Some([b'"', first, ..]) => *first != b'"',
        Some(_) | None => false,
    };
    has_text
        && value_after(&FINISH, chunk).is_none_or(|value| value.starts_with(b"null"))
        && value_after(&USAGE, chunk).is_none_or(|value| value.starts_with(b"null"))
}

fn value_after<'chunk>(name: &Finder<'_>, chunk: &'chunk [u8]) -> Option<&'chunk [u8]> {
    let start = name.find(chunk)? + name.needle().len();
    Some(chunk[start..].trim_ascii_start())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_chunks_of_both_endpoints_are_known_with_and_without_spaces() {
        for chunk in [
            r#"{"choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":null}],"usage":null}"#,
            r#"{"choices": [{"index": 0, "delta": {"content": "Hi"}, "finish_reason": null}]}"#,
            r#"{"choices":[{"delta":{"content":"\"finish_reason\":\"stop\""},"logprobs":null}]}"#,
            r#"{"choices":[{"index":0,"text":" there","logprobs":null,"finish_reason":null}]}"#,
        ] {
            assert!(is_text_alone(chunk.as_bytes()), "{chunk}");
        }
    }

    #[test]
    fn chunks_that_carry_more_or_no_text_are_left_to_the_parser() {
        for chunk in [
            "",
            "{}",
            r#"{"choices":[{"delta":{"role":"assistant","content":""},"finish_reason":null}]}"#,
            r#"{"choices":[{"delta":{"content":null,"tool_calls":[]},"finish_reason":null}]}"#,
            r#"{"choices":[{"delta":{"content":"end"},"finish_reason":"stop"}]}"#,
            r#"{"choices":[{"delta":{"content":"end"},"finish_reason": "length"}]}"#,
            r#"{"choices":[{"delta":{"content":"x"}}],"usage":{"completion_tokens":3}}"#,
            r#"{"choices":[],"usage":{"completion_tokens":3}}"#,
            r#"{"error":{"message":"overloaded"}}"#,
            r#"{"choices":[{"text":"","finish_reason":"length"}]}"#,
            r#"{"choices":[{"delta":{},"logprobs":{"content":[{"token":"x"}]}}]}"#,
            r#"{"choices":[{"delta":{"content":"#,
        ] {
            assert!(!is_text_alone(chunk.as_bytes()), "{chunk}");
        }
    }
}
