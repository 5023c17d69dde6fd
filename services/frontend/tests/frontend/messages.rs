//! The Messages dialect: the same requests and answers in other words.

use serde_json::{Value, json};
use vlinders_types::FinishReason;

use crate::support::{World, chunk, last, within};

const PATH: &str = "/v1/messages";

fn body(extra: &Value) -> Value {
    let mut body =
        json!({"model": "alias", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]});
    for (key, value) in extra.as_object().expect("an object") {
        body[key] = value.clone();
    }
    body
}

/// The events of a stream: their names and data, which must agree.
fn events(text: &str) -> Vec<Value> {
    let mut told = Vec::new();
    for event in text.split_terminator("\n\n") {
        let (name, data) = event.split_once('\n').expect("a name and data");
        let data: Value = serde_json::from_str(data.strip_prefix("data: ").expect("data")).expect("JSON");
        assert_eq!(name.strip_prefix("event: "), data["type"].as_str());
        told.push(data);
    }
    told
}

#[tokio::test]
async fn a_whole_answer_is_told_in_blocks() {
    let world = World::new().await;
    let asked = body(&json!({"system": "be kind", "stop_sequences": ["x"], "top_k": 3, "temperature": 0.5}));
    let worker = async {
        let request = world.take().await;
        assert_eq!(request.prompt_ids.len(), "<system>be kind<user>hi>".len());
        assert_eq!((request.stop.max_tokens, request.sampling.top_k), (9, 3));
        assert_eq!(request.stop.stop, ["x"]);
        let mut chunk = last(0, 2, "Hello", FinishReason::Stop);
        let finish = chunk.finish.as_mut().expect("the last chunk");
        finish.stop_text = Some("x".to_owned());
        finish.counts.cached = 4;
        world.send(&request, vec![chunk]).await;
    };
    let asking = world.post(PATH, &asked).header("x-api-key", "any").send();
    let (answer, ()) = within(async { tokio::join!(asking, worker) }).await;
    let answer = answer.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["request-id"], answer.headers()["x-request-id"]);
    let mut answer: Value = answer.json().await.unwrap();
    assert!(answer["id"].take().as_str().unwrap().starts_with("msg_"));
    let usage = json!({"input_tokens": 3, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 4,
        "output_tokens": 2});
    let expected = json!({"id": null, "type": "message", "role": "assistant", "model": "alias",
        "content": [{"type": "text", "text": "Hello"}], "stop_reason": "stop_sequence", "stop_sequence": "x",
        "usage": usage});
    assert_eq!(answer, expected);
}

#[tokio::test]
async fn a_stream_has_its_events_in_order() {
    let world = World::new().await;
    let worker = async {
        let request = world.take().await;
        assert!(request.stream);
        world.send(&request, vec![chunk(0, 1, "Hel")]).await;
        world
            .send(&request, vec![last(1, 1, "lo", FinishReason::Length)])
            .await;
    };
    let asked = body(&json!({"stream": true}));
    let (answer, ()) = within(async { tokio::join!(world.post(PATH, &asked).send(), worker) }).await;
    let told = events(&within(answer.unwrap().text()).await.unwrap());
    let kinds: Vec<_> = told.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(kinds[..3], ["message_start", "ping", "content_block_start"]);
    assert_eq!(
        kinds[kinds.len() - 3..],
        ["content_block_stop", "message_delta", "message_stop"]
    );
    assert_eq!(told[0]["message"]["usage"]["input_tokens"], "<user>hi>".len());
    let text: String = told
        .iter()
        .filter_map(|event| event["delta"]["text"].as_str())
        .collect();
    assert_eq!(text, "Hello");
    let end = &told[told.len() - 2];
    assert_eq!(end["delta"]["stop_reason"], "max_tokens");
    assert_eq!(
        (&end["usage"]["input_tokens"], &end["usage"]["output_tokens"]),
        (&json!(7), &json!(2))
    );
}

#[tokio::test]
async fn words_in_the_assistants_mouth_are_gone_on_with() {
    let world = World::new().await;
    let turns = json!([{"role": "user", "content": [{"type": "text", "text": "hi"}]},
        {"role": "assistant", "content": "Well"}]);
    let asked = body(&json!({"messages": turns}));
    let worker = async {
        let request = world.take().await;
        assert_eq!(request.prompt_ids.len(), "<user>hi<assistant>Well".len());
        world.answer(&request, ", hello").await;
    };
    let (answer, ()) = within(async { tokio::join!(world.post(PATH, &asked).send(), worker) }).await;
    let answer: Value = answer.unwrap().json().await.unwrap();
    assert_eq!(
        (&answer["content"][0]["text"], &answer["stop_reason"]),
        (&json!(", hello"), &json!("end_turn"))
    );
}

#[tokio::test]
async fn tokens_are_counted_without_a_worker() {
    let world = World::new().await;
    let mut asked = body(&json!({"system": "be kind"}));
    asked.as_object_mut().unwrap().remove("max_tokens");
    let answer = within(world.post("/v1/messages/count_tokens", &asked).send())
        .await
        .unwrap();
    let answer: Value = answer.json().await.unwrap();
    assert_eq!(answer, json!({"input_tokens": "<system>be kind<user>hi>".len()}));
}

#[tokio::test]
async fn every_error_has_the_dialects_shape() {
    let world = World::new().await;
    let image = json!([{"role": "user", "content": [{"type": "image", "source": {"type": "base64"}}]}]);
    let bad = [
        (json!({"max_tokens": null}), "max_tokens: "),
        (json!({"messages": image}), "\"image\" are not offered"),
        (json!({"stop_sequences": [""]}), "stop_sequences"),
        (json!({"mcp_servers": [{}]}), "mcp_servers: "),
        (json!({"max_tokens": 5000}), "max_tokens: 5000"),
        (json!({"top_k": "a"}), "top_k"),
        (json!({"thinking": {"type": "enabled"}}), "thinking.budget_tokens"),
    ];
    for (extra, text) in bad {
        let asked = world.post(PATH, &body(&extra)).send();
        check_refusal(within(asked).await.unwrap(), (400, "invalid_request_error", text)).await;
    }
    let nobody = world.post(PATH, &body(&json!({"model": "nobody"}))).send();
    check_refusal(within(nobody).await.unwrap(), (404, "not_found_error", "model: ")).await;
    let lost = world.get("/v1/messages/nothing").await;
    check_refusal(lost, (404, "not_found_error", "no such route")).await;
    let got = world.get(PATH).await;
    check_refusal(got, (405, "invalid_request_error", "does not answer GET")).await;
}

async fn check_refusal(answer: reqwest::Response, (status, kind, text): (u16, &str, &str)) {
    assert_eq!(answer.status(), status, "{text}");
    let request_id = answer.headers()["request-id"].clone();
    let answer: Value = within(answer.json()).await.expect("errors are JSON");
    let kinds = (&answer["type"], &answer["error"]["type"]);
    assert_eq!(kinds, (&json!("error"), &json!(kind)), "{answer}");
    let message = answer["error"]["message"].as_str().expect("text");
    assert!(message.contains(text), "{answer}");
    assert_eq!(answer["request_id"], request_id.to_str().expect("text"));
}

#[tokio::test]
async fn a_stream_that_fails_ends_with_an_error_event() {
    let world = World::new().await;
    let worker = async {
        let request = world.take().await;
        world.send(&request, vec![chunk(0, 1, "Hel")]).await;
        let fault = crate::support::fault(1, vlinders_types::FaultKind::Internal);
        world.send(&request, vec![fault]).await;
    };
    let asked = body(&json!({"stream": true}));
    let (answer, ()) = within(async { tokio::join!(world.post(PATH, &asked).send(), worker) }).await;
    let told = events(&within(answer.unwrap().text()).await.unwrap());
    let end = told.last().unwrap();
    assert_eq!(
        (&end["type"], &end["error"]["type"]),
        (&json!("error"), &json!("api_error"))
    );
}

#[tokio::test]
async fn a_client_that_leaves_cancels_its_request() {
    let mut world = World::new().await;
    let asked = body(&json!({"stream": true}));
    let worker = async {
        let request = world.take().await;
        world.send(&request, vec![chunk(0, 1, "Hel")]).await;
        request
    };
    let (answer, request) = within(async { tokio::join!(world.post(PATH, &asked).send(), worker) }).await;
    drop(answer);
    assert_eq!(world.cancel().await.request_id, request.request_id);
}
