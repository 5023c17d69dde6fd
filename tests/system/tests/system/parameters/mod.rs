//! Every parameter of every endpoint: what it changes in an answer, and the value for which it is refused by its name. What an
//! endpoint takes is read from the server's own description, so a parameter without a row here makes the test fail.

mod generate;
mod others;

use std::collections::BTreeSet;

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use vlinders_system_tests::{Answer, Server};

use self::generate::{belonging, chat, completion, drawing, ends, forms, service_tier, vocabulary};
use self::others::{decisions, embeddings, messages, responses, tokenize};
use crate::{CHAT, COMPLETIONS, Checked};

const MESSAGES: &str = "/v1/messages";
const COUNT: &str = "/v1/messages/count_tokens";
const RESPONSES: &str = "/v1/responses";
const EMBEDDINGS: &str = "/v1/embeddings";
const DECISIONS: &str = "/v1/decisions";
const TOKENIZE: &str = "/tokenize";
const DETOKENIZE: &str = "/detokenize";

/// One parameter.
struct Row {
    name: &'static str,
    /// Fields that it needs beside it, in both requests.
    beside: Value,
    /// Its value in the second request.
    value: Value,
    /// What its value makes of the answer without it. Both are answered with 200.
    shows: fn(&Answer, &Answer) -> bool,
    /// A value that is refused, with an error that names it.
    bad: Value,
}

fn row(
    name: &'static str,
    beside: Value,
    value: Value,
    bad: Value,
    shows: fn(&Answer, &Answer) -> bool,
) -> Row {
    Row {
        name,
        beside,
        value,
        shows,
        bad,
    }
}

/// It is kept for whoever reads logs, or means what happens anyway: it changes nothing of the answer.
fn changes_nothing(without: &Answer, with: &Answer) -> bool {
    let told = |answer: &Answer| {
        let body = &answer.body;
        [
            &body["choices"],
            &body["content"],
            &body["data"],
            &body["probabilities"],
            &body["input_tokens"],
            &body["output"][0]["content"],
            &body["tokens"],
            &body["prompt"],
        ]
        .map(Clone::clone)
    };
    told(without) == told(with)
}

fn text(answer: &Answer) -> &str {
    let choice = &answer.body["choices"][0];
    let text = choice["text"].as_str().or(choice["message"]["content"].as_str());
    text.or(answer.body["content"][0]["text"].as_str())
        .or(answer.body["output"][0]["content"][0]["text"].as_str())
        .unwrap_or_default()
}

fn another_text(without: &Answer, with: &Answer) -> bool {
    text(without) != text(with)
}

fn counted(answer: &Answer, name: &str) -> u64 {
    answer.body["usage"][name].as_u64().unwrap_or(u64::MAX)
}

fn another_prompt(without: &Answer, with: &Answer) -> bool {
    counted(without, "prompt_tokens") != counted(with, "prompt_tokens")
}

fn finish(answer: &Answer) -> &Value {
    &answer.body["choices"][0]["finish_reason"]
}

fn look() -> Value {
    json!({"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": false})
}

fn tools() -> Value {
    json!([{"type": "function", "function": {"name": "look", "parameters": look()}}])
}

/// What every request to an endpoint holds, and the rows of its parameters.
fn endpoint(path: &str) -> anyhow::Result<(Value, Vec<Row>)> {
    let long = json!("x".repeat(1000));
    let spoken = json!([{"role": "user", "content": "What is Vlinders?"}]);
    let (base, mut rows) = match path {
        CHAT => (
            json!({"messages": spoken, "temperature": 0, "max_tokens": 60}),
            [
                chat(),
                vocabulary(&json!(true)),
                drawing(),
                ends(),
                forms(),
                belonging(&long),
                vec![service_tier()],
            ]
            .into_iter()
            .flatten()
            .collect(),
        ),
        COMPLETIONS => (
            json!({"prompt": "What is Vlinders? It is", "temperature": 0, "max_tokens": 60}),
            [
                completion(),
                vocabulary(&json!(1)),
                drawing(),
                ends(),
                forms(),
                belonging(&long),
                vec![service_tier()],
            ]
            .into_iter()
            .flatten()
            .collect(),
        ),
        MESSAGES => (
            json!({"messages": spoken, "temperature": 0, "max_tokens": 60}),
            messages(&long, false),
        ),
        COUNT => (json!({"messages": spoken}), messages(&long, true)),
        RESPONSES => (
            json!({"input": "What is Vlinders?", "temperature": 0, "max_output_tokens": 60}),
            responses(&long),
        ),
        EMBEDDINGS => (json!({"input": "Hello"}), embeddings()),
        DECISIONS => (json!({"input": "Hello", "labels": [" yes", " no"]}), decisions()),
        TOKENIZE => (json!({"prompt": "Hello"}), tokenize()),
        DETOKENIZE => (
            json!({"tokens": [696]}),
            vec![row(
                "tokens",
                json!({}),
                json!([696, 696]),
                json!([-1]),
                |without, with| without.body["prompt"] != with.body["prompt"],
            )],
        ),
        _ => anyhow::bail!("{path} takes a body and has no rows here"),
    };
    if [EMBEDDINGS, DECISIONS].contains(&path) {
        rows.extend(belonging(&long));
    }
    let mut base = base;
    base["model"] = "vlinders-demo".into();
    Ok((base, rows))
}

fn merged(base: &Value, fields: &Value) -> Value {
    let mut body = base.clone();
    for (name, value) in fields.as_object().into_iter().flatten() {
        body[name] = value.clone();
    }
    body
}

/// The name that an error is about, in whichever shape it comes.
fn named(answer: &Answer) -> String {
    let error = &answer.body["error"];
    let text = error["message"].as_str().unwrap_or_default();
    let param = error["param"]
        .as_str()
        .unwrap_or_else(|| text.split(':').next().unwrap_or_default());
    param.split(['.', '[']).next().unwrap_or_default().to_owned()
}

async fn check(server: &Server, path: &str, base: &Value, row: &Row) -> Checked {
    let without = merged(base, &row.beside);
    let before = server.client.post(path, &without).await?;
    ensure!(
        before.status == 200,
        "without it: {} {}",
        before.status,
        before.body
    );
    let mut body = without.clone();
    body[row.name] = row.value.clone();
    let after = server.client.post(path, &body).await?;
    ensure!(
        after.status == 200,
        "with {}: {} {}",
        row.value,
        after.status,
        after.body
    );
    ensure!(
        (row.shows)(&before, &after),
        "{} shows nothing:\n{}\n{}",
        row.value,
        before.text,
        after.text
    );
    body[row.name] = row.bad.clone();
    let refused = server.client.post(path, &body).await?;
    ensure!(
        refused.status == 400 && named(&refused) == row.name,
        "{} is answered with {} {}",
        row.bad,
        refused.status,
        refused.body
    );
    Ok(())
}

/// What the server says it takes, by endpoint.
async fn described(server: &Server) -> anyhow::Result<Vec<(String, BTreeSet<String>)>> {
    let document: Value = serde_json::from_str(&server.client.get_text("/openapi.json").await?)?;
    let mut all = Vec::new();
    for (path, methods) in document["paths"].as_object().context("there are paths")? {
        // What is kept for later draws nothing by itself, and has tests of its own.
        if path.starts_with("/v1/files") || path.starts_with("/v1/batches") {
            continue;
        }
        let schema = &methods["post"]["requestBody"]["content"]["application/json"]["schema"]["properties"];
        let Some(properties) = schema.as_object() else {
            continue;
        };
        all.push((path.clone(), properties.keys().cloned().collect()));
    }
    Ok(all)
}

#[tokio::test]
async fn every_parameter_has_its_effect_and_is_refused_by_name() -> Checked {
    let server = Server::start(&["--tool-format", "hermes"]).await?;
    let (mut faults, mut count) = (Vec::new(), 0);
    for (path, names) in described(&server).await? {
        let (base, rows) = endpoint(&path)?;
        for name in &names {
            // Its absence is a test of its own.
            if name == "model" {
                continue;
            }
            let row = rows.iter().find(|row| row.name == name);
            let checked = match row {
                Some(row) => check(&server, &path, &base, row).await,
                None => Err(anyhow::anyhow!("has no row here")),
            };
            count += 1;
            faults.extend(checked.err().map(|fault| format!("{path} {name}: {fault:#}")));
        }
    }
    println!("{count} parameters");
    ensure!(faults.is_empty(), "\n{}", faults.join("\n"));
    server.stop().await?;
    Ok(())
}
