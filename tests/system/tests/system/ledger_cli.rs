//! `vlinders ledger`.

use std::path::Path;

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use vlinders_system_tests::{Ended, Server, Stopped, run_to_end};

use crate::{CHAT, COMPLETIONS, Checked, ask};

/// A server that has answered three requests and stopped.
async fn three_requests() -> anyhow::Result<Stopped> {
    let server = Server::start(&[]).await?;
    let mut short = ask("What is Vlinders?");
    short["max_tokens"] = 3.into();
    server.client.whole(CHAT, &short).await?;
    server.client.streamed(CHAT, &ask("What is Vlinders?")).await?;
    let prompt =
        json!({"model": "vlinders-demo", "prompt": "Vlinders is", "max_tokens": 5, "ignore_eos": true});
    server.client.whole(COMPLETIONS, &prompt).await?;
    server.stop().await
}

async fn usage(home: &Path, arguments: &[&str]) -> anyhow::Result<Ended> {
    let data = home.join("data");
    let data = data.to_str().context("scratch folders have plain names")?;
    let scratch = tempfile::tempdir()?;
    run_to_end(
        scratch.path(),
        &[&["ledger"], arguments, &["--data-dir", data]].concat(),
    )
    .await
}

async fn lines(home: &Path, arguments: &[&str]) -> anyhow::Result<Vec<String>> {
    let ended = usage(home, arguments).await?;
    ensure!(ended.status.success() && ended.errors.is_empty(), "{ended:?}");
    Ok(ended.output.lines().map(str::to_owned).collect())
}

#[tokio::test]
async fn every_request_is_a_line_for_people_and_for_programs() -> Checked {
    let stopped = three_requests().await?;
    let text = lines(stopped.home(), &[]).await?;
    ensure!(text.len() == 4 && text[0].starts_with("request "), "{text:?}");
    ensure!(
        text[1].contains("vlinders-demo") && text[1].contains(" length "),
        "{text:?}"
    );
    let rows = lines(stopped.home(), &["--json"]).await?;
    let rows: Result<Vec<Value>, _> = rows.iter().map(|row| serde_json::from_str(row)).collect();
    let rows = rows?;
    ensure!(rows.len() == 3, "{rows:?}");
    let told = |name: &str| rows.iter().map(|row| row[name].clone()).collect::<Vec<_>>();
    ensure!(
        told("finish") == ["length", "stop", "length"],
        "newest first: {rows:?}"
    );
    ensure!(told("stream") == [false, true, false], "{rows:?}");
    ensure!(
        rows[0]["completion_tokens"] == 5 && rows[2]["completion_tokens"] == 3,
        "{rows:?}"
    );
    for row in &rows {
        let at = |name: &str| row[name].as_u64();
        ensure!(
            at("created_ms") <= at("first_token_ms") && at("first_token_ms") <= at("finished_ms"),
            "{row}"
        );
        ensure!(
            row["tenant"] == "default" && row["model"] == "vlinders-demo",
            "{row}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn totals_are_the_sums_of_the_rows() -> Checked {
    let stopped = three_requests().await?;
    let rows = stopped.usage().await?;
    let totals = lines(stopped.home(), &["--totals", "--json"]).await?;
    ensure!(totals.len() == 1, "{totals:?}");
    let total: Value = serde_json::from_str(&totals[0])?;
    ensure!(total["requests"] == 3, "{total}");
    for name in ["prompt_tokens", "cached_tokens", "completion_tokens"] {
        let mut sum = 0;
        for row in &rows {
            sum += row.number(name)?;
        }
        ensure!(total[name] == sum, "{name}: {total}, rows {rows:?}");
    }
    let text = lines(stopped.home(), &["--totals"]).await?;
    ensure!(text.len() == 2 && text[0].starts_with("tenant "), "{text:?}");
    Ok(())
}

#[tokio::test]
async fn an_export_has_every_token_once_and_says_so_twice() -> Checked {
    let stopped = three_requests().await?;
    let mut used = 0;
    for row in stopped.usage().await? {
        used += row.number("completion_tokens")?;
    }
    let export = async |words: &[&str]| lines(stopped.home(), &[&["export"], words].concat()).await;
    let told = export(&["--format", "json"]).await?;
    let mut exported = 0;
    for line in &told {
        let line: Value = serde_json::from_str(line)?;
        ensure!(
            line["tenant"] == "default" && line["model"] == "vlinders-demo",
            "{line}"
        );
        exported += line["completion_tokens"].as_u64().context("a number")?;
    }
    ensure!(exported == used, "{exported} of {used}");
    ensure!(export(&["--format", "json", "--from", "2020-01-01"]).await? == told);
    ensure!(
        export(&["--format", "json", "--to", "2020-01-01"])
            .await?
            .is_empty()
    );
    let text = export(&[]).await?;
    ensure!(
        text.len() == told.len() + 1 && text[0].starts_with("hour,tenant,model,requests,"),
        "{text:?}"
    );
    let wrong = usage(stopped.home(), &["export", "--format", "xml", "--from", "soon"]).await?;
    ensure!(
        !wrong.status.success() && wrong.errors.lines().count() == 1,
        "{wrong:?}"
    );
    ensure!(
        wrong.errors.contains("--format: ") && wrong.errors.contains("--from: "),
        "{wrong:?}"
    );
    Ok(())
}

#[tokio::test]
async fn an_export_with_prices_costs_what_its_rows_cost() -> Checked {
    let stopped = three_requests().await?;
    let prices = stopped.home().join("prices.yaml");
    let text =
        "currency: EUR\nmodels: {\"*\": {prompt: 3000000, cached_prompt: 1000000, completion: 5000000}}\n";
    std::fs::write(&prices, text)?;
    let prices = prices.to_str().context("scratch folders have plain names")?;
    let mut cost = 0;
    for row in stopped.usage().await? {
        let cached = row.number("cached_tokens")?;
        cost += 3 * (row.number("prompt_tokens")? - cached) + cached + 5 * row.number("completion_tokens")?;
    }
    let told = lines(
        stopped.home(),
        &["export", "--format", "json", "--prices", prices],
    )
    .await?;
    let mut exported = 0;
    for line in &told {
        let line: Value = serde_json::from_str(line)?;
        ensure!(line["currency"] == "EUR" && line["class"] == "standard", "{line}");
        exported += line["nanos"].as_u64().context("a number")?;
    }
    ensure!(cost > 0 && exported == cost, "{exported} of {cost}");
    let text = lines(stopped.home(), &["export", "--prices", prices]).await?;
    ensure!(
        text[0].ends_with(",class,nanos,currency") && text[1].ends_with(",EUR"),
        "{text:?}"
    );
    Ok(())
}

#[tokio::test]
async fn rows_can_be_chosen() -> Checked {
    let stopped = three_requests().await?;
    ensure!(lines(stopped.home(), &["--json", "--limit", "2"]).await?.len() == 2);
    ensure!(
        lines(stopped.home(), &["--json", "--model", "nobody"])
            .await?
            .is_empty()
    );
    ensure!(
        lines(stopped.home(), &["--json", "--tenant", "nobody"])
            .await?
            .is_empty()
    );
    ensure!(
        lines(stopped.home(), &["--json", "--model", "vlinders-demo"])
            .await?
            .len()
            == 3
    );
    Ok(())
}

#[tokio::test]
async fn usage_can_be_read_while_the_server_runs() -> Checked {
    let server = Server::start(&[]).await?;
    server.client.whole(CHAT, &ask("What is Vlinders?")).await?;
    vlinders_system_tests::until(async || {
        let rows = server.usage().await?.len();
        ensure!(rows == 1, "{rows} rows");
        Ok(())
    })
    .await?;
    server.stop().await?;
    Ok(())
}

#[tokio::test]
async fn no_usage_is_one_clear_line() -> Checked {
    let home = tempfile::tempdir()?;
    let ended = usage(home.path(), &[]).await?;
    ensure!(ended.status.code() == Some(1), "{ended:?}");
    ensure!(
        ended.errors.lines().count() == 1 && ended.errors.starts_with("vlinders: no usage at "),
        "{ended:?}"
    );
    Ok(())
}
