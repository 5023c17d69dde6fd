//! Answers as HTTP.

use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::Response;
use serde::Serialize;
use vlinders_openai_api::ApiError;

use crate::RateLimit;

/// Beside an answer that is an error: the error.
#[derive(Clone, Debug)]
pub(crate) struct Refusal(pub(crate) ApiError);

/// An error in the one shape all errors have.
pub(crate) fn error_response(error: &ApiError) -> Response {
    let status = StatusCode::from_u16(error.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = json_response(status, &error.body());
    response.extensions_mut().insert(Refusal(error.clone()));
    if let Some(seconds) = error.retry_after_s {
        response
            .headers_mut()
            .insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// A JSON answer.
pub(crate) fn json_response(status: StatusCode, value: &impl Serialize) -> Response {
    let body = serde_json::to_vec(value).expect("our shapes have text keys and no failing parts");
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Tells what the key has left.
pub(crate) fn rate_headers(headers: &mut HeaderMap, limit: RateLimit) {
    let names = ["limit", "remaining", "reset"];
    for (what, window) in [("requests", limit.requests), ("tokens", limit.tokens)] {
        let Some(window) = window else { continue };
        let reset = format!("{}ms", window.reset.as_millis());
        let reset = HeaderValue::from_str(&reset).expect("digits and letters are a header value");
        let values = [window.limit.into(), window.remaining.into(), reset];
        for (name, value) in names.iter().zip(values) {
            let name = HeaderName::try_from(format!("x-ratelimit-{name}-{what}"));
            headers.insert(name.expect("small letters are a header name"), value);
        }
    }
}
