//! A batch whose process is killed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use vlinders_system_tests::Server;

use crate::{CHAT, Checked, ask_for};

const LINES: usize = 60;
const PATIENCE: Duration = Duration::from_secs(120);

/// Keeps a file of lines. Its id.
async fn upload(server: &Server, lines: &str) -> anyhow::Result<String> {
    let body = format!(
        "--b\r\ncontent-disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n--b\r\ncontent-disposition: form-data; \
         name=\"file\"; filename=\"lines.jsonl\"\r\n\r\n{lines}\r\n--b--\r\n"
    );
    let kind = [("content-type", "multipart/form-data; boundary=b")];
    let answer = server
        .client
        .send("POST", "/v1/files", &kind, body.into())
        .await?;
    ensure!(answer.status == 200, "{}", answer.body);
    Ok(answer.body["id"].as_str().context("a file has an id")?.to_owned())
}

/// The batch once this holds for it.
async fn until(server: &Server, id: &str, holds: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
    let begun = Instant::now();
    loop {
        let batch: Value =
            serde_json::from_str(&server.client.get_text(&format!("/v1/batches/{id}")).await?)?;
        if holds(&batch) {
            return Ok(batch);
        }
        ensure!(begun.elapsed() < PATIENCE, "{batch}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_killed_process_leaves_no_line_unanswered_and_none_is_billed_twice() -> Checked {
    let arguments = ["--batch-lines-at-once", "4"];
    let mut server = Server::start(&arguments).await?;
    let line = |number: usize| {
        let body = ask_for("Hi", 8);
        json!({"custom_id": format!("line-{number}"), "method": "POST", "url": CHAT, "body": body})
            .to_string()
    };
    let lines: Vec<String> = (0..LINES).map(line).collect();
    let file = upload(&server, &lines.join("\n")).await?;
    let body = json!({"input_file_id": file, "endpoint": CHAT, "completion_window": "24h"});
    let answer = server.client.post("/v1/batches", &body).await?;
    ensure!(answer.status == 200, "{}", answer.body);
    let id = answer.body["id"]
        .as_str()
        .context("a batch has an id")?
        .to_owned();
    // Twice, each time with some lines answered and more to come.
    for lives in 1..=2 {
        let enough = 5 * lives;
        until(&server, &id, |batch| {
            batch["request_counts"]["completed"].as_u64() >= Some(enough)
        })
        .await?;
        server = server.killed_and_started_again(&arguments).await?;
    }
    let batch = until(&server, &id, |batch| batch["status"] == "completed").await?;
    ensure!(
        batch["request_counts"] == json!({"total": LINES, "completed": LINES, "failed": 0}),
        "{batch}"
    );
    let file = batch["output_file_id"].as_str().context("there are answers")?;
    let text = server
        .client
        .get_text(&format!("/v1/files/{file}/content"))
        .await?;
    let mut answers = BTreeMap::new();
    for line in text.lines() {
        let line: Value = serde_json::from_str(line)?;
        let name = line["custom_id"].as_str().context("a name")?.to_owned();
        let request = line["response"]["request_id"]
            .as_str()
            .context("a request")?
            .to_owned();
        ensure!(answers.insert(name, request).is_none(), "answered twice: {line}");
    }
    ensure!(answers.len() == LINES, "{answers:?}");
    let stopped = server.stop().await?;
    let rows = stopped.usage().await?;
    let mut billed = BTreeSet::new();
    for row in &rows {
        ensure!(row.text("class")? == "batch", "{row:?}");
        ensure!(billed.insert(row.request_id()), "billed twice: {row:?}");
    }
    let asked: BTreeSet<&str> = answers.values().map(String::as_str).collect();
    ensure!(billed == asked, "{} rows for {} lines", billed.len(), asked.len());
    Ok(())
}
