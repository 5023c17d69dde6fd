//! The tap, with the users of the example before a real server.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStdout, Command, Stdio};

use anyhow::{Context, ensure};
use serde_json::Value;
use vlinders_system_tests::{Cluster, Plan, Role, python, repository};

use crate::{Checked, plan, subjects};

/// A cluster whose tap is open and whose tenants have users of their own.
fn tapped() -> anyhow::Result<Plan> {
    let users = repository().join("proto/examples/nats-users.conf");
    let mut plan = plan().with_arguments(Role::Frontend, &["--tap", "json"]);
    plan.nats = std::fs::read_to_string(users)?;
    for role in [Role::Frontend, Role::Prefill, Role::Decode] {
        plan = plan.with_count(role, 1);
    }
    Ok(plan)
}

fn address(cluster: &Cluster) -> String {
    cluster.nats.url().replace("nats://", "")
}

/// The example subscribers, which wait for one whole answer.
#[derive(Clone, Copy, Debug)]
enum Example {
    Python,
    Rust,
}

fn subscriber(cluster: &Cluster, example: Example, user: &str, subject: &str) -> anyhow::Result<Child> {
    let mut command = match example {
        Example::Python => {
            let mut command = Command::new(python()?);
            command.arg(repository().join("proto/examples/tap_subscriber.py"));
            command
        }
        Example::Rust => Command::new(vlinders_system_tests::example("tap_subscriber")?),
    };
    command.args([&address(cluster), user, user, subject, "1"]);
    Ok(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?)
}

/// A subscriber and what it says.
type Listener = (Child, BufReader<ChildStdout>);

/// One that listens to its own tenant.
fn listening(cluster: &Cluster, example: Example) -> anyhow::Result<Listener> {
    let mut own = subscriber(cluster, example, "tenant-default", "vl.ev.default.>")?;
    let mut lines = BufReader::new(own.stdout.take().context("it was asked for")?);
    let mut line = String::new();
    lines.read_line(&mut line)?;
    ensure!(line.starts_with("listening"), "{example:?} {line:?}");
    Ok((own, lines))
}

/// What it has heard by its end.
fn heard((subscriber, lines): &mut Listener) -> anyhow::Result<Vec<Value>> {
    let mut told = String::new();
    lines.read_to_string(&mut told)?;
    ensure!(subscriber.wait()?.success());
    Ok(told.lines().map(serde_json::from_str).collect::<Result<_, _>>()?)
}

#[tokio::test]
async fn a_tenant_hears_its_own_answers_and_nothing_else() -> Checked {
    let mut cluster = Cluster::start(tapped()?).await?;
    let mut own = listening(&cluster, Example::Python)?;
    let mut other = listening(&cluster, Example::Rust)?;

    let subject = &subjects::mixed()[0];
    let reply = cluster.frontends()?[0].whole(subject.path, &subject.body).await?;
    reply.complete()?;
    let events = heard(&mut own)?;
    let also = heard(&mut other)?;
    ensure!(also == events, "{also:?} is not {events:?}");
    // Nobody reads along: the first token goes out so that the frontend knows who answers, and the rest at the end.
    ensure!(
        events.len() <= 3,
        "a whole answer came in {} pieces",
        events.len()
    );
    let text: String = events.iter().filter_map(|event| event["text"].as_str()).collect();
    ensure!(text == reply.text, "{text:?} is not {:?}", reply.text);
    let mut position = 0;
    for event in &events {
        ensure!(event["position"] == position, "{event} should be at {position}");
        position += event["ids"].as_array().context("a list")?.len();
    }
    let counts = &events.last().context("an end")?["counts"];
    ensure!(counts["completion"] == position, "{counts}");

    for (user, subject) in [
        ("tenant-other", "vl.ev.default.>"),
        ("tenant-default", "vl.ev.>"),
        ("tenant-default", ">"),
        ("tenant-default", "vl.tok.>"),
        ("tenant-default", "vl.req.>"),
    ] {
        let mut refused = subscriber(&cluster, Example::Rust, user, subject)?;
        // Who may listen says so, and would wait for ever.
        let mut line = String::new();
        BufReader::new(refused.stdout.take().context("it was asked for")?).read_line(&mut line)?;
        if !line.is_empty() {
            refused.kill()?;
        }
        let refused = refused.wait_with_output()?;
        ensure!(line.is_empty(), "{user} may listen on {subject}");
        let text = String::from_utf8_lossy(&refused.stderr);
        ensure!(text.contains("Permissions Violation"), "{user} {subject} {text}");
    }
    cluster.stop().await
}

#[tokio::test]
async fn a_subscriber_that_never_reads_slows_nobody() -> Checked {
    let mut plan = tapped()?;
    plan.nats += "\nwrite_deadline: \"1s\"\n";
    let mut cluster = Cluster::start(plan).await?;
    let mut lazy = TcpStream::connect(address(&cluster))?;
    let login = r#"{"user":"tenant-default","pass":"tenant-default","verbose":false}"#;
    write!(lazy, "CONNECT {login}\r\nSUB vl.ev.default.> 1\r\nPING\r\n")?;
    let client = &cluster.frontends()?[0];
    for subject in &subjects::lengthy() {
        client.streamed(subject.path, &subject.body).await?.complete()?;
    }
    let (_, metrics) = &cluster.metrics_of(Role::Frontend).await?[0];
    let sent = metrics.sum("vlinders_tap_events_sent_total")?;
    let dropped = metrics.sum("vlinders_tap_events_dropped_total")?;
    ensure!(sent > 400.0 && dropped == 0.0, "{sent} sent, {dropped} dropped");
    drop(lazy);
    cluster.stop().await
}
