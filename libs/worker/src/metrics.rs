//! What a worker counts.

use std::time::Duration;

use vlinders_kv_transfer::Outcome;
use vlinders_service_kit::{Buckets, Counter, Gauge, Histogram, Metrics};
use vlinders_types::{Batch, FinishReason};

/// The metrics of one worker, labelled with its role.
pub(crate) struct WorkerMetrics {
    step_seconds: Histogram,
    step_rows: Histogram,
    step_tokens: Histogram,
    pub(crate) preemptions: Counter,
    pub(crate) handed_back: Counter,
    pub(crate) given_back: Counter,
    finished: [(FinishReason, Counter); 4],
    hand_offs: [(Outcome, Counter); 5],
    pub(crate) running: Gauge,
    pub(crate) free_blocks: Gauge,
    pub(crate) queued_prompt_tokens: Gauge,
}

impl WorkerMetrics {
    pub(crate) fn new(metrics: &Metrics, role: &str, total_blocks: u32) -> Self {
        let labels: &[(&str, &str)] = &[("role", role)];
        metrics
            .gauge("kv_blocks", "KV blocks of the pool", labels)
            .set(f64::from(total_blocks));
        let finished = [
            FinishReason::Stop,
            FinishReason::Length,
            FinishReason::Cancelled,
            FinishReason::Error,
        ];
        let outcomes = [
            Outcome::Ok,
            Outcome::BadChecksum,
            Outcome::Aborted,
            Outcome::Expired,
            Outcome::Lost,
        ];
        Self {
            step_seconds: metrics.histogram(
                "step_duration_seconds",
                "Time of one engine step",
                Buckets::Seconds,
                labels,
            ),
            step_rows: metrics.histogram(
                "step_rows",
                "Sequences in one engine step",
                Buckets::Count,
                labels,
            ),
            step_tokens: metrics.histogram(
                "step_tokens",
                "New tokens in one engine step",
                Buckets::Count,
                labels,
            ),
            preemptions: metrics.counter("preemptions", "Sequences put back for want of blocks", labels),
            handed_back: metrics.counter(
                "requests_handed_back",
                "Requests a leaving worker gave back to their frontends",
                labels,
            ),
            given_back: metrics.counter(
                "requests_given_back",
                "Requests a leaving worker gave back to the queue",
                labels,
            ),
            finished: finished.map(|reason| {
                let labels = [("role", role), ("reason", reason.name())];
                (
                    reason,
                    metrics.counter("requests_finished", "Requests ended here, by reason", &labels),
                )
            }),
            hand_offs: outcomes.map(|outcome| {
                let labels = [("role", role), ("outcome", outcome.label())];
                (
                    outcome,
                    metrics.counter("hand_offs", "Hand-offs from this worker, by outcome", &labels),
                )
            }),
            running: metrics.gauge("sequences_running", "Sequences held by this worker", labels),
            free_blocks: metrics.gauge("kv_blocks_free", "KV blocks free or only cached", labels),
            queued_prompt_tokens: metrics.gauge(
                "queued_prompt_tokens",
                "Prompt tokens not yet computed",
                labels,
            ),
        }
    }

    pub(crate) fn step(&self, batch: &Batch, took: Duration) {
        self.step_seconds.observe(took.as_secs_f64());
        self.step_rows
            .observe(f64::from(u32::try_from(batch.rows.len()).unwrap_or(u32::MAX)));
        self.step_tokens
            .observe(f64::from(u32::try_from(batch.tokens.len()).unwrap_or(u32::MAX)));
    }

    pub(crate) fn ended(&self, reason: FinishReason) {
        count(&self.finished, &reason);
    }

    pub(crate) fn hand_off_ended(&self, outcome: Outcome) {
        count(&self.hand_offs, &outcome);
    }
}

fn count<K: PartialEq>(counters: &[(K, Counter)], key: &K) {
    if let Some((_, counter)) = counters.iter().find(|(known, _)| known == key) {
        counter.inc();
    }
}
