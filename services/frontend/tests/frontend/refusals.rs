//! Requests that are refused: one clean status each, always in the one shape.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};
use vlinders_frontend::{Admission, Caller, Cost, FrontendConfig, InProcessLimiter, Limiter};

use crate::support::{Setting, StoppedClock, World, chat_body, check_error, within};

async fn refused(world: &World, path: &str, body: &Value, status: u16, code: &str) -> Value {
    let response = within(world.post(path, body).send()).await.expect("an answer");
    check_error(response, status, code).await
}

#[tokio::test]
async fn what_the_model_does_not_allow_is_named() {
    let world = World::new().await;
    let long = json!({"messages": [{"role": "user", "content": "a".repeat(200)}]});
    for (extra, code, message) in [
        (
            json!({"max_tokens": 92}),
            "context_length_exceeded",
            "max_tokens: 92 is more than this model allows (91 left after your prompt)",
        ),
        (
            json!({"max_completion_tokens": 92}),
            "context_length_exceeded",
            "max_completion_tokens: 92 is more than this model allows (91 left after your prompt)",
        ),
        (
            json!({"min_tokens": 92}),
            "context_length_exceeded",
            "min_tokens: 92 is more than this model allows (91 left after your prompt)",
        ),
        (
            long,
            "context_length_exceeded",
            "messages: 207 tokens leave no room for an answer in this model's context (100)",
        ),
        (
            json!({"logit_bias": {"257": 1}}),
            "invalid_value",
            "logit_bias: token 257 is outside this model's vocabulary of 257",
        ),
        (
            json!({"stop_token_ids": [999]}),
            "invalid_value",
            "stop_token_ids: token 999 is outside this model's vocabulary of 257",
        ),
        (
            json!({"temprature": 1}),
            "unknown_parameter",
            "temprature: is not a parameter of this endpoint; did you mean temperature?",
        ),
        (json!({"n": 9}), "invalid_value", "n: 9 is out of range (1 to 8)"),
    ] {
        let error = refused(&world, "/v1/chat/completions", &chat_body(&extra), 400, code).await;
        assert_eq!(error["message"], message);
        assert_eq!(error["param"].as_str(), message.split(':').next());
    }
    let tokens = json!({"model": "tiny", "prompt": [300]});
    let error = refused(&world, "/v1/completions", &tokens, 400, "invalid_value").await;
    assert_eq!(error["param"], "prompt");
    let suffix = json!({"model": "tiny", "prompt": "a", "suffix": "b"});
    refused(&world, "/v1/completions", &suffix, 400, "unsupported_parameter").await;
}

#[tokio::test]
async fn unknown_models_routes_and_methods_have_the_shape() {
    let world = World::new().await;
    let other = chat_body(&json!({"model": "other"}));
    let error = refused(&world, "/v1/chat/completions", &other, 404, "model_not_found").await;
    assert_eq!(error["param"], "model");
    check_error(world.get("/v1/models/other").await, 404, "model_not_found").await;
    check_error(world.get("/v1/nothing").await, 404, "not_found").await;
    check_error(world.get("/").await, 404, "not_found").await;
    check_error(world.get("/v1/chat/completions").await, 405, "method_not_allowed").await;
    refused(&world, "/health", &json!({}), 405, "method_not_allowed").await;
}

#[tokio::test]
async fn only_json_is_read() {
    let world = World::new().await;
    let url = world.url("/v1/chat/completions");
    for content_type in [
        None,
        Some("text/plain"),
        Some("application/jsonx"),
        Some("multipart/form-data"),
    ] {
        let mut asking = world.client.post(&url).body("{}");
        if let Some(content_type) = content_type {
            asking = asking.header("content-type", content_type);
        }
        check_error(
            within(asking.send()).await.unwrap(),
            415,
            "unsupported_media_type",
        )
        .await;
    }
    let packed = world.chat(&json!({})).header("content-encoding", "gzip");
    check_error(
        within(packed.send()).await.unwrap(),
        415,
        "unsupported_media_type",
    )
    .await;
    let asking = world
        .client
        .post(&url)
        .header("content-type", "Application/JSON; charset=utf-8")
        .body("{");
    check_error(within(asking.send()).await.unwrap(), 400, "invalid_json").await;
}

#[tokio::test]
async fn a_full_queue_is_a_429_with_retry_after() {
    let world = World::with(Setting {
        queue_messages: 1,
        ..Default::default()
    })
    .await;
    let url = world.url("/v1/chat/completions");
    let first = world.client.post(&url).json(&chat_body(&json!({}))).send();
    let second = async {
        while world.bus_pending().await == 0 {
            tokio::task::yield_now().await;
        }
        let response = world.chat(&json!({})).send().await.unwrap();
        assert_eq!(response.headers()["retry-after"], "1");
        check_error(response, 429, "queue_full").await;
        let request = world.take().await;
        world.answer(&request, "A").await;
    };
    let (first, ()) = within(async { tokio::join!(first, second) }).await;
    assert_eq!(first.unwrap().status(), 200);
    assert_eq!(world.frontend.requests_in_flight(), 0);
}

#[tokio::test]
async fn a_closed_bus_is_a_503() {
    let world = World::new().await;
    world.bus.close();
    let response = within(world.chat(&json!({})).send()).await.unwrap();
    assert_eq!(response.headers()["retry-after"], "1");
    check_error(response, 503, "queue_unavailable").await;
    assert_eq!(world.frontend.requests_in_flight(), 0);
}

#[tokio::test]
async fn too_many_requests_of_a_key_are_a_429_that_says_when() {
    let world = World::with(Setting {
        limiter: Arc::new(InProcessLimiter::per_minute(2, Arc::new(StoppedClock))),
        ..Default::default()
    })
    .await;
    for left in ["1", "0"] {
        let response = within(world.chat(&json!({"temperature": 9})).send())
            .await
            .unwrap();
        assert_eq!(response.headers()["x-ratelimit-limit-requests"], "2");
        assert_eq!(response.headers()["x-ratelimit-remaining-requests"], left);
        check_error(response, 400, "invalid_value").await;
    }
    let response = within(world.chat(&json!({})).send()).await.unwrap();
    assert_eq!(response.headers()["retry-after"], "30");
    assert_eq!(response.headers()["x-ratelimit-reset-requests"], "60000ms");
    let error = check_error(response, 429, "rate_limit_exceeded").await;
    assert_eq!(error["type"], "rate_limit_error");
}

/// Lost what it counts with.
struct Blind;

#[async_trait]
impl Limiter for Blind {
    async fn admit(&self, _caller: &Caller, _cost: &Cost) -> Admission {
        let retry_after = Duration::from_millis(200);
        Admission::Unavailable { retry_after }
    }
}

#[tokio::test]
async fn limits_that_cannot_be_checked_are_a_503_and_no_429() {
    let world = World::with(Setting {
        limiter: Arc::new(Blind),
        ..Default::default()
    })
    .await;
    for path in ["/v1/chat/completions", "/v1/completions"] {
        let response = within(world.post(path, &json!({})).send()).await.unwrap();
        assert_eq!(response.headers()["retry-after"], "1");
        assert!(!response.headers().contains_key("x-ratelimit-limit-requests"));
        let error = check_error(response, 503, "limiter_unavailable").await;
        assert_eq!(error["type"], "overloaded_error");
    }
    assert_eq!(world.bus_pending().await, 0);
}

#[tokio::test]
async fn too_many_at_once_are_a_503() {
    let config = FrontendConfig {
        requests_in_flight: 0,
        ..Default::default()
    };
    let world = World::with(Setting {
        config,
        ..Default::default()
    })
    .await;
    let body = chat_body(&json!({}));
    refused(&world, "/v1/chat/completions", &body, 503, "overloaded").await;

    let config = FrontendConfig {
        preparing: 0,
        waiting_to_prepare: 0,
        ..Default::default()
    };
    let world = World::with(Setting {
        config,
        ..Default::default()
    })
    .await;
    refused(&world, "/v1/chat/completions", &body, 503, "overloaded").await;

    let config = FrontendConfig {
        body_memory_bytes: 0,
        ..Default::default()
    };
    let world = World::with(Setting {
        config,
        ..Default::default()
    })
    .await;
    refused(&world, "/v1/chat/completions", &body, 503, "overloaded").await;
}

#[tokio::test]
async fn too_many_constraints_at_once_are_a_503_and_stop_nobody_else() {
    let config = FrontendConfig {
        compiling: 0,
        waiting_to_compile: 0,
        ..Default::default()
    };
    let world = World::with(Setting {
        config,
        ..Default::default()
    })
    .await;
    for path in ["/v1/chat/completions", "/v1/completions"] {
        let mut body = json!({"model": "tiny", "guided_choice": ["a", "b"]});
        if path == "/v1/completions" {
            body["prompt"] = "a".into();
        } else {
            body["messages"] = json!([{"role": "user", "content": "a"}]);
        }
        let response = within(world.post(path, &body).send()).await.unwrap();
        assert_eq!(response.headers()["retry-after"], "1");
        let error = check_error(response, 503, "overloaded").await;
        assert_eq!(error["type"], "overloaded_error");
    }
    assert_eq!(world.bus_pending().await, 0);
    let free = async {
        let request = world.take().await;
        world.answer(&request, "A").await;
    };
    let asked = json!({});
    let (response, ()) = within(async { tokio::join!(world.chat(&asked).send(), free) }).await;
    assert_eq!(response.unwrap().status(), 200);
}

/// One that waits behind others is refused when its patience is over, though there was a place for it.
#[tokio::test]
async fn a_constraint_whose_turn_does_not_come_is_a_503() {
    let config = FrontendConfig {
        compiling: 0,
        waiting_to_compile: 1,
        ..Default::default()
    };
    let world = World::with(Setting {
        config,
        ..Default::default()
    })
    .await;
    let body = chat_body(&json!({"guided_choice": ["a", "b"]}));
    refused(&world, "/v1/chat/completions", &body, 503, "overloaded").await;
}

#[tokio::test]
async fn the_clients_request_id_is_shown_but_is_not_the_requests_id() {
    let world = World::new().await;
    let wanted = "my-id.1_2:3";
    let worker = async {
        let request = world.take().await;
        world.answer(&request, "A").await;
        request
    };
    let asked = json!({});
    let asking = world.chat(&asked).header("x-request-id", wanted).send();
    let (response, request) = within(async { tokio::join!(asking, worker) }).await;
    let response = response.unwrap();
    assert_eq!(response.headers()["x-request-id"], wanted);
    let body: Value = within(response.json()).await.unwrap();
    assert_eq!(body["id"], format!("chatcmpl-{}", request.request_id));

    let response = within(
        world
            .client
            .get(world.url("/health"))
            .header("x-request-id", "a b")
            .send(),
    )
    .await;
    assert_eq!(response.unwrap().headers()["x-request-id"].len(), 26);
}

#[tokio::test]
async fn a_body_that_does_not_come_is_a_408() {
    let config = FrontendConfig {
        body_deadline: Duration::from_millis(100),
        ..Default::default()
    };
    let world = World::with(Setting {
        config,
        ..Default::default()
    })
    .await;
    let text = crate::support::raw(
        &world,
        b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n{",
    )
    .await;
    assert!(text.starts_with("HTTP/1.1 408 "), "{text}");
    assert!(text.contains("\"code\":\"body_timeout\""), "{text}");
}
