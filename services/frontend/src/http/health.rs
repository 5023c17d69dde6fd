//! How the process fares.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::json_response;
use crate::app::App;

/// Asked every few seconds by something that watches us: nothing to tell in the log.
pub(crate) fn is_asked_by_machines(route: &str) -> bool {
    ["/health", "/live", "/ready", "/metrics", "/version"].contains(&route)
}

/// The process works. Says nothing of workers: see [`ready`].
pub(crate) async fn health() -> Response {
    json_response(StatusCode::OK, &json!({"status": "healthy"}))
}

/// The process runs.
pub(crate) async fn live() -> Response {
    json_response(StatusCode::OK, &json!({"status": "alive"}))
}

/// Whether a request sent now can be answered, as far as this process knows by itself. No server is asked: what all
/// frontends share would take all of them out at once, and whoever answers a ping may still refuse the work. The metrics
/// tell how the servers fare.
pub(crate) async fn ready(State(app): State<Arc<App>>) -> Response {
    match obstacle(&app) {
        None => json_response(StatusCode::OK, &json!({"status": "ready"})),
        Some(reason) => {
            let body = json!({"status": "not ready", "reason": reason});
            json_response(StatusCode::SERVICE_UNAVAILABLE, &body)
        }
    }
}

/// Why a request sent now could not be answered, if anything is known.
pub(crate) fn obstacle(app: &App) -> Option<&'static str> {
    if app.stopping.is_cancelled() {
        return Some("draining");
    }
    if !(app.bus_is_up)() {
        return Some("bus not reachable");
    }
    let is_served = |model| app.workers.serve(model, app.config.beacon_fresh);
    if !app.models.names().any(|(_, model)| is_served(&model.name)) {
        return Some("no model has both a prefill and a decode worker");
    }
    None
}

/// The metrics as text.
pub(crate) async fn metrics(State(app): State<Arc<App>>) -> Response {
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let headers = [(CONTENT_TYPE, HeaderValue::from_static(content_type))];
    (headers, app.metrics.encode()).into_response()
}

/// Which build runs.
pub(crate) async fn version() -> Response {
    json_response(StatusCode::OK, &json!({"version": env!("CARGO_PKG_VERSION")}))
}

/// The whole surface, described for programs.
pub(crate) async fn openapi() -> Response {
    json_response(
        StatusCode::OK,
        &vlinders_openai_api::openapi(env!("CARGO_PKG_VERSION")),
    )
}
