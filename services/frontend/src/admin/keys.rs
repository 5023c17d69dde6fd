//! Keys: made, shown, changed, rotated and ended. A secret is shown once, in the answer that made it.

use std::sync::Arc;

use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json};
use vlinders_ledger::{
    ApiKey, Budget, KeyLimits, KeyRules, KeySecret, LedgerError, NewKey, NewSecret, NoRandomness, new_key_id,
};
use vlinders_openai_api::ApiError;
use vlinders_types::{KeyId, TenantId};

use super::rules::{change as change_rules, object, shown};
use super::{Admin, rules};
use crate::http::{error_response, json_response, read_json};
use crate::{Caller, PastUse};

/// Seconds that a replaced secret goes on, unless somebody says otherwise, and at most: a day and a year.
const GRACE_S: u64 = 24 * 3600;
const LONGEST_GRACE_S: u64 = 365 * 24 * 3600;

fn told(answer: Result<Value, ApiError>) -> Response {
    match answer {
        Ok(value) => json_response(StatusCode::OK, &value),
        Err(error) => error_response(&error),
    }
}

/// All keys.
pub(super) async fn list(State(admin): State<Arc<Admin>>) -> Response {
    let now_ms = admin.app.clock.now_ms();
    let keys = admin.store.keys().await.map_err(|error| unavailable(&error));
    told(keys.map(|keys| {
        let keys = keys.iter().map(|key| shown(key, now_ms));
        json!({"object": "list", "data": Vec::<Value>::from_iter(keys)})
    }))
}

/// A new key, with its secret.
pub(super) async fn create(State(admin): State<Arc<Admin>>, request: Request) -> Response {
    told(created(&admin, request).await)
}

async fn created(admin: &Admin, request: Request) -> Result<Value, ApiError> {
    let body = read_json(&admin.app, request).await?;
    let fields = object(&body.bytes)?;
    if !fields.contains_key("name") {
        return Err(ApiError::invalid(
            "name",
            "is missing: by it you will know the key again",
        ));
    }
    let mut rules = KeyRules::new("", TenantId::new("default"));
    change_rules(&mut rules, &fields)?;
    let secret = KeySecret::generate().map_err(|error| no_secret(&error))?;
    let now_ms = admin.app.clock.now_ms();
    let key = ApiKey {
        id: new_key_id().map_err(|error| no_secret(&error))?,
        prefix: secret.prefix(),
        rules,
        created_ms: now_ms,
        revoked_ms: None,
        last_used_ms: None,
    };
    let digest = secret.digest();
    let new = NewKey { key, digest };
    let stored = admin.store.insert_key(&new).await;
    stored.map_err(|error| unavailable(&error))?;
    tracing::info!(key = %new.key.id, tenant = %new.key.rules.tenant, "key made");
    let mut answer = shown(&new.key, now_ms);
    answer["secret"] = secret.reveal().into();
    Ok(answer)
}

/// One key.
pub(super) async fn one(State(admin): State<Arc<Admin>>, Path(id): Path<String>) -> Response {
    let now_ms = admin.app.clock.now_ms();
    told(
        existing(&admin, &KeyId::new(&id))
            .await
            .map(|key| shown(&key, now_ms)),
    )
}

/// A key with other rules.
pub(super) async fn change(
    State(admin): State<Arc<Admin>>,
    Path(id): Path<String>,
    request: Request,
) -> Response {
    told(changed(&admin, &KeyId::new(&id), request).await)
}

async fn changed(admin: &Admin, id: &KeyId, request: Request) -> Result<Value, ApiError> {
    let body = read_json(&admin.app, request).await?;
    let fields = object(&body.bytes)?;
    let mut key = existing(admin, id).await?;
    change_rules(&mut key.rules, &fields)?;
    let changed = admin.store.change_key(id, &key.rules).await;
    if !changed.map_err(|error| unavailable(&error))? {
        return Err(revoked(id));
    }
    tracing::info!(key = %id, "key changed");
    Ok(shown(&existing(admin, id).await?, admin.app.clock.now_ms()))
}

/// Ends a key, for good. One that has ended has ended.
pub(super) async fn revoke(State(admin): State<Arc<Admin>>, Path(id): Path<String>) -> Response {
    let id = KeyId::new(&id);
    let revoke = async {
        existing(&admin, &id).await?;
        let now_ms = admin.app.clock.now_ms();
        let revoked = admin.store.revoke_key(&id, now_ms).await;
        if revoked.map_err(|error| unavailable(&error))? {
            tracing::info!(key = %id, "key revoked");
        }
        Ok(shown(&existing(&admin, &id).await?, now_ms))
    };
    told(revoke.await)
}

/// A key with another secret.
pub(super) async fn rotate(
    State(admin): State<Arc<Admin>>,
    Path(id): Path<String>,
    request: Request,
) -> Response {
    told(rotated(&admin, &KeyId::new(&id), request).await)
}

async fn rotated(admin: &Admin, id: &KeyId, request: Request) -> Result<Value, ApiError> {
    let body = read_json(&admin.app, request).await?;
    let mut grace_s = GRACE_S;
    for (field, value) in &object(&body.bytes)? {
        if field != "grace_s" {
            return Err(ApiError::invalid(field, "is not known here; known is grace_s")
                .with_code("unknown_parameter"));
        }
        let seconds = value.as_u64().filter(|seconds| *seconds <= LONGEST_GRACE_S);
        let text = format!("must be a whole number from 0 to {LONGEST_GRACE_S}");
        grace_s = seconds.ok_or_else(|| ApiError::invalid(field, text))?;
    }
    existing(admin, id).await?;
    let secret = KeySecret::generate().map_err(|error| no_secret(&error))?;
    let now_ms = admin.app.clock.now_ms();
    let new = NewSecret {
        digest: secret.digest(),
        prefix: secret.prefix(),
        previous_until_ms: now_ms.saturating_add(grace_s * 1000),
    };
    let rotated = admin.store.rotate_key(id, &new).await;
    if !rotated.map_err(|error| unavailable(&error))? {
        return Err(revoked(id));
    }
    tracing::info!(key = %id, "key rotated");
    let mut answer = shown(&existing(admin, id).await?, now_ms);
    answer["secret"] = secret.reveal().into();
    Ok(answer)
}

/// What a key may use, and what of its budgets is used, as the ledger has it.
pub(super) async fn limits(State(admin): State<Arc<Admin>>, Path(id): Path<String>) -> Response {
    told(limits_of(&admin, &KeyId::new(&id)).await)
}

async fn limits_of(admin: &Admin, id: &KeyId) -> Result<Value, ApiError> {
    let key = existing(admin, id).await?;
    let limits = key.rules.limits;
    let used = used(admin, &key).await?;
    let budget = |budget: Budget, [tokens, nanos]: [Option<u64>; 2]| {
        json!({
            "tokens": {"limit": budget.tokens, "used": tokens},
            "nanos": {"limit": budget.nanos, "used": nanos},
        })
    };
    let [day_tokens, month_tokens, day_nanos, month_nanos] = used;
    Ok(json!({
        "object": "api_key.limits",
        "id": id.as_str(),
        "requests_per_minute": limits.requests_per_minute,
        "tokens_per_minute": limits.tokens_per_minute,
        "concurrent_streams": limits.concurrent_streams,
        "daily": budget(limits.daily, [day_tokens, day_nanos]),
        "monthly": budget(limits.monthly, [month_tokens, month_nanos]),
    }))
}

/// Tokens of the day and the month, and nanos of both; none where nobody counts them.
async fn used(admin: &Admin, key: &ApiKey) -> Result<[Option<u64>; 4], ApiError> {
    let books = &admin.app.books;
    let Some(reports) = books.reports.clone() else {
        return Ok([None; 4]);
    };
    let all = Budget {
        tokens: Some(rules::MOST),
        nanos: Some(rules::MOST),
    };
    let caller = Caller {
        limits: KeyLimits {
            daily: all,
            monthly: all,
            ..KeyLimits::default()
        },
        ..Caller::of_key(key)
    };
    let past = PastUse::new(reports, books.prices.clone());
    let Some(used) = past.of_now(&caller, admin.app.clock.now_ms()).await else {
        let text = "what was used cannot be read now; try again soon";
        return Err(ApiError::new(503, "usage_unavailable", text).with_retry_after(1));
    };
    let mut used = used.into_iter().map(Some);
    let mut next = || used.next().flatten();
    let mut all = [next(), next(), next(), next()];
    if books.prices.is_none() {
        all[2..].fill(None);
    }
    Ok(all)
}

async fn existing(admin: &Admin, id: &KeyId) -> Result<ApiKey, ApiError> {
    let found = admin.store.key(id).await.map_err(|error| unavailable(&error))?;
    found.ok_or_else(|| ApiError::new(404, "key_not_found", "there is no key of this id"))
}

fn revoked(id: &KeyId) -> ApiError {
    ApiError::new(400, "key_revoked", format!("{id} is revoked, which is for good"))
}

fn unavailable(error: &LedgerError) -> ApiError {
    tracing::warn!(%error, "keys cannot be read or changed");
    ApiError::new(
        503,
        "keys_unavailable",
        "keys cannot be read or changed now; try again soon",
    )
    .with_retry_after(1)
}

fn no_secret(error: &NoRandomness) -> ApiError {
    tracing::error!(%error, "no key can be made");
    ApiError::new(500, "internal_error", "something went wrong on our side")
}
