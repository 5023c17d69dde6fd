//! Streams whose workers are lost go on with another attempt: the request goes into the queue again, with the tokens that
//! came. One look at all streams is cheaper than a timer for each.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use vlinders_bus::{Bus, BusError, Spool, SpoolMessage, StreamName, Subject};
use vlinders_service_kit::Clock;
use vlinders_types::{Epoch, FinishReason, FrontendId, Request, TokenCounts, UsageEvent, WorkerId};
use vlinders_wire::subjects::{self, WorkerCall};
use vlinders_wire::{Resend, encode_request, encode_resend, encode_usage_event};

use super::assembly::GivenUp;
use super::course::Cause;
use super::stream::{Begun, Stream};
use super::table::Streams;
use crate::lives::Lives;
use crate::metrics::FrontendMetrics;
use crate::workers::Workers;

/// How often it looks.
const PERIOD: Duration = Duration::from_millis(100);
/// Calls to the bus at one time.
const AT_ONCE: usize = 32;
/// A worker that lives answers at once.
const ANSWER: Duration = Duration::from_millis(500);

/// When and how often streams go on elsewhere.
#[derive(Clone, Debug)]
pub(crate) struct FailoverRules {
    /// The queue requests are put into.
    pub(crate) queue: String,
    /// How long an attempt may be out of the queue without a word.
    pub(crate) first_token_patience: Duration,
    /// Attempts of one request at most, workers being lost.
    pub(crate) max_attempts: u32,
    /// How old a worker's beacon may be for the worker to count as alive.
    pub(crate) beacon_fresh: Duration,
}

/// What going on elsewhere needs.
pub(crate) struct Failover {
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) spool: Spool,
    pub(crate) frontend: FrontendId,
    pub(crate) streams: Arc<Streams>,
    pub(crate) lives: Arc<Lives>,
    pub(crate) workers: Arc<Workers>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) metrics: Arc<FrontendMetrics>,
    pub(crate) rules: FailoverRules,
}

impl Failover {
    /// Runs until `end`.
    pub(crate) async fn run(self, end: CancellationToken) {
        let mut ticks = tokio::time::interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = end.cancelled() => return,
                () = self.streams.due() => {}
                _ = ticks.tick() => {}
            }
            self.turn().await;
        }
    }

    async fn turn(&self) {
        self.ask_suspects().await;
        let lost = {
            let book = self.lives.look();
            self.streams.find(|stream| stream.cause_to_move(&book))
        };
        let unanswered = self.unanswered().await.into_iter();
        let lost = lost
            .into_iter()
            .chain(unanswered.map(|stream| (stream, Cause::Unanswered)));
        let given_up: Vec<_> = lost
            .filter_map(|(stream, cause)| Some((self.go_on(&stream, cause)?, stream)))
            .collect();
        self.give_up(&given_up).await;
        let unsent = self.streams.find(Stream::unsent);
        let sending = unsent
            .into_iter()
            .map(|(stream, request)| self.send(stream, request));
        let sent: Vec<_> = futures::stream::iter(sending)
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        let refused = sent.into_iter().flatten();
        let refused: Vec<_> = refused.map(|stream| (GivenUp::WorkersLost, stream)).collect();
        self.give_up(&refused).await;
    }

    /// A silent worker's connection may be gone already: then nobody needs to wait out its silence.
    async fn ask_suspects(&self) {
        let suspects = self.lives.suspects();
        futures::stream::iter(suspects)
            .for_each_concurrent(AT_ONCE, async |(worker, epoch)| self.ask(worker, epoch).await)
            .await;
    }

    async fn ask(&self, worker: WorkerId, epoch: Epoch) {
        // No batch has this number: only the answer counts.
        let resend = Resend {
            frontend: self.frontend.clone(),
            epoch,
            from_seq: u64::MAX,
        };
        let subject = Subject::new(subjects::worker_subject(&worker, WorkerCall::Resend));
        let answer = self.bus.request(&subject, encode_resend(&resend), ANSWER).await;
        // Silence tells nothing yet, and an answer may be that of another life.
        if matches!(answer, Err(BusError::NoResponders { .. })) {
            self.lives.end(&worker, epoch);
        }
    }

    /// Streams nobody has said a word about although the queue is empty.
    async fn unanswered(&self) -> Vec<Arc<Stream>> {
        let patience = self.rules.first_token_patience;
        let waiting = self.streams.find(|stream| {
            let is_long = stream.unanswered().is_some_and(|since| since >= patience);
            is_long.then_some(())
        });
        if waiting.is_empty() {
            return Vec::new();
        }
        // What waits in the queue, or is with a worker that has not acknowledged it, is the queue's to deliver again.
        match self.bus.pending(StreamName::Requests).await {
            Ok(0) => waiting.into_iter().map(|(stream, ())| stream).collect(),
            Ok(_) => Vec::new(),
            Err(error) => {
                tracing::warn!(%error, "the queue's length is not known");
                Vec::new()
            }
        }
    }

    /// Begins the next attempt, or says why there is none.
    fn go_on(&self, stream: &Stream, cause: Cause) -> Option<GivenUp> {
        let request = stream.spec.request.request_id;
        self.metrics.failover(cause.name());
        if cause == Cause::HandedBack && !self.has_others(stream) {
            tracing::error!(%request, "its worker leaves, and there is no other");
            return Some(GivenUp::Stopping);
        }
        match stream.begin_attempt(cause, self.rules.max_attempts) {
            Begun::Attempt(attempt) => {
                let facts = [("attempt", attempt.into()), ("cause", cause.name().into())];
                stream.spec.span.event("failover", facts);
                tracing::warn!(%request, attempt, cause = cause.name(), "a stream goes on elsewhere");
                None
            }
            Begun::NoMore => {
                tracing::error!(%request, cause = cause.name(), "every attempt was lost");
                Some(GivenUp::WorkersLost)
            }
            Begun::Ended => None,
        }
    }

    /// Whether anybody beside the worker that had it can go on with a stream.
    fn has_others(&self, stream: &Stream) -> bool {
        let (model, fresh) = (&stream.spec.request.model, self.rules.beacon_fresh);
        self.workers.serve_beside(stream.held_by().as_ref(), model, fresh)
    }

    /// Ends streams that no worker is left to end. Their bills are kept before their clients are told.
    async fn give_up(&self, streams: &[(GivenUp, Arc<Stream>)]) {
        let open = streams.iter().filter(|(_, stream)| !stream.has_ended());
        let bills = open.map(|(_, stream)| message(&self.usage(stream)));
        self.spool.keep(bills.collect()).await;
        for (reason, stream) in streams {
            self.streams.give_up(stream.handle(), *reason);
        }
    }

    /// Puts an attempt into the queue. Some when the queue will never take it.
    async fn send(&self, stream: Arc<Stream>, request: Request) -> Option<Arc<Stream>> {
        let subject = Subject::new(subjects::request_subject(&request.model, &self.rules.queue));
        let id = subjects::request_message_id(&request);
        let payload = encode_request(&request);
        match self
            .bus
            .enqueue(StreamName::Requests, &subject, &id, payload)
            .await
        {
            Ok(_stored) => {
                stream.sent(request.attempt);
                self.streams.supersede(&stream, None);
                None
            }
            Err(error) if error.is_retryable() => {
                tracing::warn!(%error, request = %request.request_id, "attempt not enqueued yet");
                None
            }
            Err(error) => {
                tracing::error!(%error, request = %request.request_id, "attempt cannot be enqueued");
                Some(stream)
            }
        }
    }

    /// Whoever ends a request reports it, and here no worker is left to do so.
    fn usage(&self, stream: &Stream) -> UsageEvent {
        let request = &stream.spec.request;
        UsageEvent {
            request_id: request.request_id,
            attempt: stream.attempt(),
            tenant: request.tenant.clone(),
            key: request.key.clone(),
            model: request.model.clone(),
            writer: WorkerId::new(&format!("frontend-{}", self.frontend)),
            class: request.class,
            counts: request.billed(TokenCounts {
                prompt: u32::try_from(request.prompt_ids.len()).unwrap_or(u32::MAX),
                cached: 0,
                completion: stream.token_count(),
            }),
            finish: FinishReason::Error,
            stream: request.stream,
            created_ms: request.created_ms,
            first_token_ms: None,
            finished_ms: self.clock.now_ms(),
        }
    }
}

fn message(event: &UsageEvent) -> SpoolMessage {
    SpoolMessage {
        stream: StreamName::Usage,
        subject: Subject::new(subjects::usage_subject(&event.tenant)),
        id: subjects::usage_message_id(event.request_id),
        payload: encode_usage_event(event),
    }
}
