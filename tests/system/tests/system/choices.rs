//! `n`, `best_of` and lists of prompts.

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use vlinders_system_tests::{Samples, Server};

use crate::{CHAT, COMPLETIONS, Checked, ask_for};

/// Longer than two blocks, so that there is something to share.
const QUESTION: &str =
    "What is Vlinders, and how do its prefill workers and its decode workers share a long prompt?";

fn texts(body: &Value) -> anyhow::Result<Vec<String>> {
    let choices = body["choices"].as_array().context("no choices")?;
    let text = |(index, choice): (usize, &Value)| {
        ensure!(choice["index"] == index, "out of order: {choice}");
        let text = choice["message"]["content"].as_str().or(choice["text"].as_str());
        Ok(text.context("no text")?.to_owned())
    };
    choices.iter().enumerate().map(text).collect()
}

fn seeded(seed: u64, choices: u32) -> Value {
    let mut body = ask_for(QUESTION, 30);
    for (name, value) in [
        ("temperature", json!(1.5)),
        ("seed", seed.into()),
        ("n", choices.into()),
    ] {
        body[name] = value;
    }
    body
}

#[tokio::test]
async fn choices_differ_repeat_and_are_billed_once_for_their_prompt() -> Checked {
    let server = Server::start(&[]).await?;
    let mut answers = Vec::new();
    for choices in [1, 4, 4] {
        let answer = server.client.post(CHAT, &seeded(5, choices)).await?;
        ensure!(answer.status == 200, "{}", answer.body);
        answers.push(answer.body);
    }
    let told: Vec<Vec<String>> = answers.iter().map(texts).collect::<anyhow::Result<_>>()?;
    ensure!(told[1] == told[2], "the same seed gives the same choices");
    ensure!(
        told[0][0] == told[1][0],
        "the first choice is what a request for one gets"
    );
    let distinct: std::collections::HashSet<&String> = told[1].iter().collect();
    ensure!(
        distinct.len() == 4,
        "choices have seeds of their own: {distinct:?}"
    );

    let counted = |name: &str| {
        answers
            .iter()
            .map(|body| body["usage"][name].as_u64())
            .sum::<Option<u64>>()
    };
    let (prompt, completion) = (counted("prompt_tokens"), counted("completion_tokens"));
    ensure!(
        completion == Some(9 * 30),
        "every choice's tokens count: {completion:?}"
    );
    ensure!(prompt == answers[0]["usage"]["prompt_tokens"].as_u64().map(|one| 3 * one));
    let rows = server.stop().await?.usage().await?;
    ensure!(rows.len() == 9, "a row for each choice");
    let mut sums = (0, 0);
    for row in &rows {
        sums.0 += row.number("prompt_tokens")?;
        sums.1 += row.number("completion_tokens")?;
    }
    ensure!(
        (Some(sums.0), Some(sums.1)) == (prompt, completion),
        "billed is told: {sums:?}"
    );
    Ok(())
}

#[tokio::test]
async fn later_choices_find_the_prompt_computed() -> Checked {
    let server = Server::start(&[]).await?;
    let prompt_tokens = server
        .client
        .whole(CHAT, &seeded(1, 1))
        .await?
        .counted("prompt_tokens")?;
    let before = server.metrics().await?;
    let mut other = seeded(1, 4);
    // A cache of its own: nothing of the first request is found.
    other["cache_salt"] = "other".into();
    server.client.post(CHAT, &other).await?;
    let after = server.metrics().await?;
    let prefilled = |samples: &Samples| samples.sum_where("vlinders_step_tokens_sum", "role=\"prefill\"");
    let computed = prefilled(&after) - prefilled(&before);
    // The prompt once, and for each of the three others what is left of its last block.
    let most = u32::try_from(prompt_tokens)? + 3 * 16;
    ensure!(
        computed > 0.0 && computed <= f64::from(most),
        "{computed} prompt tokens computed, of {prompt_tokens}"
    );
    server.stop().await?;
    Ok(())
}

#[tokio::test]
async fn a_stream_of_choices_says_what_the_whole_answer_says() -> Checked {
    let server = Server::start(&[]).await?;
    let whole = texts(&server.client.post(CHAT, &seeded(9, 3)).await?.body)?;
    let mut stream = server.client.stream(CHAT, &seeded(9, 3)).await?;
    while stream.advance().await? {}
    ensure!(stream.reply.is_done && stream.reply.finish_reasons.len() == 3);
    let mut joined = vec![String::new(); 3];
    for (index, text) in &stream.reply.pieces {
        joined[*index].push_str(text);
    }
    ensure!(joined == whole, "{joined:?} {whole:?}");
    server.stop().await?;
    Ok(())
}

#[tokio::test]
async fn the_likeliest_answer_and_every_prompt_are_answered() -> Checked {
    let server = Server::start(&[]).await?;
    let one = |prompt: Value| json!({"model": "vlinders-demo", "prompt": prompt, "max_tokens": 12, "seed": 3, "temperature": 1.2});
    let mut many = one(json!(["Vlinders is", "A decode worker"]));
    many["n"] = 2.into();
    let together = texts(&server.client.post(COMPLETIONS, &many).await?.body)?;
    let mut alone = Vec::new();
    for prompt in ["Vlinders is", "A decode worker"] {
        let mut body = one(prompt.into());
        body["n"] = 2.into();
        alone.extend(texts(&server.client.post(COMPLETIONS, &body).await?.body)?);
    }
    ensure!(
        together == alone,
        "a prompt's answers do not depend on its neighbours"
    );

    let mut all = one("Vlinders is".into());
    for (name, value) in [("n", 4), ("logprobs", 0)] {
        all[name] = value.into();
    }
    let all = server.client.post(COMPLETIONS, &all).await?.body;
    let mean = |choice: &Value| {
        let logprobs = choice["logprobs"]["token_logprobs"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        logprobs.iter().filter_map(Value::as_f64).sum::<f64>() / logprobs.len() as f64
    };
    let choices = all["choices"].as_array().context("no choices")?;
    let best = choices
        .iter()
        .max_by(|left, right| mean(left).total_cmp(&mean(right)));
    let mut asked = one("Vlinders is".into());
    asked["best_of"] = 4.into();
    let told = server.client.post(COMPLETIONS, &asked).await?.body;
    ensure!(texts(&told)? == [best.context("no best")?["text"].as_str().unwrap_or_default()]);
    ensure!(told["usage"]["completion_tokens"] == all["usage"]["completion_tokens"]);
    server.stop().await?;
    Ok(())
}
