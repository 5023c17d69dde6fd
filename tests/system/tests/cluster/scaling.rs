//! Workers come and go under load.

use std::time::{Duration, Instant};

use anyhow::ensure;
use vlinders_system_tests::{Cluster, Load, Reference, Role, until};

use crate::{Checked, ONE_THREAD, allowing_for, in_turn, judged, plan, subjects};

const VISITORS: usize = 16;
/// A new worker has work by then.
const TAKES_LOAD: Duration = Duration::from_secs(2);

/// One worker of this role, then three, then one.
async fn one_three_one(role: Role) -> Checked {
    let subjects = [subjects::mixed(), subjects::long_prompts()].concat();
    let reference = Reference::of(&subjects, &ONE_THREAD).await?;
    let mut cluster = Cluster::start(plan().with_count(role, 1)).await?;
    let frontends = cluster.frontends()?;
    let mut load = Load::new(&subjects);
    for visitor in 0..VISITORS {
        load.keep_asking(in_turn(&frontends, visitor), visitor as u64);
    }
    load.answers(VISITORS).await?;
    for _ in 0..2 {
        let name = cluster.add(role).await?;
        let begun = Instant::now();
        until(async || {
            let rows = cluster.metrics(&name).await?.sum("vlinders_step_rows_count")?;
            ensure!(rows > 0.0, "{name} has had no work yet");
            Ok(())
        })
        .await?;
        let took = begun.elapsed();
        println!("{name} had work after {} ms", took.as_millis());
        ensure!(
            took < allowing_for(load.longest_delay(), TAKES_LOAD),
            "{name} waited for {} ms",
            took.as_millis()
        );
    }
    load.answers(VISITORS).await?;
    // The first goes too: who came later has to carry everything.
    for name in &cluster.names(role)[..2] {
        cluster.leave(name).await?;
        load.answers(VISITORS).await?;
    }
    judged(cluster, load, &reference).await?;
    Ok(())
}

#[tokio::test]
async fn prefill_workers_come_and_go() -> Checked {
    one_three_one(Role::Prefill).await
}

#[tokio::test]
async fn decode_workers_come_and_go() -> Checked {
    one_three_one(Role::Decode).await
}
