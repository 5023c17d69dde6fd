//! The span of one request, from its head to the last byte of its answer. What workers do lies below it.

use std::time::{SystemTime, UNIX_EPOCH};

use axum::extract::Request;
use axum::http::Method;
use vlinders_service_kit::{Fact, SharedSpan, Span, SpanKind, TraceContext, Tracer};
use vlinders_types::{Finish, FinishReason, RequestId};

use crate::generate::{Endpoint, Prepared};

/// Handed from the layer around all routes to those that generate.
#[derive(Clone, Default)]
pub(crate) struct RequestSpan {
    tracer: Tracer,
    pub(crate) span: SharedSpan,
    /// The span that the client has sent the request from, which workers go below when this process records nothing.
    caller: Option<TraceContext>,
}

impl RequestSpan {
    /// Opens it, for requests that generate.
    pub(crate) fn open(tracer: &Tracer, request: &Request, route: &str, request_id: RequestId) -> Self {
        if request.method() != Method::POST || !route.starts_with("/v1/") {
            return Self::default();
        }
        let caller = request.headers().get("traceparent");
        let caller = caller.and_then(|value| value.to_str().ok());
        let caller = caller.and_then(TraceContext::parse);
        let mut span = tracer.first_span(caller, "POST", SpanKind::Server);
        span.rename(|| format!("POST {route}"));
        span.set("http.request.method", "POST");
        span.set("http.route", route);
        span.set("request_id", Fact::Shown(&request_id));
        Self {
            tracer: tracer.clone(),
            span: span.into(),
            caller,
        }
    }

    /// Opens one below it.
    pub(crate) fn below(&self, name: &'static str) -> Span {
        self.tracer.span(self.span.context(), name, SpanKind::Internal)
    }

    /// What workers go below; its trace is also in the log.
    pub(crate) fn parent(&self) -> Option<TraceContext> {
        self.span.context().or(self.caller)
    }

    /// The request is understood.
    pub(crate) fn prepared(&self, endpoint: Endpoint, prepared: &Prepared) {
        let operation = match endpoint {
            Endpoint::Chat => "chat",
            Endpoint::Completion => "text_completion",
        };
        self.span.set("gen_ai.operation.name", operation);
        self.span.set("gen_ai.provider.name", "vlinders");
        self.span
            .set("gen_ai.request.model", prepared.asked_model.as_str());
        self.span
            .set("gen_ai.request.max_tokens", prepared.stop.max_tokens);
        self.span
            .set("gen_ai.response.model", prepared.model.name.as_str());
        self.span.set("stream", prepared.is_streamed);
    }

    /// The last byte of the answer is sent, or nobody waits for it any more.
    pub(crate) fn end(&self, status: u16) {
        self.span.set("http.response.status_code", u32::from(status));
        if status >= 500 {
            self.span.fail("answered with an error of the server's");
        }
        self.span.end();
    }
}

/// A worker has ended the request.
pub(crate) fn tell_end(span: &SharedSpan, finish: &Finish) {
    span.set(
        "gen_ai.response.finish_reasons",
        Fact::Texts(&[finish.reason.name()]),
    );
    span.set("gen_ai.usage.input_tokens", finish.counts.prompt);
    span.set("gen_ai.usage.output_tokens", finish.counts.completion);
    span.set("cached_tokens", finish.counts.cached);
    if finish.reason == FinishReason::Error {
        span.fail("the request ended with an error");
    }
}

/// For requests whose trace is recorded somewhere: now, in microseconds since 1970.
pub(crate) fn published_us(parent: Option<TraceContext>) -> Option<u64> {
    parent.filter(|parent| parent.is_sampled()).map(|_| now_us())
}

/// Now, in microseconds since 1970.
pub(crate) fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
