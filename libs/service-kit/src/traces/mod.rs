//! OTLP traces: what happened to one request in every process it passed, sent to a collector over HTTP.
//!
//! A [`Span`] is opened where a phase begins and recorded where it ends, on any thread: recording puts it into a
//! bounded queue and never waits. One task carries the queue out. What does not fit is dropped and counted; a collector
//! that is away or slow costs its spans and nothing else. Without an endpoint every call here is one branch.

mod config;
mod context;
mod export;
mod facts;
mod post;
mod shared;
mod span;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use opentelemetry_sdk::trace::{IdGenerator, RandomIdGenerator, SpanData};
use tokio::sync::mpsc;

use crate::metrics::{Counter, Metrics};
use crate::tasks::{Stage, Tasks};

pub use config::{TracesConfig, TracesError};
pub use context::TraceContext;
pub use facts::Fact;
pub use shared::SharedSpan;
pub use span::{Span, SpanKind};

/// The traces of one process. Cheap to clone; the default records nothing.
#[derive(Clone, Default)]
pub struct Traces {
    lane: Option<Arc<Lane>>,
}

/// The way from spans to the task that sends them.
struct Lane {
    spans: mpsc::Sender<Recorded>,
    sample_ratio: f64,
    dropped: Counter,
}

/// A span on its way, and whose it is.
struct Recorded {
    service: Arc<Service>,
    data: SpanData,
}

/// One role of this process, as collectors tell them apart.
struct Service {
    name: &'static str,
    instance: String,
}

impl Traces {
    /// Records nothing.
    #[must_use]
    pub fn off() -> Self {
        Self::default()
    }

    /// Starts the task that sends spans. It ends with the last stage, after everybody who records any, and sends what
    /// is left within `flush_limit`. Whether the collector answers is not asked.
    ///
    /// # Errors
    /// When a setting cannot be used.
    pub fn start(config: TracesConfig, tasks: &Tasks, metrics: &Metrics) -> Result<Self, TracesError> {
        let (spans, received) = mpsc::channel(config.queue_spans.max(1));
        let lane = Lane {
            spans,
            sample_ratio: config.sample_ratio,
            dropped: export::dropped(metrics, "queue_full"),
        };
        let export = export::Export::new(config, received, metrics)?;
        tracing::info!(endpoint = %export.endpoint(), "traces are sent");
        let stopping = tasks.stopping(Stage::Store);
        tasks.spawn(Stage::Store, "traces", export.run(stopping));
        Ok(Self {
            lane: Some(Arc::new(lane)),
        })
    }

    /// Records for one role: `service.name` and `service.instance.id` of its spans.
    #[must_use]
    pub fn tracer(&self, service: &'static str, instance: &str) -> Tracer {
        let source = self.lane.as_ref().map(|lane| Source {
            lane: Arc::clone(lane),
            service: Arc::new(Service {
                name: service,
                instance: instance.to_owned(),
            }),
        });
        Tracer {
            source: source.map(Arc::new),
        }
    }
}

/// Opens the spans of one role. Cheap to clone; the default records nothing.
#[derive(Clone, Default)]
pub struct Tracer {
    source: Option<Arc<Source>>,
}

/// Where a span goes when it ends.
struct Source {
    lane: Arc<Lane>,
    service: Arc<Service>,
}

impl Tracer {
    /// Whether anything is recorded at all.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.source.is_some()
    }

    /// Opens the first span of this installation for a request. A caller with a trace of its own has decided whether
    /// it is recorded; otherwise a new trace begins, and the sample ratio decides.
    pub fn first_span(&self, caller: Option<TraceContext>, name: &'static str, kind: SpanKind) -> Span {
        let Some(source) = &self.source else {
            return Span::none();
        };
        match caller {
            Some(caller) => self.span(Some(caller), name, kind),
            None => {
                let trace = RandomIdGenerator::default().new_trace_id();
                if !context::is_in_sample(trace, source.lane.sample_ratio) {
                    return Span::none();
                }
                Span::open(source, trace, None, name, kind)
            }
        }
    }

    /// Opens a span below `parent`; one that records nothing when there is no parent or nobody records its trace.
    pub fn span(&self, parent: Option<TraceContext>, name: &'static str, kind: SpanKind) -> Span {
        match (&self.source, parent) {
            (Some(source), Some(parent)) if parent.is_sampled() => {
                Span::open(source, parent.trace, Some(parent), name, kind)
            }
            (Some(_) | None, _) => Span::none(),
        }
    }
}

impl Source {
    /// Never waits.
    fn record(&self, data: SpanData) {
        let recorded = Recorded {
            service: Arc::clone(&self.service),
            data,
        };
        // Full because the collector is behind, or closed because the process leaves.
        if self.lane.spans.try_send(recorded).is_err() {
            self.lane.dropped.inc();
        }
    }
}
