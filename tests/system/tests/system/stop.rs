//! Ctrl-C.

use std::time::{Duration, Instant};

use anyhow::ensure;
use serde_json::Value;
use vlinders_system_tests::{Client, EventStream, Server, until};

use crate::{CHAT, Checked, ask, ask_for};

/// A stream may be cut at once; the rest is writing usage and closing.
const QUICK: Duration = Duration::from_secs(8);

/// A server whose steps take so many microseconds, so that answers last.
async fn slow_server(step_us: &str) -> anyhow::Result<Server> {
    Server::start(&["--backend", "sim", "--sim-step-us", step_us]).await
}

fn lasting(tokens: u32) -> Value {
    ask_for("What is Vlinders?", tokens)
}

async fn stream_under_way(client: &Client, tokens: u32) -> anyhow::Result<EventStream> {
    let mut stream = client.stream(CHAT, &lasting(tokens)).await?;
    stream.first_text().await?;
    Ok(stream)
}

/// Once it stops, it takes no new requests: that is how the first Ctrl-C is known to have arrived.
async fn until_it_stops(server: &Server) -> anyhow::Result<()> {
    until(async || {
        let answer = server.client.post(CHAT, &ask("Hello")).await;
        ensure!(
            answer.is_err() || answer.is_ok_and(|answer| answer.status == 503),
            "it still takes requests"
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn ctrl_c_ends_it_at_once_when_nothing_runs() -> Checked {
    let server = Server::start(&[]).await?;
    server.client.whole(CHAT, &ask("What is Vlinders?")).await?;
    ensure!(server.facts().children()? == 0, "it has started processes");
    let (client, begun) = (server.client.clone(), Instant::now());
    let stopped = server.stop().await?;
    ensure!(begun.elapsed() < QUICK, "it took {:?} to stop", begun.elapsed());
    for word in ["WARN", "ERROR"] {
        ensure!(!stopped.log.contains(word), "{}", stopped.log);
    }
    ensure!(client.get_text("/live").await.is_err(), "somebody still listens");
    Ok(())
}

#[tokio::test]
async fn running_answers_are_finished_after_ctrl_c() -> Checked {
    let server = slow_server("5000").await?;
    let streams = [
        stream_under_way(&server.client, 200).await?,
        stream_under_way(&server.client, 300).await?,
    ];
    server.interrupt()?;
    until_it_stops(&server).await?;
    for (stream, tokens) in streams.into_iter().zip([200, 300]) {
        let reply = stream.rest().await?;
        reply.complete()?;
        ensure!(reply.tokens.len() == tokens, "{} tokens", reply.tokens.len());
    }
    let rows = server.wait().await?.usage().await?;
    let mut ends: Vec<(&str, u64)> = Vec::new();
    for row in &rows {
        ends.push((row.finish(), row.number("completion_tokens")?));
    }
    ends.sort_unstable();
    ensure!(ends == [("length", 200), ("length", 300)], "{ends:?}");
    Ok(())
}

#[tokio::test]
async fn a_second_ctrl_c_cuts_running_answers_and_they_are_billed() -> Checked {
    let server = slow_server("20000").await?;
    // At 20 ms a token this would take longer than it waits for running answers.
    let stream = stream_under_way(&server.client, 2000).await?;
    server.interrupt()?;
    until_it_stops(&server).await?;
    let begun = Instant::now();
    server.interrupt()?;
    let cut = stream.rest().await;
    ensure!(
        cut.as_ref()
            .map_or(true, |reply| !reply.is_done && reply.finish_reasons.is_empty()),
        "a cut answer looks complete: {cut:?}"
    );
    let stopped = server.wait().await?;
    ensure!(begun.elapsed() < QUICK, "it took {:?} to stop", begun.elapsed());
    let rows = stopped.usage().await?;
    ensure!(rows.len() == 1, "{rows:?}");
    ensure!(rows[0].number("completion_tokens")? > 0, "{rows:?}");
    Ok(())
}
