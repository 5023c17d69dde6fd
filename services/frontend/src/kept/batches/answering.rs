//! One line of a batch: asked in this process as if its owner had sent it, until there is an answer that stays.

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, Method, Request, StatusCode};
use axum::response::Response;
use http_body_util::{BodyExt, Limited};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use vlinders_ledger::{LineResult, StoredBatch};
use vlinders_openai_api::{ApiError, BatchLine};
use vlinders_types::{BillingClass, RequestId};

use crate::Caller;
use crate::http::InnerCall;
use crate::kept::BatchRules;

/// Bytes of one answer.
const ANSWER_BYTES: usize = 32 << 20;
/// Attempts of one try at most, those that workers hand back included. Each try of each life of a batch has numbers of its
/// own, so that workers give up an older one.
const ATTEMPTS_OF_A_TRY: u32 = 64;
/// Tries of one life of a batch that have numbers of their own.
const TRIES_OF_A_LIFE: u32 = 64;
/// The least and the most that is waited between two tries.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// What became of asking.
pub(super) enum Asked {
    /// An answer that stays.
    Answered(LineResult),
    /// Its key has no room for so long.
    NoRoom(Duration),
    /// Its key lets nobody in any more.
    Refused(ApiError),
    /// The batch is left before there was an answer.
    Left,
}

/// Whose lines are asked, and where.
pub(super) struct Asker<'a> {
    pub(super) router: &'a Router,
    pub(super) rules: &'a BatchRules,
    pub(super) batch: &'a StoredBatch,
    /// Cancelled when the batch is left.
    pub(super) leaving: &'a CancellationToken,
    pub(super) retries: &'a vlinders_service_kit::Counter,
}

/// What one try came to.
enum Try {
    Final(StatusCode, Value, Box<RawValue>),
    /// Whoever asks has no room now.
    NoRoom(Duration),
    /// The server cannot now: nothing was done.
    NotNow(Duration),
    /// Something failed on our side, and this is what would be told of it.
    Failed(StatusCode, Value, Box<RawValue>),
}

impl Asker<'_> {
    /// Asks until there is an answer. `caller` tells who asks now.
    pub(super) async fn ask<C, F>(&self, number: u32, line: &BatchLine, caller: C) -> Asked
    where
        C: Fn() -> F,
        F: Future<Output = Result<Caller, ApiError>>,
    {
        let (mut failures, mut tries) = (0, 0);
        loop {
            if self.leaving.is_cancelled() {
                return Asked::Left;
            }
            let asked = match caller().await {
                Ok(caller) => self.once(number, line, caller, tries).await,
                Err(error) if error.status >= 500 => Try::NotNow(PAUSES.0),
                Err(error) => return Asked::Refused(error),
            };
            tries = (tries + 1) % TRIES_OF_A_LIFE;
            let pause = match asked {
                Try::Final(status, id, body) => {
                    return Asked::Answered(self.result(number, line, (status, &id, &body)));
                }
                Try::NoRoom(pause) if pause >= self.rules.park_after => return Asked::NoRoom(pause),
                Try::NoRoom(pause) | Try::NotNow(pause) => pause,
                Try::Failed(status, id, body) => {
                    failures += 1;
                    if failures >= self.rules.tries {
                        return Asked::Answered(self.result(number, line, (status, &id, &body)));
                    }
                    PAUSES.0 * failures
                }
            };
            self.retries.inc();
            tokio::select! {
                biased;
                () = self.leaving.cancelled() => return Asked::Left,
                () = tokio::time::sleep(pause.clamp(PAUSES.0, PAUSES.1)) => {}
            }
        }
    }

    async fn once(&self, number: u32, line: &BatchLine, caller: Caller, tries: u32) -> Try {
        let mut request = Request::new(Body::from(line.body.get().to_owned()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.batch.asked.endpoint.parse().expect("a path of ours");
        let json = HeaderValue::from_static("application/json");
        request.headers_mut().insert(CONTENT_TYPE, json);
        request.extensions_mut().insert(caller);
        request.extensions_mut().insert(InnerCall {
            request_id: request_id(self.batch, number),
            class: BillingClass::Batch,
            first_attempt: self
                .batch
                .claims
                .wrapping_mul(TRIES_OF_A_LIFE)
                .wrapping_add(tries)
                .wrapping_mul(ATTEMPTS_OF_A_TRY),
        });
        let response = match self.router.clone().oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        };
        read(response).await
    }

    fn result(
        &self,
        number: u32,
        line: &BatchLine,
        (status, id, body): (StatusCode, &Value, &RawValue),
    ) -> LineResult {
        let response = json!({"status_code": status.as_u16(), "request_id": id});
        // The body is written as it came.
        let mut content = format!(
            "{{\"id\":{},\"custom_id\":{},\"response\":",
            json!(line_id(self.batch, number)),
            json!(line.custom_id)
        );
        let response = response.to_string();
        content.push_str(&response[..response.len() - 1]);
        content.push_str(",\"body\":");
        content.push_str(body.get());
        content.push_str("},\"error\":null}");
        LineResult {
            line: number,
            is_failed: !status.is_success(),
            content: content.into_bytes(),
        }
    }
}

async fn read(response: Response) -> Try {
    let (head, body) = response.into_parts();
    let id = head.headers.get("x-request-id").and_then(|id| id.to_str().ok());
    let id = Value::from(id);
    let wait = head.headers.get(RETRY_AFTER);
    let wait = wait.and_then(|seconds| seconds.to_str().ok()?.parse().ok());
    let wait = Duration::from_secs(wait.unwrap_or(1));
    let bytes = Limited::new(body, ANSWER_BYTES).collect().await;
    let bytes = bytes.ok().map(http_body_util::Collected::to_bytes);
    let body = bytes.and_then(|bytes| serde_json::from_slice::<Box<RawValue>>(&bytes).ok());
    let Some(body) = body else {
        let error = ApiError::new(
            500,
            "internal_error",
            "the answer cannot be kept: it is too long or broke off",
        );
        let body = serde_json::value::to_raw_value(&error.body()).expect("errors are JSON");
        return Try::Failed(StatusCode::INTERNAL_SERVER_ERROR, id, body);
    };
    match head.status {
        StatusCode::TOO_MANY_REQUESTS => Try::NoRoom(wait),
        StatusCode::SERVICE_UNAVAILABLE => Try::NotNow(wait),
        status if status.is_server_error() || status == StatusCode::REQUEST_TIMEOUT => {
            Try::Failed(status, id, body)
        }
        status => Try::Final(status, id, body),
    }
}

/// The same for the same line of the same batch, whoever runs it and however often: so it is billed once.
fn request_id(batch: &StoredBatch, number: u32) -> RequestId {
    let mut hash = Sha256::new();
    hash.update(batch.asked.id.as_bytes());
    hash.update(number.to_be_bytes());
    let mut random = [0; 16];
    random.copy_from_slice(&hash.finalize()[..16]);
    RequestId::from_parts(batch.asked.created_ms, u128::from_be_bytes(random))
}

/// The name of a line's answer.
pub(super) fn line_id(batch: &StoredBatch, number: u32) -> String {
    format!("batch_req_{}", request_id(batch, number))
}
