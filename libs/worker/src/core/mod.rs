//! The worker's decisions, synchronous and without clock, bus or thread: commands go in, notes come out.
//!
//! - `mod.rs`: the state, one engine step, and what follows from its events
//! - `intake.rs`: how sequences come in: from the queue, by an offer
//! - `hand_over.rs`: how they leave prefill and arrive in decode
//! - `prompts.rs`: what is told of their prompts
//! - `forms.rs`: which tokens they may draw when their text must have a form
//! - `ending.rs`: how they end, each exactly once
//! - `leaving.rs`: how the worker lets go of them when it leaves

mod ending;
mod forms;
mod hand_over;
mod intake;
mod leaving;
mod prompts;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio_util::sync::CancellationToken;
use vlinders_engine::{Engine, EngineError};
use vlinders_kernel_api::KernelError;
use vlinders_kv_transfer::{Endpoint, Outcome};
use vlinders_scheduler::{Event, PlanOutcome, Scheduler};
use vlinders_service_kit::Clock;
use vlinders_text::ModelText;
use vlinders_types::{
    Batch, BlockId, Cancel, FrontendId, RefuseReason, Request, RequestFault, RequestId, ResumeState, Sampled,
    SequenceId,
};

use self::leaving::Departure;
use crate::config::{Parting, Role};
use crate::forms::{Formed, Masks};
use crate::metrics::WorkerMetrics;
use crate::outbox::Outbox;
use crate::sequence::{Job, Phase, Sequence};
use crate::spans::Spans;
use crate::tombstones::Tombstones;

/// What the async side asks of the loop.
pub(crate) enum Command {
    /// A request from the queue.
    Admit {
        request: Box<Request>,
        taken: Taken,
        /// Given when its text must have one.
        form: Option<Formed>,
    },
    /// A request from the queue that must be answered with an error.
    Reject {
        request: Box<Request>,
        job: Job,
        fault: RequestFault,
    },
    /// A sequence that prefill offers.
    Reserve {
        request: Box<Request>,
        reply: oneshot::Sender<Result<Reserved, RefuseReason>>,
    },
    /// The form of a sequence whose blocks are on their way. Comes before them.
    Formed { sequence: SequenceId, form: Formed },
    /// All its blocks are here: it is ours.
    KvArrived {
        sequence: SequenceId,
        resume: ResumeState,
    },
    /// Its blocks did not come. With `ours`, prefill has let go of it and it is computed here.
    KvLost {
        sequence: SequenceId,
        resume: Option<ResumeState>,
        ours: bool,
        quiesced: bool,
    },
    /// A late transfer can no longer write into its blocks.
    Quiesced { sequence: SequenceId },
    /// A transfer from here has ended.
    HandOffEnded {
        sequence: SequenceId,
        ticket: u64,
        outcome: Outcome,
    },
    /// No decode worker takes it.
    NotTaken { sequence: SequenceId, why: NotTaken },
    /// Nobody waits for it any more.
    Cancel(Cancel),
    /// A frontend is gone, and with it everybody who waited behind it.
    FrontendGone(FrontendId),
    /// Take no new work, give back what has not begun, and leave when the last sequence has ended.
    Drain,
    /// Leave now: let go of what still runs.
    DrainExpired,
}

/// How a request came from the queue.
pub(crate) struct Taken {
    pub(crate) job: Job,
    /// The room it was given.
    pub(crate) slot: OwnedSemaphorePermit,
    /// When.
    pub(crate) at: Instant,
}

/// Why no decode worker takes a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotTaken {
    /// None had room before its deadline.
    TooLate,
    /// One knows that the request is cancelled.
    Cancelled,
    /// One answers for the request already.
    Answered,
}

/// Room kept for an offered sequence.
#[derive(Debug)]
pub(crate) struct Reserved {
    pub(crate) sequence: SequenceId,
    /// Where blocks `first_needed_block..` shall be written.
    pub(crate) blocks: Vec<BlockId>,
    pub(crate) first_needed_block: u32,
}

/// The state of the loop.
pub(crate) struct Core {
    role: Role,
    scheduler: Scheduler,
    sequences: HashMap<SequenceId, Sequence>,
    by_request: HashMap<RequestId, SequenceId>,
    tombstones: Tombstones,
    text: Arc<ModelText>,
    endpoint: Arc<Endpoint>,
    clock: Arc<dyn Clock>,
    metrics: WorkerMetrics,
    spans: Spans,
    outbox: Outbox,
    masks: Masks,
    batch: Batch,
    max_context_tokens: u32,
    next_sequence: u64,
    parting: Parting,
    departure: Departure,
    /// Requests taken from the queue about which no word has gone out yet.
    unannounced: Vec<SequenceId>,
    /// How long the last step took.
    last_step: Duration,
    /// Cancelled when nothing can be computed here any more.
    failed: CancellationToken,
}

/// What a [`Core`] is made of.
pub(crate) struct CoreParts {
    pub(crate) role: Role,
    pub(crate) scheduler: Scheduler,
    pub(crate) text: Arc<ModelText>,
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) metrics: WorkerMetrics,
    pub(crate) spans: Spans,
    pub(crate) outbox: Outbox,
    pub(crate) masks: Masks,
    pub(crate) parting: Parting,
    pub(crate) max_context_tokens: u32,
    pub(crate) failed: CancellationToken,
}

impl Core {
    pub(crate) fn new(parts: CoreParts) -> Self {
        Self {
            role: parts.role,
            scheduler: parts.scheduler,
            sequences: HashMap::new(),
            by_request: HashMap::new(),
            tombstones: Tombstones::default(),
            text: parts.text,
            endpoint: parts.endpoint,
            clock: parts.clock,
            metrics: parts.metrics,
            spans: parts.spans,
            outbox: parts.outbox,
            masks: parts.masks,
            batch: Batch::default(),
            max_context_tokens: parts.max_context_tokens,
            next_sequence: 0,
            parting: parts.parting,
            departure: Departure::default(),
            unannounced: Vec::new(),
            last_step: Duration::ZERO,
            failed: parts.failed,
        }
    }

    /// Does what the async side asks.
    pub(crate) fn handle(&mut self, command: Command) {
        match command {
            Command::Admit { request, taken, form } => self.admit(*request, taken, form),
            Command::Reject { request, job, fault } => self.reject(&request, job, fault),
            Command::Reserve { request, reply } => self.reserve(*request, reply),
            Command::Formed { sequence, form } => self.formed(sequence, form),
            Command::KvArrived { sequence, resume } => self.kv_arrived(sequence, &resume),
            Command::KvLost {
                sequence,
                resume,
                ours,
                quiesced,
            } => self.kv_lost(sequence, resume, ours, quiesced),
            Command::Quiesced { sequence } => {
                self.scheduler.end_quarantine(sequence);
            }
            Command::HandOffEnded {
                sequence,
                ticket,
                outcome,
            } => self.hand_off_ended(sequence, ticket, outcome),
            Command::NotTaken { sequence, why } => self.not_taken(sequence, why),
            Command::Cancel(cancel) => self.cancel(&cancel),
            Command::FrontendGone(frontend) => self.frontend_gone(&frontend),
            Command::Drain => self.begin_to_leave(),
            Command::DrainExpired => self.let_go_of_everything(),
        }
    }

    /// Plans and computes one step. False when there was nothing to compute.
    pub(crate) fn step(&mut self, engine: &mut dyn Engine) -> bool {
        match self.scheduler.plan(&mut self.batch) {
            PlanOutcome::Idle => return false,
            PlanOutcome::Ready => {}
        }
        self.order_masks();
        let started = Instant::now();
        match engine.step(&self.batch) {
            Ok(output) => {
                self.metrics.step(&self.batch, started.elapsed());
                for event in self.scheduler.apply(&output) {
                    self.on_event(event);
                }
            }
            Err(EngineError::Kernel(KernelError::Device(what))) => self.device_failed(&what),
            Err(error) => self.step_failed(&error),
        }
        true
    }

    /// How long the last step took, with the waits that belong to it.
    pub(crate) fn step_took(&mut self, time: Duration) {
        self.last_step = time;
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Sampled {
                id,
                token,
                logprobs,
                cached_tokens,
                ..
            } => {
                self.on_sampled(id, Sampled { token, logprobs }, cached_tokens);
            }
            Event::Scored { id, first, scores } => self.on_scored(id, first, scores),
            Event::PromptDone {
                id,
                cached_tokens,
                pooled,
            } => self.on_prompt_done(id, cached_tokens, pooled.as_deref()),
            Event::Failed { id } => self.draw_failed(id),
            Event::BlocksFilled { id, blocks, last, .. } => self.blocks_filled(id, &blocks, last),
            Event::Preempted { .. } => {
                self.metrics.preemptions.inc();
            }
        }
    }

    fn on_sampled(&mut self, id: SequenceId, sampled: Sampled, cached_tokens: u32) {
        let now_ms = self.clock.now_ms();
        let Some(sequence) = self.sequences.get_mut(&id) else {
            return;
        };
        if sequence.first_token_ms.is_none() {
            sequence.first_token_ms = Some(now_ms);
            // Decode may compute a sequence again after a loss; what prefill found in its cache is what counts.
            sequence.cached_tokens = cached_tokens.min(sequence.prompt_tokens());
        }
        let token = sampled.token;
        let request = Arc::clone(&sequence.request);
        if let Some(ending) = sequence.output.accept(&request, sampled) {
            self.end(id, ending.reason, ending.stop_text, None);
            return;
        }
        match &sequence.phase {
            Phase::Prefilling(_) => self.first_token_before_hand_over(id, token),
            Phase::Local => {
                let alone = std::mem::take(&mut sequence.next_token_alone) || sequence.job.is_some();
                if let Some(job) = sequence.job.take() {
                    // From here on the frontend knows who answers, notices a loss by itself and has what it needs to
                    // go on: so the first token goes out even when the client waits for the whole.
                    self.outbox.push(crate::outbox::Note::Settle(job.id));
                    sequence.end_prefill();
                    sequence.span = self.spans.decode(&request);
                }
                if request.stream || alone || sequence.output.has_much_news() {
                    self.send_news(id);
                }
            }
            Phase::HandingOver(..) | Phase::AwaitingKv { .. } => {
                unreachable!("a sequence that is handed over is not planned")
            }
        }
    }

    fn send_news(&mut self, id: SequenceId) {
        let Some(sequence) = self.sequences.get_mut(&id) else {
            return;
        };
        if let Some(chunk) = sequence.output.take_news() {
            self.outbox.push_chunk(&sequence.request.frontend, chunk);
        }
    }

    /// What the turn has to tell, and the load for beacons.
    pub(crate) fn take_notes(&mut self) -> Vec<crate::outbox::Note> {
        self.announce_taken();
        self.outbox.take()
    }

    /// How full this worker is.
    pub(crate) fn load(&self) -> crate::beacons::Load {
        let counts = self.scheduler.counts();
        self.metrics.running.set(self.sequences.len() as f64);
        self.metrics.free_blocks.set(f64::from(counts.free_blocks));
        self.metrics
            .queued_prompt_tokens
            .set(f64::from(counts.queued_tokens));
        crate::beacons::Load {
            free_blocks: counts.free_blocks,
            total_blocks: counts.total_blocks,
            running: u32::try_from(self.sequences.len()).unwrap_or(u32::MAX),
            queued_tokens: counts.queued_tokens,
            last_batch_seq: self.outbox.last_batch_seqs(),
            recent_prefixes: self.scheduler.recent_prefixes(),
        }
    }

    /// Whether the loop may leave.
    pub(crate) fn is_drained(&self) -> bool {
        self.departure != Departure::Staying && self.sequences.is_empty()
    }

    /// With no sequence left, every block is free or in the prefix index: a leak ends the process in tests and is
    /// never carried along in silence.
    pub(crate) fn assert_settled_when_idle(&self) {
        // Blocks in quarantine wait for a transfer to end, which wakes the loop again.
        if self.sequences.is_empty() && !self.scheduler.has_quarantine() {
            self.scheduler.assert_settled();
        }
    }
}
