//! Which path leads where.

use std::sync::Arc;

use axum::Router;
use axum::http::{Method, Uri};
use axum::middleware::from_fn_with_state;
use axum::response::Response;
use axum::routing::{MethodRouter, delete as on_delete, get as on_get, post as on_post};
use vlinders_openai_api::{ApiError, BATCH_ENDPOINTS};

use super::{access, envelope, error_response, health, models};
use crate::app::App;
use crate::kept::{batches, files};
use crate::{dialects, generate, kept, probes, standing, tokens, usage};

/// One path and what answers there.
pub(crate) struct Route {
    pub(crate) method: &'static str,
    pub(crate) path: &'static str,
    answer: MethodRouter<Arc<App>>,
}

/// Every route there is, and the only place they come from: tests knock at each.
pub(crate) fn routes() -> Vec<Route> {
    let get = |path, answer| Route {
        method: "GET",
        path,
        answer,
    };
    let post = |path, answer| Route {
        method: "POST",
        path,
        answer,
    };
    let delete = |path, answer| Route {
        method: "DELETE",
        path,
        answer,
    };
    vec![
        post("/v1/chat/completions", on_post(generate::chat)),
        post("/v1/completions", on_post(generate::completion)),
        post("/v1/messages", on_post(dialects::messages)),
        post("/v1/messages/count_tokens", on_post(dialects::count_tokens)),
        post("/v1/responses", on_post(dialects::responses)),
        get("/v1/responses/{id}", on_get(kept::show_response)),
        delete("/v1/responses/{id}", on_delete(kept::delete_response)),
        get("/v1/responses/{id}/input_items", on_get(kept::input_items)),
        post("/v1/files", on_post(files::create)),
        get("/v1/files", on_get(files::list)),
        get("/v1/files/{id}", on_get(files::show)),
        delete("/v1/files/{id}", on_delete(files::delete)),
        get("/v1/files/{id}/content", on_get(files::content)),
        post("/v1/batches", on_post(batches::create)),
        get("/v1/batches", on_get(batches::list)),
        get("/v1/batches/{id}", on_get(batches::show)),
        post("/v1/batches/{id}/cancel", on_post(batches::cancel)),
        post("/v1/embeddings", on_post(probes::embeddings)),
        post("/v1/decisions", on_post(probes::decisions)),
        post("/tokenize", on_post(tokens::tokenize)),
        post("/detokenize", on_post(tokens::detokenize)),
        get("/v1/models", on_get(models::list)),
        // A wildcard: names of models contain slashes.
        get("/v1/models/{*id}", on_get(models::one)),
        get("/v1/usage", on_get(usage::usage)),
        post("/webhooks/stripe", on_post(standing::webhook)),
        get("/health", on_get(health::health)),
        get("/live", on_get(health::live)),
        get("/ready", on_get(health::ready)),
        get("/metrics", on_get(health::metrics)),
        get("/version", on_get(health::version)),
        get("/openapi.json", on_get(health::openapi)),
    ]
}

/// All routes as a service.
pub(crate) fn router(app: Arc<App>) -> Router {
    routes()
        .into_iter()
        .fold(Router::new(), |router, route| {
            router.route(route.path, route.answer)
        })
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(not_found)
        .layer(from_fn_with_state(Arc::clone(&app), access::authenticate))
        .layer(from_fn_with_state(Arc::clone(&app), envelope::wrap))
        .with_state(app)
}

/// The routes that lines of batches may go to, for callers inside this process, who are known.
pub(crate) fn inner_router(app: Arc<App>) -> Router {
    routes()
        .into_iter()
        .filter(|route| route.method == "POST" && BATCH_ENDPOINTS.contains(&route.path))
        .fold(Router::new(), |router, route| {
            router.route(route.path, route.answer)
        })
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
