//! One trace of one request, with spans of every role it passed, also when it went on elsewhere; and collectors that are
//! no help.

#![expect(
    clippy::unwrap_used,
    reason = "a failed step of a test ends it, here as in the test itself"
)]

mod cluster;
#[path = "../../system/src/collector.rs"]
#[expect(unreachable_pub, reason = "public where it lives")]
mod collector;

use std::collections::BTreeMap;
use std::time::Duration;

use cluster::World;
use collector::{Collector, ReceivedSpan};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use vlinders_service_kit::TracesConfig;

const PATIENCE: Duration = Duration::from_secs(60);
const CALLER: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331";
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
/// Three chunks of prefill and six blocks.
const PROMPT: &str =
    "please tell me more of this and that, and then a little more of everything else; and so on and on";

fn quick(endpoint: &str) -> TracesConfig {
    TracesConfig {
        batch_interval: Duration::from_millis(20),
        ..TracesConfig::new(endpoint)
    }
}

/// The answer's usage.
async fn ask(url: String, max_tokens: u32, traceparent: Option<String>) -> Value {
    let body = json!({"model": "sim", "prompt": PROMPT, "max_tokens": max_tokens});
    let mut request = reqwest::Client::new().post(url).json(&body);
    if let Some(traceparent) = traceparent {
        request = request.header("traceparent", traceparent);
    }
    let answer = tokio::time::timeout(PATIENCE, request.send())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(answer.status(), 200);
    let answer: Value = answer.json().await.unwrap();
    answer["usage"].clone()
}

/// Spans of one attempt by name, each there once; the first span and the frontend's own count to every attempt.
fn of_attempt<'a>(spans: &'a [ReceivedSpan], attempt: &str) -> BTreeMap<&'a str, &'a ReceivedSpan> {
    let mut named = BTreeMap::new();
    for span in spans {
        if matches!(span.attribute("attempt"), one if one.is_empty() || one == attempt) {
            let other = named.insert(span.name.as_str(), span);
            assert!(
                other.is_none(),
                "{} twice in attempt {attempt}: {spans:#?}",
                span.name
            );
        }
    }
    named
}

/// Each span's parent by name.
fn parents<'a>(named: &BTreeMap<&'a str, &'a ReceivedSpan>) -> Vec<(&'a str, &'a str)> {
    let name_of = |id: &str| {
        let span = named.values().find(|span| span.span_id == id);
        span.map_or("", |span| span.name.as_str())
    };
    named
        .values()
        .map(|span| (span.name.as_str(), name_of(&span.parent_id)))
        .collect()
}

const ROOT: &str = "POST /v1/completions";
const WHOLE: [(&str, &str); 7] = [
    (ROOT, ""),
    ("decode", ROOT),
    ("hand-off", ROOT),
    ("kv pull", "hand-off"),
    ("prefill", ROOT),
    ("queue", ROOT),
    ("tokenize", ROOT),
];

#[tokio::test(flavor = "multi_thread")]
async fn one_trace_has_spans_of_every_role_under_the_right_parents() {
    let collector = Collector::start().await.unwrap();
    let world = World::new(Some(quick(&collector.endpoint()))).await;
    let usage = ask(world.url(), 20, Some(format!("{CALLER}-01"))).await;
    world.stop().await;

    let spans = collector.spans();
    let named = of_attempt(&spans, "0");
    assert_eq!(parents(&named), WHOLE, "{spans:#?}");
    assert!(spans.iter().all(|span| span.trace_id == TRACE && !span.failed));
    let root = named[ROOT];
    assert_eq!(
        (root.parent_id.as_str(), root.kind),
        ("b7ad6b7169203331", "server")
    );

    let services: Vec<_> = named.values().map(|span| span.service.as_str()).collect();
    let (front, prefill, decode) = ("vlinders-frontend", "vlinders-prefill", "vlinders-decode");
    assert_eq!(
        services,
        [front, decode, prefill, decode, prefill, prefill, front]
    );
    let instance = |name: &str| named[name].instance.as_str();
    assert_eq!(instance("hand-off"), instance("prefill"));
    assert_eq!(named["hand-off"].attribute("taker"), instance("decode"));
    assert_eq!(named["kv pull"].attribute("source"), instance("prefill"));

    let id = root.attribute("request_id");
    assert_eq!(id.len(), 26);
    for span in spans.iter().filter(|span| span.name != "tokenize") {
        assert_eq!(span.attribute("request_id"), id, "{span:?}");
        assert_eq!(span.attribute("gen_ai.request.model"), "sim", "{span:?}");
    }
    let (input, output) = (
        usage["prompt_tokens"].to_string(),
        usage["completion_tokens"].to_string(),
    );
    for name in [ROOT, "decode"] {
        let counts =
            ["gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens"].map(|key| named[name].attribute(key));
        assert_eq!(counts, [&input, &output], "{name}");
        assert_eq!(named[name].attribute("gen_ai.response.finish_reasons"), "length");
    }
    assert_eq!(named["prefill"].attribute("gen_ai.usage.input_tokens"), input);
    assert_eq!(named["kv pull"].attribute("transport"), "mem");
    let bytes: u64 = named["kv pull"].attribute("bytes").parse().unwrap();
    assert!(bytes > 0);
    assert_eq!(root.attribute("http.response.status_code"), "200");
    let events: Vec<_> = root.events.iter().map(|event| event.name.as_str()).collect();
    assert_eq!(events, ["first token"]);

    let begins = ["tokenize", "queue", "prefill", "hand-off", "kv pull"].map(|name| named[name].start_ns);
    assert!(begins.is_sorted() && root.start_ns <= begins[0], "{spans:#?}");
    assert!(
        named["prefill"].end_ns > named["hand-off"].start_ns,
        "the hand-off overlaps the prefill"
    );
    assert!(
        !format!("{spans:?}").contains("tell me"),
        "a prompt is nobody's business"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn both_attempts_of_a_request_that_went_on_elsewhere_are_in_its_trace() {
    let collector = Collector::start().await.unwrap();
    let mut world = World::new(Some(quick(&collector.endpoint()))).await;
    let asking = ask(world.url(), 600, None);
    let losing = async {
        let is_handed_over = |spans: &[ReceivedSpan]| spans.iter().any(|span| span.name == "hand-off");
        let spans = collector.until(is_handed_over).await.unwrap();
        let hand_off = spans.iter().find(|span| span.name == "hand-off").unwrap();
        let taker = hand_off.attribute("taker").to_owned();
        world.kill_worker(&taker);
        taker
    };
    let (usage, lost) = tokio::join!(asking, losing);
    assert_eq!(usage["completion_tokens"], 600);
    world.stop().await;

    let spans = collector.spans();
    assert!(spans.iter().all(|span| span.trace_id == spans[0].trace_id));
    // The lost worker took its own spans with it.
    let mut first = of_attempt(&spans, "0");
    first.retain(|_, span| span.instance != lost);
    let survived: Vec<_> = WHOLE
        .into_iter()
        .filter(|(name, _)| !matches!(*name, "decode" | "kv pull"))
        .collect();
    assert_eq!(parents(&first), survived, "{spans:#?}");
    let second = of_attempt(&spans, "1");
    assert_eq!(parents(&second), WHOLE, "{spans:#?}");
    assert_ne!(second["decode"].instance, lost);
    let root = second[ROOT];
    assert_eq!(root.parent_id, "");
    let events: Vec<_> = root.events.iter().map(|event| event.name.as_str()).collect();
    assert_eq!(events, ["first token", "failover"]);
    assert_eq!(root.events[1].attributes["attempt"], "1");
    assert!(
        second["queue"].start_ns >= root.events[1].at_ns,
        "its time in the queue is its own"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_does_not_record_its_trace_is_not_recorded_here_either() {
    let collector = Collector::start().await.unwrap();
    let world = World::new(Some(quick(&collector.endpoint()))).await;
    ask(world.url(), 20, Some(format!("{CALLER}-00"))).await;
    ask(world.url(), 20, Some("00-no-traceparent-01".to_owned())).await;
    world.stop().await;
    let spans = collector.spans();
    assert_eq!(
        parents(&of_attempt(&spans, "0")),
        WHOLE,
        "only the second one: {spans:#?}"
    );
    assert!(spans.iter().all(|span| span.trace_id != TRACE));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_or_never_answers_delays_no_request_and_no_end() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = format!("http://{}", listener.local_addr().unwrap());
    let away = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    for endpoint in [silent, format!("http://{away}")] {
        let config = TracesConfig {
            // Whoever waited for it would wait longer than this test has patience.
            export_timeout: 10 * PATIENCE,
            flush_limit: Duration::from_millis(20),
            ..quick(&endpoint)
        };
        let world = World::new(Some(config)).await;
        for _ in 0..3 {
            let usage = ask(world.url(), 20, None).await;
            assert_eq!(usage["completion_tokens"], 20);
        }
        world.stop().await;
    }
    // It was asked, by each of the processes that have something to tell.
    let (mut asked, _) = listener.accept().await.unwrap();
    assert_eq!(asked.read_u8().await.unwrap(), b'P');
}
