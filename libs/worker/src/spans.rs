//! What this worker tells of a request in its trace. The frontend's span is above all of them; only the pull of a
//! hand-off lies below prefill's span of that hand-off.

use std::time::Instant;

use vlinders_service_kit::{Fact, Span, SpanKind, TraceContext, Tracer};
use vlinders_types::{FinishReason, Request, TokenCounts, WorkerId};

/// From being put into the queue to being taken.
const QUEUE: &str = "queue";
/// From being taken to the first token.
const PREFILL: &str = "prefill";
/// From the offer to the release of the blocks, on prefill's side.
const HAND_OFF: &str = "hand-off";
/// The blocks' way to this worker.
const KV_PULL: &str = "kv pull";
/// From answering for the sequence, with its first token known, to its end.
const DECODE: &str = "decode";

/// Opens this worker's spans. Of requests whose trace nobody records they tell nothing and cost next to nothing.
#[derive(Clone)]
pub(crate) struct Spans {
    pub(crate) tracer: Tracer,
    pub(crate) worker: WorkerId,
}

impl Spans {
    /// A request that was taken `at` becomes a sequence.
    pub(crate) fn prefill(&self, request: &Request, at: Instant) -> Span {
        let mut span = self.below(
            request.trace_parent.as_deref(),
            PREFILL,
            SpanKind::Internal,
            request,
        );
        span.began_at(at);
        span
    }

    /// This worker answers for a sequence from now on, or goes on after its first token.
    pub(crate) fn decode(&self, request: &Request) -> Span {
        self.below(
            request.trace_parent.as_deref(),
            DECODE,
            SpanKind::Internal,
            request,
        )
    }

    /// The request was taken from the queue just now.
    pub(crate) fn taken(&self, request: &Request, delivery_count: u32) {
        let parent = request.trace_parent.as_deref();
        let mut span = self.below(parent, QUEUE, SpanKind::Consumer, request);
        let accepted_us = request.created_ms.saturating_mul(1000);
        span.began_at_us(request.published_us.unwrap_or(accepted_us));
        span.set("delivery", delivery_count);
    }

    /// Prefill begins to look for a worker that goes on.
    pub(crate) fn hand_off(&self, request: &Request) -> Span {
        let parent = request.trace_parent.as_deref();
        self.below(parent, HAND_OFF, SpanKind::Client, request)
    }

    /// Decode begins to pull the blocks of an offer, under the offering side's span.
    pub(crate) fn kv_pull(&self, hand_off: Option<&str>, request: &Request) -> Span {
        self.below(hand_off, KV_PULL, SpanKind::Client, request)
    }

    fn below(&self, parent: Option<&str>, name: &'static str, kind: SpanKind, request: &Request) -> Span {
        if !self.tracer.is_on() {
            return Span::none();
        }
        let parent = parent.and_then(TraceContext::parse);
        let mut span = self.tracer.span(parent, name, kind);
        span.set("request_id", Fact::Shown(&request.request_id));
        span.set("attempt", request.attempt);
        span.set("worker", self.worker.as_str());
        span.set("gen_ai.request.model", request.model.as_str());
        span
    }
}

/// How a sequence ended.
pub(crate) fn tell_end(span: &mut Span, reason: FinishReason, counts: TokenCounts) {
    span.set("gen_ai.response.finish_reasons", Fact::Texts(&[reason.name()]));
    span.set("gen_ai.usage.input_tokens", counts.prompt);
    span.set("gen_ai.usage.output_tokens", counts.completion);
    span.set("cached_tokens", counts.cached);
    if reason == FinishReason::Error {
        span.fail("the request ended with an error");
    }
}
