//! Puts a worker together and starts its tasks.

use std::sync::{Arc, Mutex};

use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use vlinders_bus::{BusError, Subject};
use vlinders_kv_blocks::BlockPool;
use vlinders_scheduler::{AfterFirstToken, Scheduler, SchedulerLimits};
use vlinders_service_kit::Stage;
use vlinders_types::Pool;
use vlinders_wire::subjects;

use crate::accepting::Accepting;
use crate::beacons::{BeaconBook, Departing, Load, SharedLoad, own_beacons, send_beacons};
use crate::config::{Role, WorkerConfig, WorkerParts};
use crate::core::{Command, Core, CoreParts};
use crate::forms::{Constraints, Masks};
use crate::listening::{cancel_subject, drain, pass_cancellations, watch_frontends};
use crate::metrics::WorkerMetrics;
use crate::offering::Offering;
use crate::outbox::{Note, Outbox};
use crate::outlet::{NOTES, Outlet};
use crate::queue::{Buried, Jobs, Queue};
use crate::recent::RecentBatches;
use crate::resending::{Resending, resend_subject};
use crate::spans::Spans;
#[cfg(feature = "simulation")]
use crate::turn::StepTime;
use crate::turn::{COMMANDS, Drive, Turn};

/// A worker that could not be started.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The bus refused a subscription or a consumer.
    #[error("worker {worker}: the bus refused {what}")]
    Bus {
        /// Which worker.
        worker: String,
        /// What was asked for.
        what: &'static str,
        /// Why.
        #[source]
        source: BusError,
    },
    /// The system has no thread to give.
    #[error("worker {worker}: no thread for its loop")]
    Thread {
        /// Which worker.
        worker: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// Starts a worker. Its subscriptions are in place when this returns. It stops with its tasks.
///
/// # Errors
/// When the bus refuses a subscription or the system a thread.
pub async fn start(config: WorkerConfig, parts: WorkerParts) -> Result<(), WorkerError> {
    start_driven(config, parts, Drive::Thread).await
}

/// Starts a worker whose loop is a task: each of its steps takes as long in virtual time as `step_time` says after it.
///
/// # Errors
/// When the bus refuses a subscription.
#[cfg(feature = "simulation")]
pub async fn start_simulated(
    config: WorkerConfig,
    parts: WorkerParts,
    step_time: StepTime,
) -> Result<(), WorkerError> {
    start_driven(config, parts, Drive::Task(step_time)).await
}

async fn start_driven(config: WorkerConfig, parts: WorkerParts, drive: Drive) -> Result<(), WorkerError> {
    let config = Arc::new(config);
    let (commands, received) = mpsc::channel(COMMANDS);
    let (notes, said) = mpsc::channel(NOTES);
    let load: SharedLoad = Arc::new(Mutex::new(Load::default()));
    let spans = Spans {
        tracer: parts.traces.tracer(config.role.service(), config.worker.as_str()),
        worker: config.worker.clone(),
    };
    let vocabulary = parts.engine.facts().vocabulary;
    let constraints = Constraints::new(&parts.text, vocabulary, !drive.has_threads());
    let worker = Worker {
        constraints: Arc::new(constraints),
        config,
        parts,
        commands,
        jobs: Arc::default(),
        beacons: None,
        load,
        recent: RecentBatches::default(),
        spans,
    };
    worker.run(drive, received, notes, said).await
}

struct Worker {
    config: Arc<WorkerConfig>,
    parts: WorkerParts,
    commands: mpsc::Sender<Command>,
    jobs: Arc<Jobs>,
    beacons: Option<Arc<BeaconBook>>,
    load: SharedLoad,
    recent: RecentBatches,
    spans: Spans,
    constraints: Arc<Constraints>,
}

impl Worker {
    async fn run(
        mut self,
        drive: Drive,
        received: mpsc::Receiver<Command>,
        notes: mpsc::Sender<Vec<Note>>,
        said: mpsc::Receiver<Vec<Note>>,
    ) -> Result<(), WorkerError> {
        self.listen().await?;
        self.serve_resends().await?;
        match self.config.role {
            Role::Decode => self.serve_offers().await?,
            Role::Prefill => {
                self.learn_beacons().await?;
                self.take_requests().await?;
            }
            Role::Both => self.take_requests().await?,
        }
        let gone = CancellationToken::new();
        self.carry_notes(said, gone.clone());
        self.send_beacons(gone);
        self.turn(drive, received, notes)
    }

    /// Cancellations, heartbeats of frontends, and the order to leave.
    async fn listen(&self) -> Result<(), WorkerError> {
        let (bus, tasks) = (&self.parts.bus, &self.parts.tasks);
        let cancels = bus.subscribe(&cancel_subject(&self.config.worker)).await;
        let cancels = cancels.map_err(|source| self.refused("the cancel subscription", source))?;
        // Until the work is done somebody may still cancel it.
        let stopping = tasks.stopping(Stage::Flush);
        tasks.spawn(
            Stage::Flush,
            "cancellations",
            pass_cancellations(cancels, self.commands.clone(), stopping.clone()),
        );

        let heartbeats = bus.subscribe(&Subject::new(subjects::ALL_HEARTBEATS)).await;
        let heartbeats = heartbeats.map_err(|source| self.refused("the heartbeat subscription", source))?;
        let echo = bus.subscribe(&own_beacons(&self.config)).await;
        let echo = echo.map_err(|source| self.refused("the subscription to its own beacons", source))?;
        tasks.spawn(
            Stage::Flush,
            "frontend-watch",
            watch_frontends(heartbeats, echo, self.commands.clone(), stopping),
        );

        let stopping = tasks.stopping(Stage::Work);
        tasks.spawn(
            Stage::Work,
            "drain",
            drain(self.commands.clone(), self.config.drain_limit, stopping),
        );
        Ok(())
    }

    async fn serve_resends(&self) -> Result<(), WorkerError> {
        let (bus, tasks) = (&self.parts.bus, &self.parts.tasks);
        let asked = bus.subscribe(&resend_subject(&self.config.worker)).await;
        let asked = asked.map_err(|source| self.refused("the resend subscription", source))?;
        let labels = [("role", self.config.role.name())];
        let help = "Step batches sent again to frontends that missed them";
        let resending = Resending {
            bus: Arc::clone(bus),
            recent: self.recent.clone(),
            epoch: self.config.epoch,
            resends: self.parts.metrics.counter("resends", help, &labels),
        };
        let stopping = tasks.stopping(Stage::Flush);
        tasks.spawn(Stage::Flush, "resends", resending.serve(asked, stopping));
        Ok(())
    }

    async fn serve_offers(&self) -> Result<(), WorkerError> {
        let accepting = Arc::new(Accepting {
            bus: Arc::clone(&self.parts.bus),
            endpoint: Arc::clone(&self.parts.endpoint),
            commands: self.commands.clone(),
            tasks: self.parts.tasks.clone(),
            spans: self.spans.clone(),
            epoch: self.config.epoch,
            constraints: Arc::clone(&self.constraints),
        });
        let offers = accepting
            .subscribe()
            .await
            .map_err(|source| self.refused("the offer subscription", source))?;
        // To the end: whoever offers to a worker that leaves is told so at once.
        let stopping = self.parts.tasks.stopping(Stage::Flush);
        self.parts
            .tasks
            .spawn(Stage::Flush, "offers", accepting.serve(offers, stopping));
        Ok(())
    }

    async fn learn_beacons(&mut self) -> Result<(), WorkerError> {
        let pattern = Subject::new(subjects::beacons_of(Pool::Decode));
        let heard = self.parts.bus.subscribe(&pattern).await;
        let heard = heard.map_err(|source| self.refused("the beacon subscription", source))?;
        let book = Arc::new(BeaconBook::new(self.config.model.clone()));
        self.beacons = Some(Arc::clone(&book));
        let stopping = self.parts.tasks.stopping(Stage::Flush);
        self.parts
            .tasks
            .spawn(Stage::Flush, "beacon-book", book.listen(heard, stopping));
        Ok(())
    }

    async fn take_requests(&self) -> Result<(), WorkerError> {
        let tasks = &self.parts.tasks;
        let queue = Queue {
            bus: Arc::clone(&self.parts.bus),
            config: Arc::clone(&self.config),
            jobs: Arc::clone(&self.jobs),
            slots: Arc::new(Semaphore::new(self.config.max_running as usize)),
            commands: self.commands.clone(),
            clock: Arc::clone(&self.parts.clock),
            spans: self.spans.clone(),
            buried: Buried::new(&self.parts.metrics),
            tasks: tasks.clone(),
            constraints: Arc::clone(&self.constraints),
        };
        let consumer = queue
            .consumer()
            .await
            .map_err(|source| self.refused("the request consumer", source))?;
        tasks.spawn(
            Stage::Intake,
            "queue",
            queue.take(consumer, tasks.stopping(Stage::Intake)),
        );
        // A third of the patience: two reports may be lost.
        let keep_alive =
            Arc::clone(&self.jobs).keep_alive(self.config.ack_wait / 3, tasks.stopping(Stage::Flush));
        tasks.spawn(Stage::Flush, "progress", keep_alive);
        Ok(())
    }

    /// Until the loop has ended and everything it said is carried out; then cancels `gone`.
    fn carry_notes(&self, said: mpsc::Receiver<Vec<Note>>, gone: CancellationToken) {
        let beacons = self.beacons.clone();
        let offering = Offering {
            bus: Arc::clone(&self.parts.bus),
            endpoint: Arc::clone(&self.parts.endpoint),
            beacons: beacons.unwrap_or_else(|| Arc::new(BeaconBook::new(self.config.model.clone()))),
            commands: self.commands.clone(),
            clock: Arc::clone(&self.parts.clock),
            spans: self.spans.clone(),
        };
        let outlet = Outlet {
            bus: Arc::clone(&self.parts.bus),
            spool: self.parts.spool.clone(),
            jobs: Arc::clone(&self.jobs),
            offering: Arc::new(offering),
            tasks: self.parts.tasks.clone(),
            recent: self.recent.clone(),
        };
        self.parts.tasks.spawn(Stage::Flush, "outlet", async move {
            outlet.run(said).await;
            gone.cancel();
        });
    }

    /// Until the worker is gone: as long as something of it runs, others must not take it for dead.
    fn send_beacons(&self, gone: CancellationToken) {
        let (bus, config) = (Arc::clone(&self.parts.bus), Arc::clone(&self.config));
        let asked = self.parts.tasks.stopping(Stage::Work);
        let departing = Departing { asked, gone };
        let sending = send_beacons(bus, config, Arc::clone(&self.load), departing);
        self.parts.tasks.spawn(Stage::Flush, "beacons", sending);
    }

    fn turn(
        self,
        drive: Drive,
        commands: mpsc::Receiver<Command>,
        notes: mpsc::Sender<Vec<Note>>,
    ) -> Result<(), WorkerError> {
        let Self {
            config,
            parts,
            load,
            spans,
            ..
        } = self;
        let facts = parts.engine.facts().clone();
        let limits = SchedulerLimits {
            max_running: config.max_running,
            max_waiting: config.max_running,
            max_batch_tokens: facts.max_batch_tokens,
            prefill_chunk_tokens: config.prefill_chunk_tokens,
            max_context_tokens: facts.max_context_tokens,
            enable_prefix_caching: config.enable_prefix_caching,
            after_first_token: match config.role {
                Role::Prefill => AfterFirstToken::Hold,
                Role::Decode | Role::Both => AfterFirstToken::Continue,
            },
        };
        let masks = match drive.has_threads() {
            true => Masks::start(&parts.tasks).map_err(|source| no_thread(&config, source))?,
            false => Masks::in_place(),
        };
        let scheduler = Scheduler::new(limits, BlockPool::new(facts.block_count), config.model.as_str());
        let core = Core::new(CoreParts {
            role: config.role,
            scheduler,
            text: parts.text,
            endpoint: parts.endpoint,
            clock: parts.clock,
            metrics: WorkerMetrics::new(&parts.metrics, config.role.name(), facts.block_count),
            spans,
            outbox: Outbox::new(config.worker.clone(), config.epoch),
            masks,
            parting: config.parting,
            max_context_tokens: facts.max_context_tokens,
            failed: parts.tasks.failed(),
        });
        tracing::info!(worker = %config.worker, role = config.role.name(), engine = %facts.detail, "worker started");
        let turn = Turn {
            core,
            engine: parts.engine,
            commands,
            notes,
            load,
            pulse: parts.pulse,
            #[cfg(feature = "simulation")]
            step_time: match &drive {
                Drive::Thread => None,
                Drive::Task(step_time) => Some(Arc::clone(step_time)),
            },
        };
        let name = loop_name(config.role);
        let started = match drive {
            Drive::Thread => {
                let runtime = tokio::runtime::Handle::current();
                parts
                    .tasks
                    .spawn_thread(Stage::Work, name, move || runtime.block_on(turn.run()))
            }
            #[cfg(feature = "simulation")]
            Drive::Task(_) => {
                parts.tasks.spawn(Stage::Work, name, turn.run());
                Ok(())
            }
        };
        started.map_err(|source| no_thread(&config, source))
    }

    fn refused(&self, what: &'static str, source: BusError) -> WorkerError {
        WorkerError::Bus {
            worker: self.config.worker.to_string(),
            what,
            source,
        }
    }
}

/// What the system calls its thread.
const fn loop_name(role: Role) -> &'static str {
    match role {
        Role::Prefill => "prefill-loop",
        Role::Decode => "decode-loop",
        Role::Both => "engine-loop",
    }
}

fn no_thread(config: &WorkerConfig, source: std::io::Error) -> WorkerError {
    WorkerError::Thread {
        worker: config.worker.to_string(),
        source,
    }
}
