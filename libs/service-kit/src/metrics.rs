//! Metrics under one scheme, `vlinders_*`, in the Prometheus text form.
//!
//! Several roles may live in one process: each asks for the metric with its own labels, and all of them share
//! one family, so that a name has one help text however many roles there are.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::{counter, gauge, histogram};
use prometheus_client::registry::Registry;

use crate::process_metrics::ProcessMetrics;

/// Counts up. The exported name ends in `_total`.
pub type Counter = counter::Counter;
/// Counts seconds up. The exported name ends in `_total`.
pub type SecondsCounter = counter::Counter<f64, AtomicU64>;
/// Goes up and down.
pub type Gauge = gauge::Gauge<f64, AtomicU64>;
/// Counts observations by size.
pub type Histogram = histogram::Histogram;
/// Label names and values.
pub type Labels = Vec<(String, String)>;

/// Upper bounds of a histogram's buckets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Buckets {
    /// 0.5 ms to 5 minutes, in seconds.
    Seconds,
    /// 1 to 131072, doubling: tokens, rows, blocks.
    Count,
}

impl MetricConstructor<Histogram> for Buckets {
    fn new_metric(&self) -> Histogram {
        const SECONDS: [f64; 17] = [
            0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
            300.0,
        ];
        match self {
            Self::Seconds => Histogram::new(SECONDS),
            Self::Count => Histogram::new(histogram::exponential_buckets(1.0, 2.0, 18)),
        }
    }
}

/// The metrics of one process. Cheap to clone; all clones are the same metrics.
#[derive(Clone, Default)]
pub struct Metrics {
    families: Arc<Mutex<Families>>,
}

#[derive(Default)]
struct Families {
    registry: Registry,
    counters: HashMap<&'static str, Family<Labels, Counter>>,
    seconds: HashMap<&'static str, Family<Labels, SecondsCounter>>,
    gauges: HashMap<&'static str, Family<Labels, Gauge>>,
    histograms: HashMap<&'static str, Family<Labels, Histogram, Buckets>>,
}

impl Metrics {
    /// The metrics of a process of this version, with what every process tells of itself.
    #[must_use]
    pub fn of_process(version: &str) -> Self {
        let metrics = Self::default();
        metrics
            .lock()
            .registry
            .register_collector(Box::new(ProcessMetrics::new()));
        let labels: &[(&str, &str)] = &[("version", version)];
        metrics
            .gauge("build_info", "Always 1; the label tells", labels)
            .set(1.0);
        metrics
    }

    /// The counter `vlinders_<name>_total` with these labels.
    #[must_use]
    pub fn counter(&self, name: &'static str, help: &str, labels: &[(&str, &str)]) -> Counter {
        let mut families = self.lock();
        let Families {
            registry, counters, ..
        } = &mut *families;
        let family = counters.entry(name).or_insert_with(|| {
            let family = Family::default();
            registry.register(full_name(name), help, family.clone());
            family
        });
        family.get_or_create(&owned(labels)).clone()
    }

    /// The counter of seconds `vlinders_<name>_total` with these labels.
    #[must_use]
    pub fn seconds(&self, name: &'static str, help: &str, labels: &[(&str, &str)]) -> SecondsCounter {
        let mut families = self.lock();
        let Families {
            registry, seconds, ..
        } = &mut *families;
        let family = seconds.entry(name).or_insert_with(|| {
            let family = Family::default();
            registry.register(full_name(name), help, family.clone());
            family
        });
        family.get_or_create(&owned(labels)).clone()
    }

    /// The gauge `vlinders_<name>` with these labels.
    #[must_use]
    pub fn gauge(&self, name: &'static str, help: &str, labels: &[(&str, &str)]) -> Gauge {
        let mut families = self.lock();
        let Families { registry, gauges, .. } = &mut *families;
        let family = gauges.entry(name).or_insert_with(|| {
            let family = Family::default();
            registry.register(full_name(name), help, family.clone());
            family
        });
        family.get_or_create(&owned(labels)).clone()
    }

    /// The histogram `vlinders_<name>` with these labels. The first caller's buckets stay.
    #[must_use]
    pub fn histogram(
        &self,
        name: &'static str,
        help: &str,
        buckets: Buckets,
        labels: &[(&str, &str)],
    ) -> Histogram {
        let mut families = self.lock();
        let Families {
            registry, histograms, ..
        } = &mut *families;
        let family = histograms.entry(name).or_insert_with(|| {
            let family = Family::new_with_constructor(buckets);
            registry.register(full_name(name), help, family.clone());
            family
        });
        family.get_or_create(&owned(labels)).clone()
    }

    /// Everything, as `/metrics` shows it.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = String::new();
        if encode(&mut text, &self.lock().registry).is_err() {
            // Writing to a string cannot fail; a metric that refuses to be encoded must not hide the others.
            let _ = write!(text, "\n# EOF\n");
        }
        text
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Families> {
        // A panic while registering leaves nothing half-done that matters here.
        self.families.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn full_name(name: &str) -> String {
    format!("vlinders_{name}")
}

fn owned(labels: &[(&str, &str)]) -> Labels {
    labels
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_roles_share_one_family() {
        let metrics = Metrics::default();
        metrics
            .counter("steps", "Engine steps", &[("pool", "prefill")])
            .inc();
        metrics
            .counter("steps", "Engine steps", &[("pool", "decode")])
            .inc_by(2);
        let text = metrics.encode();
        assert_eq!(text.matches("# TYPE vlinders_steps counter").count(), 1, "{text}");
        assert!(
            text.contains("vlinders_steps_total{pool=\"prefill\"} 1"),
            "{text}"
        );
        assert!(text.contains("vlinders_steps_total{pool=\"decode\"} 2"), "{text}");
    }

    #[test]
    fn the_same_labels_are_the_same_metric() {
        let metrics = Metrics::default();
        metrics.gauge("free_blocks", "Free blocks", &[]).set(3.0);
        assert_eq!(metrics.gauge("free_blocks", "Free blocks", &[]).get(), 3.0);
        metrics
            .histogram("ttft_seconds", "First token", Buckets::Seconds, &[])
            .observe(0.2);
        let text = metrics.encode();
        assert!(text.contains("vlinders_ttft_seconds_count{} 1"), "{text}");
    }
}
