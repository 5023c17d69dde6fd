//! Limits of keys, as clients meet them.

use anyhow::{Context, ensure};
use reqwest::Response;
use serde_json::{Value, json};
use vlinders_system_tests::{Server, run_to_end, until};

use crate::{CHAT, Checked, ask};

/// A server that asks for keys, and the secret of a key with these rules.
async fn server_with(rules: &[&str]) -> anyhow::Result<(Server, String)> {
    let server = Server::start(&["--require-keys", "true"]).await?;
    let scratch = tempfile::tempdir()?;
    let data = server.data();
    let data = data.to_str().context("scratch folders have plain names")?;
    let words = [
        &["keys", "create", "--name", "limited", "--data-dir", data],
        rules,
    ]
    .concat();
    let made = run_to_end(scratch.path(), &words).await?;
    ensure!(made.status.success(), "{made:?}");
    Ok((server, made.output.trim().to_owned()))
}

async fn asked(server: &Server, secret: &str, body: &Value) -> anyhow::Result<Response> {
    let client = reqwest::Client::builder().no_proxy().build()?;
    let request = client
        .post(format!("{}{CHAT}", server.url()))
        .bearer_auth(secret)
        .json(body);
    Ok(request.send().await?)
}

fn of_tokens(max_tokens: u32) -> Value {
    let mut body = ask("What is Vlinders?");
    body["max_tokens"] = max_tokens.into();
    body["ignore_eos"] = true.into();
    body
}

fn header(response: &Response, name: &str) -> anyhow::Result<String> {
    let value = response
        .headers()
        .get(name)
        .with_context(|| format!("no {name}"))?;
    Ok(value.to_str()?.to_owned())
}

#[tokio::test]
async fn a_budget_of_tokens_is_spent_to_the_token_and_then_over() -> Checked {
    let (server, secret) = server_with(&["--daily-tokens", "100", "--tokens-per-minute", "100000"]).await?;
    let first = asked(&server, &secret, &of_tokens(5)).await?;
    ensure!(first.status() == 200, "{first:?}");
    for name in ["limit", "remaining", "reset"] {
        for what in ["requests", "tokens"] {
            header(&first, &format!("x-ratelimit-{name}-{what}"))?;
        }
    }
    ensure!(header(&first, "x-ratelimit-limit-requests")? == "100");
    ensure!(header(&first, "x-ratelimit-limit-tokens")? == "100000");
    let usage: Value = first.json().await?;
    let used = usage["usage"]["total_tokens"].as_u64().context("usage")?;
    let prompt = usage["usage"]["prompt_tokens"].as_u64().context("usage")?;
    let left = 100 - used;
    let too_many = u32::try_from(left - prompt + 1)?;
    // Settled a moment after the answer: what was kept and not used comes back.
    until(async || {
        let refused = asked(&server, &secret, &of_tokens(too_many)).await?;
        ensure!(refused.status() == 429, "{}", refused.status());
        ensure!(header(&refused, "x-should-retry")? == "false");
        let seconds: u64 = header(&refused, "retry-after")?.parse()?;
        ensure!((1..=86_400).contains(&seconds), "{seconds}");
        let body: Value = refused.json().await?;
        ensure!(body["error"]["code"] == "insufficient_quota", "{body}");
        let told = body["error"]["message"].as_str().unwrap_or_default();
        ensure!(told.contains(&format!("{left} are left")), "{told}");
        Ok(())
    })
    .await?;
    let last = asked(&server, &secret, &of_tokens(too_many - 1)).await?;
    ensure!(last.status() == 200, "{}", last.text().await?);
    let over = asked(&server, &secret, &of_tokens(1)).await?;
    ensure!(over.status() == 429, "{}", over.status());
    server.stop().await?;
    Ok(())
}

#[tokio::test]
async fn requests_that_run_at_one_time_are_limited_and_leave_their_place() -> Checked {
    let (server, secret) =
        server_with(&["--concurrent-streams", "1", "--requests-per-minute", "100000"]).await?;
    let mut long = of_tokens(1500);
    long["stream"] = json!(true);
    let running = asked(&server, &secret, &long).await?;
    ensure!(running.status() == 200, "{running:?}");
    let refused = asked(&server, &secret, &of_tokens(1)).await?;
    ensure!(refused.status() == 429, "{}", refused.status());
    let body: Value = refused.json().await?;
    ensure!(body["error"]["code"] == "rate_limit_exceeded", "{body}");
    // A client that leaves gives its place back.
    drop(running);
    until(async || {
        let answer = asked(&server, &secret, &of_tokens(1)).await?;
        ensure!(answer.status() == 200, "{}", answer.status());
        Ok(())
    })
    .await?;
    server.stop().await?;
    Ok(())
}

#[tokio::test]
async fn a_key_sends_so_many_requests_in_a_minute_also_bad_ones() -> Checked {
    let (server, secret) = server_with(&["--requests-per-minute", "2"]).await?;
    for left in ["1", "0"] {
        let bad = asked(&server, &secret, &json!({"model": 7})).await?;
        ensure!(
            bad.status() == 400 && header(&bad, "x-ratelimit-remaining-requests")? == left,
            "{bad:?}"
        );
    }
    let refused = asked(&server, &secret, &of_tokens(1)).await?;
    ensure!(refused.status() == 429, "{refused:?}");
    ensure!(refused.headers().get("x-should-retry").is_none());
    server.stop().await?;
    Ok(())
}
