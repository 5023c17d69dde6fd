//! Figures that nobody pushes: looked at once a second and shown at `/metrics`.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use vlinders_bus::{Bus, NatsBus, StreamName};
use vlinders_kv_transfer::{Endpoint, TransferCounts};
use vlinders_service_kit::{Counter, Metrics, SecondsCounter, Stage, Tasks};
use vlinders_worker::Role;

const EVERY: Duration = Duration::from_secs(1);

/// Calls `look` once a second until the process stops.
async fn watch(stopping: CancellationToken, mut look: impl AsyncFnMut()) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = stopping.cancelled() => return,
            _ = ticks.tick() => look().await,
        }
    }
}

/// Shows how many requests wait in the queue, those not yet taken and those not yet acknowledged together.
pub(crate) fn watch_queue(bus: Arc<dyn Bus>, tasks: &Tasks, metrics: &Metrics) {
    let length = metrics.gauge(
        "queue_length",
        "Requests in the queue, being computed or waiting",
        &[],
    );
    let stopping = tasks.stopping(Stage::Work);
    tasks.spawn(
        Stage::Work,
        "queue-watch",
        watch(stopping, async move || {
            // An outage is shown by `bus_up`; the last length stays.
            if let Ok(pending) = bus.pending(StreamName::Requests).await {
                length.set(u32::try_from(pending).map_or(f64::INFINITY, f64::from));
            }
        }),
    );
}

/// Shows how the connection to the bus fares.
pub(crate) fn watch_bus(bus: Arc<NatsBus>, tasks: &Tasks, metrics: &Metrics) {
    let is_up = metrics.gauge("bus_up", "Whether a NATS server is connected", &[]);
    let overruns = metrics.counter(
        "bus_overruns",
        "Messages lost inside this process for want of time",
        &[],
    );
    let stopping = tasks.stopping(Stage::Flush);
    tasks.spawn(
        Stage::Flush,
        "bus-watch",
        watch(stopping, async move || {
            is_up.set(f64::from(u8::from(bus.is_up())));
            overruns.inc_by(bus.overruns().saturating_sub(overruns.get()));
        }),
    );
}

/// Shows how the GPU fares that computes, where there is one that tells.
pub(crate) fn watch_gpu(tasks: &Tasks, metrics: &Metrics) {
    let Some(gpu) = vlinders_kernel_cuda::GpuWatch::open() else {
        return;
    };
    let gauge = |name, help| metrics.gauge(name, help, &[]);
    let busy = gauge(
        "gpu_busy_percent",
        "Share of the last moments in which the GPU computed",
    );
    let used = gauge("gpu_memory_used_bytes", "Memory of the GPU in use, by anybody");
    let memory = gauge("gpu_memory_bytes", "All memory of the GPU");
    let celsius = gauge("gpu_temperature_celsius", "Temperature of the GPU's chip");
    let stopping = tasks.stopping(Stage::Flush);
    tasks.spawn(
        Stage::Flush,
        "gpu-watch",
        watch(stopping, async move || {
            // A GPU that does not answer is shown as it was.
            if let Some(state) = gpu.look() {
                busy.set(f64::from(state.busy_percent));
                used.set(state.used_bytes as f64);
                memory.set(state.memory_bytes as f64);
                celsius.set(f64::from(state.celsius));
            }
        }),
    );
}

/// Shows what an endpoint moves. Does not keep it alive.
pub(crate) fn watch_transfers(endpoint: &Arc<Endpoint>, role: Role, tasks: &Tasks, metrics: &Metrics) {
    let endpoint = Arc::downgrade(endpoint);
    let shown = Shown::new(role, metrics.clone());
    let stopping = tasks.stopping(Stage::Flush);
    tasks.spawn(
        Stage::Flush,
        "transfer-watch",
        watch(stopping, {
            let mut shown = shown;
            async move || {
                if let Some(endpoint) = Weak::upgrade(&endpoint) {
                    shown.show(&endpoint.counts());
                }
            }
        }),
    );
}

/// What `/metrics` has of an endpoint's totals.
struct Shown {
    metrics: Metrics,
    role: &'static str,
    bytes: Counter,
    hand_off: SecondsCounter,
    pull: SecondsCounter,
    read: SecondsCounter,
    last: TransferCounts,
}

impl Shown {
    fn new(role: Role, metrics: Metrics) -> Self {
        let role = role.name();
        let labels: &[(&str, &str)] = &[("role", role)];
        Self {
            bytes: metrics.counter(
                "kv_transfer_bytes",
                "Bytes of KV blocks that arrived here",
                labels,
            ),
            hand_off: metrics.seconds(
                "hand_off_seconds",
                "Time of hand-offs from here, from the opening to the release",
                labels,
            ),
            pull: metrics.seconds(
                "kv_pull_seconds",
                "Time of pulls, waiting for the source included",
                labels,
            ),
            read: metrics.seconds(
                "kv_read_seconds",
                "Of the time of pulls, that in which bytes were on their way",
                labels,
            ),
            last: TransferCounts::default(),
            metrics,
            role,
        }
    }

    fn show(&mut self, counts: &TransferCounts) {
        let last = std::mem::replace(&mut self.last, counts.clone());
        self.bytes.inc_by(counts.pulled_bytes - last.pulled_bytes);
        let more = |now: Duration, before: Duration| now.saturating_sub(before).as_secs_f64();
        self.hand_off
            .inc_by(more(counts.hand_off_time, last.hand_off_time));
        self.pull.inc_by(more(counts.pull_time, last.pull_time));
        self.read.inc_by(more(counts.read_time, last.read_time));
        let help = "Pulls of KV blocks, by how they ended";
        self.outcomes("kv_pulls", help, &counts.pulls, &last.pulls);
    }

    fn outcomes(
        &self,
        name: &'static str,
        help: &str,
        now: &BTreeMap<&'static str, u64>,
        before: &BTreeMap<&'static str, u64>,
    ) {
        for (outcome, count) in now {
            let labels = [("role", self.role), ("outcome", *outcome)];
            let more = count - before.get(outcome).copied().unwrap_or_default();
            self.metrics.counter(name, help, &labels).inc_by(more);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_are_shown_once_each() {
        let metrics = Metrics::default();
        let mut shown = Shown::new(Role::Decode, metrics.clone());
        let mut counts = TransferCounts::default();
        for (bytes, pulls) in [(100, 1), (250, 3)] {
            counts.pulled_bytes = bytes;
            counts.pull_time = Duration::from_millis(bytes);
            counts.pulls.insert("ok", pulls);
            shown.show(&counts);
        }
        let text = metrics.encode();
        for line in [
            "vlinders_kv_transfer_bytes_total{role=\"decode\"} 250",
            "vlinders_kv_pull_seconds_total{role=\"decode\"} 0.25",
            "vlinders_kv_pulls_total{role=\"decode\",outcome=\"ok\"} 3",
        ] {
            assert!(text.contains(line), "lacks {line}: {text}");
        }
    }
}
