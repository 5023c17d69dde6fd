//! Bodies of requests, put together from parts that are made once.

use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::prompts::Prompt;

/// Which endpoint is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Endpoint {
    /// `/v1/chat/completions`
    Chat,
    /// `/v1/completions`
    Completions,
}

impl Endpoint {
    /// Its name, as the flag has it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Completions => "completions",
        }
    }

    /// Its path after the base.
    #[must_use]
    pub const fn path(self) -> &'static str {
        match self {
            Self::Chat => "/chat/completions",
            Self::Completions => "/completions",
        }
    }
}

/// How an answer is delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// Token by token.
    Streamed,
    /// In one piece.
    Whole,
}

/// What all requests of a run have in common.
#[derive(Clone, Debug)]
pub struct RequestWords {
    /// Which endpoint is asked.
    pub endpoint: Endpoint,
    /// The model's name.
    pub model: String,
    /// How the answer is delivered.
    pub delivery: Delivery,
    /// Whether only the number of tokens ends an answer.
    pub ignores_eos: bool,
    /// Whether every token is listed, so that tokens can be counted.
    pub lists_tokens: bool,
    /// None leaves it to the server.
    pub temperature: Option<f64>,
    /// Further fields; they win over all others, and null takes a field out.
    pub extra: Map<String, Value>,
}

/// Writes bodies.
#[derive(Clone, Debug)]
pub struct RequestWriter {
    endpoint: Endpoint,
    ignores_eos: bool,
    /// The body without its closing brace, up to the prompt.
    head: Vec<u8>,
    sets_max_tokens: bool,
}

impl RequestWriter {
    /// Makes the common parts.
    ///
    /// # Panics
    /// Never: JSON values can always be written.
    #[must_use]
    pub fn new(words: &RequestWords) -> Self {
        let mut fields = Map::new();
        fields.insert("model".to_owned(), json!(words.model));
        if words.delivery == Delivery::Streamed {
            fields.insert("stream".to_owned(), json!(true));
            fields.insert("stream_options".to_owned(), json!({"include_usage": true}));
        }
        if let Some(temperature) = words.temperature {
            fields.insert("temperature".to_owned(), json!(temperature));
        }
        if words.ignores_eos {
            fields.insert("ignore_eos".to_owned(), json!(true));
        }
        if words.lists_tokens {
            let asked = match words.endpoint {
                Endpoint::Chat => json!(true),
                Endpoint::Completions => json!(0),
            };
            fields.insert("logprobs".to_owned(), asked);
        }
        for (name, value) in &words.extra {
            if value.is_null() {
                fields.remove(name);
            } else {
                fields.insert(name.clone(), value.clone());
            }
        }
        let mut head = serde_json::to_vec(&fields).expect("JSON values can always be written");
        head.pop();
        Self {
            endpoint: words.endpoint,
            ignores_eos: words.ignores_eos,
            head,
            sets_max_tokens: !words.extra.contains_key("max_completion_tokens")
                && !words.extra.contains_key("max_tokens"),
        }
    }

    /// The body for this prompt, with room for so many tokens.
    ///
    /// # Panics
    /// When messages are sent as a completion; the plan refuses that.
    #[must_use]
    pub fn body(&self, prompt: &Prompt, output_tokens: u32) -> Bytes {
        let (before, text, after): (&str, &[u8], &str) = match (self.endpoint, prompt) {
            (Endpoint::Chat, Prompt::Text(text)) => {
                (",\"messages\":[{\"role\":\"user\",\"content\":\"", text, "\"}]")
            }
            (Endpoint::Chat, Prompt::Messages(messages)) => (",\"messages\":", messages, ""),
            (Endpoint::Completions, Prompt::Text(text)) => (",\"prompt\":\"", text, "\""),
            (Endpoint::Completions, Prompt::Messages(_)) => unreachable!("messages are for chats"),
        };
        // 64: the numbers at the end.
        let mut body = Vec::with_capacity(self.head.len() + before.len() + text.len() + after.len() + 64);
        body.extend_from_slice(&self.head);
        body.extend_from_slice(before.as_bytes());
        body.extend_from_slice(text);
        body.extend_from_slice(after.as_bytes());
        if self.sets_max_tokens {
            body.extend_from_slice(format!(",\"max_tokens\":{output_tokens}").as_bytes());
        }
        if self.ignores_eos {
            body.extend_from_slice(format!(",\"min_tokens\":{output_tokens}").as_bytes());
        }
        body.push(b'}');
        body.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(endpoint: Endpoint, delivery: Delivery) -> RequestWords {
        RequestWords {
            endpoint,
            model: "the \"model\"".to_owned(),
            delivery,
            ignores_eos: false,
            lists_tokens: false,
            temperature: None,
            extra: Map::new(),
        }
    }

    fn body(words: &RequestWords, prompt: &Prompt) -> Value {
        serde_json::from_slice(&RequestWriter::new(words).body(prompt, 16)).unwrap()
    }

    #[test]
    fn a_whole_chat_has_only_what_is_needed() {
        let prompt = Prompt::Text(br#"say \"hi\""#.to_vec());
        assert_eq!(
            body(&words(Endpoint::Chat, Delivery::Whole), &prompt),
            json!({"model": "the \"model\"", "messages": [{"role": "user", "content": "say \"hi\""}], "max_tokens": 16})
        );
    }

    #[test]
    fn every_wish_is_in_the_body() {
        let mut words = words(Endpoint::Completions, Delivery::Streamed);
        words.ignores_eos = true;
        words.lists_tokens = true;
        words.temperature = Some(0.5);
        words.extra.insert("top_p".to_owned(), json!(0.9));
        assert_eq!(
            body(&words, &Prompt::Text(b"once".to_vec())),
            json!({
                "model": "the \"model\"", "stream": true, "stream_options": {"include_usage": true},
                "temperature": 0.5, "ignore_eos": true, "logprobs": 0, "top_p": 0.9,
                "prompt": "once", "max_tokens": 16, "min_tokens": 16,
            })
        );
    }

    #[test]
    fn further_fields_win_and_null_takes_a_field_out() {
        let mut words = words(Endpoint::Chat, Delivery::Streamed);
        words.extra.insert("stream_options".to_owned(), Value::Null);
        words.extra.insert("max_completion_tokens".to_owned(), json!(5));
        let body = body(&words, &Prompt::Messages(b"[]".to_vec()));
        assert!(!body.as_object().unwrap().contains_key("stream_options"));
        assert_eq!(
            (&body["max_completion_tokens"], &body["max_tokens"]),
            (&json!(5), &Value::Null)
        );
        assert_eq!(body["messages"], json!([]));
    }
}
