//! What clients are told of their prompts.

use serde_json::{Value, json};
use vlinders_types::{Chunk, FinishReason, PromptScores, Request, Task, TokenScore};

use crate::support::{World, last, within};

/// Scores of positions that say which they are.
fn scored(first: u32, end: u32) -> Chunk {
    let score = |position| TokenScore {
        logprob: -0.5,
        rank: position,
        top: vec![(72, -0.25), (33, -0.5)],
    };
    Chunk {
        prompt_scores: Some(PromptScores {
            first,
            scores: (first..end).map(score).collect(),
        }),
        ..Chunk::default()
    }
}

async fn answered(
    world: &World,
    body: &Value,
    answer: impl FnOnce(&Request) -> Vec<Vec<Chunk>>,
) -> (Request, String) {
    let worker = async {
        let request = world.take().await;
        for chunks in answer(&request) {
            world.send(&request, chunks).await;
        }
        request
    };
    let asked = world.post("/v1/completions", body).send();
    let (response, request) = within(async { tokio::join!(asked, worker) }).await;
    (
        request,
        within(response.expect("an answer").text()).await.expect("a body"),
    )
}

#[tokio::test]
async fn an_echoed_prompt_without_an_answer_is_told_with_its_logprobs() {
    let world = World::new().await;
    let body =
        json!({"model": "tiny", "prompt": [72, 105, 33], "echo": true, "logprobs": 1, "max_tokens": 0});
    let scores = |_: &Request| vec![vec![last(0, 0, "", FinishReason::Length)], vec![scored(1, 3)]];
    let (request, text) = answered(&world, &body, scores).await;
    assert_eq!(
        (request.task, request.prompt_logprobs),
        (Task::Score { first: 1 }, Some(1))
    );
    assert_eq!(request.stop.max_tokens, 0);
    let answer: Value = serde_json::from_str(&text).unwrap();
    let expected = json!({
        "index": 0, "text": "Hi!", "finish_reason": "length",
        "logprobs": {
            "tokens": ["H", "i", "!"], "token_logprobs": [null, -0.5, -0.5], "text_offset": [0, 1, 2],
            "top_logprobs": [null, {"H": -0.25, "i": -0.5}, {"H": -0.25, "!": -0.5}],
        },
    });
    assert_eq!(answer["choices"], json!([expected]));
}

#[tokio::test]
async fn a_streamed_echo_waits_for_its_logprobs_and_the_answer_is_counted_behind_it() {
    let config = vlinders_frontend::FrontendConfig {
        keep_alive: std::time::Duration::from_millis(5),
        ..Default::default()
    };
    let world = World::with(crate::support::Setting {
        config,
        ..Default::default()
    })
    .await;
    let body = json!({"model": "tiny", "prompt": [72, 105], "echo": true, "logprobs": 0, "stream": true});
    let mut response = within(world.post("/v1/completions", &body).send()).await.unwrap();
    let request = world.take().await;
    let mut text = String::new();
    while text.matches(": keep-alive").count() < 3 {
        text.push_str(std::str::from_utf8(&within(response.chunk()).await.unwrap().unwrap()).unwrap());
    }
    assert!(!text.contains("data:"), "{text}");
    let mut token = last(0, 1, "!", FinishReason::Stop);
    token.logprobs = vec![crate::shapes::logprob(b'!')];
    world.send(&request, vec![scored(1, 2), token]).await;
    text.push_str(&within(response.text()).await.unwrap());
    let offsets: Vec<Value> = text
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line.strip_prefix("data: ")?).ok())
        .map(|event| event["choices"][0]["logprobs"]["text_offset"].clone())
        .filter(|offsets| !offsets.is_null())
        .collect();
    assert_eq!(offsets, [json!([0, 1]), json!([2])], "{text}");
}

#[tokio::test]
async fn prompt_logprobs_are_told_by_token() {
    let world = World::new().await;
    let body = json!({"model": "tiny", "prompt": [[72, 105], [33]], "prompt_logprobs": 1, "max_tokens": 1});
    let asked = world.post("/v1/completions", &body).send();
    let workers = async {
        for _ in 0..2 {
            let request = world.take().await;
            // A single token follows nothing.
            let asked = (request.prompt_ids.len() > 1).then_some(1);
            assert_eq!((request.task, request.prompt_logprobs), (Task::Generate, asked));
            let mut chunks = vec![last(0, 1, "A", FinishReason::Length)];
            if request.prompt_ids.len() > 1 {
                chunks.insert(0, scored(1, 2));
            }
            world.send(&request, chunks).await;
        }
    };
    let (response, ()) = within(async { tokio::join!(asked, workers) }).await;
    let answer: Value = within(response.unwrap().json()).await.unwrap();
    let entry =
        |logprob: f64, rank, token: &str| json!({"logprob": logprob, "rank": rank, "decoded_token": token});
    let place = json!({"105": entry(-0.5, 1, "i"), "72": entry(-0.25, 1, "H")});
    assert_eq!(answer["choices"][0]["prompt_logprobs"], json!([null, place]));
    assert_eq!(answer["choices"][1]["prompt_logprobs"], json!([null]));
}
