//! The world of one run: one bus, one network, workers with as many lives as they need, usage and its ledger.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use vlinders_bus::faults::{FaultPlan, Faults, FaultyBus};
use vlinders_bus::{Bus, InProcessBus, InProcessLimits, MemorySpools, StreamName, StreamRules, Subject};
use vlinders_kv_transfer::Endpoint;
use vlinders_service_kit::{Metrics, Stage, Tasks};
use vlinders_text::ModelText;
use vlinders_types::{Beacon, Pool, WorkerId};
use vlinders_usage::{UsageConfig, UsageParts};
use vlinders_wire::subjects;

use crate::clock::SkewedClock;
use crate::ledger::SimLedger;
use crate::network::Network;
use crate::random::Random;
use crate::scenario::{Crash, Scenario};
use crate::settling::end;
use crate::trace::Trace;

/// A worker that is asked to leave has so long, of which its sequences have what the scenario gives them.
pub(crate) const LEAVE_WITHIN: Duration = Duration::from_secs(6);

/// One life of a worker, or of the usage service.
pub(crate) struct Life {
    pub(crate) incarnation: u64,
    pub(crate) tasks: Tasks,
    pub(crate) bus: Arc<FaultyBus>,
    pub(crate) endpoint: Option<Arc<Endpoint>>,
}

/// Everything but the frontends.
pub(crate) struct World {
    pub(crate) scenario: Scenario,
    pub(crate) began: Instant,
    pub(crate) trace: Trace,
    pub(crate) network: Arc<Network>,
    pub(crate) text: Arc<ModelText>,
    pub(crate) ledger: Arc<SimLedger>,
    /// What goes on whoever is killed.
    pub(crate) hardware: Tasks,
    pub(crate) random: Random,
    pub(crate) is_healed: Arc<AtomicBool>,
    pub(crate) metrics: Metrics,
    pub(crate) workers: Vec<Option<Life>>,
    pub(crate) lives: u64,
    /// Where each worker spools, in all its lives.
    pub(crate) disks: Vec<MemorySpools>,
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) usage: Option<Life>,
    /// The last beacon of each worker.
    pub(crate) beacons: Arc<Mutex<BTreeMap<WorkerId, Beacon>>>,
    /// The frontends' ways to the bus.
    others: Vec<Arc<FaultyBus>>,
}

impl World {
    pub(crate) async fn new(scenario: Scenario, text: Arc<ModelText>, trace: Trace) -> Result<Self, String> {
        let bus: Arc<dyn Bus> = Arc::new(InProcessBus::new(InProcessLimits::default()));
        for (stream, max_messages) in [
            (StreamName::Requests, scenario.queue_messages),
            (StreamName::Usage, scenario.usage_messages),
            (StreamName::DeadLetters, 10_000),
        ] {
            let rules = StreamRules {
                max_messages,
                max_age: Duration::from_secs(3_600),
                dedup_window: Duration::from_secs(120),
            };
            bus.ensure_stream(stream, rules).await.map_err(text_of)?;
        }
        let mut random = Random::new(scenario.seed ^ 0x5EED);
        let hardware = Tasks::new();
        let mut world = Self {
            began: Instant::now(),
            trace,
            network: Network::new(hardware.clone(), random.fork(), scenario.wires),
            text,
            ledger: Arc::new(SimLedger::new(random.number(), scenario.ledger_failing)),
            hardware,
            random,
            is_healed: Arc::default(),
            metrics: Metrics::default(),
            workers: scenario.shapes.iter().map(|_| None).collect(),
            lives: 0,
            disks: disks(&scenario),
            bus,
            usage: None,
            others: Vec::new(),
            beacons: Arc::default(),
            scenario,
        };
        world.watch_beacons().await?;
        for worker in 0..world.workers.len() {
            world.start_worker(worker).await?;
        }
        world.start_usage().await?;
        Ok(world)
    }

    async fn watch_beacons(&self) -> Result<(), String> {
        for pool in [Pool::Prefill, Pool::Decode] {
            let pattern = Subject::new(subjects::beacons_of(pool));
            let mut heard = self.bus.subscribe(&pattern).await.map_err(text_of)?;
            let beacons = Arc::clone(&self.beacons);
            self.hardware.spawn(Stage::Store, "beacons", async move {
                while let Some(incoming) = heard.next().await {
                    if let Ok(beacon) = vlinders_wire::decode_beacon(&incoming.payload) {
                        let mut beacons = beacons.lock().unwrap_or_else(PoisonError::into_inner);
                        beacons.insert(beacon.worker.clone(), beacon);
                    }
                }
            });
        }
        Ok(())
    }

    pub(crate) fn clock(&self, skew_ms: i64) -> SkewedClock {
        SkewedClock::new(self.began, skew_ms)
    }

    /// A way to the bus with luck of its own.
    pub(crate) fn way_to_bus(&mut self) -> Arc<FaultyBus> {
        let plan = if self.is_healed.load(Ordering::Relaxed) {
            FaultPlan::new()
        } else {
            self.scenario.plan.clone()
        };
        Arc::new(FaultyBus::new(Arc::clone(&self.bus), self.random.number(), plan))
    }

    /// A frontend's way to the bus.
    pub(crate) fn frontend_bus(&mut self) -> Arc<dyn Bus> {
        let bus = self.way_to_bus();
        self.others.push(Arc::clone(&bus));
        bus
    }

    pub(crate) fn worker_id(&self, worker: usize) -> WorkerId {
        let role = self.scenario.shapes[worker].role.name();
        WorkerId::new(&format!("{role}-{worker}"))
    }

    pub(crate) async fn start_usage(&mut self) -> Result<(), String> {
        if self.usage.is_some() {
            return Ok(());
        }
        let life = Life {
            incarnation: 0,
            tasks: Tasks::new(),
            bus: self.way_to_bus(),
            endpoint: None,
        };
        let config = UsageConfig {
            batch: 4,
            ack_wait: Duration::from_secs(3),
            ..UsageConfig::default()
        };
        let parts = UsageParts {
            bus: life.bus.clone(),
            ledger: self.ledger.clone(),
            tasks: life.tasks.clone(),
            metrics: Metrics::default(),
            clock: Arc::new(self.clock(0)),
        };
        self.usage = Some(life);
        vlinders_usage::start(config, parts).await.map_err(text_of)
    }

    pub(crate) async fn kill_usage(&mut self) -> Result<(), String> {
        match self.usage.take() {
            Some(life) => end(life).await,
            None => Ok(()),
        }
    }

    pub(crate) async fn crash(&mut self, worker: usize, how: Crash) -> Result<(), String> {
        let Some(life) = self.workers[worker].take() else {
            return Ok(());
        };
        self.trace
            .note(format_args!("{} goes down: {how:?}", self.worker_id(worker)));
        match how {
            Crash::Killed => self.network.killed(life.incarnation),
            Crash::PoweredOff => self.network.cut(life.incarnation),
        }
        self.beacons
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.worker_id(worker));
        end(life).await?;
        if how == Crash::PoweredOff && !self.scenario.has_one_disk {
            self.disks[worker].lose_power();
        }
        Ok(())
    }

    pub(crate) fn set_disk_full(&self, worker: usize, is_full: bool) {
        self.trace.note(format_args!(
            "the disk of {} is full: {is_full}",
            self.worker_id(worker)
        ));
        self.disks[worker].set_full(is_full);
    }

    /// Asks a worker to leave and waits until it has; one that cannot, since it is cut off, is killed.
    pub(crate) async fn leave(&mut self, worker: usize) -> Result<(), String> {
        let Some(life) = self.workers[worker].take() else {
            return Ok(());
        };
        let id = self.worker_id(worker);
        self.trace.note(format_args!("{id} is asked to leave"));
        let stopped = life.tasks.stop(LEAVE_WITHIN).await;
        self.trace.note(format_args!("{id} has left: {stopped:?}"));
        if stopped.is_ok()
            && let Some(endpoint) = &life.endpoint
            && endpoint.open_hand_offs() != Default::default()
        {
            return Err(format!("{id} left {:?} behind", endpoint.open_hand_offs()));
        }
        self.workers[worker] = Some(life);
        self.crash(worker, Crash::Killed).await
    }

    pub(crate) fn partition(&self, worker: usize, bus: bool, wires: bool) {
        let Some(life) = &self.workers[worker] else { return };
        self.trace.note(format_args!(
            "{} is cut off: bus {bus}, wires {wires}",
            self.worker_id(worker)
        ));
        if bus {
            life.bus.set_plan(vec![(Subject::new(">"), Faults::CUT)]);
        }
        if wires {
            self.network.cut(life.incarnation);
        }
    }

    pub(crate) fn mend(&self, worker: usize) {
        let Some(life) = &self.workers[worker] else { return };
        self.trace
            .note(format_args!("{} is connected again", self.worker_id(worker)));
        life.bus.set_plan(self.scenario.plan.clone());
        self.network.mend(life.incarnation);
    }

    /// Nothing goes wrong any more, and everybody is there.
    pub(crate) async fn heal(&mut self) -> Result<(), String> {
        self.trace.note(format_args!("everything heals"));
        self.is_healed.store(true, Ordering::Relaxed);
        self.network.heal();
        self.ledger.heal();
        for disk in &self.disks {
            disk.set_full(false);
        }
        for worker in 0..self.workers.len() {
            match &self.workers[worker] {
                Some(life) => {
                    life.bus.heal();
                    self.network.mend(life.incarnation);
                }
                None => {
                    let is_up = self.start_worker(worker).await?;
                    assert!(is_up, "all disks are whole");
                }
            }
        }
        for bus in &self.others {
            bus.heal();
        }
        match &self.usage {
            Some(life) => life.bus.heal(),
            None => self.start_usage().await?,
        }
        Ok(())
    }
}

fn disks(scenario: &Scenario) -> Vec<MemorySpools> {
    let shared = MemorySpools::default();
    let disk = |_| {
        let disk = if scenario.has_one_disk {
            shared.clone()
        } else {
            MemorySpools::default()
        };
        disk.set_time(scenario.disk_time);
        disk
    };
    scenario.shapes.iter().map(disk).collect()
}

pub(crate) fn text_of(error: impl std::fmt::Display) -> String {
    error.to_string()
}
