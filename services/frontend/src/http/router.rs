//! Which path leads where.

use std::sync::Arc;

use axum::Router;
use axum::http::{Method, Uri};
use axum::middleware::from_fn_with_state;
use axum::response::Response;
use axum::routing::{get, post};
use vlinders_openai_api::ApiError;

use super::{envelope, error_response, health, models};
use crate::app::App;
use crate::{dialects, generate, tokens};

/// All routes.
pub(crate) fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/v1/chat/completions", post(generate::chat))
        .route("/v1/completions", post(generate::completion))
        .route("/v1/messages", post(dialects::messages))
        .route("/v1/messages/count_tokens", post(dialects::count_tokens))
        .route("/v1/responses", post(dialects::responses))
        .route("/tokenize", post(tokens::tokenize))
        .route("/detokenize", post(tokens::detokenize))
        .route("/v1/models", get(models::list))
        // A wildcard: names of models contain slashes.
        .route("/v1/models/{*id}", get(models::one))
        .route("/health", get(health::health))
        .route("/live", get(health::live))
        .route("/ready", get(health::ready))
        .route("/metrics", get(health::metrics))
        .route("/version", get(health::version))
        .route("/openapi.json", get(health::openapi))
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(not_found)
        .layer(from_fn_with_state(Arc::clone(&app), envelope::wrap))
        .with_state(app)
}

async fn not_found(uri: Uri) -> Response {
    let text = format!("no such route: {}", uri.path());
    error_response(&ApiError::new(404, "not_found", text))
}

async fn method_not_allowed(method: Method, uri: Uri) -> Response {
    let text = format!("{} does not answer {method}", uri.path());
    error_response(&ApiError::new(405, "method_not_allowed", text))
}
