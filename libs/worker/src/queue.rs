//! Requests from the queue: never more than there is room for, each settled exactly once.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use vlinders_bus::{Bus, BusError, Consumer, ConsumerSpec, Delivery, DeliveryControl, StreamName, Subject};
use vlinders_service_kit::{Clock, Counter, Metrics, Stage, Tasks};
use vlinders_types::{FaultKind, Request, RequestFault};
use vlinders_wire::{DeadLetter, subjects};

use crate::config::WorkerConfig;
use crate::core::{Command, Taken};
use crate::ending_texts;
use crate::forms::Constraints;
use crate::sequence::{Job, JobId};
use crate::spans::Spans;

/// Requests taken at once at most.
const FETCH_AT_MOST: usize = 64;
/// How long one fetch waits for the first request.
const FETCH_WAIT: Duration = Duration::from_secs(5);
/// Pause after a failed fetch.
const AFTER_FAILURE: Duration = Duration::from_millis(250);

/// The deliveries this worker has not settled yet.
#[derive(Default)]
pub(crate) struct Jobs {
    next: AtomicU64,
    open: Mutex<BTreeMap<JobId, Arc<dyn DeliveryControl>>>,
}

impl Jobs {
    pub(crate) fn open(&self, control: Box<dyn DeliveryControl>) -> JobId {
        let job = JobId(self.next.fetch_add(1, Ordering::Relaxed));
        self.lock().insert(job, Arc::from(control));
        job
    }

    /// Acknowledges a delivery: its effect has happened.
    pub(crate) async fn settle(&self, job: JobId) {
        let Some(control) = self.forget(job) else { return };
        if let Err(error) = control.ack().await {
            // It comes again; the fence on (request, attempt) makes the second delivery harmless.
            tracing::warn!(%error, "delivery not acknowledged");
        }
    }

    /// Lets the queue give a delivery to somebody else, at once.
    pub(crate) async fn give_back(&self, job: JobId) {
        let Some(control) = self.forget(job) else { return };
        if let Err(error) = control.give_back(Duration::ZERO).await {
            // It comes again when the queue has lost patience.
            tracing::warn!(%error, "delivery not given back");
        }
    }

    /// Gives back whatever is open.
    pub(crate) async fn give_back_all(&self) {
        let open: Vec<JobId> = self.lock().keys().copied().collect();
        for job in open {
            self.give_back(job).await;
        }
    }

    /// Lets go of a delivery without a word.
    pub(crate) fn forget(&self, job: JobId) -> Option<Arc<dyn DeliveryControl>> {
        self.lock().remove(&job)
    }

    /// Tells the queue, over and over, that the open deliveries are being worked on.
    pub(crate) async fn keep_alive(self: Arc<Self>, every: Duration, stopping: CancellationToken) {
        let mut ticks = tokio::time::interval(every);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stopping.cancelled() => return,
                _ = ticks.tick() => {}
            }
            let open: Vec<_> = self.lock().values().cloned().collect();
            for control in open {
                if let Err(error) = control.progress().await {
                    tracing::warn!(%error, "progress not reported");
                }
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<JobId, Arc<dyn DeliveryControl>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes requests from the queue.
pub(crate) struct Queue {
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) config: Arc<WorkerConfig>,
    pub(crate) jobs: Arc<Jobs>,
    pub(crate) slots: Arc<Semaphore>,
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) spans: Spans,
    pub(crate) buried: Buried,
    pub(crate) tasks: Tasks,
    pub(crate) constraints: Arc<Constraints>,
}

/// Requests put among the dead letters.
pub(crate) struct Buried {
    unreadable: Counter,
    undelivered: Counter,
}

impl Buried {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        let counter = |reason| {
            let help = "Requests given up and put among the dead letters";
            metrics.counter("dead_letters", help, &[("reason", reason)])
        };
        Self {
            unreadable: counter("unreadable"),
            undelivered: counter("undelivered"),
        }
    }
}

impl Queue {
    /// Joins the consumer that all workers of this model and queue share.
    pub(crate) async fn consumer(&self) -> Result<Box<dyn Consumer>, BusError> {
        let config = &self.config;
        let name = format!(
            "{}-{}",
            subjects::token(config.model.as_str()),
            subjects::token(&config.queue)
        );
        let spec = ConsumerSpec {
            stream: StreamName::Requests,
            filter: Subject::new(subjects::request_subject(&config.model, &config.queue)),
            name,
            ack_wait: config.ack_wait,
            max_deliver: config.max_deliver,
        };
        self.bus.consumer(spec).await
    }

    /// Takes requests until told to stop.
    pub(crate) async fn take(self, consumer: Box<dyn Consumer>, stopping: CancellationToken) {
        loop {
            let room = tokio::select! {
                biased;
                () = stopping.cancelled() => return,
                room = self.room() => room,
            };
            let deliveries = tokio::select! {
                biased;
                () = stopping.cancelled() => return,
                // A dropped fetch has taken nothing.
                deliveries = consumer.fetch(room.len(), FETCH_WAIT) => deliveries,
            };
            match deliveries {
                Ok(deliveries) => {
                    for (delivery, slot) in deliveries.into_iter().zip(room) {
                        self.admit(delivery, slot).await;
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "no requests could be fetched");
                    tokio::time::sleep(AFTER_FAILURE).await;
                }
            }
        }
    }

    /// Waits for room for one sequence, and takes what more there is.
    async fn room(&self) -> Vec<OwnedSemaphorePermit> {
        let mut room = Vec::new();
        let first = Arc::clone(&self.slots).acquire_owned().await;
        room.push(first.expect("the semaphore is never closed"));
        while room.len() < FETCH_AT_MOST
            && let Ok(more) = Arc::clone(&self.slots).try_acquire_owned()
        {
            room.push(more);
        }
        room
    }

    async fn admit(&self, delivery: Delivery, slot: OwnedSemaphorePermit) {
        let request = match vlinders_wire::decode_request(&delivery.payload) {
            Ok(request) => request,
            Err(error) => {
                tracing::error!(%error, subject = %delivery.subject, "unreadable request");
                self.buried.unreadable.inc();
                self.bury(&delivery, &error.to_string(), None).await;
                if let Err(error) = delivery.control.terminate().await {
                    tracing::warn!(%error, "unreadable request not terminated");
                }
                return;
            }
        };
        self.spans.taken(&request, delivery.delivery_count);
        let last = delivery.delivery_count >= self.config.max_deliver;
        let may_return = delivery.delivery_count.saturating_add(1) < self.config.max_deliver;
        let command = if last {
            let reason = format!("delivered {} times without an answer", delivery.delivery_count);
            tracing::error!(request = %request.request_id, %reason, "request given up");
            self.buried.undelivered.inc();
            self.bury(&delivery, &reason, Some(&request)).await;
            let fault = RequestFault {
                kind: FaultKind::Internal,
                message: ending_texts::POISONED.to_owned(),
            };
            let job = self.open(delivery, may_return);
            Command::Reject {
                request: Box::new(request),
                job,
                fault,
            }
        } else {
            let taken = Taken {
                job: self.open(delivery, may_return),
                slot,
                at: Instant::now(),
            };
            if request.constraint.is_some() {
                self.admit_formed(request, taken);
                return;
            }
            Command::Admit {
                request: Box::new(request),
                taken,
                form: None,
            }
        };
        // The loop is gone only when the process leaves; the queue then gives the request to another worker.
        let _loop_gone = self.commands.send(command).await;
    }

    /// Compiles the constraint beside whatever else comes from the queue. There are never more of these than there is room
    /// for sequences.
    fn admit_formed(&self, request: Request, taken: Taken) {
        let (constraints, commands) = (Arc::clone(&self.constraints), self.commands.clone());
        self.tasks.spawn(Stage::Work, "constraint", async move {
            let form = constraints.form(&request).await;
            let command = Command::Admit {
                request: Box::new(request),
                taken,
                form,
            };
            let _loop_gone = commands.send(command).await;
        });
    }

    fn open(&self, delivery: Delivery, may_return: bool) -> Job {
        let id = self.jobs.open(delivery.control);
        Job { id, may_return }
    }

    async fn bury(&self, delivery: &Delivery, reason: &str, request: Option<&Request>) {
        let letter = DeadLetter {
            reason: reason.to_owned(),
            writer: self.config.worker.clone(),
            delivery_count: delivery.delivery_count,
            failed_ms: self.clock.now_ms(),
            subject: delivery.subject.to_string(),
            payload: delivery.payload.clone(),
        };
        let unreadable = || format!("unreadable-{:x}", fingerprint(&delivery.payload));
        let id = request.map_or_else(unreadable, subjects::request_message_id);
        let subject = Subject::new(subjects::dead_letter_subject(&self.config.model));
        let bytes = vlinders_wire::encode_dead_letter(&letter);
        if let Err(error) = self
            .bus
            .enqueue(StreamName::DeadLetters, &subject, &id, bytes)
            .await
        {
            tracing::error!(%error, reason, "dead letter not stored");
        }
    }
}

/// FNV-1a: tells unreadable messages apart; nothing depends on it being hard to forge.
fn fingerprint(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xCBF2_9CE4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3)
    })
}
