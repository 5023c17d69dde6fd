//! What one seed does to the world: how it is built, what is asked of it, and everything that goes wrong and when.

use std::time::Duration;

use vlinders_bus::Subject;
use vlinders_bus::faults::{FaultPlan, Faults};
use vlinders_worker::{Parting, Role};

use crate::network::WireFaults;
use crate::random::Random;
use crate::requests::{LEAST_BLOCKS, NUMBERS};
use crate::world::LEAVE_WITHIN;

/// How a worker is made, in each of its lives.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) role: Role,
    pub(crate) blocks: u32,
    pub(crate) max_running: u32,
    pub(crate) chunk_tokens: u32,
    pub(crate) caching: bool,
    pub(crate) step_us: u64,
    pub(crate) skew_ms: i64,
}

/// One request that arrives.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival {
    pub(crate) at: Duration,
    pub(crate) serial: u64,
    pub(crate) number: u64,
    pub(crate) deadline_ms: u64,
    pub(crate) cancel_after: Option<Duration>,
}

/// How a worker goes down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Crash {
    /// The process is killed; its machine closes the wires.
    Killed,
    /// The machine is off: nobody is told.
    PoweredOff,
}

/// One thing that goes wrong.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Mishap {
    /// A worker goes down after so many further turns of the runtime, and comes back later.
    Crash {
        worker: usize,
        how: Crash,
        turns: u64,
        down: Duration,
    },
    /// A worker is asked to leave while it works, and comes back later.
    Leave { worker: usize, down: Duration },
    /// A worker is cut off from the bus, from its peers, or from both.
    Partition {
        worker: usize,
        bus: bool,
        wires: bool,
        length: Duration,
    },
    /// The disk of a worker takes nothing for a while.
    FullDisk { worker: usize, length: Duration },
    /// The usage service is killed and starts again.
    UsageCrash { turns: u64, down: Duration },
}

/// Everything that follows from a seed.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    pub(crate) seed: u64,
    /// Nothing at all goes wrong: what is only promised then is checked too.
    pub(crate) is_calm: bool,
    /// Only workers crash, and a request nobody answered is left to the queue.
    pub(crate) trusts_queue: bool,
    /// Workers are asked to leave, one after the other, and nothing else goes wrong.
    pub(crate) only_leaves: bool,
    /// How long a worker that is asked to leave may go on with what it has begun, and what then becomes of it.
    pub(crate) drain_limit: Duration,
    pub(crate) parting: Parting,
    pub(crate) shapes: Vec<Shape>,
    pub(crate) frontends: Vec<Vec<Arrival>>,
    pub(crate) plan: FaultPlan,
    pub(crate) wires: WireFaults,
    /// Steps that take seconds, as on a machine that was stopped for a while.
    pub(crate) hiccup: f64,
    pub(crate) ledger_failing: f64,
    pub(crate) queue_messages: u64,
    pub(crate) usage_messages: u64,
    pub(crate) ack_wait: Duration,
    pub(crate) max_deliver: u32,
    pub(crate) mishaps: Vec<(Duration, Mishap)>,
    /// All workers spool on the disk of one host; otherwise each has its own, which its next life finds.
    pub(crate) has_one_disk: bool,
    /// How long a call to a disk takes.
    pub(crate) disk_time: Duration,
    /// Spools sync what they keep at once. Where they do not, no machine loses power.
    pub(crate) syncs: bool,
    /// Spools forget a bill only when the ledger has it.
    pub(crate) waits_for_ledger: bool,
    /// From here on nothing goes wrong any more.
    pub(crate) heal_at: Duration,
}

impl Scenario {
    pub(crate) fn draw(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let is_calm = random.one_in(8);
        let trusts_queue = !is_calm && random.one_in(6);
        let only_leaves = !is_calm && !trusts_queue && random.one_in(4);
        let is_orderly = is_calm || only_leaves;
        let heal_at = random.millis(4_000, 20_000);
        let shapes = shapes(&mut random.fork(), is_orderly, only_leaves);
        let mut scenario = Self {
            seed,
            is_calm,
            trusts_queue,
            only_leaves,
            drain_limit: Duration::ZERO,
            parting: Parting::HandBack,
            frontends: arrivals(&mut random.fork(), is_orderly, heal_at),
            plan: FaultPlan::new(),
            wires: WireFaults::default(),
            hiccup: 0.0,
            ledger_failing: 0.0,
            queue_messages: 10_000,
            usage_messages: 10_000,
            ack_wait: Duration::from_secs(10),
            max_deliver: 3,
            mishaps: Vec::new(),
            has_one_disk: false,
            syncs: false,
            disk_time: Duration::ZERO,
            waits_for_ledger: false,
            shapes,
            heal_at,
        };
        let mut random = random.fork();
        scenario.has_one_disk = random.one_in(2);
        scenario.waits_for_ledger = random.one_in(2);
        scenario.disk_time = Duration::from_millis(random.pick(&[0, 0, 1, 20, 300]));
        scenario.drain_limit = Duration::from_millis(random.pick(&[0, 30, 300, 2_000]));
        if only_leaves {
            scenario.ack_wait = Duration::from_secs(60);
            scenario.leave(&mut random);
        } else if trusts_queue {
            scenario.ack_wait = Duration::from_millis(1_500);
            // A prefill worker may go down with a request more often than poison would.
            scenario.max_deliver = 1_000;
            scenario.crash_prefill(&mut random);
        } else if !is_calm {
            scenario.go_wrong(&mut random);
        }
        let loses_power = |(_, mishap): &(Duration, Mishap)| {
            matches!(
                mishap,
                Mishap::Crash {
                    how: Crash::PoweredOff,
                    ..
                }
            )
        };
        scenario.syncs = scenario.mishaps.iter().any(loses_power);
        scenario
    }

    fn crash_prefill(&mut self, random: &mut Random) {
        let takers: Vec<usize> = (0..self.shapes.len())
            .filter(|worker| self.shapes[*worker].role.takes_requests())
            .collect();
        for _ in 0..random.between(2, 6) {
            let crash = Mishap::Crash {
                worker: random.pick(&takers),
                how: Crash::Killed,
                turns: random.below(100),
                down: random.millis(200, 2_000),
            };
            self.mishaps.push((random.millis(50, 5_000), crash));
        }
    }

    /// One worker at a time is away, so that there always is another.
    fn leave(&mut self, random: &mut Random) {
        let mut at = random.millis(50, 2_000);
        while at < self.heal_at {
            let worker = random.index(self.shapes.len());
            let down = random.millis(0, 500);
            self.mishaps.push((at, Mishap::Leave { worker, down }));
            at += LEAVE_WITHIN + down + random.millis(0, 1_500);
        }
    }

    fn go_wrong(&mut self, random: &mut Random) {
        if random.one_in(4) {
            self.parting = Parting::End;
        }
        let level = |random: &mut Random, most: u64| {
            if random.one_in(2) {
                random.below(most) as f64 / 1_000.0
            } else {
                0.0
            }
        };
        let core = Faults {
            drop: level(random, 80),
            duplicate: level(random, 100),
            delay: level(random, 200),
            reorder: level(random, 200),
            max_delay: random.millis(1, 400),
            refuse: level(random, 80),
            lose_confirmation: level(random, 80),
            lose_settlement: 0.0,
        };
        let queue = Faults {
            drop: level(random, 100),
            refuse: level(random, 200),
            lose_confirmation: level(random, 200),
            lose_settlement: level(random, 300),
            ..Faults::default()
        };
        self.plan = vec![
            (Subject::new("vl.req.>"), queue),
            (Subject::new("vl.usage.>"), queue),
            (Subject::new("vl.dlq.>"), queue),
            (Subject::new(">"), core),
        ];
        self.wires = WireFaults {
            corrupt: level(random, 150),
            stall: level(random, 150),
            longest_stall_ms: random.between(5, 8_000),
        };
        self.hiccup = level(random, 6);
        self.ledger_failing = level(random, 400);
        if random.one_in(3) {
            self.queue_messages = random.between(2, 12);
        }
        if random.one_in(4) {
            self.usage_messages = random.between(1, 8);
        }
        if random.one_in(2) {
            self.ack_wait = random.millis(300, 4_000);
        }
        self.max_deliver = u32::try_from(random.between(2, 5)).expect("small");
        for _ in 0..random.below(6) {
            let mishap = self.mishap(random);
            let latest = u64::try_from(self.heal_at.as_millis()).expect("short");
            self.mishaps.push((random.millis(50, latest), mishap));
        }
    }

    fn mishap(&self, random: &mut Random) -> Mishap {
        let worker = random.index(self.shapes.len());
        match random.below(8) {
            0..=2 => Mishap::Crash {
                worker,
                how: random.pick(&[Crash::Killed, Crash::PoweredOff]),
                turns: random.below(200),
                down: random.millis(0, 4_000),
            },
            3 | 4 => {
                let (bus, wires) = random.pick(&[(true, false), (false, true), (true, true)]);
                Mishap::Partition {
                    worker,
                    bus,
                    wires,
                    length: random.millis(100, 9_000),
                }
            }
            5 => Mishap::Leave {
                worker,
                down: random.millis(0, 2_000),
            },
            6 => Mishap::FullDisk {
                worker,
                length: random.millis(100, 6_000),
            },
            _ => Mishap::UsageCrash {
                turns: random.below(20),
                down: random.millis(0, 2_000),
            },
        }
    }
}

fn shapes(random: &mut Random, is_orderly: bool, has_two_of_each: bool) -> Vec<Shape> {
    let mut roles = match random.below(5) {
        0 => vec![Role::Both],
        _ => vec![Role::Prefill, Role::Decode],
    };
    if has_two_of_each {
        roles.extend(roles.clone());
    }
    for _ in 0..random.below(3) {
        let more = if roles[0] == Role::Both {
            Role::Both
        } else {
            random.pick(&[Role::Prefill, Role::Decode])
        };
        roles.push(more);
    }
    let is_tiny = random.one_in(3);
    let mut shape = |role| Shape {
        role,
        blocks: if is_tiny {
            LEAST_BLOCKS + u32::try_from(random.below(12)).expect("small")
        } else {
            256
        },
        max_running: if random.one_in(3) { 3 } else { 32 },
        chunk_tokens: random.pick(&[16, 48, 128]),
        caching: !random.one_in(3),
        step_us: random.between(500, 20_000),
        skew_ms: if is_orderly {
            0
        } else {
            i64::try_from(random.below(4_000)).expect("small") - 2_000
        },
    };
    roles.into_iter().map(&mut shape).collect()
}

fn arrivals(random: &mut Random, is_orderly: bool, heal_at: Duration) -> Vec<Vec<Arrival>> {
    let mut frontends = vec![Vec::new(); random.index(2) + 1];
    let spread_ms = u64::try_from(heal_at.as_millis()).expect("short") * 3 / 4;
    let burst_ms = random.pick(&[50, 1_000, spread_ms]);
    for serial in 0..random.between(4, 24) {
        let arrival = Arrival {
            at: random.millis(0, burst_ms),
            serial,
            number: random.below(NUMBERS),
            deadline_ms: if is_orderly || !random.one_in(6) {
                150_000
            } else {
                random.between(2_000, 40_000)
            },
            cancel_after: (!is_orderly && random.one_in(6)).then(|| random.millis(0, 3_000)),
        };
        let frontend = random.index(frontends.len());
        frontends[frontend].push(arrival);
    }
    for arrivals in &mut frontends {
        arrivals.sort_by_key(|arrival| arrival.at);
    }
    frontends
}
