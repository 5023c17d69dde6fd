//! `POST /v1/files`: a form whose file goes into the database chunk by chunk as it arrives. The file may come before or
//! after the other fields.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use futures::{Stream, StreamExt};
use multer::{Field, Multipart};
use vlinders_ledger::{Arrival, FilePurpose, StoredFile};
use vlinders_openai_api::{ApiError, LIMITS, expiry};

use super::{CHUNK_BYTES, shown};
use crate::Caller;
use crate::app::App;
use crate::http::{error_response, json_response};
use crate::kept::rules::milliseconds;
use crate::kept::{Kept, What, offered, unavailable};

/// What a form may hold beside its file.
const FRAME_BYTES: u64 = 64 * 1024;
/// Of a field that is no file.
const FIELD_BYTES: usize = 4 * 1024;
/// Fields of a form.
const FIELDS: usize = 8;

/// `POST /v1/files`.
pub(crate) async fn create(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Response {
    match receive(&app, &caller, request).await {
        Ok(file) => json_response(StatusCode::OK, &shown(&file)),
        Err(error) => error_response(&error),
    }
}

async fn receive(app: &App, caller: &Caller, request: Request) -> Result<StoredFile, ApiError> {
    let kept = offered(app, What::File)?;
    let boundary = boundary(request.headers())?;
    let announced = request.headers().get(CONTENT_LENGTH);
    let announced = announced.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > kept.rules.file_bytes + FRAME_BYTES) {
        return Err(too_large(kept));
    }
    let _place = app.uploads.try_acquire().map_err(|_| {
        let text = "too many files arrive at once; try again soon";
        ApiError::new(503, "overloaded", text).with_retry_after(1)
    })?;
    let pieces = pieces(request.into_body(), app.config.body_deadline);
    let form = Multipart::new(pieces, boundary);
    let mut upload = Upload::new(app, kept, caller);
    let deadline = kept.rules.upload_deadline;
    let taken = match tokio::time::timeout(deadline, upload.take(form)).await {
        Ok(taken) => taken,
        Err(_elapsed) => {
            let text = format!("the file did not arrive within {} s", deadline.as_secs());
            Err(ApiError::new(408, "body_timeout", text))
        }
    };
    if taken.is_err()
        && upload.is_begun
        && let Err(error) = kept.store.drop_arriving(&upload.file.id).await
    {
        tracing::debug!(%error, "a file that did not come whole is dropped later");
    }
    taken?;
    Ok(upload.file)
}

fn boundary(headers: &HeaderMap) -> Result<String, ApiError> {
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    multer::parse_boundary(kind.unwrap_or_default()).map_err(|_| {
        let text = "send the file as a form with the header content-type: multipart/form-data";
        ApiError::new(415, "unsupported_media_type", text)
    })
}

/// The body in pieces. A client may be slow, but not silent.
fn pieces(body: Body, silence: Duration) -> impl Stream<Item = Result<Bytes, std::io::Error>> + Send {
    let pieces = body.into_data_stream();
    futures::stream::unfold(Some(pieces), move |pieces| async move {
        let mut pieces = pieces?;
        match tokio::time::timeout(silence, pieces.next()).await {
            Ok(Some(Ok(piece))) => Some((Ok(piece), Some(pieces))),
            Ok(Some(Err(error))) => Some((Err(std::io::Error::other(error)), None)),
            Ok(None) => None,
            Err(_elapsed) => Some((Err(std::io::ErrorKind::TimedOut.into()), None)),
        }
    })
}

/// A file on its way.
struct Upload<'a> {
    kept: &'a Kept,
    file: StoredFile,
    is_begun: bool,
    has_purpose: bool,
    anchor: Option<String>,
    seconds: Option<u64>,
}

impl<'a> Upload<'a> {
    fn new(app: &App, kept: &'a Kept, caller: &Caller) -> Self {
        let now_ms = app.clock.now_ms();
        let file = StoredFile {
            id: format!("file-{}", app.new_request_id()),
            tenant: caller.tenant.clone(),
            purpose: FilePurpose::Batch,
            filename: String::new(),
            bytes: 0,
            chunks: 0,
            created_ms: now_ms,
            expires_ms: kept.rules.expires_ms(now_ms),
        };
        Self {
            kept,
            file,
            is_begun: false,
            has_purpose: false,
            anchor: None,
            seconds: None,
        }
    }

    async fn take(&mut self, mut form: Multipart<'_>) -> Result<(), ApiError> {
        let mut fields = 0;
        while let Some(field) = form.next_field().await.map_err(|error| broken(&error))? {
            fields += 1;
            if fields > FIELDS {
                return Err(ApiError::new(
                    400,
                    "too_many_fields",
                    "the form has too many fields",
                ));
            }
            match field.name().unwrap_or_default() {
                "file" => self.content(field).await?,
                "purpose" => {
                    let purpose = text(field).await?;
                    if purpose != "batch" {
                        let what = "only files for batches are kept; set it to batch";
                        return Err(ApiError::not_offered("purpose", what));
                    }
                    self.has_purpose = true;
                }
                "expires_after[anchor]" => self.anchor = Some(text(field).await?),
                "expires_after[seconds]" => {
                    let seconds = text(field).await?.parse();
                    let what = "must be a whole number";
                    self.seconds =
                        Some(seconds.map_err(|_| ApiError::invalid("expires_after.seconds", what))?);
                }
                other => {
                    let what = "is no field of this form; it has file, purpose and expires_after";
                    return Err(ApiError::invalid(&clipped(other), what).with_code("unknown_parameter"));
                }
            }
        }
        self.complete().await
    }

    async fn content(&mut self, mut field: Field<'_>) -> Result<(), ApiError> {
        if self.is_begun {
            return Err(ApiError::invalid("file", "is given twice"));
        }
        let name = field.file_name().unwrap_or("file.jsonl").to_owned();
        if name.len() > LIMITS.name_bytes || name.chars().any(char::is_control) {
            let what = format!("its name must be a line of at most {} bytes", LIMITS.name_bytes);
            return Err(ApiError::invalid("file", what));
        }
        self.file.filename = name;
        let begun = self.kept.store.begin_file(&self.file).await;
        begun.map_err(|error| unavailable(&error))?;
        self.is_begun = true;
        let mut chunk = Vec::with_capacity(CHUNK_BYTES);
        while let Some(mut piece) = field.chunk().await.map_err(|error| broken(&error))? {
            if self.file.bytes + (chunk.len() + piece.len()) as u64 > self.kept.rules.file_bytes {
                return Err(too_large(self.kept));
            }
            while !piece.is_empty() {
                let fitting = piece.split_to(piece.len().min(CHUNK_BYTES - chunk.len()));
                chunk.extend_from_slice(&fitting);
                if chunk.len() == CHUNK_BYTES {
                    let full = std::mem::replace(&mut chunk, Vec::with_capacity(CHUNK_BYTES));
                    self.store(full).await?;
                }
            }
        }
        if !chunk.is_empty() {
            self.store(chunk).await?;
        }
        Ok(())
    }

    async fn store(&mut self, chunk: Vec<u8>) -> Result<(), ApiError> {
        let bytes = chunk.len() as u64;
        let room = self.kept.rules.tenant_bytes;
        let stored = self
            .kept
            .store
            .add_chunk(&self.file, self.file.chunks, chunk, room)
            .await;
        match stored.map_err(|error| unavailable(&error))? {
            Arrival::Stored => {
                self.file.chunks += 1;
                self.file.bytes += bytes;
                Ok(())
            }
            Arrival::NoRoom => {
                let text = format!(
                    "your files would take more than {} MiB; delete some that you need no more",
                    room >> 20
                );
                Err(ApiError::new(413, "storage_full", text))
            }
        }
    }

    async fn complete(&mut self) -> Result<(), ApiError> {
        let missing = |name| ApiError::invalid(name, "this field is required");
        if !self.is_begun {
            return Err(missing("file"));
        }
        if self.file.bytes == 0 {
            return Err(ApiError::invalid("file", "is empty"));
        }
        if !self.has_purpose {
            return Err(missing("purpose"));
        }
        match (&self.anchor, self.seconds) {
            (None, None) => {}
            (Some(anchor), Some(seconds)) => {
                let seconds = Duration::from_secs(expiry("expires_after", anchor, seconds)?);
                self.file.expires_ms = self.file.created_ms.saturating_add(milliseconds(seconds));
            }
            (None, Some(_)) => return Err(missing("expires_after.anchor")),
            (Some(_), None) => return Err(missing("expires_after.seconds")),
        }
        let completed = self.kept.store.complete_file(&self.file).await;
        completed.map_err(|error| unavailable(&error))
    }
}

async fn text(mut field: Field<'_>) -> Result<String, ApiError> {
    let name = clipped(field.name().unwrap_or_default());
    let mut bytes = Vec::new();
    while let Some(piece) = field.chunk().await.map_err(|error| broken(&error))? {
        if bytes.len() + piece.len() > FIELD_BYTES {
            return Err(ApiError::invalid(&name, "is too long"));
        }
        bytes.extend_from_slice(&piece);
    }
    String::from_utf8(bytes).map_err(|_| ApiError::invalid(&name, "is no text"))
}

fn clipped(name: &str) -> String {
    name.chars().take(LIMITS.name_bytes).collect()
}

fn too_large(kept: &Kept) -> ApiError {
    let text = format!("the file is larger than {} MiB", kept.rules.file_bytes >> 20);
    ApiError::new(413, "file_too_large", text)
}

/// The form cannot be read on.
fn broken(error: &multer::Error) -> ApiError {
    if let multer::Error::StreamReadFailed(cause) = error {
        let cause = cause.downcast_ref::<std::io::Error>();
        if cause.is_some_and(|cause| cause.kind() == std::io::ErrorKind::TimedOut) {
            return ApiError::new(408, "body_timeout", "nothing of the file came for a while");
        }
        return ApiError::new(400, "body_incomplete", "the body broke off");
    }
    tracing::debug!(%error, "a form cannot be read");
    ApiError::new(
        400,
        "invalid_form",
        "the body is no form of the kind its header names",
    )
}
