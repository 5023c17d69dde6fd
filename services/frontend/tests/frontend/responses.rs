//! The Responses dialect: the same requests and answers in items.

use serde_json::{Value, json};
use vlinders_types::{FaultKind, FinishReason};

use crate::support::{World, check_error, chunk, fault, last, within};

const PATH: &str = "/v1/responses";

async fn streamed(chunks: Vec<vlinders_types::Chunk>) -> Vec<Value> {
    let world = World::new().await;
    let worker = async {
        let request = world.take().await;
        assert!(request.stream);
        world.send(&request, chunks).await;
    };
    let asked = json!({"model": "alias", "input": "hi", "stream": true});
    let (answer, ()) = within(async { tokio::join!(world.post(PATH, &asked).send(), worker) }).await;
    let text = within(answer.expect("an answer").text()).await.expect("text");
    let events = text.split_terminator("\n\n").map(|event| {
        let (name, data) = event.split_once('\n').expect("a name and data");
        let data: Value = serde_json::from_str(data.strip_prefix("data: ").expect("data")).expect("JSON");
        assert_eq!(name.strip_prefix("event: "), data["type"].as_str());
        data
    });
    events.collect()
}

#[tokio::test]
async fn a_whole_answer_is_told_in_items() {
    let world = World::new().await;
    let asked = json!({"model": "alias", "input": "hi", "instructions": "be kind", "max_output_tokens": 9,
        "temperature": 0.5, "metadata": {"a": "b"}, "store": false});
    let worker = async {
        let request = world.take().await;
        assert_eq!(request.prompt_ids.len(), "<system>be kind<user>hi>".len());
        assert_eq!(request.stop.max_tokens, 9);
        world.answer(&request, "Hello").await;
    };
    let (answer, ()) = within(async { tokio::join!(world.post(PATH, &asked).send(), worker) }).await;
    let answer: Value = answer.unwrap().json().await.unwrap();
    assert!(answer["id"].as_str().unwrap().starts_with("resp_"), "{answer}");
    assert_eq!(
        (&answer["object"], &answer["status"]),
        (&json!("response"), &json!("completed"))
    );
    let [item] = answer["output"].as_array().unwrap().as_slice() else {
        panic!("{answer}")
    };
    assert_eq!(
        (&item["type"], &item["content"][0]["text"]),
        (&json!("message"), &json!("Hello"))
    );
    assert_eq!(answer["metadata"], json!({"a": "b"}));
    assert_eq!(
        (&answer["max_output_tokens"], &answer["temperature"]),
        (&json!(9), &json!(0.5))
    );
    assert_eq!(
        (&answer["usage"]["input_tokens"], &answer["usage"]["total_tokens"]),
        (&json!(7), &json!(8))
    );
}

#[tokio::test]
async fn a_stream_begins_with_the_response_and_ends_with_it() {
    let told = streamed(vec![chunk(0, 1, "Hel"), last(1, 1, "lo", FinishReason::Length)]).await;
    assert_eq!(told[0]["type"], "response.created");
    let end = told.last().unwrap();
    assert_eq!(end["type"], "response.incomplete");
    assert_eq!(end["response"]["output"][0]["content"][0]["text"], "Hello");
    assert_eq!(end["response"]["usage"]["output_tokens"], 2);
    for (number, event) in told.iter().enumerate() {
        assert_eq!(event["sequence_number"], number);
    }
}

#[tokio::test]
async fn a_stream_that_fails_says_so_in_the_response() {
    let told = streamed(vec![chunk(0, 1, "Hel"), fault(1, FaultKind::Internal)]).await;
    let end = told.last().unwrap();
    assert_eq!(
        (&end["type"], &end["response"]["status"]),
        (&json!("response.failed"), &json!("failed"))
    );
    assert_eq!(end["response"]["error"]["code"], "internal_error");
}

#[tokio::test]
async fn what_is_not_offered_is_refused_by_name() {
    let world = World::new().await;
    for (name, value) in [
        ("background", json!(true)),
        ("previous_response_id", json!("resp_1")),
        ("store", json!(true)),
        ("conversation", json!("c")),
    ] {
        let mut asked = json!({"model": "tiny", "input": "hi"});
        asked[name] = value;
        let answer = within(world.post(PATH, &asked).send()).await.unwrap();
        let error = check_error(answer, 400, "unsupported_parameter").await;
        assert_eq!(error["param"], name);
    }
}

#[tokio::test]
async fn errors_name_parameters_as_the_client_did() {
    let world = World::new().await;
    let asked = json!({"model": "tiny", "input": "hi", "max_output_tokens": 5000});
    let answer = within(world.post(PATH, &asked).send()).await.unwrap();
    let error = check_error(answer, 400, "context_length_exceeded").await;
    assert_eq!(error["param"], "max_output_tokens");
    assert!(
        error["message"]
            .as_str()
            .unwrap()
            .starts_with("max_output_tokens: 5000"),
        "{error}"
    );
}
