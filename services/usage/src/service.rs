//! Takes usage events in batches, records them, acknowledges them.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use vlinders_bus::{Bus, BusError, Consumer, ConsumerSpec, Delivery, StreamName, Subject};
use vlinders_ledger::Ledger;
use vlinders_service_kit::{Clock, Counter, Metrics, Stage, Tasks};
use vlinders_types::{UsageEvent, WorkerId};
use vlinders_wire::{DeadLetter, subjects};

/// How the service works.
#[derive(Clone, Debug)]
pub struct UsageConfig {
    /// Who signs dead letters.
    pub writer: WorkerId,
    /// Events recorded in one transaction at most.
    pub batch: usize,
    /// An event not acknowledged for this long is delivered again.
    pub ack_wait: Duration,
    /// Pause after the ledger or the bus failed.
    pub retry: Duration,
}

impl Default for UsageConfig {
    fn default() -> Self {
        Self {
            writer: WorkerId::new("usage"),
            batch: 512,
            ack_wait: Duration::from_secs(30),
            retry: Duration::from_millis(500),
        }
    }
}

/// What the service is made of.
pub struct UsageParts {
    /// Events come over it.
    pub bus: Arc<dyn Bus>,
    /// Where they are recorded.
    pub ledger: Arc<dyn Ledger>,
    /// Where its task runs.
    pub tasks: Tasks,
    /// Where it counts.
    pub metrics: Metrics,
    /// The time of day.
    pub clock: Arc<dyn Clock>,
}

/// Starts the service. When told to stop, it records everything the stream holds, then ends.
///
/// # Errors
/// When the bus refuses the consumer.
pub async fn start(config: UsageConfig, parts: UsageParts) -> Result<(), BusError> {
    let spec = ConsumerSpec {
        stream: StreamName::Usage,
        filter: Subject::new(subjects::ALL_USAGE),
        name: "usage".to_owned(),
        ack_wait: config.ack_wait,
        // An event is never given up because the ledger was away.
        max_deliver: u32::MAX,
    };
    let consumer = parts.bus.consumer(spec).await?;
    let stopping = parts.tasks.stopping(Stage::Flush);
    let tasks = parts.tasks.clone();
    let service = Service {
        recorded: parts
            .metrics
            .counter("usage_events_recorded", "Usage events new in the ledger", &[]),
        duplicates: parts.metrics.counter(
            "usage_events_duplicate",
            "Usage events the ledger had already",
            &[],
        ),
        config,
        parts,
    };
    tasks.spawn(Stage::Flush, "usage", service.run(consumer, stopping));
    Ok(())
}

struct Service {
    config: UsageConfig,
    parts: UsageParts,
    recorded: Counter,
    duplicates: Counter,
}

/// How long one fetch waits for the first event.
const FETCH_WAIT: Duration = Duration::from_secs(5);
/// The last events may be on their way when the stop comes: those who write them stop in the same stage.
const LAST_WAIT: Duration = Duration::from_millis(200);

impl Service {
    async fn run(self, consumer: Box<dyn Consumer>, stopping: CancellationToken) {
        loop {
            let leaving = stopping.is_cancelled();
            let wait = if leaving { LAST_WAIT } else { FETCH_WAIT };
            let fetched = tokio::select! {
                biased;
                // A dropped fetch has taken nothing.
                () = stopping.cancelled(), if !leaving => continue,
                fetched = consumer.fetch(self.config.batch, wait) => fetched,
            };
            match fetched {
                Ok(deliveries) if deliveries.is_empty() && leaving => return,
                Ok(deliveries) => self.record(deliveries).await,
                Err(error) => {
                    tracing::warn!(%error, "usage events cannot be fetched");
                    if leaving {
                        return;
                    }
                    tokio::time::sleep(self.config.retry).await;
                }
            }
        }
    }

    /// Records a batch and acknowledges it. Nothing is acknowledged that is not in the ledger.
    async fn record(&self, deliveries: Vec<Delivery>) {
        let (events, deliveries) = self.readable(deliveries).await;
        if events.is_empty() {
            return;
        }
        let recorded = match self.parts.ledger.record(&events).await {
            Ok(recorded) => recorded,
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    events = events.len(),
                    "usage not recorded"
                );
                for delivery in deliveries {
                    // If this fails too, `ack_wait` brings the event back.
                    let _comes_back = delivery.control.give_back(self.config.retry).await;
                }
                tokio::time::sleep(self.config.retry).await;
                return;
            }
        };
        self.recorded.inc_by(recorded.inserted);
        self.duplicates.inc_by(recorded.duplicates);
        for delivery in deliveries {
            if let Err(error) = delivery.control.ack().await {
                // Delivered again, found in the ledger, and counted as a duplicate.
                tracing::warn!(%error, "usage event not acknowledged");
            }
        }
    }

    /// Separates what can be read; the rest is kept as dead letters and ended.
    async fn readable(&self, deliveries: Vec<Delivery>) -> (Vec<UsageEvent>, Vec<Delivery>) {
        let (mut events, mut kept) = (Vec::new(), Vec::new());
        for delivery in deliveries {
            match vlinders_wire::decode_usage_event(&delivery.payload) {
                Ok(event) => {
                    events.push(event);
                    kept.push(delivery);
                }
                Err(error) => self.bury(&delivery, &error.to_string()).await,
            }
        }
        (events, kept)
    }

    async fn bury(&self, delivery: &Delivery, reason: &str) {
        tracing::error!(reason, subject = %delivery.subject, "unreadable usage event");
        let letter = DeadLetter {
            reason: reason.to_owned(),
            writer: self.config.writer.clone(),
            delivery_count: delivery.delivery_count,
            failed_ms: self.parts.clock.now_ms(),
            subject: delivery.subject.to_string(),
            payload: delivery.payload.clone(),
        };
        let subject = Subject::new("vl.dlq.usage");
        let id = format!("{}-{}", letter.failed_ms, letter.payload.len());
        let bytes = vlinders_wire::encode_dead_letter(&letter);
        let stored = self
            .parts
            .bus
            .enqueue(StreamName::DeadLetters, &subject, &id, bytes)
            .await;
        match stored {
            Ok(_) => {
                let _comes_back = delivery.control.terminate().await;
            }
            // Better delivered again than lost.
            Err(error) => tracing::error!(%error, "dead letter not stored"),
        }
    }
}
