//! What a worker is told when it starts.

use std::sync::Arc;
use std::time::Duration;

use vlinders_bus::{Bus, Spool};
use vlinders_engine::Engine;
use vlinders_kv_transfer::Endpoint;
use vlinders_service_kit::{Clock, Metrics, Pulse, Tasks, Traces};
use vlinders_text::ModelText;
use vlinders_types::{Epoch, ModelName, Pool, WorkerId};

/// Which part of a sequence's life happens here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Computes prompts and hands the sequence over after its first token.
    Prefill,
    /// Takes sequences over and generates.
    Decode,
    /// Does both, without a hand-off.
    Both,
}

impl Role {
    /// Whether it takes requests from the queue.
    #[must_use]
    pub const fn takes_requests(self) -> bool {
        match self {
            Self::Prefill | Self::Both => true,
            Self::Decode => false,
        }
    }

    /// The pools it reports itself in.
    #[must_use]
    pub const fn pools(self) -> &'static [Pool] {
        match self {
            Self::Prefill => &[Pool::Prefill],
            Self::Decode => &[Pool::Decode],
            Self::Both => &[Pool::Prefill, Pool::Decode],
        }
    }

    /// The name in traces.
    #[must_use]
    pub const fn service(self) -> &'static str {
        match self {
            Self::Prefill => "vlinders-prefill",
            Self::Decode => "vlinders-decode",
            Self::Both => "vlinders-worker",
        }
    }

    /// The name in logs and metric labels.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Prefill => "prefill",
            Self::Decode => "decode",
            Self::Both => "both",
        }
    }
}

/// Settings of one worker.
#[derive(Clone, Debug)]
pub struct WorkerConfig {
    /// Its name, unique in the installation.
    pub worker: WorkerId,
    /// This life of it; larger than that of any life before.
    pub epoch: Epoch,
    /// What it does.
    pub role: Role,
    /// The model it serves.
    pub model: ModelName,
    /// Which queue of that model's requests it takes.
    pub queue: String,
    /// Sequences it holds at once.
    pub max_running: u32,
    /// Prompt tokens of one sequence computed in one step.
    pub prefill_chunk_tokens: u32,
    /// Whether computed prefixes are kept for later requests.
    pub enable_prefix_caching: bool,
    /// How often it reports itself.
    pub beacon_interval: Duration,
    /// A queue delivery that shows no progress for this long goes to another worker.
    pub ack_wait: Duration,
    /// Deliveries of one request at most; on the last one the worker answers with an error.
    pub max_deliver: u32,
    /// How long running sequences may go on once the worker is asked to leave.
    pub drain_limit: Duration,
    /// What becomes of those that still run then.
    pub parting: Parting,
}

/// What becomes of sequences that still run when a worker must leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parting {
    /// Others go on with them, from the last token the client has.
    HandBack,
    /// They end with an error: there are no others.
    End,
}

impl WorkerConfig {
    /// Settings for a worker of this name, role and model; everything else as DESIGN.md has it.
    #[must_use]
    pub fn new(worker: WorkerId, epoch: Epoch, role: Role, model: ModelName) -> Self {
        Self {
            worker,
            epoch,
            role,
            model,
            queue: "default".to_owned(),
            max_running: 256,
            prefill_chunk_tokens: 256,
            enable_prefix_caching: true,
            beacon_interval: Duration::from_millis(250),
            ack_wait: Duration::from_secs(10),
            max_deliver: 3,
            drain_limit: Duration::from_secs(30),
            parting: Parting::HandBack,
        }
    }
}

/// What a worker is made of.
pub struct WorkerParts {
    /// Requests come and tokens go over it.
    pub bus: Arc<dyn Bus>,
    /// Keeps bills until the bus has them. Whoever made it runs it.
    pub spool: Spool,
    /// Computes.
    pub engine: Box<dyn Engine>,
    /// Turns tokens into text.
    pub text: Arc<ModelText>,
    /// Moves blocks; over the engine's memory.
    pub endpoint: Arc<Endpoint>,
    /// Where its tasks run.
    pub tasks: Tasks,
    /// Where it counts.
    pub metrics: Metrics,
    /// Where it tells what became of single requests.
    pub traces: Traces,
    /// The time of day.
    pub clock: Arc<dyn Clock>,
    /// Beats with the loop, so that somebody else can see it hang.
    pub pulse: Pulse,
}
