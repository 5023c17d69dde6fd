//! How a simulated worker is put together.

use std::num::NonZeroU32;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use vlinders_bus::{Spool, SpoolOptions, SpoolSync, SpoolUntil, SpoolUnusable};
use vlinders_engine::{Engine, SimEngine, SimOptions, StepCost};
use vlinders_kv_transfer::{Endpoint, EndpointConfig};
use vlinders_service_kit::{Clock, Pulse, Stage, Tasks, Traces};
use vlinders_types::Epoch;
use vlinders_worker::{StepTime, WorkerConfig, WorkerParts, start_simulated};

use crate::network::{SimTransport, WiredMemory};
use crate::requests::{BYTES, END, model};
use crate::scenario::Shape;
use crate::world::{Life, World, text_of};

/// Tokens of the longest sequence.
const CONTEXT: u32 = 1024;
/// Short, so that lost peers are given up within a run.
const LEASE: Duration = Duration::from_secs(3);
const HAND_OFF_LIMIT: Duration = Duration::from_secs(40);
const SPOOL_LEAVES_WITHIN: Duration = Duration::from_secs(2);
/// A few bills.
const SPOOL_FILE_BYTES: u64 = 600;

impl World {
    /// Starts the next life of a worker that is down. False when its disk does not let it.
    pub(crate) async fn start_worker(&mut self, worker: usize) -> Result<bool, String> {
        if self.workers[worker].is_some() {
            return Ok(true);
        }
        let Ok(spool) = self.open_spool(worker).await else {
            return Ok(false);
        };
        self.lives += 1;
        let incarnation = self.lives;
        let shape = self.scenario.shapes[worker];
        let id = self.worker_id(worker);
        self.trace.note(format_args!("{id} starts life {incarnation}"));
        let step_time = StepTime::default();
        let engine = self.engine(&shape, &step_time);
        let clock = self.clock(shape.skew_ms);
        let mut config = EndpointConfig::new(
            id.clone(),
            incarnation,
            [u8::try_from(incarnation % 251).expect("below a byte"); 32],
            engine.facts().layout_hash,
            Arc::new(move || clock.now_ms()),
        );
        config.lease = LEASE;
        config.limit = HAND_OFF_LIMIT;
        config.chunk_blocks = 3;
        let memory = WiredMemory {
            inner: engine.memory(),
            network: Arc::clone(&self.network),
        };
        let transport = SimTransport {
            network: Arc::clone(&self.network),
            own: incarnation,
        };
        let endpoint = Endpoint::new(config, Arc::new(memory), vec![Arc::new(transport)]).map_err(text_of)?;
        let mut config = WorkerConfig::new(id, Epoch(incarnation), shape.role, model());
        config.max_running = shape.max_running;
        config.enable_prefix_caching = shape.caching;
        config.prefill_chunk_tokens = shape.chunk_tokens;
        config.drain_limit = self.scenario.drain_limit;
        config.parting = self.scenario.parting;
        config.ack_wait = self.scenario.ack_wait;
        config.max_deliver = self.scenario.max_deliver;
        let life = Life {
            incarnation,
            tasks: Tasks::new(),
            bus: self.way_to_bus(),
            endpoint: Some(Arc::clone(&endpoint)),
        };
        let stopping = life.tasks.stopping(Stage::Flush);
        let sending = spool.clone().run(life.bus.clone(), stopping, |_load| {});
        life.tasks.spawn(Stage::Flush, "spool", sending);
        let parts = WorkerParts {
            bus: life.bus.clone(),
            spool,
            engine,
            text: Arc::clone(&self.text),
            endpoint,
            tasks: life.tasks.clone(),
            metrics: self.metrics.clone(),
            traces: Traces::off(),
            clock: Arc::new(clock),
            pulse: Pulse::default(),
        };
        self.workers[worker] = Some(life);
        start_simulated(config, parts, step_time).await.map_err(text_of)?;
        Ok(true)
    }

    async fn open_spool(&self, worker: usize) -> Result<Spool, SpoolUnusable> {
        let clock = self.clock(self.scenario.shapes[worker].skew_ms);
        let mut options = SpoolOptions::new(Arc::new(move || clock.now_ms()));
        options.sync = if self.scenario.syncs {
            SpoolSync::BeforeKept
        } else {
            SpoolSync::Never
        };
        if self.scenario.waits_for_ledger {
            options.until = SpoolUntil::Handled;
        }
        options.leave_within = SPOOL_LEAVES_WITHIN;
        options.file_bytes = SPOOL_FILE_BYTES;
        Spool::open(Arc::new(self.disks[worker].clone()), options).await
    }

    fn engine(&mut self, shape: &Shape, step_time: &StepTime) -> Box<dyn Engine> {
        let options = SimOptions {
            vocabulary: BYTES + 1,
            block_count: shape.blocks,
            max_batch_tokens: 160,
            max_rows: 64,
            max_context_tokens: CONTEXT,
            never_drawn: Arc::new([END]),
            end_every: NonZeroU32::new(60).map(|every| (END, every)),
            cost: StepCost {
                base_us: shape.step_us,
                ..StepCost::default()
            },
            ..SimOptions::default()
        };
        let (mut random, hiccup) = (self.random.fork(), self.scenario.hiccup);
        let (is_healed, step_time) = (Arc::clone(&self.is_healed), Arc::clone(step_time));
        let wait = move |time: Duration| {
            let is_stopped = random.happens(hiccup) && !is_healed.load(Ordering::Relaxed);
            let stopped = if is_stopped {
                random.millis(500, 8_000)
            } else {
                Duration::ZERO
            };
            *step_time.lock().unwrap_or_else(PoisonError::into_inner) = time + stopped;
        };
        Box::new(SimEngine::with_wait(options, Box::new(wait)))
    }
}
