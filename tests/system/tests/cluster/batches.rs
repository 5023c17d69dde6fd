//! A batch whose frontend is killed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use vlinders_system_tests::{Client, Cluster, Role};

use crate::{Checked, plan};

const CHAT: &str = "/v1/chat/completions";
const LINES: usize = 60;
const PATIENCE: Duration = Duration::from_secs(120);

fn lines() -> String {
    let line = |number: usize| {
        let messages = json!([{"role": "user", "content": "Hi"}]);
        let body =
            json!({"model": "vlinders-demo", "messages": messages, "max_tokens": 16, "ignore_eos": true});
        json!({"custom_id": format!("line-{number}"), "method": "POST", "url": CHAT, "body": body})
            .to_string()
    };
    Vec::from_iter((0..LINES).map(line)).join("\n")
}

/// Has the lines run. The batch's id.
async fn begun(client: &Client) -> anyhow::Result<String> {
    let lines = lines();
    let body = format!(
        "--b\r\ncontent-disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n--b\r\ncontent-disposition: form-data; \
         name=\"file\"; filename=\"lines.jsonl\"\r\n\r\n{lines}\r\n--b--\r\n"
    );
    let kind = [("content-type", "multipart/form-data; boundary=b")];
    let file = client.send("POST", "/v1/files", &kind, body.into()).await?;
    ensure!(file.status == 200, "{}", file.body);
    let body = json!({"input_file_id": file.body["id"], "endpoint": CHAT, "completion_window": "24h"});
    let batch = client.post("/v1/batches", &body).await?;
    ensure!(batch.status == 200, "{}", batch.body);
    Ok(batch.body["id"].as_str().context("a batch has an id")?.to_owned())
}

async fn until(client: &Client, id: &str, holds: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
    let begun = Instant::now();
    loop {
        let batch: Value = serde_json::from_str(&client.get_text(&format!("/v1/batches/{id}")).await?)?;
        if holds(&batch) {
            return Ok(batch);
        }
        ensure!(begun.elapsed() < PATIENCE, "{batch}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn another_frontend_goes_on_with_the_batch_of_a_killed_one() -> Checked {
    let mut plan = plan().with_arguments(Role::Frontend, &["--batch-lines-at-once", "4"]);
    plan.keeps = true;
    let mut cluster = Cluster::start(plan).await?;
    let names = cluster.names(Role::Frontend);
    let id = begun(&cluster.client(&names[0])?).await?;
    until(&cluster.client(&names[0])?, &id, |batch| {
        batch["request_counts"]["completed"].as_u64() >= Some(5)
    })
    .await?;
    let logs = cluster.logs()?;
    let runs = |name: &String| {
        let log = logs.iter().find(|(known, _)| known == name);
        log.is_some_and(|(_, log)| {
            log.lines()
                .any(|line| line.contains("a batch is taken on") && line.contains(&id))
        })
    };
    let runner = names.iter().find(|name| runs(name));
    let runner = runner.with_context(|| format!("nobody has {id}"))?.clone();
    drop(logs);
    cluster.kill(&runner)?;
    let other = names
        .iter()
        .find(|name| **name != runner)
        .context("there are two")?;
    let client = cluster.client(other)?;
    let batch = until(&client, &id, |batch| batch["status"] == "completed").await?;
    ensure!(
        batch["request_counts"] == json!({"total": LINES, "completed": LINES, "failed": 0}),
        "{batch}"
    );
    let file = batch["output_file_id"].as_str().context("there are answers")?;
    let mut answers = BTreeMap::new();
    for line in client
        .get_text(&format!("/v1/files/{file}/content"))
        .await?
        .lines()
    {
        let line: Value = serde_json::from_str(line)?;
        let name = line["custom_id"].as_str().context("a name")?.to_owned();
        let request = line["response"]["request_id"]
            .as_str()
            .context("a request")?
            .to_owned();
        ensure!(answers.insert(name, request).is_none(), "answered twice: {line}");
    }
    ensure!(answers.len() == LINES, "{answers:?}");
    cluster.settled().await?;
    // The usage service records what workers have sent; a row for each line, and no other.
    let asked: BTreeSet<String> = answers.into_values().collect();
    let begun = Instant::now();
    loop {
        let rows = cluster.rows().await?;
        let billed: BTreeSet<String> = rows.iter().map(|row| row.request_id().to_owned()).collect();
        ensure!(billed.len() == rows.len(), "billed twice");
        if billed == asked {
            break;
        }
        ensure!(
            begun.elapsed() < PATIENCE,
            "{} rows for {} lines",
            billed.len(),
            asked.len()
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    cluster.stop().await
}
