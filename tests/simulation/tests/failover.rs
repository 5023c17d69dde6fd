//! Two prefill and two decode workers behind the real frontend, of which one is gone or all are replaced under twenty running
//! requests: every answer is the undisturbed one, and every request has one bill. In real time, over real sockets.

#![expect(
    clippy::unwrap_used,
    reason = "a failed step of a test ends it, here as in the test itself"
)]

mod cluster;

use std::collections::BTreeMap;
use std::time::Duration;

use cluster::World;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use vlinders_bus::{ConsumerSpec, StreamName, Subject};
use vlinders_types::UsageEvent;
use vlinders_wire::subjects::ALL_USAGE;
use vlinders_worker::Role;

const REQUESTS: usize = 20;
const TOKENS: u64 = 150;
const PATIENCE: Duration = Duration::from_secs(60);

/// What a client got, and what was billed.
#[derive(Debug, PartialEq)]
struct Answer {
    text: String,
    finish: String,
    completion_tokens: u64,
}

/// Exactly one bill for each request.
async fn bills(world: &World) -> Vec<UsageEvent> {
    let spec = ConsumerSpec {
        stream: StreamName::Usage,
        filter: Subject::new(ALL_USAGE),
        name: "ledger".to_owned(),
        ack_wait: PATIENCE,
        max_deliver: 3,
    };
    let consumer = world.bus.consumer(spec).await.unwrap();
    let mut bills = Vec::new();
    while bills.len() < REQUESTS {
        let deliveries = consumer.fetch(100, Duration::from_secs(10)).await.unwrap();
        assert!(!deliveries.is_empty(), "{} of {REQUESTS} bills", bills.len());
        let read = |payload: &[u8]| vlinders_wire::decode_usage_event(payload).unwrap();
        bills.extend(deliveries.iter().map(|delivery| read(&delivery.payload)));
    }
    bills.sort_unstable_by_key(|bill| bill.request_id);
    bills.dedup_by_key(|bill| bill.request_id);
    assert_eq!(bills.len(), REQUESTS, "a request has two bills");
    bills
}

/// The request of this number: greedy or seeded, streamed or whole. All prompts together keep two prefill workers busy for
/// 400 ms, and no answer is complete before 750 ms.
fn body(number: usize) -> Value {
    let mut body = json!({
        "model": "sim",
        "prompt": format!("{number} {}", "tell me more ".repeat(30 + number % 20)),
        "max_tokens": TOKENS,
        "temperature": if number.is_multiple_of(2) { 0.0 } else { 0.9 },
        "seed": number,
        "stream": !number.is_multiple_of(3),
    });
    if !number.is_multiple_of(3) {
        body["stream_options"] = json!({"include_usage": true});
    }
    body
}

fn read(answer: &str) -> Answer {
    let pieces: Vec<Value> = match answer.strip_suffix("data: [DONE]\n\n") {
        None => vec![serde_json::from_str(answer).unwrap()],
        Some(events) => {
            let events = events
                .split_terminator("\n\n")
                .filter_map(|event| event.strip_prefix("data: "));
            events.map(|event| serde_json::from_str(event).unwrap()).collect()
        }
    };
    let choices = || pieces.iter().map(|piece| &piece["choices"][0]);
    let finishes: Vec<_> = choices()
        .filter_map(|choice| choice["finish_reason"].as_str())
        .collect();
    let usages = pieces
        .iter()
        .filter_map(|piece| piece["usage"]["completion_tokens"].as_u64());
    let usages: Vec<_> = usages.collect();
    assert_eq!((finishes.len(), usages.len()), (1, 1), "{answer}");
    Answer {
        text: choices().filter_map(|choice| choice["text"].as_str()).collect(),
        finish: finishes[0].to_owned(),
        completion_tokens: usages[0],
    }
}

/// What happens to the workers while the requests run.
#[derive(Clone, Copy)]
enum Disturbance {
    Nothing,
    /// The first worker of this role is gone at once after this time.
    Killed(Role, Duration),
    /// After this time all of them are replaced, one after the other; each has no time to finish anything.
    Replaced(Duration),
}

/// All answers, and the metrics after them.
async fn run(disturbance: Disturbance) -> (BTreeMap<usize, Answer>, String) {
    let mut world = World::new(None).await;
    let url = world.url();
    let client = reqwest::Client::new();
    let mut asking = JoinSet::new();
    for number in 0..REQUESTS {
        let request = client.post(&url).json(&body(number));
        asking.spawn(async move {
            let answer = request.send().await.unwrap().text().await.unwrap();
            (number, read(&answer))
        });
    }
    match disturbance {
        Disturbance::Nothing => {}
        Disturbance::Killed(role, after) => {
            tokio::time::sleep(after).await;
            world.kill(role);
            let waiting = world.bus.pending(StreamName::Requests).await.unwrap();
            assert!(
                role == Role::Decode || waiting > 0,
                "prefill had done its work already"
            );
        }
        Disturbance::Replaced(after) => {
            tokio::time::sleep(after).await;
            for role in [Role::Decode, Role::Prefill, Role::Decode, Role::Prefill] {
                world.replace(role).await;
            }
        }
    }
    let answers = tokio::time::timeout(PATIENCE, asking.join_all()).await;
    let answers: BTreeMap<_, _> = answers.expect("requests never end").into_iter().collect();
    let bills = bills(&world).await;
    for bill in &bills {
        let told = (u64::from(bill.counts.completion), bill.finish.name());
        assert_eq!(told, (TOKENS, "length"), "{bill:?}");
        assert!(bill.counts.cached <= bill.counts.prompt);
    }
    let metrics = world.metrics.encode();
    world.stop().await;
    (answers, metrics)
}

async fn compare(role: Role, after: Duration) {
    let (expected, metrics) = run(Disturbance::Nothing).await;
    assert!(!metrics.contains("vlinders_failovers_total{"), "{metrics}");
    assert!(expected.values().all(|answer| answer.completion_tokens == TOKENS));
    let (answers, metrics) = run(Disturbance::Killed(role, after)).await;
    // Of what prefill held, the queue may have delivered everything again before the frontend saw a need to.
    let must_move = role == Role::Decode;
    assert!(
        !must_move || metrics.contains("vlinders_failovers_total{"),
        "nothing was lost: {metrics}"
    );
    for (number, answer) in &answers {
        assert_eq!(answer, &expected[number], "request {number}");
    }
    assert_eq!(answers.len(), REQUESTS);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decode_worker_that_is_gone_at_once_changes_no_token_and_no_bill() {
    compare(Role::Decode, Duration::from_millis(400)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prefill_worker_that_is_gone_at_once_changes_no_token_and_no_bill() {
    // While some of its prompts are computed, some are handed over and some wait.
    compare(Role::Prefill, Duration::from_millis(150)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_that_are_replaced_under_load_change_no_token_and_no_bill() {
    let (expected, _) = run(Disturbance::Nothing).await;
    let (answers, metrics) = run(Disturbance::Replaced(Duration::from_millis(400))).await;
    assert_eq!(answers, expected);
    assert!(
        metrics.contains("vlinders_failovers_total{reason=\"handed_back\"}"),
        "nothing was handed back: {metrics}"
    );
}
