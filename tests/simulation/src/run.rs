//! One run from its seed to its verdict.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::sleep_until;
use vlinders_service_kit::Stage;
use vlinders_text::ModelText;
use vlinders_types::FrontendId;

use crate::checks::{self, Reference, Tally};
use crate::client::Client;
use crate::frontend::{Frontend, Served};
use crate::requests::{NUMBERS, byte_level_text};
use crate::scenario::{Arrival, Mishap, Scenario, Shape};
use crate::trace::Trace;
use crate::world::World;

/// Once everything has healed, every request ends within this.
const END_WITHIN: Duration = Duration::from_secs(240);
/// Where workers only leave, nobody waits for a queue or a frontend to lose patience.
const SHORTER_THAN_TIMEOUTS: Duration = Duration::from_secs(45);
/// A worker that could not start is started again after this.
const START_AGAIN: Duration = Duration::from_millis(500);
/// And nothing is left of it after this.
const SETTLE_WITHIN: Duration = Duration::from_secs(120);

/// Runs one seed. `Err` says what a user, a bill or an idle worker would have noticed.
///
/// # Errors
/// What went wrong that never may.
pub fn run(seed: u64, is_printed: bool) -> Result<Tally, String> {
    let reference = reference();
    let text = shared_text();
    block_on(async move {
        let scenario = Scenario::draw(seed);
        if is_printed {
            eprintln!("{scenario:#?}");
        }
        let (clients, outcome) = simulate(scenario.clone(), text, is_printed).await?;
        checks::check(&scenario, reference, &clients, outcome).await
    })
}

/// One thread, and time that passes only when everybody waits.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build();
    runtime
        .expect("a runtime needs nothing but memory")
        .block_on(future)
}

fn shared_text() -> Arc<ModelText> {
    static TEXT: OnceLock<Arc<ModelText>> = OnceLock::new();
    Arc::clone(TEXT.get_or_init(byte_level_text))
}

/// What every request delivers when nothing disturbs it: by one worker that does everything.
fn reference() -> &'static Reference {
    static REFERENCE: OnceLock<Reference> = OnceLock::new();
    REFERENCE.get_or_init(|| {
        let mut scenario = Scenario::draw(0);
        scenario.make_undisturbed((0..NUMBERS).map(|number| Arrival {
            at: Duration::ZERO,
            serial: number,
            number,
            deadline_ms: 10_000_000,
            cancel_after: None,
        }));
        let run = block_on(simulate(scenario, shared_text(), false));
        let (clients, _) = run.expect("an undisturbed run has no faults");
        checks::reference(clients)
    })
}

/// What is left of a run beside what its clients saw.
pub(crate) struct Outcome {
    pub(crate) ledger: Arc<crate::ledger::SimLedger>,
    pub(crate) retries: u64,
    pub(crate) handed_back: u64,
    pub(crate) fingerprint: u64,
    pub(crate) metrics: String,
    pub(crate) virtual_time: Duration,
}

/// Everything that happens in a scenario, up to the last idle worker.
async fn simulate(
    scenario: Scenario,
    text: Arc<ModelText>,
    is_printed: bool,
) -> Result<(Vec<Client>, Outcome), String> {
    let trace = Trace::begin(is_printed);
    let mut world = World::new(scenario, text, trace.clone()).await?;
    let frontends = start_frontends(&mut world);
    play(&mut world).await?;
    let (mut clients, mut retries, mut handed_back) = (Vec::new(), 0, 0);
    for served in frontends {
        let served = served.await.map_err(|_| "a frontend panicked")??;
        clients.extend(served.clients.into_values());
        retries += served.retries;
        handed_back += served.handed_back;
    }
    clients.sort_by_key(|client| client.request.handle);
    let (ledger, metrics, began) = (Arc::clone(&world.ledger), world.metrics.clone(), world.began);
    world.settle(SETTLE_WITHIN).await?;
    let outcome = Outcome {
        ledger,
        retries,
        handed_back,
        fingerprint: trace.fingerprint(),
        metrics: metrics.encode(),
        virtual_time: began.elapsed(),
    };
    Ok((clients, outcome))
}

fn start_frontends(world: &mut World) -> Vec<oneshot::Receiver<Result<Served, String>>> {
    let frontends = std::mem::take(&mut world.scenario.frontends);
    let workers: Vec<_> = (0..world.workers.len())
        .map(|worker| world.worker_id(worker))
        .collect();
    let is_orderly = world.scenario.is_calm || world.scenario.only_leaves;
    let end_within = if world.scenario.only_leaves {
        SHORTER_THAN_TIMEOUTS
    } else {
        END_WITHIN
    };
    let mut running = Vec::new();
    for (number, arrivals) in frontends.into_iter().enumerate() {
        let frontend = Frontend {
            id: FrontendId::new(&format!("frontend-{number}")),
            bus: world.frontend_bus(),
            workers: workers.clone(),
            clock: world.clock(0),
            arrivals: arrivals.into(),
            patience: Duration::from_secs(if is_orderly { 60 } else { 3 }),
            trusts_queue: world.scenario.trusts_queue || is_orderly,
            began: world.began,
            give_up_at: world.began + world.scenario.heal_at + end_within,
            trace: world.trace.clone(),
        };
        let (done, served) = oneshot::channel();
        world.hardware.spawn(Stage::Work, "frontend", async move {
            // Nobody waits any more when the run has failed already.
            let _failed = done.send(frontend.run().await);
        });
        running.push(served);
    }
    running
}

/// One thing to do at a moment.
enum Action {
    Mishap(Mishap),
    StartWorker(usize),
    StartUsage,
    Mend(usize),
    FreeDisk(usize),
}

/// Lets everything go wrong in its time, then heals the world.
async fn play(world: &mut World) -> Result<(), String> {
    let mut actions: BTreeMap<(Duration, usize), Action> = BTreeMap::new();
    let mishaps = world.scenario.mishaps.clone();
    let mut count = mishaps.len();
    for (index, (at, mishap)) in mishaps.into_iter().enumerate() {
        actions.insert((at, index), Action::Mishap(mishap));
    }
    let heal_at = world.scenario.heal_at;
    while let Some(((at, _), action)) = actions.pop_first() {
        if at >= heal_at {
            break;
        }
        sleep_until(world.began + at).await;
        if let Some((after, follows)) = act(world, action).await? {
            count += 1;
            actions.insert((world.began.elapsed() + after, count), follows);
        }
    }
    sleep_until(world.began + heal_at).await;
    world.heal().await
}

/// Does it, and says what follows after how long.
async fn act(world: &mut World, action: Action) -> Result<Option<(Duration, Action)>, String> {
    Ok(match action {
        Action::Mishap(Mishap::Crash {
            worker,
            how,
            turns,
            down,
        }) => {
            take_turns(turns).await;
            world.crash(worker, how).await?;
            Some((down, Action::StartWorker(worker)))
        }
        Action::Mishap(Mishap::Partition {
            worker,
            bus,
            wires,
            length,
        }) => {
            world.partition(worker, bus, wires);
            Some((length, Action::Mend(worker)))
        }
        Action::Mishap(Mishap::Leave { worker, down }) => {
            world.leave(worker).await?;
            Some((down, Action::StartWorker(worker)))
        }
        Action::Mishap(Mishap::UsageCrash { turns, down }) => {
            take_turns(turns).await;
            world.kill_usage().await?;
            Some((down, Action::StartUsage))
        }
        Action::StartWorker(worker) => {
            let is_up = world.start_worker(worker).await?;
            (!is_up).then_some((START_AGAIN, Action::StartWorker(worker)))
        }
        Action::Mishap(Mishap::FullDisk { worker, length }) => {
            world.set_disk_full(worker, true);
            Some((length, Action::FreeDisk(worker)))
        }
        Action::FreeDisk(worker) => {
            world.set_disk_full(worker, false);
            None
        }
        Action::StartUsage => {
            world.start_usage().await?;
            None
        }
        Action::Mend(worker) => {
            world.mend(worker);
            None
        }
    })
}

/// Lets others take so many turns, so that a crash finds them at any of their waits.
async fn take_turns(turns: u64) {
    for _ in 0..turns {
        tokio::task::yield_now().await;
    }
}

impl Scenario {
    /// One large worker that does everything, and nothing that goes wrong.
    fn make_undisturbed(&mut self, arrivals: impl Iterator<Item = Arrival>) {
        self.is_calm = true;
        (self.trusts_queue, self.only_leaves) = (false, false);
        self.mishaps.clear();
        self.disk_time = Duration::ZERO;
        self.plan.clear();
        (self.hiccup, self.ledger_failing) = (0.0, 0.0);
        (self.queue_messages, self.usage_messages) = (10_000, 10_000);
        self.wires = crate::network::WireFaults::default();
        self.heal_at = Duration::ZERO;
        self.ack_wait = Duration::from_secs(10);
        self.frontends = vec![arrivals.collect()];
        self.shapes = vec![Shape {
            role: vlinders_worker::Role::Both,
            blocks: 4096,
            max_running: 64,
            chunk_tokens: 128,
            caching: false,
            step_us: 1_000,
            skew_ms: 0,
        }];
    }
}
