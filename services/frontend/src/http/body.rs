//! Reading a body: its type, its size, its time, and the memory of all bodies together.

use std::sync::Arc;

use axum::body::Body;
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderMap, Request};
use http_body_util::BodyExt;
use tokio::sync::OwnedSemaphorePermit;
use vlinders_openai_api::{ApiError, LIMITS};

use crate::app::App;

const KIB: usize = 1024;

/// A whole body and its share of the memory for bodies.
pub(crate) struct HeldBody {
    pub(crate) bytes: Vec<u8>,
    memory: Option<OwnedSemaphorePermit>,
}

/// Reads a JSON body.
///
/// # Errors
/// 415, 413, 408, 503, or 400 when it breaks off.
pub(crate) async fn read_json(app: &App, request: Request<Body>) -> Result<HeldBody, ApiError> {
    require_json(request.headers())?;
    let announced = request
        .headers()
        .get(CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > LIMITS.body_bytes as u64) {
        return Err(too_large());
    }
    let reading = read(app, request.into_body());
    match tokio::time::timeout(app.config.body_deadline, reading).await {
        Ok(result) => result,
        Err(_elapsed) => {
            let seconds = app.config.body_deadline.as_secs();
            let text = format!("the body did not arrive within {seconds} s");
            Err(ApiError::new(408, "body_timeout", text))
        }
    }
}

async fn read(app: &App, mut body: Body) -> Result<HeldBody, ApiError> {
    let mut held = HeldBody {
        bytes: Vec::new(),
        memory: None,
    };
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| ApiError::new(400, "body_incomplete", "the body broke off"))?;
        let Ok(piece) = frame.into_data() else { continue };
        if held.bytes.len() + piece.len() > LIMITS.body_bytes {
            return Err(too_large());
        }
        held.reserve(app, piece.len())?;
        held.bytes.extend_from_slice(&piece);
    }
    Ok(held)
}

impl HeldBody {
    /// Takes permits for whole KiB as the body grows; pieces may be single bytes.
    fn reserve(&mut self, app: &App, more: usize) -> Result<(), ApiError> {
        let held = self.memory.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let needed = (self.bytes.len() + more).div_ceil(KIB).saturating_sub(held);
        if needed == 0 {
            return Ok(());
        }
        let needed = u32::try_from(needed).map_err(|_| too_large())?;
        let permit = Arc::clone(&app.body_memory)
            .try_acquire_many_owned(needed)
            .map_err(|_| {
                ApiError::new(
                    503,
                    "overloaded",
                    "too many large requests at once; try again soon",
                )
                .with_retry_after(1)
            })?;
        match &mut self.memory {
            Some(memory) => memory.merge(permit),
            None => self.memory = Some(permit),
        }
        Ok(())
    }
}

fn require_json(headers: &HeaderMap) -> Result<(), ApiError> {
    let content_type = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let media_type = content_type.split(';').next().unwrap_or_default().trim();
    if !media_type.eq_ignore_ascii_case("application/json") {
        let text = "send the body as JSON with the header content-type: application/json";
        return Err(ApiError::new(415, "unsupported_media_type", text));
    }
    match headers.get(CONTENT_ENCODING) {
        Some(encoding) if encoding != "identity" => {
            let text = "compressed bodies are not offered; leave out content-encoding";
            Err(ApiError::new(415, "unsupported_media_type", text))
        }
        Some(_) | None => Ok(()),
    }
}

fn too_large() -> ApiError {
    let text = format!("the body is larger than {} MiB", LIMITS.body_bytes / KIB / KIB);
    ApiError::new(413, "body_too_large", text)
}
