//! What is told of prompts: their tokens' log-probabilities, embeddings, decisions.

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use vlinders_system_tests::{Client, Server};

use crate::{CHAT, COMPLETIONS, Checked, ask};

const EMBEDDINGS: &str = "/v1/embeddings";
const DECISIONS: &str = "/v1/decisions";

async fn post(client: &Client, path: &str, body: &Value) -> anyhow::Result<Value> {
    let answer = client.post(path, body).await?;
    ensure!(answer.status == 200, "{path} {body}: {}", answer.body);
    Ok(answer.body)
}

async fn tokens(client: &Client, text: &str, special: bool) -> anyhow::Result<Vec<u64>> {
    let body = json!({"model": "vlinders-demo", "prompt": text, "add_special_tokens": special});
    let answer = post(client, "/tokenize", &body).await?;
    let ids = answer["tokens"].as_array().context("no tokens")?;
    ids.iter().map(|id| id.as_u64().context("not a token")).collect()
}

/// Long enough for several blocks and several chunks of prefill.
fn long_text() -> String {
    "Prefill workers compute the prompt, and decode workers generate tokens from it. ".repeat(12)
}

fn scored(prompt: &Value, top: u32) -> Value {
    json!({"model": "vlinders-demo", "prompt": prompt, "max_tokens": 0, "prompt_logprobs": top})
}

/// The places of a prompt: null, then objects by token.
async fn places(client: &Client, prompt: &Value, top: u32) -> anyhow::Result<Vec<Value>> {
    let answer = post(client, COMPLETIONS, &scored(prompt, top)).await?;
    let places = answer["choices"][0]["prompt_logprobs"].as_array();
    Ok(places.context("no prompt_logprobs")?.clone())
}

#[tokio::test]
async fn an_echoed_prompt_is_scored_as_evaluations_ask_for_it() -> Checked {
    let server = Server::start(&[]).await?;
    let text = "What is Vlinders? It serves models.";
    let body =
        json!({"model": "vlinders-demo", "prompt": text, "echo": true, "logprobs": 3, "max_tokens": 0});
    let answer = post(&server.client, COMPLETIONS, &body).await?;
    let choice = &answer["choices"][0];
    ensure!(
        choice["text"] == text && choice["finish_reason"] == "length",
        "{choice}"
    );
    let ids = tokens(&server.client, text, true).await?;
    let list = |name: &str| choice["logprobs"][name].as_array().cloned().unwrap_or_default();
    let (logprobs, tops, offsets) = (list("token_logprobs"), list("top_logprobs"), list("text_offset"));
    ensure!(
        [&logprobs, &tops, &offsets]
            .iter()
            .all(|list| list.len() == ids.len()),
        "{choice}"
    );
    ensure!(
        logprobs[0].is_null() && tops[0].is_null(),
        "the first token follows nothing"
    );
    ensure!(
        logprobs[1..]
            .iter()
            .all(|one| one.as_f64().is_some_and(|one| one <= 0.0))
    );
    for ((token, offset), top) in list("tokens").iter().zip(&offsets).zip(&tops[..]).skip(1) {
        let (token, start) = (
            token.as_str().context("no text")?,
            offset.as_u64().context("no offset")?,
        );
        let rest: String = text.chars().skip(usize::try_from(start)?).collect();
        ensure!(rest.starts_with(token), "{token:?} does not begin at {start}");
        ensure!((3..=4).contains(&top.as_object().map_or(0, serde_json::Map::len)));
    }
    ensure!(answer["usage"]["completion_tokens"] == 0 && answer["usage"]["prompt_tokens"] == ids.len());
    // Echoed and generated tokens of one answer stand behind one another, streamed or whole.
    let mut body = json!({"model": "vlinders-demo", "prompt": text, "echo": true, "logprobs": 1, "max_tokens": 8,
        "temperature": 0, "ignore_eos": true});
    let whole = server.client.whole(COMPLETIONS, &body).await?;
    body["stream"] = true.into();
    let stream = server.client.streamed(COMPLETIONS, &body).await?;
    ensure!(
        whole.text == stream.text && whole.tokens == stream.tokens,
        "streams tell the same"
    );
    let rows = server.stop().await?.usage().await?;
    ensure!(rows.len() == 3, "a row for each");
    Ok(())
}

#[tokio::test]
async fn a_given_token_is_as_likely_as_a_drawn_one() -> Checked {
    let server = Server::start(&[]).await?;
    let ids = tokens(&server.client, "What is Vlinders?", true).await?;
    let body =
        json!({"model": "vlinders-demo", "prompt": ids, "max_tokens": 1, "temperature": 0, "logprobs": 0});
    let drawn = post(&server.client, COMPLETIONS, &body).await?["choices"][0]["logprobs"]["token_logprobs"]
        [0]
    .clone();
    let mut more = ids.clone();
    more.push(ids[0]);
    let places = places(&server.client, &json!(more), 1).await?;
    let last = places
        .last()
        .and_then(Value::as_object)
        .context("no last place")?;
    let best = last
        .values()
        .find(|one| one["rank"] == 1)
        .context("nobody is first")?;
    ensure!(best["logprob"] == drawn, "{best} is not {drawn}");
    // The chat endpoint tells the same of the prompt that its template renders.
    let mut chat = ask("What is Vlinders?");
    (chat["prompt_logprobs"], chat["max_tokens"]) = (json!(0), json!(1));
    let told = post(&server.client, CHAT, &chat).await?;
    let count = told["usage"]["prompt_tokens"].as_u64().context("no usage")?;
    let list = told["prompt_logprobs"].as_array().context("no prompt_logprobs")?;
    ensure!(list.len() as u64 == count && list[0].is_null() && list[1].is_object());
    server.stop().await?;
    Ok(())
}

#[tokio::test]
async fn what_is_told_of_a_prompt_is_the_same_in_every_layout_and_beside_others() -> Checked {
    let text = json!(long_text());
    let embed = json!({"model": "vlinders-demo", "input": [long_text(), "short"]});
    let mut expected = None;
    for arguments in [
        &[][..],
        &["--max-num-seqs", "16", "--max-num-batched-tokens", "48"],
        &["--role", "both"],
        &["--role", "split", "--enable-prefix-caching", "false"],
        &["--threads", "1"],
    ] {
        let server = Server::start(arguments).await?;
        let alone = places(&server.client, &text, 5).await?;
        let mut beside = JoinSet::new();
        for _ in 0..6 {
            let (client, text) = (server.client.clone(), text.clone());
            beside.spawn(async move {
                let other = crate::ask_for("And now?", 30);
                let (told, other) = tokio::join!(places(&client, &text, 5), client.whole(CHAT, &other));
                other?;
                told
            });
        }
        while let Some(told) = beside.join_next().await {
            ensure!(told?? == alone, "beside others");
        }
        let vectors = post(&server.client, EMBEDDINGS, &embed).await?["data"].clone();
        server.stop().await?;
        let found = (alone, vectors);
        let expected = expected.get_or_insert_with(|| found.clone());
        ensure!(*expected == found, "with {arguments:?}");
    }
    Ok(())
}

fn vector(entry: &Value) -> anyhow::Result<Vec<f64>> {
    let elements = entry["embedding"].as_array().context("no vector")?;
    elements
        .iter()
        .map(|one| one.as_f64().context("not a number"))
        .collect()
}

#[tokio::test]
async fn embeddings_are_unit_vectors_in_the_order_of_their_inputs() -> Checked {
    let server = Server::start(&[]).await?;
    let inputs: Vec<String> = (0..70).map(|number| format!("input number {number}")).collect();
    let answer = post(
        &server.client,
        EMBEDDINGS,
        &json!({"model": "vlinders-demo", "input": inputs}),
    )
    .await?;
    let data = answer["data"].as_array().context("no data")?;
    ensure!(data.len() == 70 && answer["object"] == "list" && answer["model"] == "vlinders-demo");
    for (index, entry) in data.iter().enumerate() {
        ensure!(
            entry["index"] == index && entry["object"] == "embedding",
            "{entry}"
        );
        let square: f64 = vector(entry)?.iter().map(|element| element * element).sum();
        ensure!((square - 1.0).abs() < 1e-5, "length {square}");
    }
    let mut prompt_tokens = answer["usage"]["prompt_tokens"].as_u64().context("no usage")?;
    for (index, input) in [
        (0, json!(inputs[0])),
        (69, json!([tokens(&server.client, &inputs[69], true).await?])),
    ] {
        let alone = post(
            &server.client,
            EMBEDDINGS,
            &json!({"model": "vlinders-demo", "input": input}),
        )
        .await?;
        ensure!(
            alone["data"][0]["embedding"] == data[index]["embedding"],
            "alone as among others"
        );
        prompt_tokens += alone["usage"]["prompt_tokens"].as_u64().context("no usage")?;
    }
    let short = json!({"model": "vlinders-demo", "input": inputs[0], "dimensions": 4});
    let short = post(&server.client, EMBEDDINGS, &short).await?;
    prompt_tokens += short["usage"]["prompt_tokens"].as_u64().context("no usage")?;
    let (cut, whole) = (vector(&short["data"][0])?, vector(&data[0])?);
    let length = whole[..4]
        .iter()
        .map(|element| element * element)
        .sum::<f64>()
        .sqrt();
    ensure!(cut.len() == 4);
    ensure!(
        cut.iter()
            .zip(&whole)
            .all(|(cut, whole)| (cut - whole / length).abs() < 1e-5)
    );
    let rows = server.stop().await?.usage().await?;
    ensure!(rows.len() == 73, "a row for each input: {}", rows.len());
    let mut billed = 0;
    for row in &rows {
        ensure!(row.number("completion_tokens")? == 0);
        billed += row.number("prompt_tokens")?;
    }
    ensure!(billed == prompt_tokens, "{billed} billed, {prompt_tokens} told");
    Ok(())
}

#[tokio::test]
async fn a_decision_follows_the_chain_rule_and_shares_its_context() -> Checked {
    let server = Server::start(&[]).await?;
    let (context, labels) = (long_text() + "Is that so?", [" yes", " no", " perhaps not"]);
    let body = json!({"model": "vlinders-demo", "input": context, "labels": labels});
    let answer = post(&server.client, DECISIONS, &body).await?;
    let probabilities = answer["probabilities"].as_array().context("no probabilities")?;
    let mut sum = 0.0;
    let before = tokens(&server.client, &context, true).await?;
    for (label, told) in labels.iter().zip(probabilities) {
        ensure!(told["label"] == *label);
        sum += told["probability"].as_f64().context("no probability")?;
        let own = tokens(&server.client, label, false).await?;
        let places = places(&server.client, &json!([before.clone(), own.clone()].concat()), 0).await?;
        let logprob: f64 = places[before.len()..]
            .iter()
            .zip(&own)
            .filter_map(|(place, id)| place[id.to_string()]["logprob"].as_f64())
            .sum();
        let told = told["logprob"].as_f64().context("no logprob")?;
        ensure!((told - logprob).abs() < 1e-4, "{label}: {told} is not {logprob}");
    }
    ensure!((sum - 1.0).abs() < 1e-9, "{sum}");
    let best = probabilities.iter().max_by(|left, right| {
        let share = |one: &Value| one["probability"].as_f64().unwrap_or(0.0);
        share(left).total_cmp(&share(right))
    });
    ensure!(answer["label"] == best.context("no label")?["label"]);
    let again = post(&server.client, DECISIONS, &body).await?;
    ensure!(
        again["probabilities"] == answer["probabilities"],
        "the same question, the same answer"
    );
    let mut calibrated = json!({"model": "vlinders-demo", "messages": [{"role": "user", "content": "Good?"}],
        "labels": (0..40).map(|number| format!("label {number}")).collect::<Vec<_>>(), "calibrate": true});
    let answer = post(&server.client, DECISIONS, &calibrated).await?;
    ensure!(
        answer["probabilities"]
            .as_array()
            .is_some_and(|all| all.len() == 40)
    );
    calibrated["labels"] = json!(["a", "a"]);
    ensure!(server.client.post(DECISIONS, &calibrated).await?.status == 400);
    let rows = server.stop().await?.usage().await?;
    let billed = rows.iter().map(|row| row.number("prompt_tokens"));
    let billed = billed.collect::<anyhow::Result<Vec<_>>>()?;
    // Two questions of three labels, three scored prompts, and one question of 40 labels asked twice over.
    ensure!(rows.len() == 6 + 3 + 80);
    ensure!(
        billed.iter().filter(|tokens| **tokens > 0).count() == 2 + 3 + 2,
        "a context is billed once"
    );
    Ok(())
}

/// A path, a field, what is wrong with it, and the parameter that the refusal names.
fn refused() -> Vec<(&'static str, &'static str, Value, &'static str)> {
    let long = json!("long ".repeat(5_000));
    vec![
        (EMBEDDINGS, "dimensions", json!(0), "dimensions"),
        (EMBEDDINGS, "dimensions", json!(60_000), "dimensions"),
        (EMBEDDINGS, "input", json!(""), "input"),
        (EMBEDDINGS, "input", json!(vec!["x"; 10_000]), "input"),
        (EMBEDDINGS, "input", json!([[1_000_000]]), "input"),
        (EMBEDDINGS, "input", long.clone(), "input"),
        (EMBEDDINGS, "encoding_format", json!("hex"), "encoding_format"),
        (DECISIONS, "labels", json!(["a"]), "labels"),
        (DECISIONS, "input", long, "input"),
        (DECISIONS, "temperature", json!(1), "temperature"),
        (COMPLETIONS, "prompt_logprobs", json!(21), "prompt_logprobs"),
        (COMPLETIONS, "prompt_logprobs", json!(-1), "prompt_logprobs"),
        (
            COMPLETIONS,
            "prompt_logprobs",
            json!(1_000_000_000),
            "prompt_logprobs",
        ),
        (COMPLETIONS, "prompt_logprobs", Value::Null, "max_tokens"),
        (COMPLETIONS, "stream", json!(true), "prompt_logprobs"),
        (COMPLETIONS, "n", json!(2), "n"),
    ]
}

#[tokio::test]
async fn what_cannot_be_told_is_refused_by_name_and_hurts_nobody() -> Checked {
    let server = Server::start(&[]).await?;
    let good = [
        (EMBEDDINGS, json!({"model": "vlinders-demo", "input": "x"})),
        (
            DECISIONS,
            json!({"model": "vlinders-demo", "input": "x", "labels": ["a", "b"]}),
        ),
        (COMPLETIONS, scored(&json!("x"), 0)),
    ];
    for (path, name, value, param) in refused() {
        let body = good.iter().find(|(known, _)| *known == path);
        let mut body = body.context("no such path")?.1.clone();
        body[name] = value;
        let answer = server.client.post(path, &body).await?;
        let named = answer.body["error"]["param"].as_str().unwrap_or_default();
        let is_right = answer.status == 400 && named.starts_with(param);
        ensure!(is_right, "{path} {name}: {} {}", answer.status, answer.body);
    }
    for (path, mut body) in good {
        post(&server.client, path, &body).await?;
        body["model"] = "nobody".into();
        ensure!(server.client.post(path, &body).await?.status == 404);
    }
    server.stop().await?;
    Ok(())
}
