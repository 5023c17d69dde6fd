//! Servers that are away for a while.

use std::time::Duration;

use anyhow::{Context, ensure};
use vlinders_system_tests::{Cluster, Load, Reference, Role, until};

use crate::{Checked, ONE_THREAD, counted, in_turn, judged, plan, subjects};

const VISITORS: usize = 12;
/// How long the bus is away.
const BUS_AWAY: Duration = Duration::from_secs(8);
/// How long the database is away, unless told otherwise.
const LEDGER_AWAY: Duration = Duration::from_secs(6);

/// Clients that keep asking, some of them for long answers.
fn visitors(cluster: &Cluster, load: &mut Load) -> Checked {
    let frontends = cluster.frontends()?;
    for visitor in 0..VISITORS {
        load.keep_asking(in_turn(&frontends, visitor), visitor as u64);
    }
    Ok(())
}

#[tokio::test]
async fn a_bus_that_is_away_for_longer_than_all_patience_loses_no_accepted_request() -> Checked {
    let subjects = [subjects::mixed(), subjects::lengthy()].concat();
    let reference = Reference::of(&subjects, &ONE_THREAD).await?;
    let mut cluster = Cluster::start(plan()).await?;
    let mut load = Load::new(&subjects);
    visitors(&cluster, &mut load)?;
    load.answers(VISITORS).await?;
    load.streams_begun(2).await?;
    cluster.nats.crash()?;
    tokio::time::sleep(BUS_AWAY).await;
    cluster.nats.back().await?;
    load.answers(2 * VISITORS).await?;
    judged(cluster, load, &reference).await?;
    Ok(())
}

#[tokio::test]
async fn a_ledger_that_is_away_loses_no_usage() -> Checked {
    let away = match std::env::var("VLINDERS_LEDGER_AWAY_S") {
        Ok(seconds) => Duration::from_secs(seconds.parse()?),
        Err(_unset) => LEDGER_AWAY,
    };
    let subjects = subjects::mixed();
    let reference = Reference::of(&subjects, &ONE_THREAD).await?;
    let mut cluster = Cluster::start(plan()).await?;
    let mut load = Load::new(&subjects);
    visitors(&cluster, &mut load)?;
    load.answers(VISITORS).await?;
    cluster.postgres.stop().await?;
    let before = load.answered();
    tokio::time::sleep(away).await;
    let meanwhile = load.answered() - before;
    ensure!(meanwhile > 0, "nobody was served without the ledger");
    cluster.postgres.back().await?;
    load.answers(1).await?;
    let usage = cluster.names(Role::Usage);
    let failures = cluster.metrics(&usage[0]).await?;
    let failures = failures.sum("vlinders_usage_record_failures_total")?;
    println!("{meanwhile} answers while it was away, {failures} failed tries to record");
    judged(cluster, load, &reference).await?;
    Ok(())
}

#[tokio::test]
async fn a_limiter_that_is_away_stops_nobody() -> Checked {
    let subjects = subjects::mixed();
    let reference = Reference::of(&subjects, &ONE_THREAD).await?;
    let plan = plan().with_arguments(Role::Frontend, &["--rate-limit-rpm", "1000000"]);
    let mut cluster = Cluster::start(plan).await?;
    let mut load = Load::new(&subjects);
    visitors(&cluster, &mut load)?;
    load.answers(VISITORS).await?;
    cluster.redis.crash()?;
    load.answers(3 * VISITORS).await?;
    cluster.redis.back().await?;
    load.answers(VISITORS).await?;
    until(async || {
        for (name, samples) in cluster.metrics_of(Role::Frontend).await? {
            let is_up = samples.sum("vlinders_limiter_up")?;
            ensure!(is_up == 1.0, "{name} does without it");
        }
        Ok(())
    })
    .await?;
    let verdict = judged(cluster, load, &reference).await?;
    let refusals = verdict.history.refusals();
    ensure!(refusals == 0, "{refusals} times somebody was refused");
    Ok(())
}

/// Whoever had the streams ends them while the bus is away, so that their bills wait on the disk. Then it is killed, and
/// the frontend too: nobody else knows of these requests any more.
#[tokio::test]
async fn bills_of_a_killed_worker_are_sent_by_its_neighbours() -> Checked {
    let mut cluster = Cluster::start(plan()).await?;
    let subjects = subjects::lengthy();
    let lost_frontend = cluster.names(Role::Frontend)[0].clone();
    let client = cluster.client(&lost_frontend)?;
    let mut streams = Vec::new();
    for subject in &subjects {
        let mut body = subject.body.clone();
        // None may be over before the bus is gone.
        body["max_tokens"] = 1600.into();
        let mut stream = client.stream(subject.path, &body).await?;
        stream.first_text().await?;
        streams.push(stream);
    }
    // Until the workers have all of it, since whoever computes a prompt may begin it anew.
    until(async || {
        let waiting = counted(
            &cluster,
            Role::Prefill,
            "vlinders_sequences_running",
            "role=\"prefill\"",
        )
        .await?;
        ensure!(waiting == 0.0, "{waiting} are not handed over yet");
        Ok(())
    })
    .await?;
    cluster.nats.crash()?;
    let lost = cluster.names(Role::Decode);
    let kept = until(async || {
        let mut kept = 0.0;
        for name in &lost {
            let samples = cluster.metrics(name).await?;
            samples.is_zero("vlinders_sequences_running")?;
            kept += samples.sum("vlinders_usage_spool_events")?;
        }
        ensure!(kept == streams.len() as f64, "{kept} bills are kept");
        Ok(kept)
    })
    .await?;
    for name in lost.iter().chain([&lost_frontend]) {
        cluster.kill(name)?;
    }
    println!("{kept} bills are on the disk");
    cluster.nats.back().await?;
    until(async || {
        let rows = cluster.rows().await?.len();
        ensure!(rows >= streams.len(), "{rows} rows of {} requests", streams.len());
        Ok(())
    })
    .await?;
    cluster.stop().await?;
    let rows = cluster.rows().await?;
    ensure!(rows.len() == streams.len(), "{rows:?}");
    for stream in &streams {
        let row = rows
            .iter()
            .find(|row| row.request_id() == stream.reply.request_id());
        let row = row.with_context(|| format!("{} has no row", stream.reply.id))?;
        ensure!(lost.iter().any(|name| name == row.writer()), "{row:?}");
        let heard = stream.reply.tokens.len() as u64;
        ensure!(
            row.number("completion_tokens")? >= heard,
            "{heard} were heard: {row:?}"
        );
    }
    Ok(())
}
