//! Batches: every line answered once, whatever happens on the way.

#![expect(
    clippy::unwrap_used,
    reason = "a failed step of a test ends it, here as in the test itself"
)]

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use vlinders_frontend::{BatchRules, Kept, KeptRules};
use vlinders_ledger::{BatchStore, SqliteLedger};
use vlinders_types::{BillingClass, Chunk, FinishReason, Request};

use crate::kept_files::{content, uploaded};
use crate::kept_responses::{ByHeader, called, keeping};
use crate::support::{Setting, World, check_error, last, within};

pub(crate) const CHAT: &str = "/v1/chat/completions";

pub(crate) fn rules() -> KeptRules {
    KeptRules {
        batches: BatchRules {
            look_every: Duration::from_millis(5),
            lease: Duration::from_millis(400),
            ..BatchRules::default()
        },
        ..KeptRules::default()
    }
}

fn line(name: &str, words: &str) -> String {
    let body = json!({"model": "alias", "messages": [{"role": "user", "content": words}]});
    json!({"custom_id": name, "method": "POST", "url": CHAT, "body": body}).to_string()
}

pub(crate) fn lines(count: u32) -> String {
    let lines = (0..count).map(|number| line(&format!("line-{number}"), "hi"));
    Vec::from_iter(lines).join("\n")
}

pub(crate) async fn created(world: &World, file: &str) -> Value {
    let body =
        json!({"input_file_id": file, "endpoint": CHAT, "completion_window": "24h", "metadata": {"a": "b"}});
    let answer = within(world.post("/v1/batches", &body).send()).await.unwrap();
    assert_eq!(answer.status(), 200);
    answer.json().await.unwrap()
}

async fn shown(world: &World, id: &str) -> Value {
    let answer = called(world, Method::GET, &format!("/v1/batches/{id}"), "one").await;
    answer.json().await.unwrap()
}

/// The batch once it is in one of these states.
pub(crate) async fn reached(world: &World, id: &Value, states: &[&str]) -> Value {
    within(async {
        loop {
            let batch = shown(world, id.as_str().unwrap()).await;
            if states.contains(&batch["status"].as_str().unwrap()) {
                return batch;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await
}

/// Answers as workers do: lines of batches begin with attempts that are not the first.
pub(crate) async fn answer(world: &World, request: &Request, text: &str) {
    let chunk = Chunk {
        attempt: request.attempt,
        ..last(0, 1, text, FinishReason::Stop)
    };
    world.send(request, vec![chunk]).await;
}

/// The lines of a file of the batch by their names.
pub(crate) async fn told(world: &World, file: &Value) -> BTreeMap<String, Value> {
    let Some(id) = file.as_str() else {
        return BTreeMap::new();
    };
    let text = String::from_utf8(content(world, id).await).unwrap();
    let mut told = BTreeMap::new();
    for line in text.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let name = line["custom_id"].as_str().unwrap().to_owned();
        assert!(told.insert(name, line).is_none(), "answered twice: {text}");
    }
    told
}

#[tokio::test]
async fn every_line_has_its_answer_or_its_error() {
    let (world, _store, _folder) = keeping(rules()).await;
    let bad = json!({"custom_id": "bad", "method": "POST", "url": CHAT, "body": {"model": "nobody", "messages": [{"role": "user", "content": "hi"}]}});
    let file = uploaded(
        &world,
        format!("{}\n{bad}\n\n{}\n", lines(2), line("last", "hi")).as_bytes(),
    )
    .await;
    let batch = created(&world, &file).await;
    assert_eq!(
        (&batch["status"], &batch["metadata"]),
        (&json!("validating"), &json!({"a": "b"}))
    );
    let mut ids = HashSet::new();
    for _ in 0..3 {
        let request = world.take().await;
        assert_eq!((request.class, request.priority), (BillingClass::Batch, i32::MIN));
        assert_eq!((request.tenant.as_str(), request.key.as_str()), ("one", "one"));
        assert!(ids.insert(request.request_id));
        answer(&world, &request, "Hello").await;
    }
    let batch = reached(&world, &batch["id"], &["completed"]).await;
    assert_eq!(
        batch["request_counts"],
        json!({"total": 4, "completed": 3, "failed": 1})
    );
    let answers = told(&world, &batch["output_file_id"]).await;
    assert_eq!(Vec::from_iter(answers.keys()), ["last", "line-0", "line-1"]);
    for line in answers.values() {
        assert_eq!(
            (&line["response"]["status_code"], &line["error"]),
            (&json!(200), &json!(null))
        );
        let body = &line["response"]["body"];
        assert_eq!(body["choices"][0]["message"]["content"], "Hello");
        let id = line["response"]["request_id"].as_str().unwrap().parse().unwrap();
        assert!(ids.contains(&id), "{line}");
    }
    let failures = told(&world, &batch["error_file_id"]).await;
    assert_eq!(failures["bad"]["response"]["status_code"], 404);
    assert_eq!(
        failures["bad"]["response"]["body"]["error"]["code"],
        "model_not_found"
    );
    let metrics = world.metrics().await;
    assert!(
        metrics.contains("vlinders_batch_lines_total{result=\"completed\"} 3"),
        "{metrics}"
    );
    assert!(
        metrics.contains("vlinders_batch_lines_total{result=\"failed\"} 1"),
        "{metrics}"
    );
}

#[tokio::test]
async fn a_batch_is_its_tenants_alone() {
    let mut rules = rules();
    rules.batches.window = Duration::ZERO;
    let (world, _store, _folder) = keeping(rules).await;
    let file = uploaded(&world, lines(1).as_bytes()).await;
    let batch = created(&world, &file).await;
    let batch = reached(&world, &batch["id"], &["expired"]).await;
    let list: Value = called(&world, Method::GET, "/v1/batches?limit=1", "one")
        .await
        .json()
        .await
        .unwrap();
    assert_eq!((&list["data"][0], &list["has_more"]), (&batch, &json!(false)));
    let path = format!("/v1/batches/{}", batch["id"].as_str().unwrap());
    check_error(
        called(&world, Method::GET, &path, "other").await,
        404,
        "batch_not_found",
    )
    .await;
    let path = format!("{path}/cancel");
    check_error(
        called(&world, Method::POST, &path, "one").await,
        409,
        "batch_not_cancellable",
    )
    .await;
}

#[tokio::test]
async fn faulty_lines_are_named_and_none_is_run() {
    let (world, _store, _folder) = keeping(rules()).await;
    let text = format!("{}\nnot JSON\n{}", line("a", "hi"), line("a", "hi"));
    let file = uploaded(&world, text.as_bytes()).await;
    let batch = created(&world, &file).await;
    let batch = reached(&world, &batch["id"], &["failed"]).await;
    let faults = batch["errors"]["data"].as_array().unwrap();
    let named = faults
        .iter()
        .map(|fault| (fault["line"].as_u64().unwrap(), fault["code"].as_str().unwrap()));
    assert_eq!(
        Vec::from_iter(named),
        [(2, "invalid_json_line"), (3, "duplicate_custom_id")]
    );
    assert_eq!(batch["request_counts"]["total"], 0);
    assert_eq!(world.bus_pending().await, 0);
    for (body, status, param) in [
        (
            json!({"input_file_id": "file-1", "endpoint": CHAT, "completion_window": "24h"}),
            404,
            "input_file_id",
        ),
        (
            json!({"input_file_id": file, "endpoint": "/v1/images", "completion_window": "24h"}),
            400,
            "endpoint",
        ),
        (
            json!({"input_file_id": file, "endpoint": CHAT, "completion_window": "1h"}),
            400,
            "completion_window",
        ),
    ] {
        let answer = within(world.post("/v1/batches", &body).send()).await.unwrap();
        assert_eq!(answer.status().as_u16(), status);
        let error: Value = answer.json().await.unwrap();
        assert_eq!(error["error"]["param"], param, "{error}");
    }
}

#[tokio::test]
async fn a_cancelled_batch_tells_what_it_has() {
    let mut rules = rules();
    rules.batches.lines_at_once = 1;
    let (world, _store, _folder) = keeping(rules).await;
    let file = uploaded(&world, lines(3).as_bytes()).await;
    let batch = created(&world, &file).await;
    let request = world.take().await;
    check_error(
        called(&world, Method::DELETE, &format!("/v1/files/{file}"), "one").await,
        409,
        "file_in_use",
    )
    .await;
    let path = format!("/v1/batches/{}/cancel", batch["id"].as_str().unwrap());
    check_error(
        called(&world, Method::POST, &path, "other").await,
        404,
        "batch_not_found",
    )
    .await;
    let cancelled: Value = called(&world, Method::POST, &path, "one")
        .await
        .json()
        .await
        .unwrap();
    assert_eq!(cancelled["status"], "cancelling");
    // What is being answered is answered still.
    answer(&world, &request, "Hello").await;
    // A line may have been begun before the cancellation was seen.
    let answering = async {
        loop {
            let request = world.take().await;
            answer(&world, &request, "Hello").await;
        }
    };
    let batch = tokio::select! {
        never = answering => never,
        batch = reached(&world, &batch["id"], &["cancelled"]) => batch,
    };
    let answers = told(&world, &batch["output_file_id"]).await;
    let failures = told(&world, &batch["error_file_id"]).await;
    assert!(
        !answers.is_empty() && answers.len() + failures.len() == 3,
        "{batch}"
    );
    for line in failures.values() {
        assert_eq!(line["error"]["code"], "batch_cancelled");
    }
}

#[tokio::test]
async fn a_batch_ends_when_its_time_is_over() {
    let mut rules = rules();
    rules.batches.window = Duration::ZERO;
    let (world, _store, _folder) = keeping(rules).await;
    let file = uploaded(&world, lines(2).as_bytes()).await;
    let batch = created(&world, &file).await;
    let batch = reached(&world, &batch["id"], &["expired"]).await;
    let failures = told(&world, &batch["error_file_id"]).await;
    assert_eq!(Vec::from_iter(failures.keys()), ["line-0", "line-1"]);
    assert_eq!(failures["line-0"]["error"]["code"], "batch_expired");
    assert!(
        batch["expired_at"].is_u64() && batch["output_file_id"].is_null(),
        "{batch}"
    );
}

#[tokio::test]
async fn another_frontend_goes_on_where_one_has_died() {
    let mut rules = rules();
    rules.batches.lines_at_once = 2;
    let (first, store, _folder) = keeping(rules.clone()).await;
    let file = uploaded(&first, lines(4).as_bytes()).await;
    let batch = created(&first, &file).await;
    let (one, two) = (first.take().await, first.take().await);
    answer(&first, &one, "from the first").await;
    within(async {
        while store
            .ended_lines(batch["id"].as_str().unwrap())
            .await
            .unwrap()
            .is_empty()
        {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    first.tasks.kill();
    let setting = Setting {
        authenticator: Arc::new(ByHeader),
        kept: Some(Kept {
            store: Arc::clone(&store) as _,
            rules,
        }),
        // The clock of tests stands still: so the lease of the dead one is given up by hand.
        ..Setting::default()
    };
    released(
        &store,
        batch["id"].as_str().unwrap(),
        first.frontend.id().as_str(),
    )
    .await;
    let second = World::with(setting).await;
    let mut again = Vec::new();
    for _ in 0..3 {
        let request = second.take().await;
        answer(&second, &request, "from the second").await;
        again.push(request);
    }
    let batch = reached(&second, &batch["id"], &["completed"]).await;
    assert_eq!(
        batch["request_counts"],
        json!({"total": 4, "completed": 4, "failed": 0})
    );
    let answers = told(&second, &batch["output_file_id"]).await;
    let words = answers
        .values()
        .map(|line| line["response"]["body"]["choices"][0]["message"]["content"].clone());
    let of_the_first = words.filter(|words| words == "from the first").count();
    assert_eq!((answers.len(), of_the_first), (4, 1));
    // The line that was being answered has the same id again, and a later attempt.
    let repeated = again
        .iter()
        .find(|request| request.request_id == two.request_id)
        .unwrap();
    assert!(
        repeated.attempt > two.attempt,
        "{} {}",
        repeated.attempt,
        two.attempt
    );
    assert!(again.iter().all(|request| request.request_id != one.request_id));
}

async fn released(store: &SqliteLedger, id: &str, holder: &str) {
    store.release_batch(id, holder, 0).await.unwrap();
}
