//! API keys, from `vlinders keys` to the answer.

use std::path::Path;

use anyhow::{Context, ensure};
use serde_json::Value;
use vlinders_system_tests::{Answer, Client, Ended, Server, run_to_end, until};

use crate::{CHAT, Checked, ask};

const REQUIRED: [&str; 2] = ["--require-keys", "true"];

async fn keys(data: &Path, arguments: &[&str]) -> anyhow::Result<Ended> {
    let scratch = tempfile::tempdir()?;
    let data = data.to_str().context("scratch folders have plain names")?;
    let words = [&["keys"], arguments, &["--data-dir", data]].concat();
    run_to_end(scratch.path(), &words).await
}

/// The key as `--json` shows it, with its secret where it is told.
async fn told(data: &Path, arguments: &[&str]) -> anyhow::Result<Vec<Value>> {
    let ended = keys(data, &[arguments, &["--json"]].concat()).await?;
    ensure!(ended.status.success() && ended.errors.is_empty(), "{ended:?}");
    let lines = ended.output.lines().map(serde_json::from_str);
    Ok(lines.collect::<Result<_, _>>()?)
}

fn text<'a>(key: &'a Value, name: &str) -> anyhow::Result<&'a str> {
    key[name].as_str().with_context(|| format!("{name} of {key}"))
}

async fn asked(client: &Client, headers: &[(&str, &str)]) -> anyhow::Result<Answer> {
    let headers = [&[("content-type", "application/json")], headers].concat();
    let mut body = ask("What is Vlinders?");
    body["max_tokens"] = 2.into();
    client
        .send("POST", CHAT, &headers, serde_json::to_vec(&body)?)
        .await
}

#[tokio::test]
async fn a_key_opens_the_door_until_it_is_revoked() -> Checked {
    let server = Server::start(&REQUIRED).await?;
    let data = server.data();
    let made = told(&data, &["create", "--name", "first", "--tenant", "acme"])
        .await?
        .remove(0);
    let (id, secret) = (text(&made, "id")?, text(&made, "secret")?.to_owned());
    ensure!(
        secret.starts_with(text(&made, "prefix")?) && secret.len() > 40,
        "{made}"
    );
    let bearer = format!("Bearer {secret}");
    let refused = asked(&server.client, &[]).await?;
    ensure!(
        refused.status == 401 && refused.body["error"]["code"] == "invalid_api_key",
        "{refused:?}"
    );
    for header in [("authorization", bearer.as_str()), ("x-api-key", secret.as_str())] {
        let answer = asked(&server.client, &[header]).await?;
        ensure!(answer.status == 200, "{answer:?}");
    }
    until(async || {
        let rows = server.usage().await?;
        ensure!(rows.len() == 2, "{} rows", rows.len());
        for row in rows {
            ensure!(row.text("tenant")? == "acme" && row.text("key")? == id, "{row:?}");
        }
        Ok(())
    })
    .await?;

    let rotated = told(&data, &["rotate", id, "--grace-s", "600"]).await?.remove(0);
    let second = format!("Bearer {}", text(&rotated, "secret")?);
    for bearer in [&bearer, &second] {
        ensure!(asked(&server.client, &[("authorization", bearer)]).await?.status == 200);
    }
    told(&data, &["revoke", id]).await?;
    until(async || {
        for bearer in [&bearer, &second] {
            let answer = asked(&server.client, &[("authorization", bearer)]).await?;
            ensure!(answer.status == 401, "{}", answer.status);
        }
        Ok(())
    })
    .await?;
    let stopped = server.stop().await?;
    for secret in [&secret, text(&rotated, "secret")?] {
        ensure!(!stopped.log.contains(&secret[3..]), "a key is in the log");
    }
    let list = told(&data, &["list"]).await?;
    ensure!(
        list.len() == 1 && list[0]["revoked_ms"].is_u64() && list[0]["last_used_ms"].is_u64(),
        "{list:?}"
    );
    ensure!(
        list[0].get("secret").is_none() && !list[0].to_string().contains(&secret),
        "{list:?}"
    );
    Ok(())
}

#[tokio::test]
async fn a_loopback_address_asks_nobody_unless_told_to() -> Checked {
    let server = Server::start(&[]).await?;
    told(&server.data(), &["create", "--name", "x"]).await?;
    for headers in [&[] as &[(&str, &str)], &[("authorization", "Bearer unused")]] {
        let answer = asked(&server.client, headers).await?;
        ensure!(answer.status == 200, "{answer:?}");
    }
    server.stop().await?;
    Ok(())
}

#[tokio::test]
async fn faults_are_one_line_and_a_secret_stands_alone_on_standard_output() -> Checked {
    let home = tempfile::tempdir()?;
    let made = keys(home.path(), &["create", "--name", "x"]).await?;
    ensure!(made.status.success() && made.output.starts_with("vl-") && made.output.lines().count() == 1);
    ensure!(
        made.errors.contains("not shown again") && !made.errors.contains(made.output.trim()),
        "{made:?}"
    );
    for (arguments, words) in [
        (&["create"] as &[&str], &["--name"] as &[&str]),
        (
            &[
                "create",
                "--name",
                "x",
                "--scopes",
                "root",
                "--daily-tokens",
                "much",
            ],
            &["--scopes", "--daily-tokens"],
        ),
        (&["revoke", "key_0"], &["key_0", "keys list"]),
    ] {
        let ended = keys(home.path(), arguments).await?;
        ensure!(
            !ended.status.success() && ended.errors.lines().count() == 1,
            "{ended:?}"
        );
        for word in words {
            ensure!(ended.errors.contains(word), "lacks {word}: {ended:?}");
        }
    }
    Ok(())
}
