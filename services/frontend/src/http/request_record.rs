//! The one line that the log gets of each request, once it is over. It holds numbers and names, never a word of a prompt
//! or an answer.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use vlinders_service_kit::{TraceContext, rfc3339};
use vlinders_types::{FinishReason, ModelName, RequestId, TenantId, TokenCounts};

use crate::limiter::Reservation;
use crate::streams::Stream;

/// The finish of a request whose client did not wait for the end of the answer.
const CLIENT_LEFT: &str = "client_left";

/// What becomes known of a request on its way, told by whoever learns it.
#[derive(Default)]
pub(crate) struct RequestRecord {
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    model: Option<ModelName>,
    /// While they run, and for good when one of them broke off.
    streams: Vec<Arc<Stream>>,
    finish: Option<FinishReason>,
    counts: TokenCounts,
    /// As they were counted here.
    prompt_tokens: u32,
    stop_text: Option<String>,
    error: Option<&'static str>,
    is_enqueued: bool,
    /// Kept for it under the limits of its key.
    reservation: Option<Reservation>,
}

impl Known {
    fn completion_tokens(&self) -> u32 {
        if self.streams.is_empty() {
            self.counts.completion
        } else {
            self.streams.iter().map(|stream| stream.token_count()).sum()
        }
    }
}

/// What the layer around all routes knows in the end.
pub(crate) struct Passed<'a> {
    pub(crate) request_id: RequestId,
    pub(crate) route: &'a str,
    pub(crate) status: u16,
    /// When its head had come, milliseconds since 1970.
    pub(crate) began_ms: u64,
    pub(crate) took: Duration,
    /// The answer was handed over to its last byte.
    pub(crate) is_whole: bool,
    /// The trace it belongs to, if it does to any.
    pub(crate) trace: Option<TraceContext>,
}

impl RequestRecord {
    /// It was understood, and its prompt has so many tokens.
    pub(crate) fn prepared(&self, model: &ModelName, prompt_tokens: usize) {
        let mut known = self.lock();
        known.model = Some(model.clone());
        known.prompt_tokens = u32::try_from(prompt_tokens).unwrap_or(u32::MAX);
        known.counts.prompt = known.prompt_tokens;
    }

    /// It is in the queue, and these are its ways back.
    pub(crate) fn enqueued(&self, streams: Vec<Arc<Stream>>) {
        let mut known = self.lock();
        known.streams = streams;
        known.is_enqueued = true;
    }

    /// All its streams have come to their ends, the last one for this reason.
    pub(crate) fn ended(&self, reason: FinishReason, counts: TokenCounts) {
        let mut known = self.lock();
        known.finish = Some(reason);
        known.counts = counts;
        // The counts are final; what came here is of no interest any more.
        known.streams = Vec::new();
    }

    /// One of its answers has ended, with this stop text if with any.
    pub(crate) fn stopped_at(&self, stop_text: Option<&String>) {
        self.lock().stop_text = stop_text.cloned();
    }

    /// One of its streams ended without an answer; the counts are all of them, if they are known.
    pub(crate) fn broke_off(&self, reason: FinishReason, counts: Option<TokenCounts>) {
        match counts {
            Some(counts) => self.ended(reason, counts),
            None => self.lock().finish = Some(reason),
        }
    }

    /// Tokens of its prompt, once it was understood.
    pub(crate) fn prompt_tokens(&self) -> u32 {
        self.lock().prompt_tokens
    }

    /// The stop text its answer has ended with, if it did.
    pub(crate) fn stop_text(&self) -> Option<String> {
        self.lock().stop_text.clone()
    }

    /// It was answered with this error.
    pub(crate) fn failed(&self, code: Option<&'static str>) {
        self.lock().error = code;
    }

    /// It was let in, and this is kept for it until it is over.
    pub(crate) fn reserved(&self, reservation: Reservation) {
        self.lock().reservation = Some(reservation);
    }

    /// It is over: what it has used is settled, and nothing if it never came into the queue. Who paid, and how many tokens,
    /// if it was let in.
    pub(crate) fn settle(&self) -> Option<(TenantId, u64)> {
        let mut known = self.lock();
        let used = if known.is_enqueued {
            TokenCounts {
                completion: known.completion_tokens(),
                ..known.counts
            }
        } else {
            TokenCounts::default()
        };
        let mut reservation = known.reservation.take()?;
        reservation.used(used);
        let tokens = u64::from(used.prompt) + u64::from(used.completion);
        Some((reservation.tenant().clone(), tokens))
    }

    /// Writes the line.
    pub(crate) fn log(&self, passed: &Passed<'_>) {
        let known = self.lock();
        let finish = match (known.finish, passed.is_whole) {
            (Some(finish), _) => Some(finish.name()),
            (None, false) => Some(CLIENT_LEFT),
            (None, true) => None,
        };
        let is_prepared = known.model.is_some();
        let completion_tokens = known.completion_tokens();
        tracing::info!(
            request_id = %passed.request_id,
            trace_id = passed.trace.map(|trace| tracing::field::display(trace.trace_id())),
            request_time = rfc3339(passed.began_ms),
            response_time = milliseconds(passed.took),
            status = passed.status,
            route = passed.route,
            model = known.model.as_ref().map(ModelName::as_str),
            finish_reason = finish,
            error = known.error,
            prompt_tokens = is_prepared.then_some(known.counts.prompt),
            cached_tokens = is_prepared.then_some(known.counts.cached),
            completion_tokens = is_prepared.then_some(completion_tokens),
            "request finished"
        );
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// With microseconds behind the point, and no more digits.
fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}
