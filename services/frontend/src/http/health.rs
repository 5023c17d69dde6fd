//! How the process fares.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use vlinders_bus::StreamName;

use super::json_response;
use crate::app::App;

/// How long the bus may take to answer.
const BUS_DEADLINE: Duration = Duration::from_secs(1);

/// The process works. Says nothing of workers: see [`ready`].
pub(crate) async fn health() -> Response {
    json_response(StatusCode::OK, &json!({"status": "healthy"}))
}

/// The process runs.
pub(crate) async fn live() -> Response {
    json_response(StatusCode::OK, &json!({"status": "alive"}))
}

/// Whether a request sent now can be answered.
pub(crate) async fn ready(State(app): State<Arc<App>>) -> Response {
    match obstacle(&app).await {
        None => json_response(StatusCode::OK, &json!({"status": "ready"})),
        Some(reason) => {
            let body = json!({"status": "not ready", "reason": reason});
            json_response(StatusCode::SERVICE_UNAVAILABLE, &body)
        }
    }
}

async fn obstacle(app: &App) -> Option<&'static str> {
    if app.stopping.is_cancelled() {
        return Some("draining");
    }
    let is_served = |model| app.workers.serve(model, app.config.beacon_fresh);
    if !app.models.names().any(|(_, model)| is_served(&model.name)) {
        return Some("no model has both a prefill and a decode worker");
    }
    match tokio::time::timeout(BUS_DEADLINE, app.bus.pending(StreamName::Requests)).await {
        Ok(Ok(_pending)) => None,
        Ok(Err(_)) | Err(_) => Some("bus not reachable"),
    }
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
