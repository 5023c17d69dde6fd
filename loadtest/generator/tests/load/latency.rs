//! Times are those of the server, and wait is never left out.

use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;
use vlinders_loadtest::Alarm;

use crate::server::{Reply, Server};

const fn ms(time: u64) -> Duration {
    Duration::from_millis(time)
}

/// Holds a time against what it should be, to the histogram's 0.1 % and the paused clock's millisecond.
#[track_caller]
fn assert_near(quantiles: &Value, name: &str, right_ms: f64) {
    let measured = quantiles[name].as_f64().expect("a number");
    let near = (measured - right_ms).abs() <= 0.001 * right_ms + 1.0;
    assert!(near, "{name} is {measured} ms, not {right_ms} ms: {quantiles}");
}

#[tokio::test(start_paused = true)]
async fn percentiles_of_a_known_distribution_are_right() {
    // 37 and 1000 have no common divisor: every time from 10 to 10,000 ms comes once.
    let server = Server::new(|seen| {
        let time = 10 * (1 + 37 * seen.index as u64 % 1000);
        Reply::chat(seen, 5).after(ms(time))
    });
    let round = server.round("--concurrency 1 --requests 1000").await;
    let e2e = &round["latency"]["e2e_ms"];
    assert_eq!(e2e["count"], 1000);
    for (name, right_ms) in [
        ("p50", 5000.0),
        ("p90", 9000.0),
        ("p95", 9500.0),
        ("p99", 9900.0),
        ("p99_9", 9990.0),
        ("max", 10_000.0),
        ("mean", 5005.0),
    ] {
        assert_near(e2e, name, right_ms);
    }
    assert_eq!(
        round["latency"]["ttft_ms"],
        Value::Null,
        "a whole answer has no first token"
    );
}

#[tokio::test(start_paused = true)]
async fn a_stream_is_timed_chunk_by_chunk() {
    let server =
        Server::new(|seen| Reply::stream(seen, &[ms(50), ms(10), ms(10), ms(100), ms(10)]).after(ms(30)));
    let round = server.round("--stream --concurrency 1 --requests 20").await;
    let latency = &round["latency"];
    for (name, right_ms) in [("ttft_ms", 80.0), ("tpot_ms", 32.5), ("e2e_ms", 210.0)] {
        assert_eq!(latency[name]["count"], 20);
        assert_near(&latency[name], "p50", right_ms);
        assert_near(&latency[name], "max", right_ms);
    }
    let gaps = &latency["itl_ms"];
    assert_eq!(gaps["count"], 80, "each gap counts");
    assert_near(gaps, "p50", 10.0);
    assert_near(gaps, "p90", 100.0);
    assert_eq!(round["tokens"]["per_chunk_mean"], 1.0);
}

/// Answers in 5 ms, except that everything that comes from 5 s to 7 s is answered at 7 s.
fn stalling() -> Server {
    Server::new(|seen| {
        let stalls = (ms(5000)..ms(7000)).contains(&seen.at);
        let delay = if stalls { ms(7000) - seen.at } else { ms(5) };
        Reply::chat(seen, 1).after(delay)
    })
}

#[tokio::test(start_paused = true)]
async fn a_stall_is_charged_for_everybody_who_was_due() {
    // Four in flight: during the stall nothing can be sent, and 200 requests become due.
    for limit in ["", " --max-in-flight 4"] {
        let round = stalling()
            .round(&format!("--rate 100 --duration 10s{limit}"))
            .await;
        let e2e = &round["latency"]["e2e_ms"];
        let due = round["requests"]["due"].as_u64().expect("a count");
        assert!((900..1100).contains(&due), "{due}");
        assert_eq!(e2e["count"], due, "nobody is left out");
        let p50 = e2e["p50"].as_f64().expect("a number");
        assert!(p50 <= 7.0, "most are answered at once: {p50}");
        // A fifth had to wait, from 2 s down to nothing.
        let (p90, p99) = (e2e["p90"].as_f64(), e2e["p99"].as_f64());
        assert!((700.0..1300.0).contains(&p90.expect("a number")), "{e2e}");
        assert!((1800.0..2010.0).contains(&p99.expect("a number")), "{e2e}");
        let lag_ms = round["latency"]["send_lag_ms"]["max"].as_f64().expect("a number");
        assert_eq!(
            lag_ms > 1500.0,
            !limit.is_empty(),
            "who waited unsent is told: {lag_ms}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_closed_loop_sends_nothing_during_a_stall() {
    let round = stalling().round("--concurrency 4 --duration 10s").await;
    let e2e = &round["latency"]["e2e_ms"];
    assert!(e2e["p99"].as_f64().expect("a number") <= 7.0, "{e2e}");
    assert_near(e2e, "max", 2000.0);
}

#[tokio::test(start_paused = true)]
async fn rates_are_those_of_the_time_measured() {
    // 10 tokens in a second, two at once: 20 tokens and 2 requests a second, also when the window cuts streams.
    let server = Server::new(|seen| Reply::stream(seen, &[ms(100); 10]));
    let words = "--stream --concurrency 2 --warm-up 1550ms --duration 10s --prompt-tokens 5";
    let round = server.round(words).await;
    assert_eq!(round["window_s"], 10.0);
    for (name, right) in [
        ("requests_per_s", 2.0),
        ("output_tokens_per_s", 20.0),
        ("chunks_per_s", 20.0),
        ("input_tokens_per_s", 16.0),
    ] {
        let measured = round["throughput"][name].as_f64().expect("a number");
        assert!((measured / right - 1.0).abs() < 0.02, "{name}: {measured}");
    }
    // Those that were due in the window: the two at its beginning had been due before.
    assert_eq!(round["requests"]["due"], 20);
    assert_eq!(round["requests"]["completed"], 20);
}

/// In real time, with the system's exact timer: requests become due between the runtime's milliseconds, also between the
/// end of the warm-up and the moment when it is noticed.
#[tokio::test]
async fn whether_a_request_counts_is_decided_by_when_it_is_due() {
    let server = Server::new(|seen| Reply::chat(seen, 1).after(ms(5)));
    let words =
        "--model m --tokens-per-word 1 --prompt-tokens 1 --rate 20000 --warm-up 10300us --duration 20ms";
    let (_stop, stops) = watch::channel(false);
    let alarm = Alarm::exact().unwrap();
    let report = server.run_with(words, alarm, stops).await.unwrap();
    let report = serde_json::to_value(&report).unwrap();
    let requests = &report["rounds"][0]["requests"];
    assert_eq!(
        (&requests["failed"], &requests["unfinished"]),
        (&0.into(), &0.into())
    );
    assert!(requests["due"].as_u64() > Some(100), "{requests}");
}

#[tokio::test(start_paused = true)]
async fn an_open_loop_keeps_its_rate_whatever_the_server_does() {
    let server = Server::new(|seen| Reply::chat(seen, 1).after(ms(30_000)));
    let round = server.round("--rate 20 --duration 10s").await;
    let due = round["requests"]["due"].as_u64().expect("a count");
    assert!((160..240).contains(&due), "{due}");
    assert_eq!(round["requests"]["most_in_flight"], due);
    assert_eq!(
        round["requests"]["completed"], due,
        "the last answers are waited for"
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_never_sent_is_told() {
    let server = Server::new(|seen| Reply::chat(seen, 1).after(ms(30_000)));
    let words = "--rate 20 --duration 10s --max-in-flight 7 --slo e2e=60s";
    let round = server.round(words).await;
    let due = round["requests"]["due"].as_u64().expect("a count");
    assert_eq!(round["requests"]["completed"], 7);
    assert_eq!(round["requests"]["never_sent"], due - 7);
    let share = round["goodput"]["share"].as_f64().expect("a number");
    assert!(
        (share - 7.0 / due as f64).abs() < 1e-9,
        "they are not good: {share}"
    );
}
