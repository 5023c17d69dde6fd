//! What the frontend counts.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use vlinders_service_kit::{Buckets, Counter, Gauge, Histogram, Metrics};
use vlinders_types::{TenantId, TokenCounts};

/// Tenants with a name of their own in the metrics: each is a few time series for ever.
const CONSUMERS: usize = 100;

/// The frontend's metrics, created once.
pub(crate) struct FrontendMetrics {
    all: Metrics,
    /// Those with a name of their own.
    consumers: Mutex<HashSet<TenantId>>,
    /// From acceptance to the first token, streams only.
    pub(crate) first_token: Histogram,
    /// Between tokens, streams only.
    pub(crate) between_tokens: Histogram,
    pub(crate) in_flight: Gauge,
    pub(crate) connections: Gauge,
    prompt_tokens: Counter,
    cached_tokens: Counter,
    completion_tokens: Counter,
    /// Step batches that could not be read.
    pub(crate) bad_batches: Counter,
    /// Messages the bus dropped because the dispatcher was behind.
    pub(crate) lost_messages: Counter,
    /// Cancellations that did not fit the canceller's queue.
    pub(crate) lost_cancels: Counter,
    /// Events of the tap that the bus took, and those it did not take in time.
    pub(crate) tap_sent: Counter,
    pub(crate) tap_dropped: Counter,
}

impl FrontendMetrics {
    pub(crate) fn new(all: Metrics) -> Self {
        let tokens = |kind| all.counter("tokens", "Tokens of finished requests", &[("kind", kind)]);
        let seconds = |name, help| all.histogram(name, help, Buckets::Seconds, &[]);
        Self {
            first_token: seconds("ttft_seconds", "From acceptance to the first token of a stream"),
            between_tokens: seconds("itl_seconds", "Between two tokens of a stream"),
            in_flight: all.gauge("requests_in_flight", "Requests queued or running", &[]),
            connections: all.gauge("http_connections", "Open connections", &[]),
            prompt_tokens: tokens("prompt"),
            cached_tokens: tokens("cached"),
            completion_tokens: tokens("completion"),
            bad_batches: all.counter("frontend_bad_batches", "Step batches that could not be read", &[]),
            lost_messages: all.counter("frontend_lost_messages", "Step batches lost by being slow", &[]),
            lost_cancels: all.counter("frontend_lost_cancels", "Cancellations not sent", &[]),
            consumers: Mutex::default(),
            tap_sent: all.counter("tap_events_sent", "Events told to outside subscribers", &[]),
            tap_dropped: all.counter("tap_events_dropped", "Events the bus did not take in time", &[]),
            all,
        }
    }

    /// For parts that count by themselves.
    pub(crate) fn all(&self) -> &Metrics {
        &self.all
    }

    /// One HTTP request has ended. `status` 499 means that the client left.
    pub(crate) fn request_ended(&self, route: &str, status: u16, seconds: f64) {
        let status = status.to_string();
        let labels = [("route", route), ("status", status.as_str())];
        self.all
            .counter("http_requests", "HTTP requests by route and status", &labels)
            .inc();
        let help = "From the head of a request to the end of its answer";
        let histogram = |labels| {
            self.all
                .histogram("http_request_duration_seconds", help, Buckets::Seconds, labels)
        };
        histogram(&[("route", route)]).observe(seconds);
    }

    /// A request that was let in is over. Only so many tenants get a name in the metrics; the rest are `other`.
    pub(crate) fn consumed(&self, tenant: &TenantId, status: u16, tokens: u64) {
        let name = {
            let mut named = self.consumers.lock().unwrap_or_else(PoisonError::into_inner);
            let has_room = named.len() < CONSUMERS;
            if named.contains(tenant) || (has_room && named.insert(tenant.clone())) {
                tenant.as_str()
            } else {
                "other"
            }
        };
        let class = format!("{}xx", status / 100);
        let help = "Requests that were let in, by tenant and class of status";
        let labels = [("tenant", name), ("status", class.as_str())];
        self.all.counter("consumer_requests", help, &labels).inc();
        let help = "Tokens of prompts and answers, by tenant";
        let labels = [("tenant", name)];
        self.all.counter("consumer_tokens", help, &labels).inc_by(tokens);
    }

    /// A stream goes on with another attempt, or would if it had one left.
    pub(crate) fn failover(&self, cause: &'static str) {
        let help = "Attempts given up because of a lost worker or lost messages, by reason";
        self.all.counter("failovers", help, &[("reason", cause)]).inc();
    }

    pub(crate) fn count_tokens(&self, counts: TokenCounts) {
        self.prompt_tokens.inc_by(counts.prompt.into());
        self.cached_tokens.inc_by(counts.cached.into());
        self.completion_tokens.inc_by(counts.completion.into());
    }

    pub(crate) fn encode(&self) -> String {
        self.all.encode()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenants_are_named_until_there_are_too_many() {
        let metrics = FrontendMetrics::new(Metrics::default());
        for number in 0..2 * CONSUMERS {
            for _ in 0..2 {
                metrics.consumed(&TenantId::new(&format!("tenant {number}")), 200, 3);
            }
        }
        let text = metrics.encode();
        let series = text
            .lines()
            .filter(|line| line.starts_with("vlinders_consumer_tokens_total{"));
        assert_eq!(series.count(), CONSUMERS + 1);
        assert!(
            text.contains("vlinders_consumer_tokens_total{tenant=\"tenant 0\"} 6\n"),
            "{text}"
        );
        let others = format!(
            "vlinders_consumer_tokens_total{{tenant=\"other\"}} {}\n",
            6 * CONSUMERS
        );
        assert!(text.contains(&others), "{text}");
        assert!(
            text.contains("vlinders_consumer_requests_total{tenant=\"tenant 0\",status=\"2xx\"} 2\n"),
            "{text}"
        );
    }
}
