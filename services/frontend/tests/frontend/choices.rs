//! Several choices and several prompts: sequences of their own, one answer.

use std::time::Duration;

use serde_json::{Value, json};
use vlinders_types::{Epoch, FaultKind, Finish, FinishReason, Request, TokenCounts, TokenLogprob};

use crate::support::{World, check_error, chunk, fault, last, within};

/// The last chunk of one choice, with the counts a worker would report.
fn last_of(position: u32, text: &str, reason: FinishReason) -> vlinders_types::Chunk {
    let mut chunk = last(position, 1, text, reason);
    let counts = TokenCounts {
        prompt: 9,
        cached: 4,
        completion: position + 1,
    };
    chunk.finish = Some(Finish {
        reason,
        stop_text: None,
        counts,
        fault: None,
    });
    chunk
}

fn events(text: &str) -> Vec<Value> {
    let events = text
        .split("\n\n")
        .filter_map(|event| event.strip_prefix("data: "));
    let events = events.filter(|event| *event != "[DONE]");
    events
        .map(|event| serde_json::from_str(event).expect("events are JSON"))
        .collect()
}

/// Texts and finish reasons by choice, joined from a stream.
fn joined(events: &[Value], count: usize) -> Vec<(String, Vec<String>)> {
    let mut choices = vec![(String::new(), Vec::new()); count];
    for choice in events.iter().filter_map(|event| event["choices"].get(0)) {
        let index = usize::try_from(choice["index"].as_u64().expect("a choice has an index"))
            .expect("a small number");
        for text in [&choice["delta"]["content"], &choice["text"]] {
            choices[index].0.push_str(text.as_str().unwrap_or_default());
        }
        choices[index]
            .1
            .extend(choice["finish_reason"].as_str().map(str::to_owned));
    }
    choices
}

/// Takes the first choice, lets its first token come, and takes the others.
async fn take_all(world: &World, count: usize) -> Vec<Request> {
    let first = world.take().await;
    assert_eq!(
        world.bus_pending().await,
        0,
        "the others wait for the first one's token"
    );
    world.send(&first, vec![chunk(0, 1, "0")]).await;
    let mut requests = vec![first];
    while requests.len() < count {
        requests.push(world.take().await);
    }
    requests.sort_by_key(|request| request.request_id);
    requests
}

#[tokio::test]
async fn choices_follow_the_first_ones_first_token_and_count_the_prompt_once() {
    let world = World::new().await;
    for is_streamed in [true, false] {
        let mut asked = json!({"n": 3, "seed": 5, "stream": is_streamed});
        if is_streamed {
            asked["stream_options"] = json!({"include_usage": true});
        }
        let worker = async {
            let requests = take_all(&world, 3).await;
            let id = requests[0].request_id;
            for (index, request) in (0_u32..).zip(&requests) {
                assert_eq!(request.request_id, id.of_choice(index));
                assert_eq!(request.prompt_ids, requests[0].prompt_ids);
                assert_eq!(request.bills_prompt, index == 0);
                assert_eq!(request.sampling.seed == 5, index == 0);
            }
            assert_ne!(requests[1].sampling.seed, requests[2].sampling.seed);
            // The last one is done first.
            world
                .send(&requests[2], vec![last_of(0, "C", FinishReason::Length)])
                .await;
            world
                .send(
                    &requests[1],
                    vec![chunk(0, 1, "B"), last_of(1, "b", FinishReason::Stop)],
                )
                .await;
            world
                .send(&requests[0], vec![last_of(1, "A", FinishReason::Stop)])
                .await;
            requests
        };
        let (response, requests) = within(async { tokio::join!(world.chat(&asked).send(), worker) }).await;
        let text = within(response.unwrap().text()).await.unwrap();
        let (choices, usage) = if is_streamed {
            let events = events(&text);
            assert_eq!(text.matches("\"role\":\"assistant\"").count(), 3);
            assert!(text.ends_with("data: [DONE]\n\n"));
            (joined(&events, 3), events.last().unwrap()["usage"].clone())
        } else {
            let body: Value = serde_json::from_str(&text).unwrap();
            let choices = body["choices"]
                .as_array()
                .unwrap()
                .iter()
                .zip(0..)
                .map(|(choice, index)| {
                    assert_eq!(choice["index"], index);
                    let text = choice["message"]["content"].as_str().unwrap().to_owned();
                    (text, vec![choice["finish_reason"].as_str().unwrap().to_owned()])
                });
            assert_eq!(body["id"], format!("chatcmpl-{}", requests[0].request_id));
            (choices.collect(), body["usage"].clone())
        };
        let said = |text: &str, reason: &str| (text.to_owned(), vec![reason.to_owned()]);
        assert_eq!(
            choices,
            [said("0A", "stop"), said("Bb", "stop"), said("C", "length")]
        );
        assert_eq!(usage["prompt_tokens"], 9);
        assert_eq!(usage["completion_tokens"], 5);
        assert_eq!(usage["prompt_tokens_details"]["cached_tokens"], 4);
        assert_eq!(world.frontend.requests_in_flight(), 0);
    }
}

#[tokio::test]
async fn a_client_that_leaves_cancels_every_choice() {
    let mut world = World::new().await;
    let asked = json!({"n": 3, "stream": true});
    let worker = take_all(&world, 3);
    let (response, requests) = within(async { tokio::join!(world.chat(&asked).send(), worker) }).await;
    drop(response);
    let mut cancelled = vec![
        world.cancel().await.request_id,
        world.cancel().await.request_id,
        world.cancel().await.request_id,
    ];
    cancelled.sort_unstable();
    let ids: Vec<_> = requests.iter().map(|request| request.request_id).collect();
    assert_eq!(cancelled, ids);
    assert_eq!(world.frontend.requests_in_flight(), 0);
}

#[tokio::test]
async fn a_choice_that_fails_ends_the_answer_and_its_siblings() {
    let mut world = World::new().await;
    let worker = async {
        let requests = take_all(&world, 2).await;
        world
            .send(&requests[1], vec![fault(0, FaultKind::Overloaded)])
            .await;
        requests
    };
    let asked = json!({"n": 2});
    let (response, requests) = within(async { tokio::join!(world.chat(&asked).send(), worker) }).await;
    check_error(response.unwrap(), 503, "overloaded").await;
    assert_eq!(world.cancel().await.request_id, requests[0].request_id);
    assert_eq!(world.frontend.requests_in_flight(), 0);
}

#[tokio::test]
async fn a_first_choice_that_fails_leaves_nothing_in_the_queue() {
    let world = World::new().await;
    let worker = async {
        let request = world.take().await;
        world.send(&request, vec![fault(0, FaultKind::Invalid)]).await;
    };
    let asked = json!({"n": 2, "stream": true});
    let (response, ()) = within(async { tokio::join!(world.chat(&asked).send(), worker) }).await;
    check_error(response.unwrap(), 400, "invalid_request").await;
    assert_eq!(
        (world.bus_pending().await, world.frontend.requests_in_flight()),
        (0, 0)
    );
}

#[tokio::test]
async fn a_choice_whose_worker_is_lost_goes_on_alone() {
    let scene = crate::failover::Scene::new(vlinders_frontend::FrontendConfig {
        beacon_fresh: Duration::from_millis(900),
        ..Default::default()
    })
    .await;
    let world = &scene.world;
    let workers = async {
        let requests = take_all(world, 2).await;
        // The first choice is with a worker that stays, the second one with one that falls silent.
        let stays = vec![chunk(1, 1, "1"), last_of(2, "2", FinishReason::Stop)];
        world.send_from(&scene.other, Epoch(1), &requests[0], stays).await;
        world.send(&requests[1], vec![chunk(0, 1, "x")]).await;
        let again = world.take().await;
        assert_eq!((again.request_id, again.attempt), (requests[1].request_id, 1));
        assert_eq!((again.emitted_ids.len(), again.bills_prompt), (1, false));
        scene
            .go_on(&again, vec![last_of(1, "y", FinishReason::Stop)])
            .await;
    };
    let asked = json!({"n": 2});
    let (response, ()) = within(async { tokio::join!(world.chat(&asked).send(), workers) }).await;
    let body: Value = within(response.unwrap().json()).await.unwrap();
    assert_eq!(body["choices"][0]["message"]["content"], "012");
    assert_eq!(body["choices"][1]["message"]["content"], "xy");
    assert_eq!(body["usage"]["completion_tokens"], 5);
}

#[tokio::test]
async fn the_most_likely_of_several_answers_is_told() {
    let world = World::new().await;
    let token = |logprob| TokenLogprob {
        id: 65,
        bytes: vec![65],
        logprob,
        top: Vec::new(),
    };
    let worker = async {
        let requests = take_all(&world, 3).await;
        for (request, (text, logprob)) in requests.iter().zip([("A", -2.0), ("B", -0.5), ("C", -1.0)]) {
            assert_eq!(request.sampling.logprobs, Some(0));
            let position = u32::from(request.bills_prompt);
            let mut chunk = last_of(position, text, FinishReason::Stop);
            chunk.logprobs = vec![token(logprob)];
            world.send(request, vec![chunk]).await;
        }
    };
    let asked = json!({"model": "tiny", "prompt": "Hi", "best_of": 3});
    let (response, ()) =
        within(async { tokio::join!(world.post("/v1/completions", &asked).send(), worker) }).await;
    let body: Value = within(response.unwrap().json()).await.unwrap();
    assert_eq!(body["choices"].as_array().unwrap().len(), 1);
    assert_eq!(
        (&body["choices"][0]["index"], &body["choices"][0]["text"]),
        (&json!(0), &json!("B"))
    );
    assert_eq!(body["choices"][0]["logprobs"], Value::Null);
    assert_eq!(
        body["usage"]["completion_tokens"], 4,
        "all that were computed count"
    );
}

#[tokio::test]
async fn several_prompts_are_answered_side_by_side() {
    let world = World::new().await;
    for is_streamed in [true, false] {
        let asked = json!({
            "model": "tiny", "prompt": ["Hi", "there"], "n": 2, "echo": true, "seed": 3, "stream": is_streamed,
        });
        let worker = async {
            let mut firsts = vec![world.take().await, world.take().await];
            firsts.sort_by_key(|request| request.request_id);
            assert_eq!((firsts[0].prompt_ids.len(), firsts[1].prompt_ids.len()), (2, 5));
            assert_eq!(firsts[0].stop.max_tokens, firsts[1].stop.max_tokens + 3);
            assert_eq!(world.bus_pending().await, 0);
            let mut requests = Vec::new();
            for first in firsts {
                world.send(&first, vec![chunk(0, 1, "0")]).await;
                let second = world.take().await;
                assert_eq!(second.prompt_ids, first.prompt_ids);
                requests.extend([first, second]);
            }
            assert_eq!(
                requests
                    .iter()
                    .map(|request| request.bills_prompt)
                    .collect::<Vec<_>>(),
                [true, false, true, false]
            );
            let seeds: Vec<u64> = requests.iter().map(|request| request.sampling.seed).collect();
            assert_eq!(
                (seeds[0], seeds[1]),
                (seeds[2], seeds[3]),
                "a prompt's answers do not depend on its neighbours"
            );
            for (request, text) in requests.iter().zip(["a", "b", "c", "d"]) {
                let position = u32::from(request.bills_prompt);
                world
                    .send(request, vec![last_of(position, text, FinishReason::Stop)])
                    .await;
            }
        };
        let (response, ()) =
            within(async { tokio::join!(world.post("/v1/completions", &asked).send(), worker) }).await;
        let text = within(response.unwrap().text()).await.unwrap();
        let texts: Vec<String> = if is_streamed {
            joined(&events(&text), 4)
                .into_iter()
                .map(|choice| choice.0)
                .collect()
        } else {
            let body: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(body["usage"]["prompt_tokens"], 18, "each prompt once");
            let choices = body["choices"].as_array().unwrap().iter();
            choices
                .map(|choice| choice["text"].as_str().unwrap().to_owned())
                .collect()
        };
        assert_eq!(texts, ["Hi0a", "Hib", "there0c", "thered"]);
    }
}
