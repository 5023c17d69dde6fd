//! Many clients at once, through every process of a cluster.

use anyhow::ensure;
use vlinders_system_tests::{Cluster, Load, Plan, Reference, Role, Switch};

use crate::{Checked, ONE_THREAD, counted, in_turn, judged, plan, subjects};

const CLIENTS: usize = 200;

async fn two_hundred_clients(plan: Plan) -> Checked {
    all_answered(plan, &ONE_THREAD, CLIENTS).await
}

/// So many clients of a cluster get what one process says, started with these arguments.
async fn all_answered(plan: Plan, alone: &[&str], clients: usize) -> Checked {
    let subjects = subjects::mixed();
    let reference = Reference::of(&subjects, alone).await?;
    let cluster = Cluster::start(plan).await?;
    let frontends = cluster.frontends()?;
    let mut load = Load::new(&subjects);
    for client in 0..clients {
        // Neither the frontend nor the way of delivery shall go with the subject.
        let is_streamed = !(client / subjects.len()).is_multiple_of(3);
        load.ask(
            in_turn(&frontends, client / subjects.len()),
            client % subjects.len(),
            is_streamed,
        );
    }
    load.answers(clients).await?;
    cluster.settled().await?;
    for role in [Role::Prefill, Role::Decode] {
        for (name, samples) in cluster.metrics_of(role).await? {
            let steps = samples.sum("vlinders_step_rows_count")?;
            ensure!(steps > 0.0, "{name} had nothing to do");
        }
    }
    let handed = counted(
        &cluster,
        Role::Prefill,
        "vlinders_hand_offs_total",
        "outcome=\"ok\"",
    )
    .await?;
    println!("{handed} hand-offs");
    ensure!(
        handed >= clients as f64 / 2.0,
        "only {handed} sequences changed hands"
    );
    judged(cluster, load, &reference).await?;
    Ok(())
}

fn over(transport: &str) -> Plan {
    let mut plan = plan();
    plan.transports = transport.to_owned();
    plan
}

#[tokio::test]
async fn two_hundred_clients_over_shared_memory() -> Checked {
    two_hundred_clients(over("shm")).await
}

#[tokio::test]
async fn two_hundred_clients_over_tcp() -> Checked {
    // With all that can be logged, none of which may be what clients say.
    two_hundred_clients(over("tcp").with_variable("LOG_LEVEL", "debug")).await
}

#[tokio::test]
async fn two_hundred_clients_of_workers_with_two_devices_each() -> Checked {
    let two = ["--tensor-parallel-size", "2"];
    let alone = [&ONE_THREAD[..], &two].concat();
    all_answered(over("tcp").with_worker_arguments(&two), &alone, CLIENTS).await
}

#[tokio::test]
async fn two_hundred_clients_with_every_process_on_a_host_of_its_own() -> Checked {
    if let Err(error) = Switch::new().await {
        // The runner shows what this test says even when it passes.
        println!("SKIPPED, this system does not let us make network namespaces: {error:#}");
        return Ok(());
    }
    let mut plan = over("tcp");
    plan.has_hosts = true;
    two_hundred_clients(plan).await
}
