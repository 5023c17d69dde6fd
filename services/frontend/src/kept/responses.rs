//! Responses that clients may come back to: `store`, `previous_response_id`, and looking at one or forgetting it.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use serde_json::{Value, json};
use vlinders_ledger::StoredResponse;
use vlinders_openai_api::{ApiError, ListQuery, ResponsesRequest};
use vlinders_types::TenantId;

use super::{Kept, PathId, ResponseKeeping, What, internal, unavailable, wanted};
use crate::Caller;
use crate::app::App;
use crate::http::{error_response, json_response};

/// Of one conversation, as JSON.
const MAX_BYTES: usize = 4 * 1024 * 1024;
/// Items of one page.
const PAGE_ITEMS: (usize, usize) = (20, 100);

/// Keeps one response when it is complete.
pub(crate) struct Keeper {
    kept: Kept,
    tenant: TenantId,
    now_ms: u64,
    items: String,
}

impl Keeper {
    /// Keeps the response. False: it could not be kept, and nobody will be able to come back to it.
    pub(crate) async fn keep(self, response: &Value) -> bool {
        let stored = StoredResponse {
            id: response["id"].as_str().unwrap_or_default().to_owned(),
            tenant: self.tenant,
            items: self.items,
            response: response.to_string(),
            created_ms: self.now_ms,
            expires_ms: self.kept.rules.expires_ms(self.now_ms),
        };
        let kept = self.kept.store.keep_response(&stored).await;
        if let Err(error) = &kept {
            tracing::warn!(%error, response = stored.id, "response not kept");
        }
        kept.is_ok()
    }
}

/// Puts what was kept before the request, and decides whether its answer is kept.
///
/// # Errors
/// When there is no such response, or nothing is kept here.
pub(crate) async fn prepare(
    app: &App,
    caller: &Caller,
    request: &mut ResponsesRequest,
    request_id: &str,
) -> Result<Option<Keeper>, ApiError> {
    let none_kept = |param| ApiError::not_offered(param, "this server keeps no responses; leave it out");
    let kept = app
        .kept
        .as_ref()
        .filter(|kept| kept.rules.responses != ResponseKeeping::Never);
    if let Some(id) = request.previous.clone() {
        let kept = kept.ok_or_else(|| none_kept("previous_response_id"))?;
        request.follow(before(app, kept, caller, &id).await?)?;
    }
    let kept = match (request.store, kept) {
        (Some(true), None) => return Err(none_kept("store")),
        (Some(false), _) | (None, None) => None,
        (Some(true), Some(kept)) => Some(kept),
        (None, Some(kept)) => match kept.rules.responses {
            ResponseKeeping::UnlessRefused => Some(kept),
            ResponseKeeping::WhenAsked | ResponseKeeping::Never => None,
        },
    };
    let Some(kept) = kept else { return Ok(None) };
    let items = Value::Array(request.items(request_id)).to_string();
    if items.len() > MAX_BYTES {
        if request.store.is_none() {
            return Ok(None);
        }
        let bytes = items.len();
        let text =
            format!("a conversation of {bytes} bytes is more than is kept ({MAX_BYTES}); set it to false");
        return Err(ApiError::invalid("store", text));
    }
    Ok(Some(Keeper {
        kept: kept.clone(),
        tenant: caller.tenant.clone(),
        now_ms: app.clock.now_ms(),
        items,
    }))
}

/// The items of a response's conversation, its answer included.
async fn before(app: &App, kept: &Kept, caller: &Caller, id: &str) -> Result<Vec<Value>, ApiError> {
    let found = kept.store.response(&caller.tenant, id, app.clock.now_ms()).await;
    let found = found.map_err(|error| unavailable(&error))?;
    let Some(found) = found else {
        let text = "previous_response_id: there is no such response; it may have been deleted or be too old";
        return Err(ApiError {
            param: Some("previous_response_id".to_owned()),
            ..ApiError::new(404, "previous_response_not_found", text)
        });
    };
    let mut items: Vec<Value> =
        serde_json::from_str(&found.items).map_err(|error| internal(&error, "items"))?;
    let mut response: Value =
        serde_json::from_str(&found.response).map_err(|error| internal(&error, "response"))?;
    if let Value::Array(output) = response["output"].take() {
        items.extend(output);
    }
    Ok(items)
}

/// `GET /v1/responses/{id}`.
pub(crate) async fn show(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    id: PathId,
) -> Response {
    let answered = async {
        let found = find(&app, &caller, id).await?;
        let response: Value =
            serde_json::from_str(&found.response).map_err(|error| internal(&error, "response"))?;
        Ok(json_response(StatusCode::OK, &response))
    };
    answered
        .await
        .unwrap_or_else(|error: ApiError| error_response(&error))
}

/// `DELETE /v1/responses/{id}`.
pub(crate) async fn delete(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    id: PathId,
) -> Response {
    let answered = async {
        let (kept, id) = wanted(&app, id, What::Response)?;
        let forgotten = kept.store.forget_response(&caller.tenant, &id).await;
        if !forgotten.map_err(|error| unavailable(&error))? {
            return Err(What::Response.not_found());
        }
        let told = json!({"id": id, "object": "response", "deleted": true});
        Ok(json_response(StatusCode::OK, &told))
    };
    answered
        .await
        .unwrap_or_else(|error: ApiError| error_response(&error))
}

/// `GET /v1/responses/{id}/input_items`.
pub(crate) async fn input_items(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    id: PathId,
    uri: Uri,
) -> Response {
    let answered = async {
        let query = ListQuery::parse(uri.query(), &["limit", "order", "after"], PAGE_ITEMS)?;
        let found = find(&app, &caller, id).await?;
        let mut items: Vec<Value> =
            serde_json::from_str(&found.items).map_err(|error| internal(&error, "items"))?;
        if !query.is_ascending {
            items.reverse();
        }
        if let Some(after) = &query.after {
            let place = items.iter().position(|item| item["id"] == after.as_str());
            let place = place.ok_or_else(|| ApiError::invalid("after", "there is no such item"))?;
            items.drain(..=place);
        }
        let has_more = items.len() > query.limit;
        items.truncate(query.limit);
        Ok(json_response(
            StatusCode::OK,
            &vlinders_openai_api::list_page(items, has_more),
        ))
    };
    answered
        .await
        .unwrap_or_else(|error: ApiError| error_response(&error))
}

async fn find(app: &App, caller: &Caller, id: PathId) -> Result<StoredResponse, ApiError> {
    let (kept, id) = wanted(app, id, What::Response)?;
    let found = kept.store.response(&caller.tenant, &id, app.clock.now_ms()).await;
    let found = found.map_err(|error| unavailable(&error))?;
    found.ok_or_else(|| What::Response.not_found())
}
