//! The loop: take a batch, record it, acknowledge it.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use vlinders_bus::{Bus, BusError, Consumer, Delivery};
use vlinders_ledger::{Ledger, LedgerError};
use vlinders_service_kit::{Buckets, Clock, Counter, Histogram, Metrics};
use vlinders_types::UsageEvent;

use crate::teeth::bites;
use crate::{UsageConfig, poison};

/// How long one fetch waits; only how often an idle loop turns depends on it.
const FETCH_WAIT: Duration = Duration::from_secs(5);

/// One delivered event.
pub(crate) struct Entry {
    pub(crate) delivery: Delivery,
    event: UsageEvent,
}

/// What is counted.
pub(crate) struct Counters {
    inserted: Counter,
    duplicates: Counter,
    poisoned: Counter,
    failures: Counter,
    lag: Histogram,
}

impl Counters {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        Self {
            inserted: metrics.counter("usage_events_recorded", "Usage events new in the ledger", &[]),
            duplicates: metrics.counter(
                "usage_events_duplicate",
                "Usage events the ledger had already",
                &[],
            ),
            poisoned: metrics.counter(
                "usage_events_poisoned",
                "Usage events that cannot be recorded",
                &[],
            ),
            failures: metrics.counter("usage_record_failures", "Failed tries to record usage", &[]),
            lag: metrics.histogram(
                "usage_lag_seconds",
                "From the end of a request to its row in the ledger",
                Buckets::Seconds,
                &[],
            ),
        }
    }
}

/// Takes events and records them.
pub(crate) struct Recorder {
    pub(crate) config: UsageConfig,
    pub(crate) consumer: Box<dyn Consumer>,
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) ledger: Arc<dyn Ledger>,
    pub(crate) counters: Counters,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) stopping: CancellationToken,
}

impl Recorder {
    /// Runs until asked to stop, then stores what is still there, as far as the limit allows.
    pub(crate) async fn run(self) {
        let limit = async {
            self.stopping.cancelled().await;
            sleep(self.config.stop_limit).await;
        };
        tokio::select! {
            biased;
            () = self.serve() => {}
            // What the ledger has not taken is not acknowledged and comes again where the bus is durable.
            () = limit => tracing::error!("usage is left on the bus: the ledger did not take it in time"),
        }
    }

    async fn serve(&self) {
        loop {
            // Only the wait is cancelled: a dropped fetch loses nothing.
            let fetched = tokio::select! {
                biased;
                () = self.stopping.cancelled() => break,
                fetched = self.consumer.fetch(self.config.batch, FETCH_WAIT) => fetched,
            };
            match fetched {
                Ok(deliveries) => self.take(deliveries).await,
                Err(error) => self.rest_after(&error).await,
            }
        }
        self.drain().await;
    }

    /// Stores what the stream has now. A batch that is not full was its end.
    async fn drain(&self) {
        loop {
            match self.consumer.fetch(self.config.batch, Duration::ZERO).await {
                Ok(deliveries) => {
                    let is_last = deliveries.len() < self.config.batch;
                    self.take(deliveries).await;
                    if is_last {
                        return;
                    }
                }
                Err(error) => self.rest_after(&error).await,
            }
        }
    }

    async fn rest_after(&self, error: &BusError) {
        tracing::warn!(%error, "usage cannot be fetched");
        sleep(self.config.retry).await;
    }

    /// Sees every delivery of a batch to its end.
    async fn take(&self, deliveries: Vec<Delivery>) {
        let mut entries = Vec::with_capacity(deliveries.len());
        for delivery in deliveries {
            match vlinders_wire::decode_usage_event(&delivery.payload) {
                Ok(event) => entries.push(Entry { delivery, event }),
                Err(error) => self.bury(&delivery, &error.to_string()).await,
            }
        }
        if entries.is_empty() {
            return;
        }
        if bites("usage-acknowledged-before-recorded") {
            acknowledge(&entries).await;
        }
        match self.record(&entries).await {
            Ok(()) => acknowledge(&entries).await,
            Err(error) if error.is_refusal() => self.record_one_by_one(entries).await,
            Err(error) => {
                tracing::error!(error = %with_causes(&error), "usage is left on the bus");
                self.counters.failures.inc();
                // Whoever takes over gets the events when they are due again.
                sleep(self.config.retry).await;
            }
        }
    }

    /// Records a batch, however long the ledger is away.
    async fn record(&self, entries: &[Entry]) -> Result<(), LedgerError> {
        let events: Vec<UsageEvent> = entries.iter().map(|entry| entry.event.clone()).collect();
        loop {
            let error = match self.ledger.record(&events).await {
                Ok(recorded) => {
                    self.counters.inserted.inc_by(recorded.inserted);
                    self.counters.duplicates.inc_by(recorded.duplicates);
                    self.observe_lag(&events);
                    return Ok(());
                }
                Err(error) => error,
            };
            if !error.is_retryable() {
                return Err(error);
            }
            self.counters.failures.inc();
            tracing::warn!(error = %with_causes(&error), events = events.len(), "usage not recorded yet");
            sleep(self.config.retry).await;
            for entry in entries {
                // A lost word means a second delivery, which changes nothing.
                let _lost = entry.delivery.control.progress().await;
            }
        }
    }

    fn observe_lag(&self, events: &[UsageEvent]) {
        let now_ms = self.clock.now_ms();
        for event in events {
            let lag = Duration::from_millis(now_ms.saturating_sub(event.finished_ms));
            self.counters.lag.observe(lag.as_secs_f64());
        }
    }

    /// The ledger refuses the batch for good: finds the events it refuses.
    async fn record_one_by_one(&self, entries: Vec<Entry>) {
        for entry in entries {
            let entry = [entry];
            match self.record(&entry).await {
                Ok(()) => acknowledge(&entry).await,
                Err(error) if error.is_refusal() => {
                    self.bury(&entry[0].delivery, &with_causes(&error)).await;
                }
                // The others stay on the bus with it.
                Err(_) => return,
            }
        }
    }

    /// Puts a delivery that can never be recorded among the dead letters.
    async fn bury(&self, delivery: &Delivery, reason: &str) {
        tracing::error!(%reason, subject = %delivery.subject, "usage event cannot be recorded");
        self.counters.poisoned.inc();
        let letter = poison::letter(delivery, reason, &self.config.writer, self.clock.now_ms());
        if let Err(error) = poison::bury(&*self.bus, delivery, &letter).await {
            tracing::warn!(%error, "dead letter not stored yet");
            let _lost = delivery.control.give_back(self.config.ack_wait).await;
        }
    }
}

async fn acknowledge(entries: &[Entry]) {
    for entry in entries {
        if let Err(error) = entry.delivery.control.ack().await {
            // It comes again and is then a duplicate.
            tracing::debug!(%error, "usage event not acknowledged");
        }
    }
}

/// An error and what it came from, in one line.
fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}
