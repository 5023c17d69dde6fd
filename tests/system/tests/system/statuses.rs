//! Every status the API answers with, over HTTP against the real program: one table, and the list of what it must hold.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use vlinders_system_tests::{Answer, PATIENCE, Server, copy_of, run_to_end, until};

use crate::bad_requests::{Expected, INVALID, JSON, bad, check};
use crate::{CHAT, COMPLETIONS, Checked, ask, ask_for};

/// What clients are promised. 422 is told as 400, 499 stands in the log and in the metrics, since nobody is left to read it.
const PROMISED: [u16; 13] = [400, 401, 403, 404, 405, 408, 413, 415, 429, 499, 500, 503, 504];
/// A slow constraint: many of them at once are more than the frontend compiles in the time they may wait.
const SLOW_CONSTRAINTS: usize = 40;

/// The statuses that were seen.
#[derive(Default)]
struct Seen(BTreeSet<u16>);

impl Seen {
    fn check(&mut self, what: &str, answer: &Answer, expected: Expected) -> Checked {
        check(what, answer, expected)?;
        self.0.insert(answer.status);
        Ok(())
    }
}

/// One request: what it is, method, path, headers, body and the error.
type Case = (
    &'static str,
    &'static str,
    &'static str,
    &'static [(&'static str, &'static str)],
    Vec<u8>,
    Expected,
);

fn bytes(body: &Value) -> Vec<u8> {
    body.to_string().into_bytes()
}

fn with(name: &str, value: Value) -> Vec<u8> {
    let mut body = ask("Hello");
    body[name] = value;
    bytes(&body)
}

/// What a server without keys refuses: bodies.
fn bad_bodies() -> Vec<Case> {
    vec![
        (
            "a bad value",
            "POST",
            CHAT,
            &[JSON],
            with("temperature", json!(9)),
            bad("temperature"),
        ),
        // Other servers of this API tell these with 422.
        (
            "a bad type",
            "POST",
            CHAT,
            &[JSON],
            with("messages", json!(5)),
            bad("messages"),
        ),
        (
            "a missing field",
            "POST",
            COMPLETIONS,
            &[JSON],
            bytes(&json!({"model": "vlinders-demo"})),
            bad("prompt"),
        ),
        (
            "no JSON",
            "POST",
            CHAT,
            &[JSON],
            b"{".to_vec(),
            (400, INVALID, "", "invalid_json"),
        ),
        (
            "a large body",
            "POST",
            CHAT,
            &[JSON],
            vec![b' '; 11 << 20],
            (413, INVALID, "", "body_too_large"),
        ),
        (
            "another type",
            "POST",
            CHAT,
            &[("content-type", "text/plain")],
            bytes(&ask("Hello")),
            (415, INVALID, "", "unsupported_media_type"),
        ),
    ]
}

/// And what is not there.
fn bad_routes() -> Vec<Case> {
    let nobody = (404, INVALID, "model", "model_not_found");
    vec![
        (
            "no such route",
            "GET",
            "/v1/nothing",
            &[],
            vec![],
            (404, INVALID, "", "not_found"),
        ),
        (
            "no such model",
            "POST",
            CHAT,
            &[JSON],
            with("model", json!("nobody")),
            nobody,
        ),
        (
            "no such model either",
            "GET",
            "/v1/models/nobody",
            &[],
            vec![],
            nobody,
        ),
        (
            "another method",
            "GET",
            CHAT,
            &[],
            vec![],
            (405, INVALID, "", "method_not_allowed"),
        ),
    ]
}

/// Sends the head of a request and never its body, and reads the answer until the server closes.
async fn without_a_body(url: String) -> anyhow::Result<(u16, Value)> {
    let mut socket = TcpStream::connect(url.trim_start_matches("http://")).await?;
    let head = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n{{"
    );
    socket.write_all(head.as_bytes()).await?;
    let mut answer = Vec::new();
    let read = tokio::time::timeout(2 * PATIENCE, socket.read_to_end(&mut answer)).await;
    read.context("the server neither answers nor closes")??;
    let answer = String::from_utf8(answer)?;
    let status = answer.split(' ').nth(1).context("no status")?.parse()?;
    let (_, body) = answer.split_once("\r\n\r\n").context("no body")?;
    Ok((status, serde_json::from_str(body)?))
}

async fn refusals_of_an_open_server(seen: &mut Seen) -> Checked {
    let server = Server::start(&[]).await?;
    // It takes as long as a client may take, beside the others.
    let mut late = JoinSet::new();
    late.spawn(without_a_body(server.url().to_owned()));
    for (what, method, path, headers, body, expected) in bad_bodies().into_iter().chain(bad_routes()) {
        let answer = server.client.send(method, path, headers, body).await?;
        seen.check(what, &answer, expected)?;
    }
    let mut crowd = JoinSet::new();
    for number in 0..SLOW_CONSTRAINTS {
        let pattern = |index: usize| json!({"pattern": format!(".*[a-m]{index}.{{30}}[n-z].*{number}")});
        let patterns: Vec<Value> = (0..12).map(pattern).collect();
        let mut body = ask("Hello");
        body["guided_json"] = json!({"type": "string", "allOf": patterns});
        let client = server.client.clone();
        crowd.spawn(async move { client.post(CHAT, &body).await });
    }
    let mut postponed = 0;
    while let Some(answer) = crowd.join_next().await {
        let answer = answer??;
        if answer.status == 503 {
            seen.check(
                "many constraints",
                &answer,
                (503, "overloaded_error", "", "overloaded"),
            )?;
            ensure!(answer.header("retry-after") == Some("1"), "{answer:?}");
            postponed += 1;
        } else {
            seen.check("a constraint", &answer, bad("guided_json"))?;
        }
    }
    ensure!(
        postponed > 0,
        "{SLOW_CONSTRAINTS} constraints were compiled at once"
    );
    let (status, body) = late.join_next().await.context("it was sent")???;
    ensure!(
        status == 408
            && body["error"]["code"] == "body_timeout"
            && body["error"]["type"] == INVALID
            && body["error"]["param"].is_null(),
        "{status} {body}"
    );
    seen.0.insert(status);
    server.stop().await?;
    Ok(())
}

/// The secret of a new key.
async fn key(server: &Server, rules: &[&str]) -> anyhow::Result<String> {
    let scratch = tempfile::tempdir()?;
    let data = server.data();
    let data = data.to_str().context("scratch folders have plain names")?;
    let words = [&["keys", "create", "--name", "a", "--data-dir", data], rules].concat();
    let made = run_to_end(scratch.path(), &words).await?;
    ensure!(made.status.success(), "{made:?}");
    Ok(made.output.trim().to_owned())
}

async fn refusals_of_keys(seen: &mut Seen) -> Checked {
    let server = Server::start(&["--require-keys", "true"]).await?;
    let unknown = (401, INVALID, "", "invalid_api_key");
    let answer = server.client.post(CHAT, &ask("Hello")).await?;
    seen.check("no key", &answer, unknown)?;
    ensure!(answer.header("www-authenticate").is_some(), "{answer:?}");
    let asked = async |secret: &str| {
        let bearer = format!("Bearer {secret}");
        let headers = [JSON, ("authorization", bearer.as_str())];
        server
            .client
            .send("POST", CHAT, &headers, bytes(&ask("Hello")))
            .await
    };
    seen.check("a strange key", &asked("vl-nobody").await?, unknown)?;
    const FORBIDDEN: &str = "permission_error";
    let scope = key(&server, &["--scopes", "metrics"]).await?;
    seen.check(
        "another purpose",
        &asked(&scope).await?,
        (403, FORBIDDEN, "", "missing_scope"),
    )?;
    let model = key(&server, &["--models", "other"]).await?;
    let not_allowed = (403, FORBIDDEN, "model", "model_not_allowed");
    seen.check("another model", &asked(&model).await?, not_allowed)?;

    const LIMITED: &str = "rate_limit_error";
    let often = key(&server, &["--requests-per-minute", "1"]).await?;
    ensure!(asked(&often).await?.status == 200);
    let answer = asked(&often).await?;
    seen.check("too often", &answer, (429, LIMITED, "", "rate_limit_exceeded"))?;
    let seconds: u64 = answer.header("retry-after").context("no retry-after")?.parse()?;
    ensure!((1..=60).contains(&seconds), "{answer:?}");
    ensure!(answer.header("x-should-retry").is_none(), "{answer:?}");
    let spent = key(&server, &["--daily-tokens", "1"]).await?;
    let answer = asked(&spent).await?;
    seen.check("a spent quota", &answer, (429, LIMITED, "", "insufficient_quota"))?;
    let seconds: u64 = answer.header("retry-after").context("no retry-after")?.parse()?;
    ensure!((1..=86_400).contains(&seconds), "{answer:?}");
    ensure!(answer.header("x-should-retry") == Some("false"), "{answer:?}");
    server.stop().await?;
    Ok(())
}

/// A deadline that passes, before anything was told and in the middle of a stream, and a client that leaves.
async fn ends_of_a_slow_server(seen: &mut Seen) -> Checked {
    let server = Server::start(&[
        "--backend",
        "sim",
        "--sim-step-us",
        "50000",
        "--request-deadline-s",
        "2",
        "--log-format",
        "json",
    ])
    .await?;
    let late = (504, "timeout_error", "", "deadline_exceeded");
    let answer = server.client.post(CHAT, &ask_for("Hello", 1000)).await?;
    seen.check("a deadline", &answer, late)?;
    let cut = server.client.streamed(CHAT, &ask_for("Hello", 1000)).await?;
    ensure!(!cut.text.is_empty() && cut.finish_reasons.is_empty(), "{cut:?}");
    // The stream has ended behind it: nothing comes after the error, and no [DONE].
    ensure!(!cut.is_done, "{cut:?}");
    let told = cut.error.context("a stream that was cut says why")?;
    let names: Vec<&String> = told
        .as_object()
        .into_iter()
        .flatten()
        .map(|field| field.0)
        .collect();
    ensure!(names == ["message", "type", "param", "code"], "{told}");
    ensure!(
        told["code"] == late.3 && told["type"] == late.1 && told["param"].is_null(),
        "{told}"
    );

    // Nobody is told, so the log and the metrics are: a whole answer that nobody waits for any more.
    let body = ask_for("Hello", 1000);
    let impatient = tokio::time::timeout(Duration::from_millis(500), server.client.post(CHAT, &body));
    ensure!(impatient.await.is_err(), "it was answered at once");
    until(async || {
        let left = server
            .metrics()
            .await?
            .sum_where("vlinders_http_requests_total", "status=\"499\"");
        ensure!(left == 1.0, "{left} have left");
        Ok(())
    })
    .await?;
    let log = server.stop().await?.log;
    let told: Vec<Value> = log.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let left = told.iter().find(|line| line["status"] == 499);
    ensure!(left.is_some_and(|line| line["route"] == CHAT), "{left:?}");
    seen.0.insert(499);
    Ok(())
}

/// A tokenizer that knows no word and has no token for those it does not know: what is wrong is nothing of the client's.
async fn failures_of_a_broken_model(seen: &mut Seen) -> Checked {
    let folder = tempfile::tempdir()?;
    let model = copy_of("llama/f32", folder.path())?;
    let path = model.join("tokenizer.json");
    let mut tokenizer: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
    let vocabulary = tokenizer["model"]["vocab"].clone();
    tokenizer["model"] = json!({"type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]"});
    std::fs::write(&path, tokenizer.to_string())?;
    let model = model.to_str().context("scratch folders have plain names")?;
    let server = Server::start(&["--model", model]).await?;
    let body = json!({"model": "model", "prompt": "butterfly"});
    let answer = server.client.post(COMPLETIONS, &body).await?;
    seen.check(
        "a broken model",
        &answer,
        (500, "server_error", "", "internal_error"),
    )?;
    let message = answer.body["error"]["message"].as_str().unwrap_or_default();
    ensure!(!message.contains("UNK"), "{message} tells of our insides");
    server.stop().await?;
    Ok(())
}

#[tokio::test]
async fn every_status_of_the_api_is_answered_in_its_shape() -> Checked {
    let mut seen = Seen::default();
    refusals_of_an_open_server(&mut seen).await?;
    refusals_of_keys(&mut seen).await?;
    ends_of_a_slow_server(&mut seen).await?;
    failures_of_a_broken_model(&mut seen).await?;
    let promised = BTreeSet::from(PROMISED);
    ensure!(
        seen.0 == promised,
        "promised and not seen: {:?}; seen and not promised: {:?}",
        promised.difference(&seen.0),
        seen.0.difference(&promised)
    );
    Ok(())
}
