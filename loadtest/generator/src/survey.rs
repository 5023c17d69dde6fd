//! What has to be known about a server before load is offered: its model, and how long words are to it.

use bytes::Bytes;
use serde::Deserialize;
use tokio::time::Instant;

use crate::client::{Client, Order};
use crate::outcome::Failure;
use crate::prompts::Prompt;
use crate::random::{Purpose, Random};
use crate::request::RequestWriter;
use crate::words::{TokensPerWord, push_words};

/// Words of the longer of the two requests that measure: more say more, and too many do not fit a small model.
const MOST_WORDS: u32 = 1024;
const FEWEST_WORDS: u32 = 32;

/// The first model that the server names.
///
/// # Errors
/// When it cannot be asked, or names none.
pub(crate) async fn first_model(client: &Client) -> anyhow::Result<String> {
    #[derive(Deserialize)]
    struct Models {
        data: Vec<Model>,
    }
    #[derive(Deserialize)]
    struct Model {
        id: String,
    }
    let target = &client.targets[0];
    let body = client.get("/models").await;
    let body = body.map_err(|failure| anyhow::anyhow!("{target}/models: {}", told(&failure)))?;
    let models: Models = serde_json::from_slice(&body)
        .map_err(|error| anyhow::anyhow!("{target}/models: not a list of models: {error}"))?;
    let first = models.data.into_iter().next();
    first
        .map(|model| model.id)
        .ok_or_else(|| anyhow::anyhow!("{target}/models: it names no model; give --model"))
}

/// Measures with two requests of one token each. None when the server does not say how long its prompts are.
///
/// # Errors
/// When a request fails.
pub(crate) async fn tokens_per_word(
    client: &Client,
    writer: &RequestWriter,
    prompt_tokens: f64,
) -> anyhow::Result<Option<TokensPerWord>> {
    // Half of the wanted length fits wherever the wanted length does, also when a word is two tokens.
    let half = crate::lengths::whole(prompt_tokens / 2.0);
    let (fewer, more) = (1, half.clamp(FEWEST_WORDS, MOST_WORDS));
    let mut measured = Vec::new();
    for words in [fewer, more] {
        let mut text = Vec::new();
        push_words(&mut text, words, &mut Random::new(0, Purpose::SharedWords));
        let body = writer.body(&Prompt::Text(text), 1);
        match prompt_length(client, body).await? {
            Some(tokens) => measured.push((words, tokens)),
            None => return Ok(None),
        }
    }
    Ok(TokensPerWord::through(measured[0], measured[1]))
}

async fn prompt_length(client: &Client, body: Bytes) -> anyhow::Result<Option<u64>> {
    let order = Order {
        target: 0,
        body,
        due: Instant::now(),
    };
    let asked = client.ask(order, None).await;
    let target = &client.targets[0];
    match asked.outcome.result {
        Ok(success) => {
            let usage = success.counted.usage;
            Ok(usage
                .map(|usage| usage.prompt_tokens)
                .filter(|tokens| *tokens > 0))
        }
        Err(failure) => Err(anyhow::anyhow!("{target}{}: {}", client.path, told(&failure))),
    }
}

fn told(failure: &Failure) -> String {
    match failure {
        Failure::Connect(text) => format!("cannot connect: {text}"),
        Failure::Status(status, text) => format!("status {status}: {text}"),
        Failure::Timeout | Failure::Disconnected(_) | Failure::Answer(_) => failure.text().to_owned(),
    }
}
