//! Servers that are away for a while.

use std::time::Duration;

use anyhow::ensure;
use vlinders_system_tests::{Cluster, Load, Reference, Role};

use crate::{Checked, ONE_THREAD, in_turn, judged, plan, subjects};

const VISITORS: usize = 12;
/// How long the bus is away.
const BUS_AWAY: Duration = Duration::from_secs(2);
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
async fn a_bus_that_is_away_for_two_seconds_loses_no_accepted_request() -> Checked {
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
