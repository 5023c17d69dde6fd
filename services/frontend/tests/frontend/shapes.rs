//! Answers that end well, byte for byte.

use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use vlinders_service_kit::Stage;
use vlinders_types::{FinishReason, TokenLogprob};

use crate::support::{World, check_golden, chunk, last, within};

pub(crate) fn logprob(byte: u8) -> TokenLogprob {
    let top = vec![(65, vec![b'A'], -0.5), (66, vec![b'B'], -1.5)];
    TokenLogprob {
        id: byte.into(),
        bytes: vec![byte],
        logprob: -0.5,
        top,
    }
}

/// Reads on until the stream holds `piece`.
async fn read_until(response: &mut reqwest::Response, text: &mut String, piece: &str) {
    while !text.contains(piece) {
        let bytes = within(response.chunk())
            .await
            .expect("the stream goes on")
            .expect("it has not ended");
        text.push_str(std::str::from_utf8(&bytes).expect("events end at characters"));
    }
}

#[tokio::test]
async fn a_chat_stream_is_written_as_clients_expect() {
    let world = World::new().await;
    let asked =
        json!({"stream": true, "stream_options": {"include_usage": true}, "seed": 5, "max_tokens": 9});
    let worker = async {
        let request = world.take().await;
        assert_eq!(
            (request.stream, request.sampling.seed, request.stop.max_tokens),
            (true, 5, 9)
        );
        assert_eq!(request.prompt_ids.len(), "<user>hi>".len());
        world.send(&request, vec![chunk(0, 1, "Hel")]).await;
        request
    };
    let (response, request) = within(async { tokio::join!(world.chat(&asked).send(), worker) }).await;
    let mut response = response.unwrap();
    let headers = response.headers();
    assert_eq!(headers["content-type"], "text/event-stream; charset=utf-8");
    assert_eq!(
        (
            headers["x-accel-buffering"].as_bytes(),
            headers["cache-control"].as_bytes()
        ),
        (&b"no"[..], &b"no-cache"[..])
    );
    assert!(headers.contains_key("openai-processing-ms") && headers.contains_key("x-request-id"));
    let mut text = String::new();
    read_until(&mut response, &mut text, "Hel").await;
    // Overtaken, repeated and of another attempt: none of it may show.
    world
        .send(&request, vec![chunk(2, 1, "!"), chunk(0, 1, "Hel")])
        .await;
    world
        .send(
            &request,
            vec![vlinders_types::Chunk {
                attempt: 7,
                ..chunk(1, 1, "wrong")
            }],
        )
        .await;
    world.send(&request, vec![chunk(1, 1, "lo \u{fc}")]).await;
    read_until(&mut response, &mut text, "!").await;
    world
        .send(&request, vec![last(3, 0, "", FinishReason::Stop)])
        .await;
    text.push_str(&within(response.text()).await.unwrap());
    check_golden("chat_stream.txt", &text);
}

#[tokio::test]
async fn a_whole_chat_answer_is_written_as_clients_expect() {
    let world = World::new().await;
    let asked = json!({"logprobs": true, "top_logprobs": 2, "service_tier": "auto"});
    let worker = async {
        let request = world.take().await;
        assert_eq!((request.stream, request.sampling.logprobs), (false, Some(2)));
        assert_eq!(request.stop.max_tokens, crate::support::CONTEXT - 9);
        let mut whole = last(0, 2, "AB", FinishReason::Length);
        whole.logprobs = vec![logprob(b'A'), logprob(b'B')];
        world.send(&request, vec![whole]).await;
    };
    let (response, ()) = within(async { tokio::join!(world.chat(&asked).send(), worker) }).await;
    let body: Value = within(response.unwrap().json()).await.unwrap();
    check_golden(
        "chat_answer.json",
        &(serde_json::to_string_pretty(&body).unwrap() + "\n"),
    );
}

#[tokio::test]
async fn completions_echo_and_count_their_logprobs() {
    let world = World::new().await;
    let echo = json!({"model": "tiny", "prompt": [72, 105], "echo": true, "stream": true});
    let worker = async {
        let request = world.take().await;
        assert_eq!(request.prompt_ids, [72, 105]);
        world
            .send(&request, vec![last(0, 1, "!", FinishReason::Stop)])
            .await;
    };
    let (response, ()) =
        within(async { tokio::join!(world.post("/v1/completions", &echo).send(), worker) }).await;
    check_golden(
        "completion_stream.txt",
        &within(response.unwrap().text()).await.unwrap(),
    );

    let counted = json!({"model": "tiny", "prompt": "Hi", "logprobs": 2});
    let worker = async {
        let request = world.take().await;
        let mut whole = last(0, 2, "AB", FinishReason::Stop);
        whole.logprobs = vec![logprob(b'A'), logprob(b'B')];
        world.send(&request, vec![whole]).await;
    };
    let (response, ()) =
        within(async { tokio::join!(world.post("/v1/completions", &counted).send(), worker) }).await;
    let body: Value = within(response.unwrap().json()).await.unwrap();
    check_golden(
        "completion_answer.json",
        &(serde_json::to_string_pretty(&body).unwrap() + "\n"),
    );
}

#[tokio::test]
async fn a_silent_stream_shows_that_it_lives() {
    let config = vlinders_frontend::FrontendConfig {
        keep_alive: std::time::Duration::from_millis(20),
        ..Default::default()
    };
    let world = World::with(crate::support::Setting {
        config,
        ..Default::default()
    })
    .await;
    let mut response = within(world.chat(&json!({"stream": true})).send()).await.unwrap();
    let request = world.take().await;
    let mut text = String::new();
    while text.matches(": keep-alive\n\n").count() < 3 {
        text.push_str(std::str::from_utf8(&within(response.chunk()).await.unwrap().unwrap()).unwrap());
    }
    assert!(
        text.starts_with("data: ") && text.contains("\"role\":\"assistant\""),
        "{text}"
    );
    world.answer(&request, "A").await;
    assert!(
        within(response.text())
            .await
            .unwrap()
            .ends_with("data: [DONE]\n\n")
    );
}

#[tokio::test]
async fn http_2_is_spoken_and_a_stream_reset_cancels_its_request() {
    let mut world = World::new().await;
    let socket = tokio::net::TcpStream::connect(world.frontend.address())
        .await
        .unwrap();
    let (mut client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(socket))
            .await
            .unwrap();
    world
        .tasks
        .spawn(Stage::Work, "test-client", async move { drop(connection.await) });
    let body = crate::support::chat_body(&json!({"stream": true})).to_string();
    let ask = || {
        hyper::Request::post(world.url("/v1/chat/completions"))
            .header("content-type", "application/json")
            .body(Full::new(bytes::Bytes::from(body.clone())))
            .unwrap()
    };
    let worker = async {
        let request = world.take().await;
        world.answer(&request, "A").await;
    };
    let (response, ()) = within(async { tokio::join!(client.send_request(ask()), worker) }).await;
    let response = response.unwrap();
    assert_eq!(
        (response.version(), response.status().as_u16()),
        (hyper::Version::HTTP_2, 200)
    );
    let bytes = within(response.into_body().collect()).await.unwrap().to_bytes();
    assert!(bytes.ends_with(b"data: [DONE]\n\n"));

    let worker = async {
        let request = world.take().await;
        world.send(&request, vec![chunk(0, 1, "A")]).await;
        request
    };
    let (response, request) = within(async { tokio::join!(client.send_request(ask()), worker) }).await;
    drop(response.unwrap());
    assert_eq!(world.cancel().await.request_id, request.request_id);
}

#[tokio::test]
async fn a_whole_answer_tells_its_length_and_a_stream_cannot() {
    let world = World::new().await;
    let refused = world.chat(&json!({"n": 0})).send().await.unwrap();
    let length: usize = refused.headers()["content-length"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    assert_eq!(refused.bytes().await.unwrap().len(), length);
    let asked = json!({"stream": true});
    let worker = async {
        let request = world.take().await;
        world
            .send(&request, vec![last(0, 1, "Hi", FinishReason::Stop)])
            .await;
    };
    let (response, ()) = within(async { tokio::join!(world.chat(&asked).send(), worker) }).await;
    assert!(!response.unwrap().headers().contains_key("content-length"));
}
