//! One phase of a request's life, with its beginning and its end.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use opentelemetry::trace::{Event, SpanContext, SpanId, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue, Value};
use opentelemetry_sdk::trace::{IdGenerator, RandomIdGenerator, SpanData, SpanEvents, SpanLinks};

use super::{Fact, Source, TraceContext};

/// Attributes and events of one span at most, each: a request that fails over all day must not grow.
const MOST: usize = 64;

/// What a span is between its process and the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpanKind {
    /// Answers a call from outside.
    Server,
    /// Takes what another process has put into a queue.
    Consumer,
    /// Calls another process.
    Client,
    /// Work of its own.
    Internal,
}

/// An open span. It ends when it is dropped; one that records nothing is a null pointer.
#[derive(Debug, Default)]
#[must_use = "a span ends when it is dropped"]
pub struct Span(Option<Box<Open>>);

struct Open {
    source: Arc<Source>,
    /// Durations are measured with a clock that is never set: this is the time of `data.end_time` until it ends.
    opened: Instant,
    data: SpanData,
}

impl Span {
    /// Records nothing.
    pub const fn none() -> Self {
        Self(None)
    }

    pub(super) fn open(
        source: &Arc<Source>,
        trace: TraceId,
        parent: Option<TraceContext>,
        name: &'static str,
        kind: SpanKind,
    ) -> Self {
        let ids = RandomIdGenerator::default();
        let state = TraceState::default();
        let own = SpanContext::new(trace, ids.new_span_id(), TraceFlags::SAMPLED, false, state);
        let now = SystemTime::now();
        let data = SpanData {
            span_context: own,
            parent_span_id: parent.map_or(SpanId::INVALID, |parent| parent.span),
            parent_span_is_remote: parent.is_some_and(|parent| parent.is_remote),
            span_kind: kind.into(),
            name: name.into(),
            start_time: now,
            end_time: now,
            attributes: Vec::with_capacity(8),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: Status::Unset,
            instrumentation_scope: InstrumentationScope::builder("vlinders")
                .with_version(env!("CARGO_PKG_VERSION"))
                .build(),
        };
        Self(Some(Box::new(Open {
            source: Arc::clone(source),
            opened: Instant::now(),
            data,
        })))
    }

    /// Its place in its trace, for those below it; none when it records nothing.
    #[must_use]
    pub fn context(&self) -> Option<TraceContext> {
        let own = &self.0.as_ref()?.data.span_context;
        Some(TraceContext {
            trace: own.trace_id(),
            span: own.span_id(),
            is_sampled: true,
            is_remote: false,
        })
    }

    /// Gives it a name that is only known now. `name` is not called when nothing is recorded.
    pub fn rename(&mut self, name: impl FnOnce() -> String) {
        if let Some(open) = &mut self.0 {
            open.data.name = name().into();
        }
    }

    /// It began earlier than it was opened.
    pub fn began_at(&mut self, began: Instant) {
        if let Some(open) = &mut self.0 {
            open.data.start_time -= open.opened.saturating_duration_since(began);
        }
    }

    /// The same by another machine's clock: at this many microseconds since 1970, or now if that is yet to come by
    /// this machine's clock.
    pub fn began_at_us(&mut self, us: u64) {
        if let Some(open) = &mut self.0 {
            open.data.start_time = open.data.start_time.min(UNIX_EPOCH + Duration::from_micros(us));
        }
    }

    /// Adds an attribute, or gives it another value.
    pub fn set<'a>(&mut self, key: &'static str, fact: impl Into<Fact<'a>>) {
        let Some(open) = &mut self.0 else { return };
        let attributes = &mut open.data.attributes;
        let value: Value = fact.into().into();
        let known = attributes.iter().position(|known| known.key.as_str() == key);
        match known {
            Some(index) => attributes[index].value = value,
            None if attributes.len() < MOST => attributes.push(KeyValue::new(key, value)),
            None => open.data.dropped_attributes_count += 1,
        }
    }

    /// Something happened just now.
    pub fn event<'a>(
        &mut self,
        name: &'static str,
        facts: impl IntoIterator<Item = (&'static str, Fact<'a>)>,
    ) {
        let Some(open) = &mut self.0 else { return };
        let events = &mut open.data.events;
        if events.events.len() == MOST {
            events.dropped_count += 1;
            return;
        }
        let facts = facts
            .into_iter()
            .map(|(key, fact)| KeyValue::new(key, Value::from(fact)));
        let now = open.data.end_time + open.opened.elapsed();
        events.events.push(Event::new(name, now, facts.collect(), 0));
    }

    /// What it stands for has failed. `why` is a fixed text, never a client's.
    pub fn fail(&mut self, why: &'static str) {
        if let Some(open) = &mut self.0 {
            open.data.status = Status::error(why);
        }
    }

    /// Ends it now.
    pub fn end(self) {}
}

impl Drop for Span {
    fn drop(&mut self) {
        if let Some(open) = self.0.take() {
            open.end();
        }
    }
}

impl Open {
    fn end(self) {
        let Self {
            source,
            opened,
            mut data,
        } = self;
        data.end_time += opened.elapsed();
        source.record(data);
    }
}

impl std::fmt::Debug for Open {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_tuple("Open").field(&self.data.name).finish()
    }
}

impl From<SpanKind> for opentelemetry::trace::SpanKind {
    fn from(kind: SpanKind) -> Self {
        match kind {
            SpanKind::Server => Self::Server,
            SpanKind::Consumer => Self::Consumer,
            SpanKind::Client => Self::Client,
            SpanKind::Internal => Self::Internal,
        }
    }
}
