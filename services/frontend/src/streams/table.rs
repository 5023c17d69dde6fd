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
use super::claim::Claim;
use super::course::{Course, Origin};
use super::stream::{Stream, StreamSpec};
use crate::lives::Book;
use crate::metrics::FrontendMetrics;
use crate::tap::Tap;

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
    tap: Tap,
    metrics: Arc<FrontendMetrics>,
    /// A stream must be put into the queue at once.
    due: Notify,
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
    pub(crate) fn new(
        max_running: usize,
        canceller: Canceller,
        tap: Tap,
        metrics: Arc<FrontendMetrics>,
    ) -> Arc<Self> {
        Arc::new(Self {
            tables: Mutex::default(),
            next_handle: AtomicU64::new(1),
            max_running,
            canceller,
            tap,
            metrics,
            due: Notify::new(),
        })
    }

    /// Waits until a worker has handed a stream back, or a waiting one may begin, since the last call.
    pub(crate) async fn due(&self) {
        self.due.notified().await;
    }

    /// Opens the streams of one request, at least one. They run until they end or their claim is dropped. The first is
    /// put into the queue by the caller; a follower waits for the first token of the last one before it that is none.
    pub(crate) fn open(self: &Arc<Self>, specs: Vec<StreamSpec>) -> Result<Claim, TooMany> {
        let news = Arc::new(Notify::new());
        let count = specs.len();
        let first_handle = self.next_handle.fetch_add(count as u64, Ordering::Relaxed);
        let (mut streams, mut followers) = (Vec::with_capacity(count), Vec::new());
        // Backwards: followers are made before the one they follow.
        for (index, mut spec) in specs.into_iter().enumerate().rev() {
            spec.request.handle = first_handle + index as u64;
            let is_follower = spec.is_follower;
            let standing = if index == 0 {
                Course::new()
            } else {
                Course::waiting()
            };
            let followers_of = if is_follower {
                Vec::new()
            } else {
                std::mem::take(&mut followers)
            };
            let stream = Arc::new(Stream::new(spec, standing, followers_of, Arc::clone(&news)));
            if is_follower {
                followers.push(Arc::clone(&stream));
            }
            streams.push(stream);
        }
        streams.reverse();
        let mut tables = self.lock();
        if tables.running.len() + count > self.max_running {
            return Err(TooMany);
        }
        for stream in &streams {
            tables.running.insert(stream.handle(), Arc::clone(stream));
        }
        self.show(&tables);
        drop(tables);
        Ok(Claim::new(streams, Arc::clone(self), news))
    }

    /// Lets waiting streams go into the queue.
    pub(super) fn release<'a>(&self, streams: impl Iterator<Item = &'a Arc<Stream>>) {
        // Every one of them, whatever the one before it says.
        let released = streams.filter(|stream| stream.release()).count();
        if released > 0 {
            self.due.notify_one();
        }
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
        let news = self.tap.look(&stream.spec.request, &chunk);
        let delivered = stream.push(from, chunk);
        if delivered.is_handed_back {
            self.due.notify_one();
        }
        if delivered.lets_followers_go {
            self.release(stream.followers());
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
            Pushed::Taken | Pushed::Early => self.tap.tell(news),
            // A gap is for the failover to close.
            Pushed::Stale | Pushed::Gap => {}
            Pushed::Ended => {
                self.tap.tell(news);
                self.metrics
                    .count_tokens(stream.spec.request.billed(delivered.counts));
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
    pub(super) fn abandon(&self, handle: u64, was_refused: bool) -> Option<Arc<Stream>> {
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

    pub(super) fn remove(&self, handle: u64) -> Option<Arc<Stream>> {
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

#[cfg(test)]
pub(super) mod tests {
    use vlinders_bus::{Bus, InProcessBus, InProcessLimits, Subject, Subscription};
    use vlinders_service_kit::{Metrics, SharedSpan, Stage, Tasks};
    use vlinders_types::{
        BillingClass, Epoch, FrontendId, KeyId, Request, RequestId, SamplingParams, StopRules, Task,
        TenantId, TextRules,
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
        let (canceller, cancel_loop) = Canceller::new(
            Arc::clone(&bus),
            Arc::new(Workers::default()),
            Arc::clone(&metrics),
        );
        let tasks = Tasks::new();
        tasks.spawn(
            Stage::Flush,
            "cancels",
            cancel_loop.run(tasks.stopping(Stage::Flush)),
        );
        let (tap, _closed) = Tap::new(None, &bus, &metrics);
        (Streams::new(2, canceller, tap, metrics), cancels, tasks)
    }

    fn origin() -> Origin {
        Origin {
            worker: WorkerId::new("w"),
            epoch: Epoch(1),
        }
    }

    pub(crate) fn request(number: u128) -> Request {
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
            class: BillingClass::Standard,
            trace_parent: None,
            published_us: None,
            task: Task::Generate,
            prompt_logprobs: None,
        }
    }

    fn spec(number: u128) -> StreamSpec {
        StreamSpec {
            request: request(number),
            is_follower: false,
            span: SharedSpan::none(),
            deadline: Instant::now(),
            buffer_bytes: 100,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_worker_that_computes_for_nobody_is_told_again_once_a_second() {
        let (streams, mut cancels, _tasks) = world().await;
        let claim = streams.open(vec![spec(5)]).unwrap();
        let chunk = Chunk {
            handle: claim.first().handle(),
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
        let (first, second) = (
            streams.open(vec![spec(1)]).unwrap(),
            streams.open(vec![spec(2)]).unwrap(),
        );
        assert_eq!(streams.open(vec![spec(3)]).err(), Some(TooMany));
        drop(first);
        second.withdraw();
        let third = streams.open(vec![spec(3)]).unwrap();
        streams.give_up(third.first().handle(), GivenUp::Deadline);
        assert_eq!(streams.running(), 0);
        drop(third);
        assert_eq!(streams.lock().abandoned.len(), 2);
    }

    #[tokio::test]
    async fn a_stream_whose_end_was_read_first_is_not_cancelled() {
        let (streams, _cancels, _tasks) = world().await;
        let claim = streams.open(vec![spec(1)]).unwrap();
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
        claim.first().push(&origin(), last);
        drop(claim);
        assert_eq!((streams.running(), streams.lock().abandoned.len()), (0, 0));
    }
}
