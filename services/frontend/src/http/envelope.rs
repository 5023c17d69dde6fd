//! What every answer gets: a request id, its time, its place in the metrics, in the log and in a trace, and an
//! answer even to a panic.

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, HttpBody};
use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{CONNECTION, TRANSFER_ENCODING};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Version};
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use futures::FutureExt;
use hyper::body::{Frame, SizeHint};
use tokio::time::Instant;
use vlinders_openai_api::{ApiError, LIMITS};
use vlinders_types::{BillingClass, RequestId};

use super::reply::Refusal;
use super::request_record::{Passed, RequestRecord};
use super::{error_response, health};
use crate::app::App;
use crate::dialects;
use crate::metrics::FrontendMetrics;
use crate::server::ConnectionFacts;
use crate::spans::RequestSpan;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Its other name, in other dialects.
const OTHER_REQUEST_ID: HeaderName = HeaderName::from_static("request-id");
const PROCESSING_MS: HeaderName = HeaderName::from_static("openai-processing-ms");
/// The status of a request whose client left before the answer.
const CLIENT_LEFT: u16 = 499;
/// Characters of a client's own request id at most.
const REQUEST_ID_CHARS: usize = 128;

/// What the routes know of a request beside its head and body.
#[derive(Clone)]
pub(crate) struct RequestContext {
    /// Ours, whatever id the client uses.
    pub(crate) request_id: RequestId,
    /// For the log.
    pub(crate) record: Arc<RequestRecord>,
    /// For its trace.
    pub(crate) span: RequestSpan,
    /// At which price it is answered.
    pub(crate) class: BillingClass,
    /// The number of its first attempt: a larger one makes workers give up smaller ones.
    pub(crate) first_attempt: u32,
}

/// Beside a request that comes from this process: what an outside one cannot say of itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InnerCall {
    pub(crate) request_id: RequestId,
    pub(crate) class: BillingClass,
    pub(crate) first_attempt: u32,
}

/// The layer around all routes.
pub(crate) async fn wrap(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or("other", MatchedPath::as_str)
        .to_owned();
    let inner = request.extensions_mut().remove::<InnerCall>();
    let inner = inner.unwrap_or_else(|| InnerCall {
        request_id: app.new_request_id(),
        class: BillingClass::Standard,
        first_attempt: 0,
    });
    let request_id = inner.request_id;
    let context = RequestContext {
        request_id,
        record: Arc::default(),
        span: RequestSpan::open(&app.tracer, &request, &route, request_id),
        class: inner.class,
        first_attempt: inner.first_attempt,
    };
    let shown_id = client_id(request.headers()).unwrap_or_else(|| {
        HeaderValue::from_str(&context.request_id.to_string()).expect("base 32 is a header value")
    });
    let mut timer = Timer::new(&app, context.clone(), route);
    let facts = request.extensions().get::<Arc<ConnectionFacts>>().cloned();
    // The next request on this connection begins where a chunked body ends, which not every proxy sees alike.
    let must_close =
        request.version() == Version::HTTP_11 && request.headers().contains_key(TRANSFER_ENCODING);
    let path = request.uri().clone();
    let mut response = match refuse_head(&request, facts.as_deref()) {
        Some(refusal) => error_response(&refusal),
        None => {
            request.extensions_mut().insert(context.clone());
            let answer = AssertUnwindSafe(next.run(request)).catch_unwind().await;
            answer.unwrap_or_else(|_panic| {
                tracing::error!(request = %context.request_id, route = timer.route, "request handler panicked");
                error_response(&ApiError::new(500, "internal_error", "something went wrong on our side"))
            })
        }
    };
    timer.status = response.status().as_u16();
    if timer.status >= 400
        && let Some(facts) = &facts
    {
        facts.linger();
    }
    if let Some(Refusal(error)) = response.extensions().get() {
        context.record.failed(error.code);
        if let Some(body) = dialects::reword(&path, error, &shown_id) {
            *response.body_mut() = body;
        }
    }
    let elapsed_ms = u64::try_from(timer.started.elapsed().as_millis()).unwrap_or(u64::MAX);
    let headers = response.headers_mut();
    if dialects::names_request_id(&path) {
        headers.insert(OTHER_REQUEST_ID, shown_id.clone());
    }
    headers.insert(REQUEST_ID, shown_id);
    headers.insert(PROCESSING_MS, HeaderValue::from(elapsed_ms));
    if must_close {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response.map(|body| {
        timer.is_whole = body.is_end_stream();
        Body::new(Timed { body, timer })
    })
}

/// A body with its timer, which ends when the last byte is sent or the client leaves. It knows its length, as the body
/// inside does: a whole answer goes out with `content-length`.
struct Timed {
    // Goes first: a stream that is left is cancelled by it, and the timer tells of that.
    body: Body,
    timer: Timer,
}

impl HttpBody for Timed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        self.timer.is_whole = matches!(polled, Poll::Ready(None)) || self.body.is_end_stream();
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn client_id(headers: &HeaderMap) -> Option<HeaderValue> {
    let value = headers.get(REQUEST_ID)?;
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':');
    let bytes = value.as_bytes();
    let fits = !bytes.is_empty() && bytes.len() <= REQUEST_ID_CHARS && bytes.iter().all(is_plain);
    fits.then(|| value.clone())
}

/// Heads that no route should see.
fn refuse_head(request: &Request, facts: Option<&ConnectionFacts>) -> Option<ApiError> {
    if facts.is_some_and(ConnectionFacts::has_both_lengths) {
        let text = "a request with both content-length and transfer-encoding is ambiguous";
        return Some(ApiError::new(400, "ambiguous_length", text));
    }
    // As the wire carries them: name, colon, space, value, line end.
    let fields: usize = request
        .headers()
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 4)
        .sum();
    let target = request
        .uri()
        .path_and_query()
        .map_or(0, |target| target.as_str().len());
    if fields + target > LIMITS.header_bytes {
        let text = format!(
            "the request's head is larger than {} KiB",
            LIMITS.header_bytes / 1024
        );
        return Some(ApiError::new(431, "headers_too_large", text));
    }
    None
}

/// Counts and logs one request and ends its span when it is dropped, however it ends.
struct Timer {
    metrics: Arc<FrontendMetrics>,
    context: RequestContext,
    route: String,
    status: u16,
    began_ms: u64,
    started: Instant,
    is_whole: bool,
}

impl Timer {
    fn new(app: &App, context: RequestContext, route: String) -> Self {
        Self {
            metrics: Arc::clone(&app.metrics),
            context,
            route,
            status: CLIENT_LEFT,
            began_ms: app.clock.now_ms(),
            started: Instant::now(),
            is_whole: false,
        }
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        let took = self.started.elapsed();
        self.context.span.end(self.status);
        if let Some((tenant, tokens)) = self.context.record.settle() {
            self.metrics.consumed(&tenant, self.status, tokens);
        }
        self.metrics
            .request_ended(&self.route, self.status, took.as_secs_f64());
        if health::is_asked_by_machines(&self.route) {
            return;
        }
        self.context.record.log(&Passed {
            request_id: self.context.request_id,
            route: &self.route,
            status: self.status,
            began_ms: self.began_ms,
            took,
            is_whole: self.is_whole,
            trace: self.context.span.parent(),
        });
    }
}
