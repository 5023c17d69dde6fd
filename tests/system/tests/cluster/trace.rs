//! One trace of one request across the processes.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};
use vlinders_system_tests::{Cluster, Collector, ReceivedSpan, Role};

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
    Ok(())
}
