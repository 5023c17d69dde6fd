//! Bad requests and exactly what they are answered with.

use anyhow::ensure;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use vlinders_system_tests::{Answer, Server};

use crate::{CHAT, COMPLETIONS, Checked, ask};

/// Status, `type`, `param` (empty is null) and `code`.
pub(crate) type Expected = (u16, &'static str, &'static str, &'static str);

pub(crate) const INVALID: &str = "invalid_request_error";

pub(crate) const fn bad(param: &'static str) -> Expected {
    (400, INVALID, param, "invalid_value")
}

const fn not_offered(param: &'static str) -> Expected {
    (400, INVALID, param, "unsupported_parameter")
}

/// The error has its four fields and says exactly this.
pub(crate) fn check(what: &str, answer: &Answer, expected: Expected) -> Checked {
    let (status, kind, param, code) = expected;
    let told = format!("{what}: {} {}", answer.status, answer.body);
    ensure!(answer.status == status, "{told}, expected {expected:?}");
    let fields = answer.body["error"].as_object();
    let names: Vec<&str> = fields
        .into_iter()
        .flat_map(|fields| fields.keys())
        .map(String::as_str)
        .collect();
    ensure!(names == ["message", "type", "param", "code"], "{told}");
    let error = &answer.body["error"];
    let param = if param.is_empty() {
        Value::Null
    } else {
        param.into()
    };
    ensure!(
        error["type"] == kind && error["param"] == param && error["code"] == code,
        "{told}, expected {expected:?}"
    );
    ensure!(
        error["message"].as_str().is_some_and(|text| text.len() > 5),
        "{told}"
    );
    ensure!(answer.request_id.is_some(), "{told}: no x-request-id");
    Ok(())
}

/// A good chat request with one field changed.
fn with(name: &str, value: Value) -> Value {
    let mut body = ask("Hello");
    body[name] = value;
    body
}

fn completion(name: &str, value: Value) -> Value {
    let mut body = json!({"model": "vlinders-demo", "prompt": "Hello"});
    body[name] = value;
    body
}

fn message(message: Value) -> Value {
    with("messages", json!([message]))
}

fn chat_values() -> Vec<(Value, Expected)> {
    let text = |bytes: usize| Value::from("x".repeat(bytes));
    vec![
        (with("temperature", json!(2.1)), bad("temperature")),
        (with("temperature", json!(-0.1)), bad("temperature")),
        (with("temperature", json!("hot")), bad("temperature")),
        (with("top_p", json!(1.5)), bad("top_p")),
        (with("top_k", json!(-2)), bad("top_k")),
        (with("top_k", json!(1.5)), bad("top_k")),
        (with("min_p", json!(2)), bad("min_p")),
        (with("presence_penalty", json!(3)), bad("presence_penalty")),
        (with("frequency_penalty", json!(-3)), bad("frequency_penalty")),
        (with("repetition_penalty", json!(0)), bad("repetition_penalty")),
        (with("seed", json!("one")), bad("seed")),
        (with("seed", json!(1e30)), bad("seed")),
        (with("max_tokens", json!(0)), bad("max_tokens")),
        (with("max_tokens", json!(-1)), bad("max_tokens")),
        (
            with("max_tokens", json!(1_000_000_000_000_u64)),
            bad("max_tokens"),
        ),
        (
            with("max_tokens", json!(100_000)),
            (400, INVALID, "max_tokens", "context_length_exceeded"),
        ),
        (
            with("max_completion_tokens", json!(100_000)),
            (400, INVALID, "max_completion_tokens", "context_length_exceeded"),
        ),
        (
            with("min_tokens", json!(100_000)),
            (400, INVALID, "min_tokens", "context_length_exceeded"),
        ),
        (with("stop", json!(["a", "b", "c", "d", "e"])), bad("stop")),
        (with("stop", json!([""])), bad("stop[0]")),
        (with("stop", text(300)), bad("stop")),
        (with("stop", json!(5)), bad("stop")),
        (with("stop_token_ids", json!([999_999])), bad("stop_token_ids")),
        (with("stop_token_ids", json!([-1])), bad("stop_token_ids[0]")),
        (with("logit_bias", json!({"999999": 1})), bad("logit_bias")),
        (with("logit_bias", json!({"cat": 1})), bad("logit_bias")),
        (with("logit_bias", json!({"5": 101})), bad("logit_bias")),
        (with("logprobs", json!(3)), bad("logprobs")),
        (with("top_logprobs", json!(3)), bad("top_logprobs")),
        (with("stream", json!("yes")), bad("stream")),
        (
            with("stream_options", json!({"include_usage": true})),
            bad("stream_options"),
        ),
        (with("n", json!(0)), bad("n")),
        (with("n", json!(1_000_000_000)), bad("n")),
        (with("n", json!(9)), bad("n")),
        (with("user", text(1000)), bad("user")),
        (with("metadata", json!({"a": 1})), bad("metadata")),
        (with("priority", json!(100_000)), bad("priority")),
        (with("cache_salt", text(1000)), bad("cache_salt")),
        (with("model", json!("")), bad("model")),
        (with("model", json!(5)), bad("model")),
        (with("model", Value::Null), bad("model")),
        (
            with("model", json!("nobody")),
            (404, INVALID, "model", "model_not_found"),
        ),
    ]
}

fn chat_shapes() -> Vec<(Value, Expected)> {
    vec![
        (with("messages", json!([])), bad("messages")),
        (with("messages", Value::Null), bad("messages")),
        (with("messages", json!("Hello")), bad("messages")),
        (
            message(json!({"role": "king", "content": "x"})),
            bad("messages[0].role"),
        ),
        (message(json!({"role": "user"})), bad("messages[0]")),
        (
            message(json!({"role": "user", "content": 5})),
            bad("messages[0].content"),
        ),
        (
            message(json!({"role": "user", "content": "x", "colour": "red"})),
            bad("messages[0].colour"),
        ),
        (
            message(json!({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]})),
            bad("messages[0].content[0]"),
        ),
        (
            message(json!({"role": "tool", "content": "x"})),
            bad("messages[0]"),
        ),
        (
            message(json!({"role": "user", "content": "butterfly ".repeat(4000)})),
            (400, INVALID, "messages", "context_length_exceeded"),
        ),
        (
            with("temprature", json!(1)),
            (400, INVALID, "temprature", "unknown_parameter"),
        ),
        (
            with("colour", json!("red")),
            (400, INVALID, "colour", "unknown_parameter"),
        ),
        (with("prompt", json!("x")), not_offered("prompt")),
        (with("echo", json!(true)), not_offered("echo")),
        (
            with("chat_template", json!("{{ messages }}")),
            not_offered("chat_template"),
        ),
        (
            with("chat_template_kwargs", json!({"messages": 1})),
            not_offered("chat_template_kwargs.messages"),
        ),
        (with("service_tier", json!("gold")), not_offered("service_tier")),
    ]
}

fn chat_tools() -> Vec<(Value, Expected)> {
    vec![
        (
            with("tools", json!([{"type": "web_search"}])),
            not_offered("tools[0].type"),
        ),
        (
            with(
                "tools",
                json!([{"type": "function", "function": {"name": "a b"}}]),
            ),
            bad("tools[0].function.name"),
        ),
        (with("tool_choice", json!("required")), bad("tool_choice")),
        (
            with("functions", json!([{"name": "a b"}])),
            bad("functions[0].name"),
        ),
        (
            with("reasoning_effort", json!("high")),
            not_offered("reasoning_effort"),
        ),
        (with("reasoning_effort", json!("much")), bad("reasoning_effort")),
    ]
}

fn completions() -> Vec<(Value, Expected)> {
    vec![
        (completion("prompt", json!("")), bad("prompt")),
        (completion("prompt", json!([])), bad("prompt")),
        (completion("prompt", Value::Null), bad("prompt")),
        (completion("prompt", json!(["a", 1])), bad("prompt")),
        (completion("prompt", json!([999_999])), bad("prompt")),
        (completion("prompt", json!([-1])), bad("prompt[0]")),
        (completion("prompt", json!([[1, 2, 2.5]])), bad("prompt[0][2]")),
        (completion("prompt", json!({"text": "x"})), bad("prompt")),
        (
            completion("prompt", json!(vec![100; 3000])),
            (400, INVALID, "prompt", "context_length_exceeded"),
        ),
        (completion("logprobs", json!(21)), bad("logprobs")),
        (completion("logprobs", json!(true)), bad("logprobs")),
        (completion("best_of", json!(9)), bad("best_of")),
        (completion("suffix", json!("end")), not_offered("suffix")),
        (completion("messages", json!([])), not_offered("messages")),
        (completion("prompt_logprobs", json!(21)), bad("prompt_logprobs")),
        (
            completion("model", json!("nobody")),
            (404, INVALID, "model", "model_not_found"),
        ),
    ]
}

#[tokio::test]
async fn a_bad_field_is_named() -> Checked {
    let server = Server::start(&[]).await?;
    let mut cases: Vec<(&str, Value, Expected)> = Vec::new();
    for (body, expected) in chat_values().into_iter().chain(chat_shapes()).chain(chat_tools()) {
        cases.push((CHAT, body, expected));
    }
    for (body, expected) in completions() {
        cases.push((COMPLETIONS, body, expected));
    }
    let mut faults = Vec::new();
    for (path, mut body, expected) in cases {
        let is_about_streams = body.get("stream").is_some() || body.get("stream_options").is_some();
        for is_streamed in [false, true] {
            if !is_about_streams {
                body["stream"] = is_streamed.into();
            }
            let shown: String = body.to_string().chars().take(200).collect();
            let answer = server.client.post(path, &body).await?;
            faults.extend(
                check(&shown, &answer, expected)
                    .err()
                    .map(|fault| fault.to_string()),
            );
        }
    }
    ensure!(faults.is_empty(), "\n{}", faults.join("\n"));
    let rows = server.stop().await?.usage().await?;
    ensure!(rows.is_empty(), "a refused request was billed: {rows:?}");
    Ok(())
}

/// What it is, its headers, its bytes and the answer.
type BodyCase = (
    &'static str,
    &'static [(&'static str, &'static str)],
    Vec<u8>,
    Expected,
);

pub(crate) const JSON: (&str, &str) = ("content-type", "application/json");
const NO_JSON: Expected = (400, INVALID, "", "invalid_json");
const WRONG_TYPE: Expected = (415, INVALID, "", "unsupported_media_type");

fn bad_bodies() -> Vec<BodyCase> {
    let good = ask("Hello").to_string().into_bytes();
    let deep = [&br#"{"messages":"#[..], &vec![b'['; 100_000]].concat();
    let twice = [br#"{"seed":1,"seed":2,"#, &good[1..]].concat();
    let large = vec![b' '; 11 * 1024 * 1024];
    vec![
        ("no body", &[JSON], vec![], NO_JSON),
        ("half a body", &[JSON], good[..good.len() / 2].to_vec(), NO_JSON),
        (
            "no object",
            &[JSON],
            b"[]".to_vec(),
            (400, INVALID, "", "invalid_value"),
        ),
        ("two objects", &[JSON], b"{}{}".to_vec(), NO_JSON),
        ("no UTF-8", &[JSON], vec![b'"', 0xFF, b'"'], NO_JSON),
        ("NaN", &[JSON], br#"{"temperature":NaN}"#.to_vec(), NO_JSON),
        ("deep", &[JSON], deep, NO_JSON),
        ("a name twice", &[JSON], twice, bad("seed")),
        ("no type", &[], good.clone(), WRONG_TYPE),
        (
            "a form",
            &[("content-type", "text/plain")],
            good.clone(),
            WRONG_TYPE,
        ),
        ("zipped", &[JSON, ("content-encoding", "gzip")], good, WRONG_TYPE),
        ("too large", &[JSON], large, (413, INVALID, "", "body_too_large")),
    ]
}

#[tokio::test]
async fn a_bad_body_is_refused_before_it_is_read_as_a_request() -> Checked {
    let server = Server::start(&[]).await?;
    let mut faults = Vec::new();
    for (what, headers, body, expected) in bad_bodies() {
        let answer = server.client.send("POST", CHAT, headers, body).await?;
        faults.extend(
            check(what, &answer, expected)
                .err()
                .map(|fault| fault.to_string()),
        );
    }
    ensure!(faults.is_empty(), "\n{}", faults.join("\n"));
    server.stop().await?;
    Ok(())
}

#[tokio::test]
async fn a_bad_route_or_method_is_answered_in_the_same_shape() -> Checked {
    let server = Server::start(&[]).await?;
    let long = "x".repeat(20 * 1024);
    for (method, path, headers, expected) in [
        ("GET", "/", vec![], (404, INVALID, "", "not_found")),
        ("POST", "/v1/images", vec![], (404, INVALID, "", "not_found")),
        (
            "GET",
            "/v1/chat/completions/",
            vec![],
            (404, INVALID, "", "not_found"),
        ),
        ("GET", CHAT, vec![], (405, INVALID, "", "method_not_allowed")),
        (
            "DELETE",
            "/v1/models",
            vec![],
            (405, INVALID, "", "method_not_allowed"),
        ),
        (
            "BREW",
            COMPLETIONS,
            vec![],
            (405, INVALID, "", "method_not_allowed"),
        ),
        (
            "GET",
            "/v1/models/nobody",
            vec![],
            (404, INVALID, "model", "model_not_found"),
        ),
        (
            "GET",
            "/v1/models/%ff",
            vec![],
            (404, INVALID, "model", "model_not_found"),
        ),
        (
            "GET",
            "/live",
            vec![("x-long", long.as_str())],
            (431, INVALID, "", "headers_too_large"),
        ),
    ] {
        let answer = server.client.send(method, path, &headers, vec![]).await?;
        check(path, &answer, expected)?;
    }
    server.stop().await?;
    Ok(())
}

#[tokio::test]
async fn a_full_queue_is_refused_and_not_billed() -> Checked {
    let server = Server::start(&[
        "--backend",
        "sim",
        "--sim-step-us",
        "20000",
        "--max-num-seqs",
        "1",
        "--max-queued-requests",
        "1",
    ])
    .await?;
    let mut crowd = JoinSet::new();
    for index in 0..12 {
        let mut body = ask("Hello");
        body["max_tokens"] = 20.into();
        body["stream"] = (index % 2 == 0).into();
        let client = server.client.clone();
        crowd.spawn(async move { client.post(CHAT, &body).await });
    }
    let mut refusals = 0;
    while let Some(answer) = crowd.join_next().await {
        let answer = answer??;
        if answer.status != 200 {
            check(
                "a full queue",
                &answer,
                (429, "rate_limit_error", "", "queue_full"),
            )?;
            refusals += 1;
        }
    }
    ensure!(refusals > 0 && refusals < 12, "{refusals} of 12 were refused");
    let rows = server.stop().await?.usage().await?;
    ensure!(
        rows.len() == 12 - refusals,
        "{} rows, {refusals} of 12 refused",
        rows.len()
    );
    Ok(())
}
