//! What others tell a worker beside work: cancellations, and which frontends are alive.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use vlinders_bus::{Subject, Subscription};
use vlinders_types::{FrontendId, WorkerId};
use vlinders_wire::subjects::{self, WorkerCall};

use crate::core::Command;

/// A frontend silent for this long is gone, and nobody reads what it asked for.
const FRONTEND_SILENCE: Duration = Duration::from_secs(5);

/// Where cancellations for this worker arrive.
pub(crate) fn cancel_subject(worker: &WorkerId) -> Subject {
    Subject::new(subjects::worker_subject(worker, WorkerCall::Cancel))
}

/// Passes cancellations on until told to stop.
pub(crate) async fn pass_cancellations(
    mut cancels: Box<dyn Subscription>,
    commands: mpsc::Sender<Command>,
    stopping: CancellationToken,
) {
    loop {
        let incoming = tokio::select! {
            biased;
            () = stopping.cancelled() => return,
            incoming = cancels.next() => incoming,
        };
        let Some(incoming) = incoming else { return };
        match vlinders_wire::decode_cancel(&incoming.payload) {
            Ok(cancel) => {
                if commands.send(Command::Cancel(cancel)).await.is_err() {
                    return;
                }
            }
            Err(error) => tracing::warn!(%error, "unreadable cancellation"),
        }
    }
}

/// Notices frontends that fall silent. One that was never heard is not known to be gone.
pub(crate) async fn watch_frontends(
    mut heartbeats: Box<dyn Subscription>,
    commands: mpsc::Sender<Command>,
    stopping: CancellationToken,
) {
    let mut heard: BTreeMap<FrontendId, Instant> = BTreeMap::new();
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = stopping.cancelled() => return,
            incoming = heartbeats.next() => {
                let Some(incoming) = incoming else { return };
                match vlinders_wire::decode_heartbeat(&incoming.payload) {
                    Ok(heartbeat) => { heard.insert(heartbeat.frontend, Instant::now()); }
                    Err(error) => tracing::warn!(%error, "unreadable heartbeat"),
                }
            }
            _ = ticks.tick() => {
                for frontend in silent(&mut heard) {
                    tracing::warn!(%frontend, "frontend gone; its requests are cancelled");
                    if commands.send(Command::FrontendGone(frontend)).await.is_err() {
                        return;
                    }
                }
            }
        }
    }
}

/// Takes out of `heard` those that have been silent too long.
fn silent(heard: &mut BTreeMap<FrontendId, Instant>) -> Vec<FrontendId> {
    let now = Instant::now();
    let gone: Vec<_> = heard
        .iter()
        .filter(|(_, last)| now.duration_since(**last) >= FRONTEND_SILENCE)
        .map(|(frontend, _)| frontend.clone())
        .collect();
    for frontend in &gone {
        heard.remove(frontend);
    }
    gone
}

/// Tells the loop to leave when the process does: first gently, and after `limit` at once.
pub(crate) async fn drain(commands: mpsc::Sender<Command>, limit: Duration, stopping: CancellationToken) {
    stopping.cancelled().await;
    if commands.send(Command::Drain).await.is_err() {
        return;
    }
    tokio::select! {
        biased;
        () = commands.closed() => {}
        () = tokio::time::sleep(limit) => {
            let _loop_gone = commands.send(Command::DrainExpired).await;
        }
    }
}
