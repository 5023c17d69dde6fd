//! The log of requests: one line each once they are over, with names and numbers and never a word of what was said.

use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Map, Value, json};
use tracing::subscriber::DefaultGuard;
use vlinders_service_kit::JsonLines;
use vlinders_types::{FaultKind, FinishReason};

use crate::support::{World, chunk, fault, last, within};

/// What this thread logs, which is all of it: these tests have a runtime of one thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.bytes().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start() -> (Self, DefaultGuard) {
        let log = Self::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_writer(move || writer.clone())
            .event_format(JsonLines)
            .finish();
        (log, tracing::subscriber::set_default(subscriber))
    }

    fn text(&self) -> String {
        String::from_utf8(self.bytes().clone()).expect("JSON is text")
    }

    fn requests(&self) -> Vec<Map<String, Value>> {
        let text = self.text();
        let lines = text.lines().map(|line| serde_json::from_str(line).expect(line));
        lines
            .filter(|line: &Map<String, Value>| line["message"] == "request finished")
            .collect()
    }

    /// The line of the next request, without what differs in each run.
    async fn request(&self, number: usize) -> Value {
        let found = async {
            loop {
                // It is written when the connection is done with the answer, which the client may see a moment before.
                if let Some(line) = self.requests().get(number - 1) {
                    return line.clone();
                }
                tokio::task::yield_now().await;
            }
        };
        let mut line = within(found).await;
        assert_eq!(self.requests().len(), number, "{}", self.text());
        let took = line.shift_remove("response_time").expect("a time");
        assert!(took.as_f64() > Some(0.0), "{took}");
        for (name, length) in [("@timestamp", 27), ("request_id", 26)] {
            let value = line.shift_remove(name).expect(name);
            assert_eq!(value.as_str().map(str::len), Some(length), "{name}: {value}");
        }
        line.into()
    }
}

/// A line with these fields beside those that all lines have.
fn line(status: u16, route: &str, more: &Value) -> Value {
    let mut line = json!({
        "level": "INFO",
        "message": "request finished",
        "request_time": "2023-11-14T22:13:20.000Z",
        "status": status,
        "route": route,
    });
    for (name, value) in more.as_object().expect("an object") {
        line[name] = value.clone();
    }
    line
}

const CHAT: &str = "/v1/chat/completions";
const SECRET: &str = "butterflies";

#[tokio::test]
async fn a_request_leaves_one_line_with_names_and_numbers_and_no_word_of_it() {
    let (log, _guard) = Log::start();
    let world = World::new().await;
    let asked = |extra: Value| {
        let mut body = json!({"messages": [{"role": "user", "content": SECRET}]});
        for (name, value) in extra.as_object().unwrap() {
            body[name] = value.clone();
        }
        body
    };
    for (is_streamed, number) in [(false, 1), (true, 2)] {
        let worker = async {
            let request = world.take().await;
            world.send(&request, vec![chunk(0, 1, SECRET)]).await;
            let end = last(1, 1, SECRET, FinishReason::Length);
            world.send(&request, vec![end]).await;
        };
        let body = asked(json!({"stream": is_streamed}));
        let (answer, ()) = within(async { tokio::join!(world.chat(&body).send(), worker) }).await;
        assert!(within(answer.unwrap().text()).await.unwrap().contains(SECRET));
        let expected = line(
            200,
            CHAT,
            &json!({
                "model": "tiny",
                "finish_reason": "length",
                "prompt_tokens": 7,
                "cached_tokens": 0,
                "completion_tokens": 2,
            }),
        );
        assert_eq!(log.request(number).await, expected);
    }
    let refused = within(world.chat(&asked(json!({"user_data": SECRET}))).send()).await;
    assert_eq!(refused.unwrap().status(), 400);
    let expected = line(400, CHAT, &json!({"error": "unknown_parameter"}));
    assert_eq!(log.request(3).await, expected);

    world.get(&format!("/{SECRET}")).await;
    assert_eq!(
        log.request(4).await,
        line(404, "other", &json!({"error": "not_found"}))
    );
    world.get("/v1/models").await;
    assert_eq!(log.request(5).await, line(200, "/v1/models", &json!({})));
    let trace_parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let refused = world
        .chat(&asked(json!({"n": 9})))
        .header("traceparent", trace_parent);
    assert_eq!(within(refused.send()).await.unwrap().status(), 400);
    let named = json!({"error": "invalid_value", "trace_id": "0af7651916cd43dd8448eb211c80319c"});
    assert_eq!(log.request(6).await, line(400, CHAT, &named));
    for path in ["/health", "/live", "/ready", "/metrics", "/version"] {
        world.get(path).await;
    }
    world.get("/v1/models").await;
    assert_eq!(log.request(7).await, line(200, "/v1/models", &json!({})));
    assert!(!log.text().contains(SECRET), "{}", log.text());
}

#[tokio::test]
async fn ends_that_are_no_answer_are_named() {
    let (log, _guard) = Log::start();
    let world = World::new().await;
    let tokens = |completion: u32, prompt: u32| {
        json!({
            "model": "tiny",
            "prompt_tokens": prompt,
            "cached_tokens": 0,
            "completion_tokens": completion,
        })
    };
    let failed = |completion| {
        let mut more = tokens(completion, 7);
        more["finish_reason"] = "error".into();
        more["error"] = "internal_error".into();
        more
    };
    // At once, and in the midst of a stream.
    for (said, status, number) in [(0, 500, 1), (1, 200, 2)] {
        let worker = async {
            let request = world.take().await;
            if said > 0 {
                world.send(&request, vec![chunk(0, said, "A")]).await;
                tokio::task::yield_now().await;
            }
            world.send(&request, vec![fault(said, FaultKind::Internal)]).await;
        };
        let asked = json!({"stream": true});
        let (answer, ()) = within(async { tokio::join!(world.chat(&asked).send(), worker) }).await;
        let answer = answer.unwrap();
        assert_eq!(answer.status().as_u16(), status);
        within(answer.text()).await.unwrap();
        assert_eq!(log.request(number).await, line(status, CHAT, &failed(said)));
    }

    // Left before the answer, and in the midst of it.
    let mut left = tokens(0, 9);
    left["finish_reason"] = "client_left".into();
    let asked = json!({});
    {
        let mut asking = Box::pin(world.chat(&asked).send());
        tokio::select! { _ = &mut asking => panic!("nothing was answered"), _ = world.take() => {} }
    }
    assert_eq!(log.request(3).await, line(499, CHAT, &left));
    let worker = async {
        let request = world.take().await;
        world.send(&request, vec![chunk(0, 1, "A")]).await;
    };
    let asked = json!({"stream": true});
    let (answer, ()) = within(async { tokio::join!(world.chat(&asked).send(), worker) }).await;
    drop(answer);
    left["completion_tokens"] = 1.into();
    assert_eq!(log.request(4).await, line(200, CHAT, &left));
}
