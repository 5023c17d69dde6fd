//! The task that carries spans to the collector.

use std::sync::Arc;
use std::time::Duration;

use hyper::Uri;
use opentelemetry::KeyValue;
use opentelemetry_otlp::{RetryPolicy, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanExporter as _};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::post::Post;
use super::{Recorded, Service, TracesConfig, TracesError};
use crate::metrics::{Counter, Metrics};

/// A collector that is away is told of once in this time.
const TELL_AGAIN: Duration = Duration::from_secs(60);

pub(super) fn dropped(metrics: &Metrics, reason: &str) -> Counter {
    let help = "Spans of traces that were not sent, by reason";
    metrics.counter("trace_spans_dropped", help, &[("reason", reason)])
}

/// Owns the queue's end and the exporters.
pub(super) struct Export {
    config: TracesConfig,
    endpoint: Uri,
    spans: mpsc::Receiver<Recorded>,
    post: Arc<Post>,
    /// One for each role that has recorded something: a message has one sender.
    exporters: Vec<(Arc<Service>, SpanExporter)>,
    /// Spans taken from the queue and not sent yet.
    in_hand: u64,
    sent: Counter,
    failed: Counter,
    unsent: Counter,
    told: Option<Instant>,
}

impl Export {
    pub(super) fn new(
        config: TracesConfig,
        spans: mpsc::Receiver<Recorded>,
        metrics: &Metrics,
    ) -> Result<Self, TracesError> {
        let export = Self {
            endpoint: config.checked()?,
            post: Arc::new(Post::new(config.export_timeout)),
            config,
            spans,
            exporters: Vec::new(),
            in_hand: 0,
            sent: metrics.counter(
                "trace_spans_sent",
                "Spans of traces that a collector has taken",
                &[],
            ),
            failed: dropped(metrics, "export_failed"),
            unsent: dropped(metrics, "shutdown"),
            told: None,
        };
        // What the environment asks for beside the endpoint is read here: better now than with the first span.
        export.exporter()?;
        Ok(export)
    }

    /// Where spans go.
    pub(super) fn endpoint(&self) -> &Uri {
        &self.endpoint
    }

    /// Sends spans until told to stop, and then the rest, for as long as it may.
    pub(super) async fn run(mut self, stopping: CancellationToken) {
        let flush_limit = self.config.flush_limit;
        let limit = async {
            stopping.cancelled().await;
            tokio::time::sleep(flush_limit).await;
        };
        let in_time = tokio::select! {
            biased;
            () = self.send_all(&stopping) => true,
            () = limit => false,
        };
        if !in_time {
            let left = self.in_hand + u64::try_from(self.spans.len()).unwrap_or(u64::MAX);
            self.unsent.inc_by(left);
            tracing::warn!(spans = left, endpoint = %self.endpoint, "traces not sent before the end");
        }
    }

    async fn send_all(&mut self, stopping: &CancellationToken) {
        while !stopping.is_cancelled() {
            let mut batch = Vec::new();
            tokio::select! {
                biased;
                () = stopping.cancelled() => {}
                () = self.gather(&mut batch) => {}
            }
            // Only the wait was cut short: what was gathered is sent.
            self.send(batch).await;
        }
        // Everybody else has ended: what is in the queue is all there will be.
        self.spans.close();
        let mut rest = Vec::new();
        while self.spans.recv_many(&mut rest, self.config.batch_spans).await > 0 {
            self.send(std::mem::take(&mut rest)).await;
        }
    }

    /// Waits for spans, and then for more that can go with them.
    async fn gather(&mut self, batch: &mut Vec<Recorded>) {
        let most = self.config.batch_spans;
        if self.spans.recv_many(batch, most).await == 0 {
            // Nobody can record any more; the stop comes soon.
            return std::future::pending().await;
        }
        let deadline = Instant::now() + self.config.batch_interval;
        while batch.len() < most {
            let room = most - batch.len();
            let more = tokio::time::timeout_at(deadline, self.spans.recv_many(batch, room));
            if !matches!(more.await, Ok(1..)) {
                return;
            }
        }
    }

    async fn send(&mut self, batch: Vec<Recorded>) {
        self.in_hand = batch.len() as u64;
        for (index, spans) in self.by_service(batch) {
            let count = spans.len() as u64;
            let outcome = self.exporters[index].1.export(spans).await;
            self.in_hand -= count;
            match outcome {
                Ok(()) => {
                    self.sent.inc_by(count);
                }
                Err(error) => {
                    self.tell(&error.to_string());
                    self.failed.inc_by(count);
                }
            }
        }
    }

    /// Each service's spans, with the index of its exporter.
    fn by_service(&mut self, batch: Vec<Recorded>) -> Vec<(usize, Vec<SpanData>)> {
        let mut parts: Vec<(usize, Vec<SpanData>)> = Vec::new();
        for Recorded { service, data } in batch {
            let index = self.index_of(&service);
            match parts.iter_mut().find(|(known, _)| *known == index) {
                Some((_, spans)) => spans.push(data),
                None => parts.push((index, vec![data])),
            }
        }
        parts
    }

    fn index_of(&mut self, service: &Arc<Service>) -> usize {
        let known = self
            .exporters
            .iter()
            .position(|(known, _)| Arc::ptr_eq(known, service));
        known.unwrap_or_else(|| {
            let mut exporter = self.exporter().expect("one was made at the start");
            exporter.set_resource(&resource(service));
            self.exporters.push((Arc::clone(service), exporter));
            self.exporters.len() - 1
        })
    }

    fn exporter(&self) -> Result<SpanExporter, TracesError> {
        SpanExporter::builder()
            .with_http()
            .with_shared_http_client(self.post.clone())
            .with_endpoint(self.endpoint.to_string())
            .with_timeout(self.config.export_timeout)
            // It would stop a whole thread between two tries.
            .with_retry_policy(RetryPolicy::disabled())
            .build()
            .map_err(|error| TracesError::Exporter(error.to_string()))
    }

    fn tell(&mut self, error: &str) {
        let fault = self.post.take_fault();
        if self.told.is_some_and(|told| told.elapsed() < TELL_AGAIN) {
            return;
        }
        self.told = Some(Instant::now());
        let error = fault.as_deref().unwrap_or(error);
        tracing::warn!(error, endpoint = %self.endpoint, "traces are not taken; their spans are dropped");
    }
}

/// How collectors tell services and their instances apart. `OTEL_RESOURCE_ATTRIBUTES` adds to it.
fn resource(service: &Service) -> Resource {
    Resource::builder()
        .with_service_name(service.name)
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .with_attribute(KeyValue::new("service.instance.id", service.instance.clone()))
        .build()
}
