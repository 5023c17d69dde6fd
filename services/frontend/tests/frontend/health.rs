//! What operators ask.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use serde_json::{Value, json};
use vlinders_frontend::{Admission, Caller, Cost, Limiter};

use crate::support::{World, within};

async fn json_of(world: &World, path: &str) -> (u16, Value) {
    let response = world.get(path).await;
    (
        response.status().as_u16(),
        within(response.json()).await.expect("JSON"),
    )
}

#[tokio::test]
async fn models_are_listed_under_each_name() {
    let world = World::new().await;
    let (status, list) = json_of(&world, "/v1/models").await;
    let ids: Vec<_> = list["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|model| model["id"].clone())
        .collect();
    assert_eq!(
        (status, &list["object"], ids),
        (
            200,
            &json!("list"),
            vec![json!("tiny"), json!("alias"), json!("org/tiny")]
        )
    );
    for path in ["/v1/models/org/tiny", "/v1/models/org%2Ftiny"] {
        let (status, model) = json_of(&world, path).await;
        assert_eq!(
            (status, &model["id"], &model["object"]),
            (200, &json!("org/tiny"), &json!("model"))
        );
    }
}

#[tokio::test]
async fn readiness_is_about_workers_and_health_is_not() {
    let world = World::new().await;
    assert_eq!(json_of(&world, "/ready").await, (200, json!({"status": "ready"})));
    assert_eq!(
        json_of(&world, "/health").await,
        (200, json!({"status": "healthy"}))
    );
    assert_eq!(json_of(&world, "/live").await, (200, json!({"status": "alive"})));
    world.bus_is_up.store(false, Ordering::Relaxed);
    let expected = json!({"status": "not ready", "reason": "bus not reachable"});
    assert_eq!(json_of(&world, "/ready").await, (503, expected));
    for path in ["/health", "/live"] {
        assert_eq!(json_of(&world, path).await.0, 200, "{path}");
    }
}

#[tokio::test]
async fn readiness_asks_no_server() {
    let world = World::with(crate::support::Setting {
        limiter: Arc::new(Stuck),
        ..Default::default()
    })
    .await;
    // A bus that refuses every call, and a limiter that never answers.
    world.bus.close();
    assert_eq!(json_of(&world, "/ready").await, (200, json!({"status": "ready"})));
}

/// Waits for a server that does not answer.
struct Stuck;

#[async_trait]
impl Limiter for Stuck {
    async fn admit(&self, _caller: &Caller, _cost: &Cost) -> Admission {
        std::future::pending().await
    }
}

#[tokio::test]
async fn without_workers_nothing_is_ready() {
    let config = vlinders_frontend::FrontendConfig {
        beacon_fresh: std::time::Duration::from_millis(30),
        ..Default::default()
    };
    let world = World::with(crate::support::Setting {
        config,
        ..Default::default()
    })
    .await;
    let (status, body) = within(async {
        loop {
            let answer = json_of(&world, "/ready").await;
            if answer.0 != 200 {
                break answer;
            }
        }
    })
    .await;
    assert_eq!(
        (status, &body["reason"]),
        (503, &json!("no model has both a prefill and a decode worker"))
    );
}

#[tokio::test]
async fn metrics_count_what_was_served() {
    let world = World::new().await;
    let worker = async {
        let request = world.take().await;
        world.send(&request, vec![crate::support::chunk(0, 1, "A")]).await;
        world
            .send(
                &request,
                vec![crate::support::last(
                    1,
                    1,
                    "B",
                    vlinders_types::FinishReason::Stop,
                )],
            )
            .await;
    };
    let asked = json!({"stream": true});
    let (response, ()) = within(async { tokio::join!(world.chat(&asked).send(), worker) }).await;
    within(response.unwrap().text()).await.unwrap();
    world.get("/v1/nothing").await;
    let expected = [
        "vlinders_http_requests_total{route=\"/v1/chat/completions\",status=\"200\"} 1",
        "vlinders_http_requests_total{route=\"other\",status=\"404\"} 1",
        "vlinders_tokens_total{kind=\"prompt\"} 7",
        "vlinders_tokens_total{kind=\"completion\"} 2",
        "vlinders_ttft_seconds_count{} 1",
        "vlinders_itl_seconds_count{} 1",
        "vlinders_requests_in_flight{} 0",
        "vlinders_http_request_duration_seconds_count{route=\"/v1/chat/completions\"} 1",
    ];
    // A request is counted when its last byte is handed over, which the client may see a moment before.
    within(async {
        loop {
            let text = world.metrics().await;
            if expected.iter().all(|line| text.contains(line)) {
                break;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    let (status, version) = json_of(&world, "/version").await;
    assert_eq!(
        (status, &version["version"]),
        (200, &json!(env!("CARGO_PKG_VERSION")))
    );
}
