//! `/v1/files`.

mod upload;

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderValue, StatusCode, Uri};
use axum::response::Response;
use bytes::Bytes;
use serde_json::{Value, json};
use vlinders_ledger::{Deletion, FilePage, FilePurpose, KeptStore, StoredFile};
use vlinders_openai_api::{ApiError, FileObject, ListQuery, list_page};

pub(crate) use self::upload::create;
use super::{PathId, What, offered, unavailable, wanted};
use crate::Caller;
use crate::app::App;
use crate::http::{error_response, json_response};

/// Bytes of one chunk of content.
pub(super) const CHUNK_BYTES: usize = 256 * 1024;
/// Files of one page.
const PAGE_FILES: (usize, usize) = (1_000, 10_000);

pub(super) fn shown(file: &StoredFile) -> Value {
    let object = FileObject {
        id: &file.id,
        bytes: file.bytes,
        created_ms: file.created_ms,
        expires_ms: file.expires_ms,
        filename: &file.filename,
        purpose: file.purpose.name(),
    };
    object.shown()
}

/// `GET /v1/files`.
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    uri: Uri,
) -> Response {
    let answered = async {
        let kept = offered(&app, What::File)?;
        let query = ListQuery::parse(uri.query(), &["limit", "order", "after", "purpose"], PAGE_FILES)?;
        let purpose = query.purpose.as_deref();
        let purpose = purpose.map(|name| {
            let purpose = FilePurpose::named(name);
            purpose.ok_or_else(|| ApiError::invalid("purpose", "must be batch or batch_output"))
        });
        let page = FilePage {
            purpose: purpose.transpose()?,
            after: query.after,
            is_ascending: query.is_ascending,
            // One more tells whether there are more.
            limit: u32::try_from(query.limit + 1).unwrap_or(u32::MAX),
        };
        let files = kept.store.files(&caller.tenant, &page, app.clock.now_ms()).await;
        let files = files.map_err(|error| unavailable(&error))?;
        let has_more = files.len() > query.limit;
        let told = files.iter().take(query.limit).map(shown).collect();
        Ok(json_response(StatusCode::OK, &list_page(told, has_more)))
    };
    answered
        .await
        .unwrap_or_else(|error: ApiError| error_response(&error))
}

/// `GET /v1/files/{id}`.
pub(crate) async fn show(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    id: PathId,
) -> Response {
    match find(&app, &caller, id).await {
        Ok((_, file)) => json_response(StatusCode::OK, &shown(&file)),
        Err(error) => error_response(&error),
    }
}

/// `DELETE /v1/files/{id}`.
pub(crate) async fn delete(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    id: PathId,
) -> Response {
    let answered = async {
        let (kept, id) = wanted(&app, id, What::File)?;
        let deletion = kept.store.delete_file(&caller.tenant, &id).await;
        match deletion.map_err(|error| unavailable(&error))? {
            Deletion::Gone => {
                let told = json!({"id": id, "object": "file", "deleted": true});
                Ok(json_response(StatusCode::OK, &told))
            }
            Deletion::Unknown => Err(What::File.not_found()),
            Deletion::InUse => {
                let text = "a batch that has not ended needs this file; cancel the batch first";
                Err(ApiError::new(409, "file_in_use", text))
            }
        }
    };
    answered
        .await
        .unwrap_or_else(|error: ApiError| error_response(&error))
}

/// `GET /v1/files/{id}/content`: chunk by chunk, as the client reads.
pub(crate) async fn content(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    id: PathId,
) -> Response {
    let (kept, file) = match find(&app, &caller, id).await {
        Ok((kept, file)) => (kept.store.clone(), file),
        Err(error) => return error_response(&error),
    };
    let length = HeaderValue::from(file.bytes);
    let mut response = Response::new(Body::from_stream(chunks(kept, file)));
    let headers = response.headers_mut();
    headers.insert(CONTENT_LENGTH, length);
    // Whatever is in it, a browser shall not take it for a page.
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(CONTENT_DISPOSITION, HeaderValue::from_static("attachment"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn chunks(
    store: Arc<dyn KeptStore>,
    file: StoredFile,
) -> impl futures::Stream<Item = Result<Bytes, std::io::Error>> {
    futures::stream::unfold((store, file, 0), |(store, file, number)| async move {
        if number == file.chunks {
            return None;
        }
        let chunk = match store.chunk(&file.id, number).await {
            Ok(Some(chunk)) => Ok(Bytes::from(chunk)),
            // Deleted meanwhile. The client was told the length, and sees that the content breaks off.
            Ok(None) => Err(std::io::ErrorKind::NotFound.into()),
            Err(error) => {
                tracing::warn!(%error, file = file.id, "a file breaks off");
                Err(std::io::Error::other(error))
            }
        };
        Some((chunk, (store, file, number + 1)))
    })
}

async fn find<'a>(
    app: &'a App,
    caller: &Caller,
    id: PathId,
) -> Result<(&'a super::Kept, StoredFile), ApiError> {
    let (kept, id) = wanted(app, id, What::File)?;
    let found = kept.store.file(&caller.tenant, &id, app.clock.now_ms()).await;
    let found = found.map_err(|error| unavailable(&error))?;
    Ok((kept, found.ok_or_else(|| What::File.not_found())?))
}
