//! What a server has said, however it was delivered.

use anyhow::{Context, ensure};
use serde_json::{Value, json};

/// The content of an answer, whole or collected from events, of either endpoint.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reply {
    /// `chatcmpl-…` or `cmpl-…`.
    pub id: String,
    /// Its text, all choices together in the order they came.
    pub text: String,
    /// The same in pieces, each with the index of its choice.
    pub pieces: Vec<(usize, String)>,
    /// One entry for each token, in one form for both endpoints.
    pub tokens: Vec<Value>,
    /// Every finish reason there was. A good answer has exactly one.
    pub finish_reasons: Vec<String>,
    /// Tokens as counted.
    pub usage: Option<Value>,
    /// An error in the middle of a stream.
    pub error: Option<Value>,
    /// A stream said `[DONE]`, or the answer was whole.
    pub is_done: bool,
}

impl Reply {
    /// Reads a whole answer.
    pub(crate) fn whole(body: &Value) -> anyhow::Result<Self> {
        let mut reply = Self {
            is_done: true,
            ..Self::default()
        };
        reply.merge(body)?;
        Ok(reply)
    }

    /// Takes in what stands behind `data: `.
    pub(crate) fn take_in(&mut self, told: &str) -> anyhow::Result<()> {
        ensure!(!self.is_done, "something comes after [DONE]: {told}");
        if told == "[DONE]" {
            self.is_done = true;
            return Ok(());
        }
        self.merge(&serde_json::from_str(told)?)
    }

    /// The request's own id, under which its usage is kept.
    #[must_use]
    pub fn request_id(&self) -> &str {
        self.id.split_once('-').map_or("", |(_, id)| id)
    }

    /// Tokens counted in `usage`, by the field's name.
    ///
    /// # Errors
    /// When there is no such field.
    pub fn counted(&self, name: &str) -> anyhow::Result<u64> {
        let usage = self.usage.as_ref().context("the answer has no usage")?;
        usage[name]
            .as_u64()
            .with_context(|| format!("usage has no {name}"))
    }

    /// Complete: the end was told once, and nothing failed.
    ///
    /// # Errors
    /// What is missing.
    pub fn complete(&self) -> anyhow::Result<()> {
        ensure!(self.error.is_none(), "failed: {:?}", self.error);
        ensure!(self.is_done, "ended without [DONE]: {self:?}");
        ensure!(
            self.finish_reasons.len() == 1,
            "reasons: {:?}",
            self.finish_reasons
        );
        Ok(())
    }

    fn merge(&mut self, object: &Value) -> anyhow::Result<()> {
        if !object["error"].is_null() {
            self.error = Some(object["error"].clone());
            return Ok(());
        }
        let id = object["id"].as_str().context("no id")?;
        ensure!(self.id.is_empty() || self.id == id, "the id changes: {object}");
        id.clone_into(&mut self.id);
        if !object["usage"].is_null() {
            ensure!(self.usage.is_none(), "usage is told twice");
            self.usage = Some(object["usage"].clone());
        }
        for choice in object["choices"].as_array().context("no choices")? {
            let text = [
                &choice["text"],
                &choice["message"]["content"],
                &choice["delta"]["content"],
            ];
            let index = choice["index"].as_u64().context("a choice without index")?;
            for text in text.iter().filter_map(|text| text.as_str()) {
                self.text.push_str(text);
                self.pieces.push((usize::try_from(index)?, text.to_owned()));
            }
            self.finish_reasons
                .extend(choice["finish_reason"].as_str().map(str::to_owned));
            self.tokens.extend(tokens(&choice["logprobs"]));
        }
        Ok(())
    }
}

/// Log-probabilities of chat are a list; those of completions are lists beside one another.
fn tokens(logprobs: &Value) -> Vec<Value> {
    if let Some(content) = logprobs["content"].as_array() {
        return content.clone();
    }
    let tokens = logprobs["tokens"].as_array().cloned().unwrap_or_default();
    let entries = tokens.iter().enumerate().map(|(index, token)| {
        json!({
            "token": token,
            "logprob": logprobs["token_logprobs"][index],
            "top_logprobs": logprobs["top_logprobs"][index],
        })
    });
    entries.collect()
}
