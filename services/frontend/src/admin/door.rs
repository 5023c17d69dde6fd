//! Who comes in at the operators' port: whoever has its token, or a key for `admin`. There is no exception.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::middleware::Next;
use axum::response::Response;
use vlinders_ledger::{KeyDigest, Scope};
use vlinders_openai_api::ApiError;

use super::Admin;
use crate::auth::credential;
use crate::http::refused;

/// The layer around all routes.
pub(super) async fn authenticate(State(admin): State<Arc<Admin>>, request: Request, next: Next) -> Response {
    match admit(&admin, request.headers()).await {
        Ok(()) => next.run(request).await,
        Err(error) => refused(&error),
    }
}

async fn admit(admin: &Admin, headers: &HeaderMap) -> Result<(), ApiError> {
    let credential = credential(headers)?;
    // Hashes are compared in constant time.
    if admin
        .token
        .is_some_and(|token| token == KeyDigest::of(credential))
    {
        return Ok(());
    }
    let caller = admin.keys.caller(credential).await?;
    if !caller.may(Scope::Admin) {
        let text = "this API key is not for admin; use another one";
        return Err(ApiError::new(403, "missing_scope", text));
    }
    Ok(())
}
