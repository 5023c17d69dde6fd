//! Workers that are killed or asked to leave while they have work.

use std::time::Duration;

use anyhow::{bail, ensure};
use vlinders_system_tests::{Cluster, Load, Plan, Reference, Role, until};

use crate::{Checked, ONE_THREAD, Verdict, allowing_for, in_turn, judged, plan, subjects};

const STREAMS: usize = 20;
/// Silence of a worker that makes a frontend look elsewhere: who leaves in peace makes nobody wait for that.
const TIMEOUT: Duration = Duration::from_secs(3);
/// How a worker goes away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Goes {
    Killed,
    Asked,
    /// It stands still, and goes on when everybody has an answer.
    Stopped,
}

/// Twenty streams run, and a decode worker goes while it has some of them.
async fn a_decode_worker_goes(how: Goes, plan: Plan) -> anyhow::Result<Verdict> {
    let subjects = subjects::lengthy();
    let reference = Reference::of(&subjects, &ONE_THREAD).await?;
    let mut cluster = Cluster::start(plan).await?;
    let frontends = cluster.frontends()?;
    let mut load = Load::new(&subjects);
    for client in 0..STREAMS {
        load.ask(in_turn(&frontends, client / 4), client % subjects.len(), true);
    }
    load.streams_begun(STREAMS).await?;
    goes(&mut cluster, Role::Decode, how, STREAMS, &load).await?;
    judged(cluster, load, &reference).await
}

/// Twenty streams run and clients come with long prompts; a prefill worker goes while it has some of these.
async fn a_prefill_worker_goes(how: Goes) -> anyhow::Result<Verdict> {
    let mut subjects = subjects::long_prompts();
    let prompts = subjects.len();
    subjects.extend(subjects::lengthy());
    let reference = Reference::of(&subjects, &ONE_THREAD).await?;
    // With room for few, so that no worker takes all there are.
    let plan = plan().with_arguments(Role::Prefill, &["--max-num-seqs", "4"]);
    let mut cluster = Cluster::start(plan).await?;
    let frontends = cluster.frontends()?;
    let mut load = Load::new(&subjects);
    for client in 0..STREAMS {
        load.ask(in_turn(&frontends, client / 4), prompts + client % 4, true);
    }
    load.streams_begun(STREAMS).await?;
    for client in 0..4 * prompts {
        load.ask(in_turn(&frontends, client), client % prompts, true);
    }
    goes(&mut cluster, Role::Prefill, how, STREAMS + 4 * prompts, &load).await?;
    judged(cluster, load, &reference).await
}

/// Waits until a worker of this role has work, makes it go, and waits until all of the asked have their answers.
async fn goes(cluster: &mut Cluster, role: Role, how: Goes, asked: usize, load: &Load) -> Checked {
    let (name, had) = until(async || {
        for (name, samples) in cluster.metrics_of(role).await? {
            let had = samples.sum("vlinders_sequences_running")?;
            if had > 0.0 {
                return Ok((name, had));
            }
        }
        bail!("nobody has anything to do")
    })
    .await?;
    match how {
        Goes::Killed => cluster.kill(&name)?,
        Goes::Asked => cluster.signal(&name, "TERM")?,
        Goes::Stopped => cluster.signal(&name, "STOP")?,
    }
    let answered = load.answered();
    ensure!(answered < asked, "every stream was over");
    load.answers(asked - answered).await?;
    match how {
        Goes::Killed => {}
        Goes::Asked => {
            let status = cluster.end(&name).await?;
            ensure!(status.success(), "{name} ended with {status}");
        }
        Goes::Stopped => cluster.signal(&name, "CONT")?,
    }
    println!("{name} had {had} sequences, {answered} answers were over");
    Ok(())
}

fn nobody_waited(verdict: &Verdict) -> Checked {
    // Its own word moves streams, no patience of others.
    let is_its_word = |reason: &&str| matches!(*reason, "handed_back" | "left");
    ensure!(
        verdict.moved.keys().all(is_its_word),
        "streams were moved as if it had died: {:?}",
        verdict.moved
    );
    let gap = verdict.history.longest_gap();
    ensure!(
        gap < allowing_for(verdict.history.answers.longest_delay, TIMEOUT),
        "a stream was silent for {} ms: somebody waited for a timeout",
        gap.as_millis()
    );
    Ok(())
}

#[tokio::test]
async fn a_decode_worker_that_is_killed_loses_no_stream() -> Checked {
    a_decode_worker_goes(Goes::Killed, plan()).await?;
    Ok(())
}

#[tokio::test]
async fn a_decode_worker_that_is_asked_to_leave_ends_its_streams_first() -> Checked {
    nobody_waited(&a_decode_worker_goes(Goes::Asked, plan()).await?)
}

#[tokio::test]
async fn a_decode_worker_that_must_leave_at_once_hands_its_streams_over() -> Checked {
    let plan = plan().with_arguments(Role::Decode, &["--drain-s", "0"]);
    nobody_waited(&a_decode_worker_goes(Goes::Asked, plan).await?)
}

#[tokio::test]
async fn a_decode_worker_that_stands_still_loses_no_stream_and_says_nothing_when_it_goes_on() -> Checked {
    let verdict = a_decode_worker_goes(Goes::Stopped, plan()).await?;
    ensure!(verdict.moved.contains_key("silent"), "{:?}", verdict.moved);
    Ok(())
}

#[tokio::test]
async fn a_prefill_worker_that_is_killed_loses_no_stream() -> Checked {
    let verdict = a_prefill_worker_goes(Goes::Killed).await?;
    // Its word that it had taken them is why nobody waited until the queue lost patience.
    let is_noticed = |reason: &&str| verdict.moved.contains_key(*reason);
    ensure!(
        ["no_responders", "silent"].iter().any(is_noticed),
        "what it had taken was not moved: {:?}",
        verdict.moved
    );
    Ok(())
}

#[tokio::test]
async fn a_prefill_worker_that_is_asked_to_leave_loses_no_stream() -> Checked {
    nobody_waited(&a_prefill_worker_goes(Goes::Asked).await?)
}
