//! A worker whose engine does not come back, and one whose device fails.

use anyhow::{bail, ensure};
use serde_json::{Value, json};
use vlinders_system_tests::{Cluster, Load, Plan, Reference, Role, until};

use crate::{Checked, in_turn, judged, subjects};

const STREAMS: usize = 20;

/// One of each. A step of prefill takes an hour, and a second is what a step may take.
fn plan() -> Plan {
    let mut plan = Plan::new().with_worker_arguments(&["--backend", "sim", "--step-limit-s", "1"]);
    // The simulated engine's blocks lie in no memory that others could map.
    plan.transports = "tcp".to_owned();
    for role in [Role::Frontend, Role::Prefill, Role::Decode] {
        plan = plan.with_count(role, 1);
    }
    plan.with_arguments(Role::Prefill, &["--sim-step-us", "3600000000"])
}

/// What its `/live` says.
async fn alive(cluster: &Cluster, name: &str) -> anyhow::Result<(u16, Value)> {
    let answer = cluster
        .client(name)?
        .send("GET", "/live", &[], Vec::new())
        .await?;
    Ok((answer.status, answer.body))
}

#[tokio::test]
async fn a_worker_whose_engine_hangs_is_not_alive_and_leaves() -> Checked {
    let mut cluster = Cluster::start(plan()).await?;
    let frontend = cluster.frontends()?.remove(0);
    let body = json!({"model": cluster.model("frontend-0")?, "prompt": "Hang", "max_tokens": 4});
    let is_noticed = until(async || {
        let (status, body) = alive(&cluster, "prefill-0").await?;
        ensure!(status == 503, "it seems to be alive: {body}");
        Ok(body)
    });
    let told = tokio::select! {
        told = is_noticed => told?,
        answer = frontend.post("/v1/completions", &body) => bail!("somebody answered: {:?}", answer?.body),
    };
    ensure!(told["reason"] == "the engine hangs", "{told}");
    // Who has nothing to do does not hang.
    let (status, body) = alive(&cluster, "decode-0").await?;
    ensure!(status == 200, "{body}");
    let status = cluster.end("prefill-0").await?;
    ensure!(status.code() == Some(1), "it ended with {status}");
    cluster.stop().await
}

#[tokio::test]
async fn a_worker_whose_device_fails_leaves_and_others_go_on_with_its_streams() -> Checked {
    let sim = ["--backend", "sim"];
    let subjects = subjects::lengthy();
    let reference = Reference::of(&subjects, &sim).await?;
    let steps = ["--sim-step-us", "5000"];
    let mut plan = Plan::new().with_worker_arguments(&[sim, steps].concat());
    plan.transports = "tcp".to_owned();
    let plan = plan.with_arguments_of("decode-0", &["--sim-fail-after-steps", "20"]);
    let mut cluster = Cluster::start(plan).await?;
    let frontends = cluster.frontends()?;
    let mut load = Load::new(&subjects);
    for client in 0..STREAMS {
        load.ask(in_turn(&frontends, client), client % subjects.len(), true);
    }
    let status = cluster.end("decode-0").await?;
    ensure!(status.code() == Some(1), "it ended with {status}");
    let verdict = judged(cluster, load, &reference).await?;
    let handed_back = verdict.moved.get("handed_back").copied().unwrap_or_default();
    ensure!(
        handed_back > 0.0,
        "streams moved for other reasons: {:?}",
        verdict.moved
    );
    Ok(())
}
