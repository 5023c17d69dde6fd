//! How a worker lets go of its sequences when it leaves: what has not begun goes back to the queue at once, and when the
//! time is up, what still runs goes back to where somebody else gets it from.

use vlinders_scheduler::Phase as SchedulerPhase;
use vlinders_types::{Chunk, FaultKind, FinishReason, Request, RequestFault, SequenceId};

use super::Core;
use crate::config::Parting;
use crate::ending_texts as texts;
use crate::outbox::Note;
use crate::sequence::{Job, Phase};
use crate::teeth::bites;

/// Whether the worker leaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Departure {
    /// It takes work.
    #[default]
    Staying,
    /// It takes none, and what has begun may end.
    Draining,
    /// It keeps nothing.
    Over,
}

impl Core {
    /// Takes nothing new. Whatever somebody else would have to begin as well goes there now.
    pub(super) fn begin_to_leave(&mut self) {
        self.departure = Departure::Draining;
        for id in self.all() {
            if self.parting == Parting::HandBack && self.has_not_begun(id) {
                self.let_go(id);
            }
        }
    }

    /// Keeps nothing from here on.
    pub(super) fn let_go_of_everything(&mut self) {
        self.departure = Departure::Over;
        for id in self.all() {
            self.let_go(id);
        }
    }

    /// A device that has failed once fails for ever. Others go on with everything, the rows of this step included: nothing of
    /// it was told. The process leaves, so that it does not take one request after the other from those who can compute.
    pub(super) fn device_failed(&mut self, what: &str) {
        tracing::error!(
            what,
            rows = self.batch.rows.len(),
            "the device has failed; this worker leaves"
        );
        let _open_rows = self.scheduler.step_failed();
        self.let_go_of_everything();
        self.failed.cancel();
    }

    /// In the same order in every run of a simulation.
    fn all(&self) -> Vec<SequenceId> {
        let mut ids: Vec<SequenceId> = self.sequences.keys().copied().collect();
        ids.sort_unstable();
        ids
    }

    /// It waits for its first step, and the queue can give it to somebody else.
    fn has_not_begun(&self, id: SequenceId) -> bool {
        let waits = match self.scheduler.phase(id) {
            Some(SchedulerPhase::Waiting { .. }) => true,
            Some(
                SchedulerPhase::AwaitingKv
                | SchedulerPhase::Running { .. }
                | SchedulerPhase::Holding
                | SchedulerPhase::Ended,
            )
            | None => false,
        };
        waits && self.sequences.get(&id).is_some_and(|one| one.job.is_some())
    }

    /// Lets go of a sequence as the settings say.
    pub(super) fn let_go(&mut self, id: SequenceId) {
        let Some(sequence) = self.sequences.get(&id) else {
            return;
        };
        match sequence.phase {
            // Prefill answers for it and may just let go: then it comes here once more, as ours.
            Phase::AwaitingKv { .. } => {}
            Phase::Local | Phase::Prefilling(_) | Phase::HandingOver(..) => match self.parting {
                Parting::HandBack => self.hand_back(id),
                Parting::End => {
                    let fault = RequestFault {
                        kind: FaultKind::Overloaded,
                        message: texts::LEAVING.to_owned(),
                    };
                    self.end(id, FinishReason::Error, None, Some(fault));
                }
            },
        }
    }

    /// Somebody else goes on with it: nobody is billed here, and nothing that was computed reaches the client twice.
    fn hand_back(&mut self, id: SequenceId) {
        let Some(mut sequence) = self.forget(id) else {
            return;
        };
        if !self.withdraw(id, &mut sequence) || bites("leaves-without-a-word") {
            return;
        }
        sequence.span.set("outcome", "handed back");
        let job = sequence.job.take();
        if let Some(job) = job.filter(|job| job.may_return) {
            // The queue still has it: whoever gets it there sends the same tokens again.
            return self.give_back(job);
        }
        // The frontend has the ids, these included, and begins another attempt.
        let mut chunk = sequence.output.take_chunk();
        chunk.handed_back = true;
        self.outbox.push_chunk(&sequence.request.frontend, chunk);
        self.metrics.handed_back.inc();
        if let Some(job) = job {
            self.outbox.push(Note::Settle(job.id));
        }
    }

    /// A request that comes while the worker leaves.
    pub(super) fn send_away(&mut self, request: &Request, job: Job) {
        if job.may_return {
            return self.give_back(job);
        }
        let chunk = Chunk {
            handle: request.handle,
            attempt: request.attempt,
            position: u32::try_from(request.emitted_ids.len()).unwrap_or(u32::MAX),
            handed_back: true,
            ..Chunk::default()
        };
        self.outbox.push_chunk(&request.frontend, chunk);
        self.metrics.handed_back.inc();
        self.outbox.push(Note::Settle(job.id));
    }

    fn give_back(&mut self, job: Job) {
        self.metrics.given_back.inc();
        self.outbox.push(Note::GiveBack(job.id));
    }
}

#[cfg(test)]
mod tests {
    use crate::forms::Masks;
    use std::sync::Arc;
    use std::time::Instant;

    use tokio::sync::{Semaphore, oneshot};
    use tokio_util::sync::CancellationToken;
    use vlinders_engine::{Engine, SimEngine, SimOptions};
    use vlinders_kv_blocks::BlockPool;
    use vlinders_kv_transfer::{Endpoint, EndpointConfig};
    use vlinders_scheduler::{AfterFirstToken, Scheduler, SchedulerLimits};
    use vlinders_service_kit::{Metrics, SystemClock, Tracer};
    use vlinders_text::{ModelText, TextFiles};
    use vlinders_types::{
        BillingClass, Epoch, FrontendId, KeyId, ModelName, RefuseReason, RequestId, ResumeState,
        SamplingParams, StopRules, Task, TenantId, TextRules, WorkerId,
    };

    use super::*;
    use crate::config::Role;
    use crate::core::{Command, CoreParts, Taken};
    use crate::metrics::WorkerMetrics;
    use crate::outbox::Outbox;
    use crate::sequence::JobId;
    use crate::spans::Spans;

    fn text() -> Arc<ModelText> {
        let tokenizer = br#"{"version": "1.0", "added_tokens": [], "pre_tokenizer": null,
            "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
            "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "c": 2, "d": 3}, "merges": []}}"#;
        let files = TextFiles {
            tokenizer_json: tokenizer,
            ..TextFiles::default()
        };
        Arc::new(ModelText::load(&files).unwrap())
    }

    /// A loop whose scheduler runs one sequence at a time.
    fn core(role: Role, parting: Parting) -> (Core, SimEngine) {
        let engine = SimEngine::new(SimOptions {
            vocabulary: 4,
            ..SimOptions::default()
        });
        let facts = engine.facts().clone();
        let worker = WorkerId::new("w");
        let endpoint = EndpointConfig::new(worker.clone(), 1, [7; 32], facts.layout_hash, Arc::new(|| 0));
        let limits = SchedulerLimits {
            max_running: 1,
            max_waiting: 8,
            max_batch_tokens: facts.max_batch_tokens,
            prefill_chunk_tokens: 64,
            max_context_tokens: facts.max_context_tokens,
            enable_prefix_caching: false,
            after_first_token: AfterFirstToken::Continue,
        };
        let core = Core::new(CoreParts {
            role,
            scheduler: Scheduler::new(limits, BlockPool::new(facts.block_count), "m"),
            text: text(),
            endpoint: Endpoint::new(endpoint, engine.memory(), Vec::new()).unwrap(),
            clock: Arc::new(SystemClock),
            metrics: WorkerMetrics::new(&Metrics::default(), role.name(), facts.block_count),
            spans: Spans {
                tracer: Tracer::default(),
                worker: worker.clone(),
            },
            outbox: Outbox::new(worker, Epoch(1)),
            masks: Masks::in_place(),
            parting,
            max_context_tokens: facts.max_context_tokens,
            failed: CancellationToken::new(),
        });
        (core, engine)
    }

    fn request(number: u64) -> Request {
        Request {
            request_id: RequestId(number.into()),
            attempt: 0,
            tenant: TenantId::new("t"),
            key: KeyId::new("k"),
            model: ModelName::new("m"),
            frontend: FrontendId::new("f"),
            handle: number,
            created_ms: 0,
            deadline_ms: u64::MAX,
            published_us: None,
            task: Task::Generate,
            prompt_logprobs: None,
            stream: true,
            prompt_ids: vec![0; 20],
            emitted_ids: Vec::new(),
            sampling: SamplingParams::default(),
            stop: StopRules {
                max_tokens: 50,
                ignore_eos: true,
                ..StopRules::default()
            },
            constraint: None,
            priority: 0,
            cache_salt: None,
            text: TextRules::default(),
            bills_prompt: true,
            class: BillingClass::Standard,
            trace_parent: None,
        }
    }

    fn admit(core: &mut Core, number: u64, may_return: bool) {
        let slots = Arc::new(Semaphore::new(1));
        let job = Job {
            id: JobId(number),
            may_return,
        };
        core.handle(Command::Admit {
            request: Box::new(request(number)),
            taken: Taken {
                job,
                slot: slots.try_acquire_owned().unwrap(),
                at: Instant::now(),
            },
            form: None,
        });
    }

    /// What became of requests: handles of chunks that hand back with what came before, of bills, and jobs.
    #[derive(Debug, Default, PartialEq, Eq)]
    struct Said {
        handed_back: Vec<(u64, u32)>,
        billed: Vec<u128>,
        given_back: Vec<JobId>,
        settled: Vec<JobId>,
    }

    fn said(core: &mut Core) -> Said {
        let mut said = Said::default();
        for note in core.take_notes() {
            match note {
                Note::Step(_, batch) => {
                    let parting = batch.chunks.iter().filter(|chunk| chunk.handed_back);
                    let count = |chunk: &Chunk| u32::try_from(chunk.ids.len()).unwrap();
                    let end = |chunk: &Chunk| (chunk.handle, chunk.position + count(chunk));
                    said.handed_back.extend(parting.map(end));
                }
                Note::Ended(usage, _) => said.billed.push(usage.request_id.0),
                Note::GiveBack(job) => said.given_back.push(job),
                Note::Settle(job) => said.settled.push(job),
                Note::Forget(_) | Note::Offer(_) => {}
            }
        }
        said
    }

    /// One sequence runs and has so many tokens, two wait: the queue may give the first of them to others.
    fn one_runs_and_two_wait(parting: Parting, steps: u32) -> Core {
        let (mut core, mut engine) = core(Role::Both, parting);
        admit(&mut core, 1, true);
        admit(&mut core, 2, true);
        admit(&mut core, 3, false);
        for _ in 0..steps {
            assert!(core.step(&mut engine));
        }
        said(&mut core);
        core
    }

    #[test]
    fn what_has_not_begun_goes_back_at_once_and_what_runs_when_the_time_is_up() {
        let mut core = one_runs_and_two_wait(Parting::HandBack, 3);
        core.handle(Command::Drain);
        let expected = Said {
            given_back: vec![JobId(2)],
            // Its next delivery would be its last: a new message has all of them.
            handed_back: vec![(3, 0)],
            settled: vec![JobId(3)],
            ..Said::default()
        };
        assert_eq!((said(&mut core), core.is_drained()), (expected, false));
        core.handle(Command::DrainExpired);
        let expected = Said {
            handed_back: vec![(1, 3)],
            ..Said::default()
        };
        assert_eq!((said(&mut core), core.is_drained()), (expected, true));
    }

    #[test]
    fn what_comes_while_the_worker_leaves_is_sent_away() {
        let (mut core, _) = core(Role::Both, Parting::HandBack);
        core.handle(Command::Drain);
        admit(&mut core, 1, true);
        admit(&mut core, 2, false);
        let expected = Said {
            given_back: vec![JobId(1)],
            handed_back: vec![(2, 0)],
            settled: vec![JobId(2)],
            ..Said::default()
        };
        assert_eq!((said(&mut core), core.is_drained()), (expected, true));
    }

    #[test]
    fn where_no_others_are_everything_may_go_on_and_then_ends_with_a_bill() {
        let mut core = one_runs_and_two_wait(Parting::End, 3);
        core.handle(Command::Drain);
        assert_eq!(said(&mut core), Said::default());
        core.handle(Command::DrainExpired);
        let expected = Said {
            billed: vec![1, 2, 3],
            ..Said::default()
        };
        assert_eq!((said(&mut core), core.is_drained()), (expected, true));
    }

    #[test]
    fn what_is_on_its_way_here_is_handed_back_as_soon_as_it_is_ours() {
        for parting in [Parting::HandBack, Parting::End] {
            let (mut core, _) = core(Role::Decode, parting);
            let (reply, mut reserved) = oneshot::channel();
            let request = Box::new(request(1));
            core.handle(Command::Reserve { request, reply });
            let sequence = reserved.try_recv().unwrap().unwrap().sequence;
            core.handle(Command::Drain);
            core.handle(Command::DrainExpired);
            assert_eq!((said(&mut core), core.is_drained()), (Said::default(), false));
            let resume = ResumeState {
                generated: vec![1],
                cached_tokens: 0,
                first_token_ms: 0,
            };
            core.handle(Command::KvArrived { sequence, resume });
            let expected = match parting {
                Parting::HandBack => Said {
                    handed_back: vec![(1, 1)],
                    ..Said::default()
                },
                Parting::End => Said {
                    billed: vec![1],
                    ..Said::default()
                },
            };
            assert_eq!((said(&mut core), core.is_drained()), (expected, true));
        }
    }

    #[test]
    fn an_offer_to_a_worker_that_leaves_is_refused_at_once() {
        let (mut core, _) = core(Role::Decode, Parting::HandBack);
        core.handle(Command::Drain);
        let (reply, mut reserved) = oneshot::channel();
        let request = Box::new(request(1));
        core.handle(Command::Reserve { request, reply });
        let refused = reserved.try_recv().unwrap().err();
        assert_eq!(refused, Some(RefuseReason::Draining));
    }
}
