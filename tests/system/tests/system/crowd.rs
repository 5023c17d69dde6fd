//! Two hundred clients at once, of which many leave.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use vlinders_system_tests::{Client, Dice, Reply, Server, UsageRow, until};

use crate::{CHAT, COMPLETIONS, Checked, ask};

const CLIENTS: usize = 200;

/// What one client does.
#[derive(Clone, Debug)]
struct Visit {
    path: &'static str,
    body: Value,
    is_streamed: bool,
    leaves: Leaves,
}

/// When a client leaves before the end.
#[derive(Clone, Copy, Debug)]
enum Leaves {
    Never,
    After(Duration),
    AfterEvents(u64),
}

/// What became of a visit.
#[derive(Debug)]
enum Outcome {
    Complete(Reply),
    /// What it had heard when it left.
    Left(Reply),
}

fn visit(dice: &mut Dice) -> Visit {
    const QUESTIONS: [&str; 4] = [
        "What is Vlinders?",
        "How do I start it?",
        "Tell me about prefill and decode",
        "What is the capital of Peru?",
    ];
    let question = QUESTIONS[usize::try_from(dice.below(4)).expect("below 4")];
    let is_streamed = !dice.once_in(3);
    let (path, mut body) = if dice.once_in(3) {
        let prompt = question.repeat(usize::try_from(1 + dice.below(12)).expect("at most 12"));
        (
            COMPLETIONS,
            json!({"model": "vlinders-demo", "prompt": prompt, "temperature": 0, "logprobs": 1}),
        )
    } else {
        let mut body = ask(question);
        body["logprobs"] = true.into();
        (CHAT, body)
    };
    body["max_tokens"] = (1 + dice.below(300)).into();
    body["ignore_eos"] = (!dice.once_in(4)).into();
    if dice.once_in(2) {
        body["temperature"] = 1.into();
    }
    if is_streamed {
        body["stream_options"] = json!({"include_usage": true});
    }
    let leaves = match dice.below(5) {
        0 => Leaves::After(Duration::from_micros(dice.below(1_500_000))),
        1 => Leaves::AfterEvents(dice.below(60)),
        _ => Leaves::Never,
    };
    Visit {
        path,
        body,
        is_streamed,
        leaves,
    }
}

/// Pays the visit. An error is an answer that broke off or was refused.
async fn pay(client: Client, visit: Visit) -> anyhow::Result<Outcome> {
    let mut heard = Reply::default();
    match visit.leaves {
        Leaves::Never => {
            hear(&client, &visit, &mut heard, u64::MAX).await?;
            Ok(Outcome::Complete(heard))
        }
        Leaves::After(time) => {
            match tokio::time::timeout(time, hear(&client, &visit, &mut heard, u64::MAX)).await {
                Ok(done) => done.map(|()| Outcome::Complete(heard)),
                Err(_elapsed) => Ok(Outcome::Left(heard)),
            }
        }
        Leaves::AfterEvents(events) => {
            hear(&client, &visit, &mut heard, events).await?;
            Ok(if heard.is_done {
                Outcome::Complete(heard)
            } else {
                Outcome::Left(heard)
            })
        }
    }
}

/// Listens to so many events; `heard` holds what arrived even when this is dropped half-way.
async fn hear(client: &Client, visit: &Visit, heard: &mut Reply, events: u64) -> anyhow::Result<()> {
    if !visit.is_streamed {
        *heard = client.whole(visit.path, &visit.body).await?;
        return Ok(());
    }
    let mut stream = client.stream(visit.path, &visit.body).await?;
    for _ in 0..events {
        let more = stream.advance().await?;
        heard.clone_from(&stream.reply);
        if !more {
            break;
        }
    }
    Ok(())
}

/// Holds the ledger against what the clients saw.
fn check_usage(outcomes: &[Outcome], rows: &[UsageRow]) -> Checked {
    let by_request: BTreeMap<&str, &UsageRow> = rows.iter().map(|row| (row.request_id(), row)).collect();
    ensure!(by_request.len() == rows.len(), "a request has two rows");
    ensure!(
        rows.len() <= CLIENTS,
        "{} rows for {CLIENTS} requests",
        rows.len()
    );
    let mut seen = BTreeSet::new();
    for outcome in outcomes {
        match outcome {
            Outcome::Complete(reply) => {
                reply.complete()?;
                let row = by_request
                    .get(reply.request_id())
                    .context("an answer without a row")?;
                seen.insert(reply.request_id());
                let billed = row.number("completion_tokens")?;
                ensure!(
                    billed == reply.counted("completion_tokens")?,
                    "{row:?} {:?}",
                    reply.usage
                );
                ensure!(
                    billed == reply.tokens.len() as u64,
                    "{row:?}, delivered {}",
                    reply.tokens.len()
                );
                ensure!(
                    row.number("prompt_tokens")? == reply.counted("prompt_tokens")?,
                    "{row:?}"
                );
                ensure!(
                    row.finish() == reply.finish_reasons[0],
                    "{row:?} {:?}",
                    reply.finish_reasons
                );
            }
            Outcome::Left(reply) if reply.id.is_empty() => {}
            Outcome::Left(reply) => {
                let row = by_request
                    .get(reply.request_id())
                    .context("a request without a row")?;
                seen.insert(reply.request_id());
                ensure!(
                    row.number("completion_tokens")? >= reply.tokens.len() as u64,
                    "{row:?} {}",
                    reply.tokens.len()
                );
            }
        }
    }
    // The others left before they heard of their request: each of them has a row at most.
    let unheard = outcomes
        .iter()
        .filter(|outcome| matches!(outcome, Outcome::Left(reply) if reply.id.is_empty()));
    let strangers = rows.iter().filter(|row| !seen.contains(row.request_id())).count();
    ensure!(strangers <= unheard.count(), "{strangers} rows belong to nobody");
    for row in rows {
        ensure!(row.finish() != "error", "{row:?}");
    }
    Ok(())
}

async fn two_hundred_clients(seed: u64, arguments: &[&str]) -> Checked {
    let server = Server::start(arguments).await?;
    server
        .client
        .whole(CHAT, &ask("What is Vlinders?"))
        .await?
        .complete()?;
    until(async || server.metrics().await?.settled()).await?;
    let (facts, begun) = (server.facts(), Instant::now());
    let descriptors = facts.descriptors()?;
    let mut dice = Dice::new(seed);
    let mut crowd = JoinSet::new();
    for _ in 0..CLIENTS {
        crowd.spawn(pay(server.client.clone(), visit(&mut dice)));
    }
    let mut outcomes = Vec::new();
    while let Some(outcome) = crowd.join_next().await {
        outcomes.push(outcome??);
    }
    let took = begun.elapsed();
    until(async || {
        let samples = server.metrics().await?;
        samples.settled()?;
        let ended = samples.sum("vlinders_requests_finished_total")?;
        let recorded = samples.sum("vlinders_usage_events_recorded_total")?;
        ensure!(ended == recorded, "{ended} requests ended, {recorded} recorded");
        let open = facts.descriptors()?;
        // The scrape itself is a connection, which may still be closing.
        ensure!(
            open <= descriptors,
            "{open} descriptors are open, {descriptors} before"
        );
        Ok(())
    })
    .await?;
    let ended = server.metrics().await?.sum("vlinders_requests_finished_total")?;
    let complete = outcomes
        .iter()
        .filter(|outcome| matches!(outcome, Outcome::Complete(_)))
        .count();
    println!(
        "seed {seed}: {complete} complete, {} left, in {} ms, {} MiB",
        CLIENTS - complete,
        took.as_millis(),
        facts.peak_bytes()? >> 20
    );
    ensure!(
        complete > CLIENTS / 2 && complete < CLIENTS,
        "{complete} complete: the seed is no test"
    );
    // Its clean end says too that every block was free: it checks that whenever it idles.
    let mut rows = server.stop().await?.usage().await?;
    rows.pop().context("the first request has no row")?;
    ensure!(
        rows.len() as f64 == ended - 1.0,
        "{} rows, {ended} requests ended",
        rows.len()
    );
    check_usage(&outcomes, &rows)
}

#[tokio::test]
async fn two_hundred_clients_of_which_some_leave_are_all_answered_or_cancelled_and_billed_once() -> Checked {
    two_hundred_clients(1, &[]).await
}

#[tokio::test]
async fn two_hundred_clients_of_one_role() -> Checked {
    two_hundred_clients(2, &["--role", "both"]).await
}

#[tokio::test]
async fn two_hundred_clients_of_a_simulated_engine() -> Checked {
    two_hundred_clients(3, &["--backend", "sim", "--sim-step-us", "2000"]).await
}

#[tokio::test]
async fn two_hundred_clients_on_thirty_two_blocks() -> Checked {
    two_hundred_clients(4, &["--kv-memory-mib", "1"]).await
}

#[tokio::test]
#[ignore = "for hunting: sixteen crowds take minutes"]
async fn many_crowds() -> Checked {
    let arrangements: [&[&str]; 4] = [
        &[],
        &["--role", "both"],
        &["--backend", "sim", "--sim-step-us", "1000"],
        &["--kv-memory-mib", "1", "--max-num-seqs", "16"],
    ];
    for seed in 100..116 {
        let arguments = arrangements[usize::try_from(seed % 4)?];
        let crowd = two_hundred_clients(seed, arguments).await;
        crowd.with_context(|| format!("seed {seed} {arguments:?}"))?;
    }
    Ok(())
}
