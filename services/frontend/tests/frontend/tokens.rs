//! Text to tokens and back, without a worker.

use serde_json::{Value, json};

use std::sync::Arc;

use vlinders_frontend::InProcessLimiter;

use crate::support::{CONTEXT, Setting, StoppedClock, World, check_error, within};

async fn ask(world: &World, path: &str, body: &Value) -> Value {
    let answer = within(world.post(path, body).send()).await.expect("an answer");
    assert_eq!(answer.status(), 200);
    answer.json().await.expect("JSON")
}

#[tokio::test]
async fn a_text_becomes_tokens_and_the_tokens_become_the_text() {
    let world = World::new().await;
    let asked = json!({"model": "alias", "prompt": "h\u{e9}", "return_token_strs": true});
    let answer = ask(&world, "/tokenize", &asked).await;
    let shown = json!({"count": 3, "max_model_len": CONTEXT, "tokens": [104, 195, 169],
        "token_strs": ["h", "\u{fffd}", "\u{fffd}"]});
    assert_eq!(answer, shown);
    let back = json!({"model": "alias", "tokens": answer["tokens"]});
    assert_eq!(
        ask(&world, "/detokenize", &back).await,
        json!({"prompt": "h\u{e9}"})
    );
    assert_eq!(world.bus_pending().await, 0);
}

#[tokio::test]
async fn a_conversation_is_counted_as_the_model_reads_it() {
    let world = World::new().await;
    let mut asked = json!({"model": "tiny", "messages": [{"role": "user", "content": "hi"}]});
    let answer = ask(&world, "/tokenize", &asked).await;
    assert_eq!(answer["count"], "<user>hi>".len());
    assert_eq!(answer["token_strs"], Value::Null);
    asked["add_generation_prompt"] = false.into();
    assert_eq!(ask(&world, "/tokenize", &asked).await["count"], "<user>hi".len());
}

#[tokio::test]
async fn bad_bodies_are_refused_by_name() {
    let world = World::new().await;
    let cases = [
        ("/tokenize", json!({"model": "tiny"}), "prompt"),
        ("/tokenize", json!({"prompt": "a"}), "model"),
        (
            "/tokenize",
            json!({"model": "tiny", "prompt": "a", "temperature": 1}),
            "temperature",
        ),
        ("/detokenize", json!({"model": "tiny"}), "tokens"),
        (
            "/detokenize",
            json!({"model": "tiny", "tokens": [5000]}),
            "tokens",
        ),
    ];
    for (path, body, param) in cases {
        let answer = within(world.post(path, &body).send()).await.unwrap();
        assert_eq!(answer.status(), 400, "{path} {body}");
        let answer: Value = answer.json().await.unwrap();
        assert_eq!(answer["error"]["param"], param, "{path} {body}");
    }
    let nobody = json!({"model": "nobody", "tokens": []});
    let answer = within(world.post("/detokenize", &nobody).send()).await.unwrap();
    check_error(answer, 404, "model_not_found").await;
}

#[tokio::test]
async fn counting_tokens_counts_as_a_request_of_the_minute_also_when_it_is_refused() {
    let messages = json!({"model": "tiny", "messages": [{"role": "user", "content": "a"}]});
    for (path, body) in [
        ("/tokenize", json!({"model": "tiny", "prompt": "a"})),
        ("/detokenize", json!({"model": "tiny", "tokens": [97]})),
        ("/v1/messages/count_tokens", messages),
    ] {
        let world = World::with(Setting {
            limiter: Arc::new(InProcessLimiter::per_minute(2, Arc::new(StoppedClock))),
            ..Default::default()
        })
        .await;
        for (asked, status, left) in [(&json!({"model": 5}), 400, "1"), (&body, 200, "0")] {
            let answer = within(world.post(path, asked).send()).await.expect("an answer");
            assert_eq!(answer.status(), status, "{path}");
            assert_eq!(answer.headers()["x-ratelimit-remaining-requests"], left, "{path}");
        }
        let answer = within(world.post(path, &body).send()).await.expect("an answer");
        assert_eq!(answer.status(), 429, "{path}");
        assert_eq!(answer.headers()["retry-after"], "30", "{path}");
    }
}
