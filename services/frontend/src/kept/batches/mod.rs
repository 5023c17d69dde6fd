//! `/v1/batches`, and running them.

mod answering;
mod lines;
mod output;
mod rights;
mod running;
mod validate;
mod work;

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Request, State};
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use serde_json::{Value, json};
use vlinders_ledger::{NewBatch, StoredBatch};
use vlinders_openai_api::{ApiError, BATCH_WINDOW, ListQuery, list_page, parse_batch};

pub(super) use self::running::spawn;
use super::rules::milliseconds;
use super::{PathId, What, offered, unavailable, wanted};
use crate::Caller;
use crate::app::App;
use crate::http::{error_response, json_response, read_json};

/// Batches of one page.
const PAGE_BATCHES: (usize, usize) = (20, 100);

/// `POST /v1/batches`.
pub(crate) async fn create(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Response {
    match make(&app, &caller, request).await {
        Ok(batch) => json_response(StatusCode::OK, &shown(&batch)),
        Err(error) => error_response(&error),
    }
}

async fn make(app: &App, caller: &Caller, request: Request) -> Result<StoredBatch, ApiError> {
    let kept = offered(app, What::Batch)?;
    let body = read_json(app, request).await?;
    let asked = parse_batch(&body.bytes, caller.unknown_fields(app.config.unknown_fields))?;
    let now_ms = app.clock.now_ms();
    let input = kept.store.file(&caller.tenant, &asked.input_file, now_ms).await;
    if input.map_err(|error| unavailable(&error))?.is_none() {
        let text = "input_file_id: there is no such file";
        return Err(ApiError {
            param: Some("input_file_id".to_owned()),
            ..ApiError::new(404, "file_not_found", text)
        });
    }
    let batch = NewBatch {
        id: format!("batch_{}", app.new_request_id()),
        tenant: caller.tenant.clone(),
        key: caller.key.clone(),
        rights: rights::written(caller),
        endpoint: asked.endpoint.to_owned(),
        input_file: asked.input_file,
        metadata: asked.metadata,
        output_expires_s: asked.output_expires_s,
        created_ms: now_ms,
        expires_ms: now_ms.saturating_add(milliseconds(kept.rules.batches.window)),
    };
    let most = kept.rules.batches.open;
    let created = kept.store.create_batch(&batch, most).await;
    if !created.map_err(|error| unavailable(&error))? {
        let text =
            format!("{most} batches of yours have not ended, or the file was just deleted; try again later");
        return Err(ApiError::new(429, "too_many_batches", text).with_retry_after(60));
    }
    let found = kept.store.batch(&caller.tenant, &batch.id).await;
    found
        .map_err(|error| unavailable(&error))?
        .ok_or_else(|| What::Batch.not_found())
}

/// `GET /v1/batches`.
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    uri: Uri,
) -> Response {
    let answered = async {
        let kept = offered(&app, What::Batch)?;
        let query = ListQuery::parse(uri.query(), &["limit", "after"], PAGE_BATCHES)?;
        let limit = u32::try_from(query.limit + 1).unwrap_or(u32::MAX);
        let after = query.after.as_deref();
        let batches = kept.store.batches(&caller.tenant, after, limit).await;
        let batches = batches.map_err(|error| unavailable(&error))?;
        let has_more = batches.len() > query.limit;
        let told = batches.iter().take(query.limit).map(shown).collect();
        Ok(json_response(StatusCode::OK, &list_page(told, has_more)))
    };
    answered
        .await
        .unwrap_or_else(|error: ApiError| error_response(&error))
}

/// `GET /v1/batches/{id}`.
pub(crate) async fn show(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    id: PathId,
) -> Response {
    match find(&app, &caller, id).await {
        Ok(batch) => json_response(StatusCode::OK, &shown(&batch)),
        Err(error) => error_response(&error),
    }
}

/// `POST /v1/batches/{id}/cancel`. What is being answered is answered still.
pub(crate) async fn cancel(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    id: PathId,
) -> Response {
    let answered = async {
        let (kept, name) = wanted(&app, id, What::Batch)?;
        let cancelled = kept
            .store
            .cancel_batch(&caller.tenant, &name, app.clock.now_ms())
            .await;
        let cancelled = cancelled.map_err(|error| unavailable(&error))?;
        let found = kept.store.batch(&caller.tenant, &name).await;
        let found = found.map_err(|error| unavailable(&error))?;
        let batch = found.ok_or_else(|| What::Batch.not_found())?;
        if !cancelled {
            let text = format!("a batch that is {} cannot be cancelled", batch.status.name());
            return Err(ApiError::new(409, "batch_not_cancellable", text));
        }
        Ok(json_response(StatusCode::OK, &shown(&batch)))
    };
    answered
        .await
        .unwrap_or_else(|error: ApiError| error_response(&error))
}

async fn find(app: &App, caller: &Caller, id: PathId) -> Result<StoredBatch, ApiError> {
    let (kept, id) = wanted(app, id, What::Batch)?;
    let found = kept.store.batch(&caller.tenant, &id).await;
    let found = found.map_err(|error| unavailable(&error))?;
    found.ok_or_else(|| What::Batch.not_found())
}

fn shown(batch: &StoredBatch) -> Value {
    let asked = &batch.asked;
    let read = |text: &Option<String>| {
        let text = text.as_deref().unwrap_or("null");
        serde_json::from_str(text).unwrap_or(Value::Null)
    };
    let errors: Value = read(&batch.errors);
    let errors = if errors.is_null() {
        errors
    } else {
        json!({"object": "list", "data": errors})
    };
    let seconds = |time: Option<u64>| time.map(|time_ms| time_ms / 1000);
    // Files have names before they are there.
    let file = |name: &Option<String>| name.clone().filter(|_| !batch.status.is_open());
    json!({
        "id": asked.id, "object": "batch", "endpoint": asked.endpoint, "errors": errors,
        "input_file_id": asked.input_file, "completion_window": BATCH_WINDOW, "status": batch.status.name(),
        "output_file_id": file(&batch.output_file), "error_file_id": file(&batch.error_file),
        "created_at": asked.created_ms / 1000, "in_progress_at": seconds(batch.in_progress_ms),
        "expires_at": asked.expires_ms / 1000, "finalizing_at": seconds(batch.finalizing_ms),
        "completed_at": seconds(batch.completed_ms), "failed_at": seconds(batch.failed_ms),
        "expired_at": seconds(batch.expired_ms), "cancelling_at": seconds(batch.cancelling_ms),
        "cancelled_at": seconds(batch.cancelled_ms),
        "request_counts": {"total": batch.total, "completed": batch.completed, "failed": batch.failed},
        "metadata": read(&asked.metadata),
    })
}
