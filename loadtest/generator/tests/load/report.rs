//! The report, byte for byte. `VLINDERS_RENEW=1` writes the files anew; review them as code.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use vlinders_loadtest::Report;

use crate::server::{Reply, Server};

#[track_caller]
fn check(name: &str, text: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name);
    if std::env::var_os("VLINDERS_RENEW").is_some() {
        std::fs::write(&path, text).expect("the golden folder is writable");
    }
    let golden = std::fs::read_to_string(&path).expect("the golden file exists");
    assert_eq!(golden, text, "{name}");
}

/// What differs from run to run is set to zero.
fn steady(report: &Report) -> String {
    let mut report = serde_json::to_value(report).expect("the report's shape");
    report["started_at_unix_ms"] = json!(0);
    report["settings"]["max_in_flight"] = json!(0);
    for round in report["rounds"].as_array_mut().expect("the report's shape") {
        assert!(round["generator"]["cpu_s"].as_f64().expect("the report's shape") > 0.0);
        round["generator"] = json!({"cpu_s": 0.0, "cores": 0.0});
        for watched in round["watched"].as_array_mut().expect("the report's shape") {
            for (name, value) in watched.as_object_mut().expect("the report's shape") {
                if name != "label" {
                    assert!(value.is_number(), "{name}");
                    *value = json!(0);
                }
            }
        }
    }
    serde_json::to_string_pretty(&report).expect("the report's shape") + "\n"
}

/// The table without the generator's own CPU and processes.
fn steady_table(report: &Report) -> String {
    let table = report.table();
    let lines = table
        .lines()
        .filter(|line| !line.starts_with("generator") && !line.starts_with("server "));
    lines.map(|line| format!("{line}\n")).collect()
}

/// Every tenth request is refused; the others are streams with a slow second token.
fn server() -> Server {
    Server::new(|seen| match seen.index % 10 {
        9 => Reply::refusal(429, "the queue is full"),
        _ => Reply::stream(seen, &[20, 40, 5, 5].map(Duration::from_millis)),
    })
}

#[tokio::test(start_paused = true)]
async fn one_load_is_reported_as_always() {
    let words = format!(
        "--model demo --tokens-per-word 1.25 --prompt-tokens 50 --stream --concurrency 1 --requests 100 \
         --warm-up 1s --slo ttft=25ms,itl=50ms --check-usage --watch-pid server={}",
        std::process::id()
    );
    let report = server().run(&words).await.unwrap();
    check("one_load.json", &steady(&report));
    check("one_load.txt", &steady_table(&report));
}

#[tokio::test(start_paused = true)]
async fn several_loads_are_reported_as_always() {
    let words = "--model demo --tokens-per-word 1 --stream --rates 2,20.5 --duration 20s --slo e2e=1s --max-in-flight 1";
    let report = server().run(words).await.unwrap();
    check("several_loads.json", &steady(&report));
    check("several_loads.txt", &steady_table(&report));
}

#[tokio::test(start_paused = true)]
async fn whole_answers_without_usage_are_reported_as_always() {
    let server = Server::new(|_| {
        let answer: Value = json!({"choices": [{"message": {"content": "x"}, "finish_reason": "stop"}]});
        Reply::whole(&answer).after(Duration::from_millis(1500))
    });
    let words = "--model demo --tokens-per-word 1 --concurrency 1200 --duration 10s";
    let report = server.run(words).await.unwrap();
    check("whole_answers.txt", &steady_table(&report));
}
