//! How requests end: well, broken, refused, too late, and when everything is stopped.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;

use crate::server::{Reply, Seen, Server, usage};

/// Failures of a round by kind and status.
fn failures(round: &Value) -> BTreeMap<String, u64> {
    let failures = round["failures"].as_array().expect("a list");
    let entry = |failure: &Value| {
        let status = failure["status"].as_u64().map(|status| format!(" {status}"));
        let kind = failure["kind"].as_str().expect("a kind");
        (
            format!("{kind}{}", status.unwrap_or_default()),
            failure["count"].as_u64().expect("a count"),
        )
    };
    failures.iter().map(entry).collect()
}

/// A stream without its last pieces.
fn cut(mut reply: Reply, pieces: usize) -> Reply {
    reply.pieces.truncate(reply.pieces.len() - pieces);
    reply
}

fn with_end(seen: &Seen, end: &str) -> Reply {
    let mut reply = cut(Reply::stream(seen, &[Duration::ZERO; 3]), 1);
    reply.pieces.push((Duration::ZERO, end.to_owned()));
    reply
}

#[tokio::test(start_paused = true)]
async fn every_way_to_fail_is_counted_by_its_kind() {
    let server = Server::new(|seen| {
        let good = Reply::stream(seen, &[Duration::ZERO; 3]);
        let late = Duration::from_secs(20);
        match seen.index {
            0 | 1 => Reply::refusal(429, "too many"),
            2 => Reply::refusal(500, "oh"),
            3 => cut(good, 1),
            4 => with_end(seen, "data: [DONE]\n\n"),
            5 => with_end(seen, "data: {\"error\":{\"message\":\"engine gone\"}}\n\n"),
            6 => with_end(seen, "data: {\n\ndata: [DONE]\n\n"),
            7 => Reply {
                breaks: true,
                ..cut(good, 1)
            },
            8 => good.after(late),
            9 => Reply {
                pieces: vec![(Duration::ZERO, "data: {}\n\n".to_owned()), (late, String::new())],
                ..good
            },
            _ => good,
        }
    });
    let round = server
        .round("--stream --concurrency 1 --requests 15 --timeout 10s")
        .await;
    let right = [
        ("disconnected", 1),
        ("error_event", 1),
        ("malformed", 1),
        ("no_done", 1),
        ("no_finish_reason", 1),
        ("status 429", 2),
        ("status 500", 1),
        ("timeout", 2),
    ];
    assert_eq!(
        failures(&round),
        right.map(|(kind, count)| (kind.to_owned(), count)).into()
    );
    assert_eq!(
        (&round["requests"]["completed"], &round["requests"]["failed"]),
        (&json!(5), &json!(10))
    );
    assert_eq!(round["latency"]["e2e_ms"]["count"], 5, "failures have no latency");
    let examples = round["failures"].to_string();
    for text in ["too many", "engine gone"] {
        assert!(examples.contains(text), "{examples}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_takes_no_connections_is_not_hammered() {
    let server = Server::with(|seen| Reply::chat(seen, 1), usize::MAX, true);
    let round = server.round("--concurrency 2 --duration 10s").await;
    assert_eq!(failures(&round).into_keys().collect::<Vec<_>>(), ["connect"]);
    let failed = round["requests"]["failed"].as_u64().expect("a count");
    assert!(
        (100..=210).contains(&failed),
        "ten a second for each of the two: {failed}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_the_server_has_closed_is_replaced() {
    let server = Server::with(|seen| Reply::chat(seen, 1), 1, false);
    let round = server.round("--concurrency 1 --requests 5").await;
    assert_eq!(
        (&round["requests"]["completed"], &round["requests"]["failed"]),
        (&json!(5), &json!(0))
    );
}

#[tokio::test(start_paused = true)]
async fn answers_that_come_byte_by_byte_are_the_same() {
    let server = Server::new(|seen| {
        let mut reply = Reply::stream(seen, &[Duration::ZERO; 4]);
        let bytes = reply.pieces.iter().flat_map(|(_, text)| text.chars());
        reply.pieces = bytes.map(|byte| (Duration::ZERO, byte.to_string())).collect();
        reply
    });
    let round = server.round("--stream --concurrency 1 --requests 2").await;
    assert_eq!(round["requests"]["completed"], 2);
    assert_eq!(
        (
            &round["tokens"]["output_mean"],
            &round["tokens"]["per_chunk_mean"]
        ),
        (&json!(4.0), &json!(1.0))
    );
}

#[tokio::test(start_paused = true)]
async fn goodput_is_the_share_that_met_every_objective() {
    // Every fourth begins late, every tenth has a long gap; every twentieth is both.
    let server = Server::new(|seen| {
        let first = if seen.index % 4 == 0 { 300 } else { 100 };
        let gap = if seen.index % 10 == 0 { 70 } else { 10 };
        Reply::stream(seen, &[first, 10, gap, 10].map(Duration::from_millis))
    });
    let words = "--stream --concurrency 1 --requests 200 --slo ttft=200ms,itl=50ms,e2e=10s";
    let round = server.round(words).await;
    let goodput = &round["goodput"];
    assert_eq!(goodput["good_requests"], 200 - 50 - 20 + 10);
    assert_eq!(goodput["share"], 0.7);
    let window_s = round["window_s"].as_f64().expect("a number");
    let rate = goodput["requests_per_s"].as_f64().expect("a number");
    assert!((rate - 140.0 / window_s).abs() < 1e-9);
}

#[tokio::test(start_paused = true)]
async fn a_failed_request_is_not_good() {
    let server = Server::new(|seen| match seen.index % 2 {
        0 => Reply::refusal(503, "no"),
        _ => Reply::chat(seen, 1),
    });
    let round = server.round("--concurrency 1 --requests 10 --slo e2e=1s").await;
    assert_eq!(round["goodput"]["share"], 0.5);
}

#[tokio::test(start_paused = true)]
async fn usage_is_checked_against_the_tokens_listed() {
    let server = Server::new(|seen| {
        assert_eq!(seen.body["logprobs"], true);
        let entries = vec![json!({"token": "a", "logprob": -0.1}); 4];
        // Every third answer claims a token too many.
        let claimed = if seen.index % 3 == 2 { 5 } else { 4 };
        Reply::whole(&json!({
            "choices": [{
                "message": {"content": "aaaa"}, "logprobs": {"content": entries}, "finish_reason": "length"
            }],
            "usage": usage(seen, claimed),
        }))
    });
    let round = server.round("--check-usage --concurrency 1 --requests 9").await;
    let check = &round["usage_check"];
    assert_eq!(
        (&check["right"], &check["wrong"], &check["unknown"]),
        (&json!(6), &json!(3), &json!(0))
    );
    let report = server
        .run("--model m --tokens-per-word 1 --check-usage --requests 9")
        .await
        .unwrap();
    assert!(report.is_failure(), "wrong usage is a failure of the run");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_say_what_it_serves_can_be_left() {
    let server = Server::new(|seen| Reply::chat(seen, 1).after(Duration::from_secs(100)));
    let (stop, stops) = watch::channel(false);
    let stopping = async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        stop.send(true).expect("it runs");
    };
    let (report, ()) = tokio::join!(server.run_until("--requests 1", stops), stopping);
    let told = report.unwrap_err().to_string();
    assert_eq!(told, "stopped before anything was measured");
}

#[tokio::test(start_paused = true)]
async fn what_was_measured_is_reported_when_it_is_stopped() {
    let server = Server::new(|seen| Reply::stream(seen, &[Duration::from_millis(100); 100]));
    let (stop, stops) = watch::channel(false);
    let words = "--model m --tokens-per-word 1 --stream --steps 3,5 --duration 1h";
    let stopping = async {
        tokio::time::sleep(Duration::from_millis(25_050)).await;
        stop.send(true).expect("it runs");
    };
    let (report, ()) = tokio::join!(server.run_until(words, stops), stopping);
    let report = serde_json::to_value(report.unwrap()).unwrap();
    let rounds = report["rounds"].as_array().expect("a list");
    assert_eq!(rounds.len(), 1, "further steps are not begun");
    let round = &rounds[0];
    assert_eq!(round["stopped_early"], true);
    let requests = &round["requests"];
    assert_eq!(
        (&requests["completed"], &requests["unfinished"]),
        (&json!(6), &json!(3))
    );
    let tokens_per_s = round["throughput"]["output_tokens_per_s"].as_f64().unwrap();
    assert!(
        (29.0..30.1).contains(&tokens_per_s),
        "unfinished streams count too: {tokens_per_s}"
    );
}
