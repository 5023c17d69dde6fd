//! Tests of the roles as processes of their own, with real servers between them: one file for each topic.

mod bad_start;
mod batches;
mod clients;
mod crowd;
mod hang;
mod keys;
mod outages;
mod scaling;
mod servers;
mod shared_limit;
mod subjects;
mod tap;
mod trace;
mod workers;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::ensure;
use vlinders_system_tests::{Client, Cluster, History, Load, Plan, Reference, Role, until};

/// Tests end with the first thing that is not as it should be.
type Checked = anyhow::Result<()>;

/// All processes share the machine, and threads that wait for one another are slow on a busy one.
const ONE_THREAD: [&str; 4] = ["--backend", "cpu", "--threads", "1"];

/// The demo model on CPU kernels.
fn plan() -> Plan {
    Plan::new().with_worker_arguments(&ONE_THREAD)
}

/// Why a frontend gave up an attempt, as its metric says.
const REASONS: [&str; 8] = [
    "handed_back",
    "left",
    "silent",
    "no_responders",
    "restarted",
    "gap",
    "hand_over",
    "unanswered",
];

/// What a test that passed may still ask about.
struct Verdict {
    history: History,
    /// Attempts given up, by reason.
    moved: BTreeMap<&'static str, f64>,
}

/// Waits until everything asked for has been answered and billed, stops the cluster and judges.
async fn judged(mut cluster: Cluster, load: Load, reference: &Reference) -> anyhow::Result<Verdict> {
    let answers = load.end().await?;
    cluster.settled().await?;
    until(async || {
        let rows = cluster.rows().await?.len();
        let asked = answers.heard.len();
        ensure!(rows >= asked, "{rows} rows of {asked} requests");
        Ok(())
    })
    .await?;
    let moved = failovers(&cluster).await?;
    cluster.stop().await?;
    for (name, log) in cluster.logs()? {
        let told = subjects::WORDS.iter().find(|word| log.contains(**word));
        ensure!(told.is_none(), "the log of {name} holds {told:?}");
    }
    // Read again: whatever a process still had to say about usage, it has said by now.
    let rows = cluster.rows().await?;
    let history = History { answers, rows };
    println!(
        "{} requests, {} refusals, longest silence {} ms, clients late by {} ms, attempts given up: {moved:?}",
        history.answers.heard.len(),
        history.refusals(),
        history.longest_gap().as_millis(),
        history.answers.longest_delay.as_millis()
    );
    let judged = history.check(reference);
    if judged.is_err() {
        cluster.show_logs();
    }
    judged?;
    Ok(Verdict { history, moved })
}

async fn failovers(cluster: &Cluster) -> anyhow::Result<BTreeMap<&'static str, f64>> {
    let mut all = BTreeMap::new();
    for reason in REASONS {
        let label = format!("reason=\"{reason}\"");
        let count = counted(cluster, Role::Frontend, "vlinders_failovers_total", &label).await?;
        if count > 0.0 {
            all.insert(reason, count);
        }
    }
    Ok(all)
}

/// As long as something may take, where these clients had to wait so long for the machine: the processes do too.
fn allowing_for(delay: Duration, limit: Duration) -> Duration {
    limit + 4 * delay
}

/// The sum over all processes of a role of the samples with this label.
async fn counted(cluster: &Cluster, role: Role, name: &str, label: &str) -> anyhow::Result<f64> {
    let all = cluster.metrics_of(role).await?;
    Ok(all
        .iter()
        .map(|(_, samples)| samples.sum_where(name, label))
        .sum())
}

/// The next of these clients, in turn.
fn in_turn(clients: &[Client], index: usize) -> &Client {
    &clients[index % clients.len()]
}
