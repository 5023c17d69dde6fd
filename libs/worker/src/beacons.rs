//! Beacons: how full this worker is, told to others; and how full the others are, told to this one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use vlinders_bus::{Bus, Subject, Subscription};
use vlinders_scheduler::placement;
use vlinders_types::{Beacon, FrontendId, ModelName, Pool, WorkerId};

use crate::config::WorkerConfig;

/// A worker silent for this long counts as gone.
const SILENCE: Duration = Duration::from_secs(3);

/// How full a worker is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Load {
    pub(crate) free_blocks: u32,
    pub(crate) total_blocks: u32,
    pub(crate) running: u32,
    pub(crate) queued_tokens: u32,
    pub(crate) draining: bool,
    pub(crate) last_batch_seq: Vec<(FrontendId, u64)>,
}

/// The load as the loop last left it.
pub(crate) type SharedLoad = Arc<Mutex<Load>>;

/// Sends this worker's beacons until told to stop; the last one says that it leaves.
pub(crate) async fn send_beacons(
    bus: Arc<dyn Bus>,
    config: Arc<WorkerConfig>,
    load: SharedLoad,
    stopping: CancellationToken,
) {
    let mut ticks = tokio::time::interval(config.beacon_interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let leaving = tokio::select! {
            biased;
            () = stopping.cancelled() => true,
            _ = ticks.tick() => false,
        };
        for pool in config.role.pools() {
            let beacon = beacon(&config, *pool, &load, leaving);
            let subject = Subject::new(vlinders_wire::subjects::beacon_subject(*pool, &config.worker));
            if let Err(error) = bus.publish(&subject, vlinders_wire::encode_beacon(&beacon)).await {
                tracing::warn!(%error, "beacon not sent");
            }
        }
        if leaving {
            return;
        }
    }
}

fn beacon(config: &WorkerConfig, pool: Pool, load: &SharedLoad, leaving: bool) -> Beacon {
    let load = load.lock().unwrap_or_else(PoisonError::into_inner).clone();
    Beacon {
        pool,
        worker: config.worker.clone(),
        epoch: config.epoch,
        model: config.model.clone(),
        free_blocks: load.free_blocks,
        total_blocks: load.total_blocks,
        running: load.running,
        max_running: config.max_running,
        queued_tokens: load.queued_tokens,
        last_batch_seq: load.last_batch_seq,
        draining: load.draining || leaving,
    }
}

/// The decode workers this prefill worker knows.
pub(crate) struct BeaconBook {
    model: ModelName,
    seen: Mutex<HashMap<WorkerId, Seen>>,
}

struct Seen {
    beacon: Beacon,
    at: Instant,
    /// It refused or did not answer: not asked again before this.
    avoid_until: Instant,
}

impl BeaconBook {
    pub(crate) fn new(model: ModelName) -> Self {
        Self {
            model,
            seen: Mutex::default(),
        }
    }

    /// Listens to decode workers' beacons until told to stop.
    pub(crate) async fn listen(
        self: Arc<Self>,
        mut beacons: Box<dyn Subscription>,
        stopping: CancellationToken,
    ) {
        loop {
            let incoming = tokio::select! {
                biased;
                () = stopping.cancelled() => return,
                incoming = beacons.next() => incoming,
            };
            let Some(incoming) = incoming else { return };
            match vlinders_wire::decode_beacon(&incoming.payload) {
                Ok(beacon) => self.note(beacon),
                Err(error) => tracing::warn!(%error, "unreadable beacon"),
            }
        }
    }

    fn note(&self, beacon: Beacon) {
        if beacon.model != self.model {
            return;
        }
        let now = Instant::now();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.retain(|_, one| now.duration_since(one.at) < SILENCE);
        match seen.get_mut(&beacon.worker) {
            Some(known) if known.beacon.epoch > beacon.epoch => {}
            Some(known) => (known.beacon, known.at) = (beacon, now),
            None => {
                seen.insert(
                    beacon.worker.clone(),
                    Seen {
                        beacon,
                        at: now,
                        avoid_until: now,
                    },
                );
            }
        }
    }

    /// The decode worker to ask next; none when nobody known has room.
    pub(crate) fn choose(&self, needed_blocks: u32, random: u64) -> Option<WorkerId> {
        let now = Instant::now();
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let mut candidates: Vec<Beacon> = seen
            .values()
            .filter(|one| now.duration_since(one.at) < SILENCE && one.avoid_until <= now)
            .map(|one| one.beacon.clone())
            .collect();
        candidates.sort_by(|left, right| left.worker.cmp(&right.worker));
        let index = placement::choose(&candidates, needed_blocks, random)?;
        Some(candidates.swap_remove(index).worker)
    }

    /// Does not ask this worker again for a while.
    pub(crate) fn avoid(&self, worker: &WorkerId, pause: Duration) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(one) = seen.get_mut(worker) {
            one.avoid_until = Instant::now() + pause;
        }
    }
}
