//! Beacons: how full this worker is, told to others; and how full the others are, told to this one.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use vlinders_bus::{Bus, Subject, Subscription};
use vlinders_scheduler::placement::{self, Candidate};
use vlinders_types::{Beacon, FrontendId, ModelName, Pool, PrefixMark, Presence, WorkerId};

use crate::config::{Role, WorkerConfig};

/// A worker silent for this long counts as gone.
const SILENCE: Duration = Duration::from_secs(3);

/// Sequences remembered for each worker that took them.
const MAX_TAKEN: usize = 32;

/// How full a worker is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Load {
    pub(crate) free_blocks: u32,
    pub(crate) total_blocks: u32,
    pub(crate) running: u32,
    pub(crate) queued_tokens: u32,
    pub(crate) last_batch_seq: Vec<(FrontendId, u64)>,
    pub(crate) recent_prefixes: Arc<[PrefixMark]>,
}

/// The load as the loop last left it.
pub(crate) type SharedLoad = Arc<Mutex<Load>>;

/// What a worker's beacons depend on beside its load.
pub(crate) struct Departing {
    /// Cancelled when it is asked to leave.
    pub(crate) asked: CancellationToken,
    /// Cancelled when everything it had to say is said.
    pub(crate) gone: CancellationToken,
}

/// Sends this worker's beacons until it is gone: one at once when it is asked to leave, and a last one when it has left.
pub(crate) async fn send_beacons(
    bus: Arc<dyn Bus>,
    config: Arc<WorkerConfig>,
    load: SharedLoad,
    departing: Departing,
) {
    let mut ticks = tokio::time::interval(config.beacon_interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut presence = Presence::Serving;
    while presence != Presence::Left {
        presence = tokio::select! {
            biased;
            () = departing.gone.cancelled() => Presence::Left,
            () = departing.asked.cancelled(), if presence == Presence::Serving => Presence::Draining,
            _ = ticks.tick() => presence,
        };
        for pool in config.role.pools() {
            let beacon = beacon(&config, *pool, &load, presence);
            let subject = Subject::new(vlinders_wire::subjects::beacon_subject(*pool, &config.worker));
            if let Err(error) = bus.publish(&subject, vlinders_wire::encode_beacon(&beacon)).await {
                tracing::warn!(%error, "beacon not sent");
            }
        }
    }
}

/// Where this worker's own beacons come back to it.
pub(crate) fn own_beacons(config: &WorkerConfig) -> Subject {
    let pool = match config.role {
        Role::Prefill => Pool::Prefill,
        // One of two is enough for who is both.
        Role::Decode | Role::Both => Pool::Decode,
    };
    Subject::new(vlinders_wire::subjects::beacon_subject(pool, &config.worker))
}

fn beacon(config: &WorkerConfig, pool: Pool, load: &SharedLoad, presence: Presence) -> Beacon {
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
        presence,
        recent_prefixes: match pool {
            // The queue gives prompts to whoever has room: nobody chooses a prefill worker.
            Pool::Prefill => [].into(),
            Pool::Decode => load.recent_prefixes,
        },
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
    /// Sequences offered to it since its last beacon, and their blocks.
    placed: u32,
    placed_blocks: u32,
    /// Prefixes it is said to have.
    prefixes: HashSet<PrefixMark>,
    /// Whole sequences it took from here lately, oldest first: known before a beacon can tell of them.
    taken: VecDeque<PrefixMark>,
}

impl Seen {
    fn new(beacon: Beacon, at: Instant) -> Self {
        Self {
            prefixes: beacon.recent_prefixes.iter().copied().collect(),
            taken: VecDeque::new(),
            beacon,
            at,
            avoid_until: at,
            placed: 0,
            placed_blocks: 0,
        }
    }

    /// Leading blocks of a sequence with these `prefixes` that are likely in its pool.
    fn cached_blocks(&self, prefixes: &[PrefixMark]) -> u32 {
        let is_there = |mark: &PrefixMark| self.prefixes.contains(mark) || self.taken.contains(mark);
        let last = prefixes.iter().rposition(is_there);
        last.map_or(0, |index| u32::try_from(index + 1).unwrap_or(u32::MAX))
    }

    /// Its beacon as it may be now, with room for one more if there was.
    fn with_placed(&self, needed_blocks: u32) -> Beacon {
        let Beacon {
            running,
            max_running,
            free_blocks,
            ..
        } = self.beacon;
        let mut beacon = self.beacon.clone();
        if running < max_running {
            beacon.running = running.saturating_add(self.placed).min(max_running - 1);
        }
        let left = free_blocks.saturating_sub(self.placed_blocks);
        beacon.free_blocks = left.max(needed_blocks.min(free_blocks));
        beacon
    }
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
            Some(_) if beacon.presence == Presence::Left => {
                seen.remove(&beacon.worker);
            }
            Some(known) => {
                let is_same_life = known.beacon.epoch == beacon.epoch;
                let taken = std::mem::take(&mut known.taken);
                *known = Seen {
                    avoid_until: known.avoid_until,
                    taken: if is_same_life { taken } else { VecDeque::new() },
                    ..Seen::new(beacon, now)
                }
            }
            None if beacon.presence == Presence::Left => {}
            None => {
                seen.insert(beacon.worker.clone(), Seen::new(beacon, now));
            }
        }
    }

    /// The decode worker to ask next; none when nobody known has room. What was placed since a worker's last beacon adds
    /// to its load, so that a burst is spread; it never fills the worker, since some of it may have ended by now.
    /// `prefixes` are the names of the sequence's full blocks.
    pub(crate) fn choose(
        &self,
        needed_blocks: u32,
        prefixes: &[PrefixMark],
        random: u64,
    ) -> Option<WorkerId> {
        let now = Instant::now();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let mut candidates: Vec<Candidate> = seen
            .values()
            .filter(|one| now.duration_since(one.at) < SILENCE && one.avoid_until <= now)
            .map(|one| Candidate {
                beacon: one.with_placed(needed_blocks),
                cached_blocks: one.cached_blocks(prefixes),
            })
            .collect();
        candidates.sort_by(|left, right| left.beacon.worker.cmp(&right.beacon.worker));
        let index = placement::choose(&candidates, needed_blocks, random)?;
        let chosen = candidates.swap_remove(index).beacon.worker;
        if let Some(one) = seen.get_mut(&chosen) {
            one.placed += 1;
            one.placed_blocks = one.placed_blocks.saturating_add(needed_blocks);
        }
        Some(chosen)
    }

    /// This worker took a sequence with these `prefixes`.
    pub(crate) fn taken(&self, worker: &WorkerId, prefixes: &[PrefixMark]) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Some(one), Some(whole)) = (seen.get_mut(worker), prefixes.last()) {
            if one.taken.len() >= MAX_TAKEN {
                one.taken.pop_front();
            }
            one.taken.push_back(*whole);
        }
    }

    /// Does not ask this worker again for a while.
    pub(crate) fn avoid(&self, worker: &WorkerId, pause: Duration) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(one) = seen.get_mut(worker) {
            one.avoid_until = Instant::now() + pause;
        }
    }
}

#[cfg(test)]
mod tests {
    use vlinders_types::Epoch;

    use super::*;

    const NEEDED: u32 = 4;

    fn beacon(worker: &str) -> Beacon {
        Beacon {
            pool: Pool::Decode,
            worker: WorkerId::new(worker),
            epoch: Epoch(1),
            model: ModelName::new("m"),
            free_blocks: 100,
            total_blocks: 100,
            running: 0,
            max_running: 20,
            queued_tokens: 0,
            last_batch_seq: Vec::new(),
            presence: Presence::Serving,
            recent_prefixes: [].into(),
        }
    }

    fn placed(book: &BeaconBook, sequences: u64) -> HashMap<WorkerId, u32> {
        let mut counts = HashMap::new();
        for sequence in 0..sequences {
            let random = sequence.wrapping_mul(0x9E37_79B9_7F4A_7C15);
            if let Some(worker) = book.choose(NEEDED, &[], random) {
                *counts.entry(worker).or_default() += 1;
            }
        }
        counts
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_between_two_beacons_is_spread() {
        let book = BeaconBook::new(ModelName::new("m"));
        book.note(beacon("d1"));
        // This one looks a little better all the time.
        book.note(Beacon {
            total_blocks: 101,
            free_blocks: 101,
            ..beacon("d0")
        });
        let counts = placed(&book, 16);
        assert!(
            counts.len() == 2 && counts.values().all(|count| *count == 8),
            "{counts:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_placed_never_fills_a_worker_and_a_full_one_stays_full() {
        let book = BeaconBook::new(ModelName::new("m"));
        book.note(beacon("d0"));
        assert_eq!(placed(&book, 1000)[&WorkerId::new("d0")], 1000);
        book.note(Beacon {
            running: 20,
            ..beacon("d0")
        });
        assert_eq!(book.choose(NEEDED, &[], 0), None);
        book.note(Beacon {
            free_blocks: NEEDED - 1,
            ..beacon("d0")
        });
        assert_eq!(book.choose(NEEDED, &[], 0), None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_beacon_forgets_what_was_placed() {
        let book = BeaconBook::new(ModelName::new("m"));
        book.note(beacon("d0"));
        placed(&book, 10);
        book.note(beacon("d0"));
        book.note(Beacon {
            running: 1,
            ..beacon("d1")
        });
        assert_eq!(book.choose(NEEDED, &[], 0), Some(WorkerId::new("d0")));
    }

    #[tokio::test(start_paused = true)]
    async fn a_sequence_goes_where_its_prefix_is_said_to_be_or_went_a_moment_ago() {
        let book = BeaconBook::new(ModelName::new("m"));
        let prefixes = [1, 2, 3, 4].map(PrefixMark);
        for worker in ["d0", "d1", "d2"] {
            book.note(beacon(worker));
        }
        let goes_to = |worker: &str| {
            let randoms = (0..64u64).map(|seed| seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
            let mut chosen = randoms.filter_map(|random| book.choose(NEEDED, &prefixes, random));
            // One look only: what is placed adds to the load.
            chosen.next() == Some(WorkerId::new(worker))
        };
        book.note(Beacon {
            recent_prefixes: [PrefixMark(2)].into(),
            ..beacon("d1")
        });
        assert!(goes_to("d1"));
        book.taken(&WorkerId::new("d2"), &prefixes);
        assert!(goes_to("d2"), "the whole of it is there");
        book.note(beacon("d2"));
        assert!(goes_to("d2"), "a beacon may be older than what it took");
        book.note(Beacon {
            epoch: Epoch(2),
            ..beacon("d2")
        });
        assert!(goes_to("d1"), "a new life has nothing");
    }
}
