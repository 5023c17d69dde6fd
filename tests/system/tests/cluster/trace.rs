//! One trace of one request across the processes.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};
use serde_json::json;
use vlinders_system_tests::{Cluster, Collector, Plan, ReceivedSpan, Role};

use crate::{Checked, plan, subjects};

/// Spans of an undisturbed request and the span each is under.
const SPANS: [(&str, &str); 7] = [
    ("POST /v1/chat/completions", ""),
    ("decode", "POST /v1/chat/completions"),
    ("hand-off", "POST /v1/chat/completions"),
    ("kv pull", "hand-off"),
    ("prefill", "POST /v1/chat/completions"),
    ("queue", "POST /v1/chat/completions"),
    ("tokenize", "POST /v1/chat/completions"),
];

#[tokio::test]
async fn a_request_leaves_one_trace_across_the_processes() -> Checked {
    let collector = Collector::start().await?;
    let plan = plan().with_variable("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.endpoint());
    let mut cluster = Cluster::start(plan).await?;
    let subject = &subjects::long_prompts()[0];
    let client = &cluster.frontends()?[0];
    let reply = client.whole(subject.path, &subject.body).await?;
    reply.complete()?;
    // A process tells all it has before it ends.
    cluster.stop().await?;

    let spans = collector.spans();
    let by_name: BTreeMap<&str, &ReceivedSpan> =
        spans.iter().map(|span| (span.name.as_str(), span)).collect();
    let name_of = |id: &str| {
        let span = spans.iter().find(|span| span.span_id == id);
        span.map_or("", |span| span.name.as_str())
    };
    let parents: Vec<_> = by_name
        .values()
        .map(|span| (span.name.as_str(), name_of(&span.parent_id)))
        .collect();
    ensure!(parents == SPANS && spans.len() == SPANS.len(), "{spans:#?}");
    for span in &spans {
        ensure!(span.trace_id == spans[0].trace_id, "two traces: {spans:#?}");
        ensure!(!span.failed && span.end_ns >= span.start_ns, "{span:#?}");
        let told = format!("{span:?}");
        let told = subjects::WORDS.iter().find(|word| told.contains(**word));
        ensure!(told.is_none(), "a span holds {told:?}");
    }
    let instance = |name: &str| by_name.get(name).map(|span| span.instance.as_str());
    let is_of = |name: &str, role: Role| {
        let instance = instance(name).context("every span was found above")?;
        let all = cluster.everybody(role);
        ensure!(
            all.iter().any(|one| one == instance),
            "{name} is of {instance}, not of {all:?}"
        );
        Ok(())
    };
    for name in ["prefill", "hand-off", "queue"] {
        is_of(name, Role::Prefill)?;
    }
    for name in ["decode", "kv pull"] {
        is_of(name, Role::Decode)?;
    }
    for (name, service) in [
        ("tokenize", "vlinders-frontend"),
        ("prefill", "vlinders-prefill"),
        ("decode", "vlinders-decode"),
    ] {
        ensure!(by_name[name].service == service, "{:#?}", by_name[name]);
    }
    let root = by_name[SPANS[0].0];
    ensure!(root.attribute("request_id") == reply.request_id(), "{root:#?}");
    let pull = by_name["kv pull"];
    ensure!(pull.attribute("transport") == "shm", "{pull:#?}");
    ensure!(pull.attribute("bytes").parse::<u64>()? > 0, "{pull:#?}");
    let logs = cluster.logs()?;
    let is_named = logs.iter().any(|(_, log)| log.contains(&root.trace_id));
    ensure!(is_named, "no log names the trace");
    Ok(())
}

#[tokio::test]
async fn a_request_that_outlives_its_decode_worker_has_both_attempts_in_its_trace() -> Checked {
    let collector = Collector::start().await?;
    // A token takes ten milliseconds: the answer is far from its end when the first spans have come.
    let mut plan = Plan::new()
        .with_worker_arguments(&["--backend", "sim", "--sim-step-us", "10000"])
        .with_variable("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.endpoint());
    plan.transports = "tcp".to_owned();
    let mut cluster = Cluster::start(plan).await?;
    let client = cluster.frontends()?.remove(0);
    let body = json!({"model": "vlinders-demo", "prompt": "Once upon a time", "max_tokens": 400, "ignore_eos": true});
    let answer = client.stream("/v1/completions", &body).await?;
    let is_handed_over = |spans: &[ReceivedSpan]| spans.iter().any(|span| span.name == "hand-off");
    let spans = collector.until(is_handed_over).await;
    let spans = spans.map_err(|spans| anyhow::anyhow!("nothing was handed over: {spans:#?}"))?;
    let hand_off = spans.iter().find(|span| span.name == "hand-off");
    let lost = hand_off.context("one was there")?.attribute("taker").to_owned();
    cluster.kill(&lost)?;
    answer.rest().await?.complete()?;
    cluster.stop().await?;

    let spans = collector.spans();
    ensure!(
        spans.iter().all(|span| span.trace_id == spans[0].trace_id),
        "two traces: {spans:#?}"
    );
    let root = spans.iter().find(|span| span.parent_id.is_empty());
    let root = root.with_context(|| format!("no first span: {spans:#?}"))?;
    let events = root.events.iter().map(|event| event.name.as_str());
    ensure!(
        events.collect::<Vec<_>>() == ["first token", "failover"],
        "{root:#?}"
    );
    // The killed worker took its own spans with it.
    for (attempt, names) in [
        ("0", &["queue", "prefill", "hand-off"] as &[&str]),
        ("1", &["queue", "prefill", "hand-off", "decode"]),
    ] {
        for name in names {
            let span = spans
                .iter()
                .find(|span| span.name == *name && span.attribute("attempt") == attempt);
            let span = span.with_context(|| format!("attempt {attempt} has no {name}: {spans:#?}"))?;
            ensure!(span.parent_id == root.span_id, "{span:#?}");
            ensure!(*name != "decode" || span.instance != lost, "{span:#?}");
        }
    }
    Ok(())
}
