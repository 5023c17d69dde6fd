//! All running streams by handle. Being in the table is what "running" means: whoever takes a stream out, ends it,
//! so it ends once.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use vlinders_types::{Cancel, Chunk, ModelName, WorkerId};

use super::assembly::{GivenUp, Pushed, Tempo};
use super::canceller::{CancelOrder, Canceller, Recipients};
use super::course::Origin;
use super::stream::{Stream, StreamSpec};
use crate::lives::Book;
use crate::metrics::FrontendMetrics;

/// Abandoned streams remembered, to stop workers that did not hear the first cancellation.
const MAX_ABANDONED: usize = 4096;
/// At most one more cancellation for each abandoned stream in this time.
const CANCEL_AGAIN: Duration = Duration::from_secs(1);

/// The running streams.
pub(crate) struct Streams {
    tables: Mutex<Tables>,
    next_handle: AtomicU64,
    max_running: usize,
    canceller: Canceller,
    metrics: Arc<FrontendMetrics>,
    /// Somebody must see to a stream at once.
    handed_back: Notify,
}

#[derive(Default)]
struct Tables {
    running: HashMap<u64, Arc<Stream>>,
    abandoned: HashMap<u64, Abandoned>,
    /// Handles of `abandoned`, oldest first.
    order: VecDeque<u64>,
}

struct Abandoned {
    cancel: Cancel,
    model: ModelName,
    cancelled: Instant,
}

/// As many requests run as may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooMany;

impl Streams {
    pub(crate) fn new(max_running: usize, canceller: Canceller, metrics: Arc<FrontendMetrics>) -> Arc<Self> {
        Arc::new(Self {
            tables: Mutex::default(),
            next_handle: AtomicU64::new(1),
            max_running,
            canceller,
            metrics,
            handed_back: Notify::new(),
        })
    }

    /// Waits until a worker has handed a stream back since the last call.
    pub(crate) async fn handed_back(&self) {
        self.handed_back.notified().await;
    }

    /// Opens a stream. It runs until it ends or its claim is dropped.
    pub(crate) fn open(self: &Arc<Self>, mut spec: StreamSpec) -> Result<Claim, TooMany> {
        let handle = self.next_handle.fetch_add(1, Ordering::Relaxed);
        spec.request.handle = handle;
        let stream = Arc::new(Stream::new(spec));
        let mut tables = self.lock();
        if tables.running.len() >= self.max_running {
            return Err(TooMany);
        }
        tables.running.insert(handle, Arc::clone(&stream));
        self.show(&tables);
        Ok(Claim {
            stream,
            streams: Arc::clone(self),
        })
    }

    /// How many run.
    pub(crate) fn running(&self) -> usize {
        self.lock().running.len()
    }

    /// Brings one chunk to its stream. Never waits.
    pub(crate) fn deliver(&self, from: &Origin, chunk: Chunk) {
        let handle = chunk.handle;
        let stream = self.lock().running.get(&handle).cloned();
        let Some(stream) = stream else {
            if chunk.finish.is_none() {
                self.cancel_again(handle, &from.worker);
            }
            return;
        };
        let delivered = stream.push(from, chunk);
        if delivered.is_handed_back {
            self.handed_back.notify_one();
        }
        if delivered.is_of_the_past {
            self.supersede(&stream, Some(&from.worker));
        }
        match delivered.tempo {
            Some(Tempo::First(after)) => self.metrics.first_token.observe(after.as_secs_f64()),
            Some(Tempo::Next(after, count)) => {
                self.metrics
                    .between_tokens
                    .observe(after.as_secs_f64() / f64::from(count));
            }
            None => {}
        }
        match delivered.pushed {
            // A gap is for the failover to close.
            Pushed::Taken | Pushed::Stale | Pushed::Early | Pushed::Gap => {}
            Pushed::Ended => {
                self.metrics.count_tokens(delivered.counts);
                self.remove(handle);
            }
            Pushed::Overflow => self.give_up(handle, GivenUp::SlowClient),
        }
    }

    /// Tells `worker`, or everybody, that the attempts before the current one are not wanted any more.
    pub(crate) fn supersede(&self, stream: &Stream, worker: Option<&WorkerId>) {
        let Some(older) = stream.attempt().checked_sub(1) else {
            return;
        };
        let request = &stream.spec.request;
        let model = request.model.clone();
        self.canceller.send(CancelOrder {
            cancel: Cancel {
                request_id: request.request_id,
                attempt: older,
                superseded: true,
            },
            to: match worker {
                None => Recipients::AllOf(model),
                Some(worker) => Recipients::This {
                    worker: worker.clone(),
                    and_all_of: model,
                },
            },
        });
    }

    /// Ends a running stream from this side and cancels its request.
    pub(crate) fn give_up(&self, handle: u64, reason: GivenUp) {
        if let Some(stream) = self.abandon(handle, false) {
            stream.give_up(reason);
        }
    }

    /// The running streams that `question` has an answer for.
    pub(crate) fn find<T>(&self, question: impl Fn(&Stream) -> Option<T>) -> Vec<(Arc<Stream>, T)> {
        self.all()
            .into_iter()
            .filter_map(|stream| question(&stream).map(|answer| (stream, answer)))
            .collect()
    }

    /// Batches of this worker did not come: the last words about some stream may be among them.
    pub(crate) fn doubt(&self, worker: &WorkerId, book: &Book) {
        for stream in self.all() {
            stream.doubt(worker, book);
        }
    }

    fn all(&self) -> Vec<Arc<Stream>> {
        self.lock().running.values().cloned().collect()
    }

    /// Takes a stream out and cancels its request. None when it does not run any more.
    fn abandon(&self, handle: u64, was_refused: bool) -> Option<Arc<Stream>> {
        let stream = self.remove(handle)?;
        if stream.has_ended() {
            // Its last chunk was read before the dispatcher came to take it out.
            return None;
        }
        stream.spec.span.event("cancelled", []);
        let cancel = Cancel {
            request_id: stream.spec.request.request_id,
            attempt: stream.attempt(),
            // A refused request is nobody's: it ends without a word and without a bill.
            superseded: was_refused,
        };
        let model = stream.spec.request.model.clone();
        self.canceller.send(CancelOrder {
            cancel: cancel.clone(),
            to: Recipients::AllOf(model.clone()),
        });
        let mut tables = self.lock();
        tables.abandoned.insert(
            handle,
            Abandoned {
                cancel,
                model,
                cancelled: Instant::now(),
            },
        );
        tables.order.push_back(handle);
        if tables.order.len() > MAX_ABANDONED
            && let Some(oldest) = tables.order.pop_front()
        {
            tables.abandoned.remove(&oldest);
        }
        Some(stream)
    }

    /// A worker still computes for a stream nobody reads.
    fn cancel_again(&self, handle: u64, worker: &WorkerId) {
        let mut tables = self.lock();
        let Some(abandoned) = tables.abandoned.get_mut(&handle) else {
            return;
        };
        if abandoned.cancelled.elapsed() < CANCEL_AGAIN {
            return;
        }
        abandoned.cancelled = Instant::now();
        let to = Recipients::This {
            worker: worker.clone(),
            and_all_of: abandoned.model.clone(),
        };
        self.canceller.send(CancelOrder {
            cancel: abandoned.cancel.clone(),
            to,
        });
    }

    fn remove(&self, handle: u64) -> Option<Arc<Stream>> {
        let mut tables = self.lock();
        let stream = tables.running.remove(&handle);
        self.show(&tables);
        stream
    }

    fn show(&self, tables: &Tables) {
        let running = u32::try_from(tables.running.len()).unwrap_or(u32::MAX);
        self.metrics.in_flight.set(f64::from(running));
    }

    fn lock(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The HTTP side's hold on a stream. Dropping it before the end cancels the request: that is how a client's leaving
/// reaches the engine.
pub(crate) struct Claim {
    stream: Arc<Stream>,
    streams: Arc<Streams>,
}

impl Claim {
    pub(crate) fn stream(&self) -> &Stream {
        &self.stream
    }

    /// The stream, for somebody who outlives the claim.
    pub(crate) fn share(&self) -> Arc<Stream> {
        Arc::clone(&self.stream)
    }

    /// The client is told that the request was refused, though it may be in the queue: nobody shall be billed for it.
    pub(crate) fn disown(self) {
        self.streams.abandon(self.stream.handle(), true);
    }

    /// The request never reached the queue: there is nothing to cancel.
    pub(crate) fn withdraw(self) {
        self.streams.remove(self.stream.handle());
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.streams.abandon(self.stream.handle(), false);
    }
}

#[cfg(test)]
mod tests {
    use vlinders_bus::{Bus, InProcessBus, InProcessLimits, Subject, Subscription};
    use vlinders_service_kit::{Metrics, SharedSpan, Stage, Tasks};
    use vlinders_types::{
        Epoch, FrontendId, KeyId, Request, RequestId, SamplingParams, StopRules, Task, TenantId, TextRules,
    };
    use vlinders_wire::decode_cancel;
    use vlinders_wire::subjects::{WorkerCall, worker_subject};

    use super::*;
    use crate::workers::Workers;

    async fn world() -> (Arc<Streams>, Box<dyn Subscription>, Tasks) {
        let bus: Arc<dyn Bus> = Arc::new(InProcessBus::new(InProcessLimits::default()));
        let subject = Subject::new(worker_subject(&WorkerId::new("w"), WorkerCall::Cancel));
        let cancels = bus.subscribe(&subject).await.unwrap();
        let metrics = Arc::new(FrontendMetrics::new(Metrics::default()));
        let (canceller, cancel_loop) =
            Canceller::new(bus, Arc::new(Workers::default()), Arc::clone(&metrics));
        let tasks = Tasks::new();
        tasks.spawn(
            Stage::Flush,
            "cancels",
            cancel_loop.run(tasks.stopping(Stage::Flush)),
        );
        (Streams::new(2, canceller, metrics), cancels, tasks)
    }

    fn origin() -> Origin {
        Origin {
            worker: WorkerId::new("w"),
            epoch: Epoch(1),
        }
    }

    fn request(number: u128) -> Request {
        Request {
            request_id: RequestId(number),
            attempt: 0,
            tenant: TenantId::new("t"),
            key: KeyId::new("k"),
            model: ModelName::new("m"),
            frontend: FrontendId::new("f"),
            handle: 0,
            created_ms: 0,
            deadline_ms: 1,
            stream: true,
            prompt_ids: vec![1],
            emitted_ids: Vec::new(),
            sampling: SamplingParams::default(),
            stop: StopRules::default(),
            constraint: None,
            priority: 0,
            cache_salt: None,
            text: TextRules::default(),
            bills_prompt: true,
            trace_parent: None,
            published_us: None,
            task: Task::Generate,
            prompt_logprobs: None,
        }
    }

    fn spec(number: u128) -> StreamSpec {
        StreamSpec {
            request: request(number),
            span: SharedSpan::none(),
            deadline: Instant::now(),
            buffer_bytes: 100,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_worker_that_computes_for_nobody_is_told_again_once_a_second() {
        let (streams, mut cancels, _tasks) = world().await;
        let claim = streams.open(spec(5)).unwrap();
        let chunk = Chunk {
            handle: claim.stream().handle(),
            ids: vec![1],
            ..Chunk::default()
        };
        // No worker is known by its beacon yet: the first cancellation reaches nobody.
        drop(claim);
        for _ in 0..10 {
            streams.deliver(&origin(), chunk.clone());
        }
        tokio::time::advance(CANCEL_AGAIN).await;
        for _ in 0..10 {
            streams.deliver(&origin(), chunk.clone());
        }
        let told = tokio::time::timeout(CANCEL_AGAIN, cancels.next())
            .await
            .expect("nobody was told");
        let cancel = decode_cancel(&told.unwrap().payload).unwrap();
        assert_eq!(
            cancel,
            Cancel {
                request_id: RequestId(5),
                attempt: 0,
                superseded: false,
            }
        );
        let more = tokio::time::timeout(CANCEL_AGAIN, cancels.next()).await;
        assert!(more.is_err(), "told twice");
    }

    #[tokio::test]
    async fn places_are_bounded_and_given_back_however_a_stream_ends() {
        let (streams, _cancels, _tasks) = world().await;
        let (first, second) = (streams.open(spec(1)).unwrap(), streams.open(spec(2)).unwrap());
        assert_eq!(streams.open(spec(3)).err(), Some(TooMany));
        drop(first);
        second.withdraw();
        let third = streams.open(spec(3)).unwrap();
        streams.give_up(third.stream().handle(), GivenUp::Deadline);
        assert_eq!(streams.running(), 0);
        drop(third);
        assert_eq!(streams.lock().abandoned.len(), 2);
    }

    #[tokio::test]
    async fn a_stream_whose_end_was_read_first_is_not_cancelled() {
        let (streams, _cancels, _tasks) = world().await;
        let claim = streams.open(spec(1)).unwrap();
        let counts = vlinders_types::TokenCounts::default();
        let reason = vlinders_types::FinishReason::Stop;
        let finish = Some(vlinders_types::Finish {
            reason,
            stop_text: None,
            counts,
            fault: None,
        });
        // The dispatcher has pushed the last chunk, the client reads it and leaves, and only then would the
        // dispatcher take the stream out.
        let last = Chunk {
            finish,
            ..Chunk::default()
        };
        claim.stream().push(&origin(), last);
        drop(claim);
        assert_eq!((streams.running(), streams.lock().abandoned.len()), (0, 0));
    }
}
