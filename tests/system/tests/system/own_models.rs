//! Folders of users: the tiny checkpoints of `tests/goldens` with a tokenizer, through HTTP.

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use vlinders_system_tests::{Golden, Reply, Server, copy_of};

use crate::{COMPLETIONS, Checked};

const FAMILIES: [&str; 5] = ["llama", "llama31", "mistral", "qwen2", "qwen3"];

fn greedy(prompt: &[u32], tokens: usize) -> Value {
    json!({
        "model": "model", "prompt": prompt, "temperature": 0, "max_tokens": tokens, "ignore_eos": true, "logprobs": 0,
    })
}

fn ids(reply: &Reply) -> anyhow::Result<Vec<u32>> {
    let texts = Golden::token_texts();
    let ids = reply.tokens.iter().map(|token| {
        let text = token["token"].as_str().context("a token without text")?;
        texts
            .get(text)
            .copied()
            .with_context(|| format!("no token {text:?}"))
    });
    ids.collect()
}

/// Serves a checkpoint and continues its golden prompt.
async fn continued(name: &str, arguments: &[&str]) -> anyhow::Result<(Golden, Vec<u32>)> {
    let folder = tempfile::tempdir()?;
    let model = copy_of(name, folder.path())?;
    let golden = Golden::read(name.split('/').next().unwrap_or(name))?;
    let model = model.to_str().context("scratch folders have plain names")?;
    let server = Server::start(&[&["--model", model], arguments].concat()).await?;
    let body = greedy(&golden.prompt, golden.greedy.len());
    let reply = server.client.whole(COMPLETIONS, &body).await?;
    let streamed = server.client.streamed(COMPLETIONS, &body).await?;
    ensure!(
        streamed.tokens == reply.tokens && streamed.text == reply.text,
        "{name}: {streamed:?}\n{reply:?}"
    );
    server.stop().await?;
    let ids = ids(&reply)?;
    Ok((golden, ids))
}

#[tokio::test]
async fn every_family_continues_as_hugging_face_transformers_does() -> Checked {
    for family in FAMILIES {
        let (golden, ids) = continued(&format!("{family}/f32"), &[]).await?;
        ensure!(ids == golden.greedy, "{family}:\n{ids:?}\n{:?}", golden.greedy);
    }
    Ok(())
}

#[tokio::test]
async fn one_role_and_the_reference_backend_continue_alike() -> Checked {
    for arguments in [&["--role", "both"], &["--backend", "reference"]] {
        let (golden, ids) = continued("qwen3/f32", arguments).await?;
        ensure!(
            ids == golden.greedy,
            "{arguments:?}:\n{ids:?}\n{:?}",
            golden.greedy
        );
    }
    Ok(())
}

#[tokio::test]
async fn half_precision_checkpoints_are_served() -> Checked {
    for name in [
        "llama/f16",
        "llama/bf16",
        "llama31/bf16",
        "mistral/bf16",
        "qwen2/bf16",
        "qwen3/bf16",
    ] {
        let (golden, ids) = continued(name, &[]).await?;
        ensure!(ids.len() == golden.greedy.len(), "{name}: {} tokens", ids.len());
    }
    Ok(())
}

#[tokio::test]
async fn a_model_without_a_chat_template_says_so() -> Checked {
    let folder = tempfile::tempdir()?;
    let model = copy_of("llama/f32", folder.path())?;
    let model = model.to_str().context("scratch folders have plain names")?;
    let server = Server::start(&["--model", model]).await?;
    let body = json!({"model": "model", "messages": [{"role": "user", "content": "Hello"}]});
    let answer = server.client.post(crate::CHAT, &body).await?;
    ensure!(answer.status == 400, "{} {}", answer.status, answer.body);
    ensure!(
        answer.body["error"]["message"].to_string().contains("template"),
        "{}",
        answer.body
    );
    server.stop().await?;
    Ok(())
}
