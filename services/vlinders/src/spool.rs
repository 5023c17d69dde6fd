//! The spool of a process: bills that the bus has not confirmed yet, in a folder shared by all processes of one
//! installation on this host, so that any of them sends what a killed one has left.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use vlinders_bus::{Bus, FolderSpools, Spool, SpoolLoad, SpoolOptions, SpoolSync, SpoolUntil};
use vlinders_service_kit::{Clock, Metrics, Stage, Tasks};

/// How long a process that leaves waits for a bus that is away.
const LEAVE_WITHIN: Duration = Duration::from_secs(3);

/// Where and how bills are kept.
#[derive(Clone, Debug)]
pub(crate) struct SpoolSettings {
    pub(crate) folder: PathBuf,
    pub(crate) sync: SpoolSync,
    /// How long answers wait until the bus has their bill too.
    pub(crate) confirm_within: Option<Duration>,
}

/// What a spool is made of.
pub(crate) struct SpoolParts<'a> {
    pub(crate) settings: &'a SpoolSettings,
    pub(crate) until: SpoolUntil,
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) tasks: &'a Tasks,
    pub(crate) metrics: &'a Metrics,
    pub(crate) clock: Arc<dyn Clock>,
}

/// Opens it and starts the task that sends. The task ends when nobody holds the spool any more.
///
/// # Errors
/// When nothing can be written there.
pub(crate) async fn open_spool(parts: SpoolParts<'_>) -> anyhow::Result<Spool> {
    let clock = parts.clock;
    let options = SpoolOptions {
        sync: parts.settings.sync,
        until: parts.until,
        confirm_within: parts.settings.confirm_within,
        leave_within: LEAVE_WITHIN,
        ..SpoolOptions::new(Arc::new(move || clock.now_ms()))
    };
    let place = Arc::new(FolderSpools::new(parts.settings.folder.clone()));
    let spool = Spool::open(place, options).await.context("--data-dir")?;
    let stopping = parts.tasks.stopping(Stage::Flush);
    let sending = spool.clone().run(parts.bus, stopping, show(parts.metrics));
    parts.tasks.spawn(Stage::Flush, "spool", sending);
    Ok(spool)
}

/// Shows how much waits.
fn show(metrics: &Metrics) -> impl Fn(SpoolLoad) + Send + use<> {
    let events = metrics.gauge(
        "usage_spool_events",
        "Usage events on this host's disk that the bus has not confirmed",
        &[],
    );
    let bytes = metrics.gauge("usage_spool_bytes", "Bytes of the usage spool", &[]);
    let oldest = metrics.gauge(
        "usage_spool_oldest_seconds",
        "How long the oldest usage event has waited there",
        &[],
    );
    move |load| {
        events.set(u32::try_from(load.messages).map_or(f64::INFINITY, f64::from));
        bytes.set(load.bytes as f64);
        oldest.set(load.oldest.unwrap_or_default().as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use vlinders_bus::{
        ConsumerSpec, InProcessBus, InProcessLimits, SpoolMessage, StreamName, StreamRules, Subject,
    };
    use vlinders_service_kit::SystemClock;

    use super::*;

    async fn until(metrics: &Metrics, line: &str) {
        let shown = async {
            while !metrics.encode().contains(line) {
                tokio::task::yield_now().await;
            }
        };
        let shown = tokio::time::timeout(Duration::from_secs(60), shown).await;
        shown.unwrap_or_else(|_| panic!("lacks {line}: {}", metrics.encode()));
    }

    #[tokio::test]
    async fn what_a_killed_process_left_is_sent_by_the_next_and_the_metrics_show_it() {
        let folder = tempfile::tempdir().unwrap();
        let place = || Arc::new(FolderSpools::new(folder.path().join("spool")));
        let killed = Spool::open(place(), SpoolOptions::new(Arc::new(|| 0)))
            .await
            .unwrap();
        let message = SpoolMessage {
            stream: StreamName::Usage,
            subject: Subject::new("vl.usage.t"),
            id: "1".to_owned(),
            payload: "an event".into(),
        };
        killed.keep(vec![message]).await;
        drop(killed);

        let (bus, metrics, tasks) = (
            Arc::new(InProcessBus::new(InProcessLimits::default())),
            Metrics::default(),
            Tasks::new(),
        );
        let parts = SpoolParts {
            settings: &SpoolSettings {
                folder: folder.path().join("spool"),
                sync: SpoolSync::Never,
                confirm_within: None,
            },
            until: SpoolUntil::Handled,
            bus: bus.clone(),
            tasks: &tasks,
            metrics: &metrics,
            clock: Arc::new(SystemClock),
        };
        let spool = open_spool(parts).await.unwrap();
        until(&metrics, "vlinders_usage_spool_events{} 1.0\n").await;
        assert!(
            !metrics
                .encode()
                .contains("vlinders_usage_spool_oldest_seconds{} 0.0\n")
        );
        let rules = StreamRules {
            max_messages: 10,
            max_age: Duration::from_secs(60),
            dedup_window: Duration::from_secs(60),
        };
        bus.ensure_stream(StreamName::Usage, rules).await.unwrap();
        let spec = ConsumerSpec {
            stream: StreamName::Usage,
            filter: Subject::new("vl.usage.>"),
            name: "usage".to_owned(),
            ack_wait: Duration::from_secs(60),
            max_deliver: 1,
        };
        let usage = bus.consumer(spec).await.unwrap();
        let deliveries = usage.fetch(10, Duration::from_secs(60)).await.unwrap();
        assert_eq!(deliveries[0].payload, "an event");
        assert!(!metrics.encode().contains("vlinders_usage_spool_bytes{} 0.0\n"));
        deliveries[0].control.ack().await.unwrap();
        until(&metrics, "vlinders_usage_spool_bytes{} 0.0\n").await;
        until(&metrics, "vlinders_usage_spool_oldest_seconds{} 0.0\n").await;
        drop(spool);
        tasks.stop(Duration::from_secs(60)).await.unwrap();
        let left = folder.path().join("spool").read_dir().unwrap().count();
        assert_eq!(left, 0);
    }
}
