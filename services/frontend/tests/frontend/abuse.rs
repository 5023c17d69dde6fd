//! What attackers send: an exact 4xx each, and the next client is served.

use std::fmt::Write;
use std::time::Duration;

use serde_json::json;
use vlinders_frontend::FrontendConfig;

use crate::support::{Setting, World, chat_body, check_error, raw, within};

async fn post_text(world: &World, body: String) -> reqwest::Response {
    let asking = world.client.post(world.url("/v1/chat/completions"));
    within(
        asking
            .header("content-type", "application/json")
            .body(body)
            .send(),
    )
    .await
    .expect("an answer")
}

async fn check_alive(world: &World) {
    let worker = async {
        let request = world.take().await;
        world.answer(&request, "A").await;
    };
    let asked = json!({});
    let (response, ()) = within(async { tokio::join!(world.chat(&asked).send(), worker) }).await;
    assert_eq!(response.expect("an answer").status(), 200);
}

fn chunked(body: &str) -> Vec<u8> {
    let mut text = String::from(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
         transfer-encoding: chunked\r\n\r\n",
    );
    for byte in body.bytes() {
        write!(text, "1\r\n{}\r\n", char::from(byte)).expect("writing to a String cannot fail");
    }
    (text + "0\r\n\r\n").into_bytes()
}

#[tokio::test]
async fn absurd_values_are_exact_400s() {
    let world = World::new().await;
    let response = within(world.chat(&json!({"n": 1_000_000_000})).send())
        .await
        .unwrap();
    let error = check_error(response, 400, "invalid_value").await;
    assert_eq!(error["message"], "n: 1000000000 is out of range (1 to 8)");

    let deep = format!(r#"{{"messages":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    check_error(post_text(&world, deep).await, 400, "invalid_json").await;

    let entry = r#""aaaaaaaa","#;
    let stops = format!(
        r#"{{"model":"tiny","stop":[{}"a"]}}"#,
        entry.repeat(10_000_000 / entry.len())
    );
    let error = check_error(post_text(&world, stops).await, 400, "invalid_value").await;
    assert_eq!(
        (&error["param"], &error["message"]),
        (&json!("stop"), &json!("stop: more than 4 entries"))
    );
    check_alive(&world).await;
}

#[tokio::test]
async fn a_body_too_large_is_a_413_before_it_is_read() {
    let world = World::new().await;
    let announced = raw(
        &world,
        b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
          content-length: 99999999999\r\n\r\n{\"model\"",
    )
    .await;
    assert!(announced.starts_with("HTTP/1.1 413 "), "{announced}");
    assert!(announced.contains("\"code\":\"body_too_large\""), "{announced}");

    // Not announced, and still sent after the answer: the answer arrives all the same.
    let mut bytes = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
        transfer-encoding: chunked\r\n\r\n"
        .to_vec();
    for _ in 0..12 {
        bytes.extend_from_slice(b"100000\r\n");
        bytes.resize(bytes.len() + (1 << 20), b' ');
        bytes.extend_from_slice(b"\r\n");
    }
    let streamed = raw(&world, &bytes).await;
    assert!(streamed.starts_with("HTTP/1.1 413 "), "{streamed}");
    check_alive(&world).await;
}

#[tokio::test]
async fn one_byte_chunks_are_read_and_the_connection_closed_behind_them() {
    let world = World::new().await;
    let text = raw(&world, &chunked("{\"model\":\"tiny\",")).await;
    assert!(
        text.starts_with("HTTP/1.1 400 ") && text.contains("\"code\":\"invalid_json\""),
        "{text}"
    );
    let body = chat_body(&json!({})).to_string();
    let bytes = chunked(&body);
    let worker = async {
        let request = world.take().await;
        world.answer(&request, "A").await;
    };
    let (text, ()) = within(async { tokio::join!(raw(&world, &bytes), worker) }).await;
    assert!(
        text.starts_with("HTTP/1.1 200 ") && text.contains("connection: close\r\n"),
        "{text}"
    );
}

#[tokio::test]
async fn two_lengths_in_either_order_are_a_400() {
    let world = World::new().await;
    let (length, chunks) = ("content-length: 5", "transfer-encoding: chunked");
    for (first, second) in [(length, chunks), (chunks, length)] {
        let text = format!(
            "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n{first}\r\n{second}\r\n\r\n\
             0\r\n\r\n"
        );
        let text = raw(&world, text.as_bytes()).await;
        assert!(
            text.starts_with("HTTP/1.1 400 ") && text.contains("\"code\":\"ambiguous_length\""),
            "{text}"
        );
    }
    let differing =
        b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nabcde";
    assert!(raw(&world, differing).await.starts_with("HTTP/1.1 400 "));
    check_alive(&world).await;
}

#[tokio::test]
async fn large_heads_are_431s() {
    let world = World::new().await;
    let asking = world
        .client
        .get(world.url("/health"))
        .header("x-long", "a".repeat(20_000))
        .send();
    check_error(within(asking).await.unwrap(), 431, "headers_too_large").await;
    let huge = format!(
        "GET /health HTTP/1.1\r\nhost: x\r\nx-long: {}\r\n\r\n",
        "a".repeat(200_000)
    );
    assert!(raw(&world, huge.as_bytes()).await.starts_with("HTTP/1.1 431 "));
    let many = format!(
        "GET /health HTTP/1.1\r\nhost: x\r\n{}\r\n",
        "x: y\r\n".repeat(5000)
    );
    assert!(raw(&world, many.as_bytes()).await.starts_with("HTTP/1.1 431 "));
    check_alive(&world).await;
}

#[tokio::test]
async fn heads_that_do_not_come_are_cut_off() {
    let config = FrontendConfig {
        head_deadline: Duration::from_millis(100),
        ..Default::default()
    };
    let world = World::with(Setting {
        config,
        ..Default::default()
    })
    .await;
    for beginning in ["", "GET /hea", "GET /health HTTP/1.1\r\nhost: x\r\n"] {
        let text = raw(&world, beginning.as_bytes()).await;
        assert!(text.is_empty() || text.starts_with("HTTP/1.1 408 "), "{text}");
    }
    check_alive(&world).await;
}

#[tokio::test]
async fn a_connection_too_many_is_told_so() {
    let config = FrontendConfig {
        connections: 1,
        ..Default::default()
    };
    let world = World::with(Setting {
        config,
        ..Default::default()
    })
    .await;
    let body = world.get("/health").await.text().await.unwrap();
    assert_eq!(body, r#"{"status":"healthy"}"#);
    // The client keeps the first connection open.
    let text = raw(&world, b"").await;
    assert!(
        text.starts_with("HTTP/1.1 503 ") && text.contains("too many connections"),
        "{text}"
    );
}
