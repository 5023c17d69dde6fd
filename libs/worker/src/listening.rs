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
/// A worker that does not even hear its own beacons for this long, many of them, is cut off.
const DEAF: Duration = Duration::from_secs(2);

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

/// Notices frontends that fall silent. `echo` brings this worker's own beacons: who does not hear itself is cut off, and
/// knows nothing of others.
pub(crate) async fn watch_frontends(
    mut heartbeats: Box<dyn Subscription>,
    mut echo: Box<dyn Subscription>,
    commands: mpsc::Sender<Command>,
    stopping: CancellationToken,
) {
    let mut hearing = Hearing::default();
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = stopping.cancelled() => return,
            incoming = heartbeats.next() => {
                let Some(incoming) = incoming else { return };
                match vlinders_wire::decode_heartbeat(&incoming.payload) {
                    Ok(heartbeat) => hearing.hear(heartbeat.frontend),
                    Err(error) => tracing::warn!(%error, "unreadable heartbeat"),
                }
            }
            incoming = echo.next() => {
                if incoming.is_none() {
                    return;
                }
                hearing.hear_anything();
            }
            _ = ticks.tick() => {
                for frontend in hearing.silent() {
                    tracing::warn!(%frontend, "frontend gone; its requests are cancelled");
                    if commands.send(Command::FrontendGone(frontend)).await.is_err() {
                        return;
                    }
                }
            }
        }
    }
}

/// Who was heard when. One that was never heard is not known to be gone.
#[derive(Default)]
struct Hearing {
    frontends: BTreeMap<FrontendId, Instant>,
    /// The last sign of anybody, ourselves among them.
    last: Option<Instant>,
}

impl Hearing {
    fn hear(&mut self, frontend: FrontendId) {
        self.hear_anything();
        self.frontends.insert(frontend, Instant::now());
    }

    fn hear_anything(&mut self) {
        let now = Instant::now();
        if self.is_deaf(now) {
            // What was said meanwhile was not heard: everybody's silence counts from now on.
            for heard in self.frontends.values_mut() {
                *heard = now;
            }
        }
        self.last = Some(now);
    }

    fn is_deaf(&self, now: Instant) -> bool {
        self.last.is_none_or(|last| now.duration_since(last) >= DEAF)
    }

    /// Takes out those that have been silent too long.
    fn silent(&mut self) -> Vec<FrontendId> {
        let now = Instant::now();
        if self.is_deaf(now) {
            return Vec::new();
        }
        let gone: Vec<_> = self
            .frontends
            .iter()
            .filter(|(_, heard)| now.duration_since(**heard) >= FRONTEND_SILENCE)
            .map(|(frontend, _)| frontend.clone())
            .collect();
        for frontend in &gone {
            self.frontends.remove(frontend);
        }
        gone
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn frontend() -> FrontendId {
        FrontendId::new("f")
    }

    /// So many seconds in which only the echo is heard.
    async fn alone(hearing: &mut Hearing, seconds: u32) {
        for _ in 0..seconds {
            tokio::time::advance(SECOND).await;
            hearing.hear_anything();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_frontend_that_is_silent_while_we_hear_ourselves_is_gone_once() {
        let mut hearing = Hearing::default();
        hearing.hear(frontend());
        alone(&mut hearing, 4).await;
        assert_eq!(hearing.silent(), []);
        alone(&mut hearing, 1).await;
        assert_eq!(hearing.silent(), [frontend()]);
        assert_eq!(hearing.silent(), []);
    }

    #[tokio::test(start_paused = true)]
    async fn who_hears_nothing_takes_nobody_for_gone_and_counts_anew() {
        let mut hearing = Hearing::default();
        hearing.hear(frontend());
        tokio::time::advance(60 * SECOND).await;
        assert_eq!(hearing.silent(), [], "we are cut off");
        hearing.hear_anything();
        assert_eq!(hearing.silent(), [], "we were cut off a moment ago");
        alone(&mut hearing, 4).await;
        assert_eq!(hearing.silent(), []);
        alone(&mut hearing, 1).await;
        assert_eq!(hearing.silent(), [frontend()]);
    }
}
