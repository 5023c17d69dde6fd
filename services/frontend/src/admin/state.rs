//! How the process fares and what it serves, as operators are told.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json};
use vlinders_types::ModelName;

use super::Admin;
use crate::ServedModel;
use crate::http::{json_response, obstacle};

/// Whether requests can be answered, and what runs.
pub(super) async fn health(State(admin): State<Arc<Admin>>) -> Response {
    let app = &admin.app;
    let reason = obstacle(app);
    let told = json!({
        "status": if reason.is_none() { "ready" } else { "not ready" },
        "reason": reason,
        "version": env!("CARGO_PKG_VERSION"),
        "started": app.started_s,
        "requests_in_flight": app.streams.running(),
    });
    json_response(StatusCode::OK, &told)
}

/// Every model with its names, and whether workers serve it now.
pub(super) async fn models(State(admin): State<Arc<Admin>>) -> Response {
    let app = &admin.app;
    let mut models: BTreeMap<&ModelName, (&ServedModel, Vec<&str>)> = BTreeMap::new();
    for (name, model) in app.models.names() {
        let (_, aliases) = models.entry(&model.name).or_insert((model, Vec::new()));
        if name != model.name.as_str() {
            aliases.push(name);
        }
    }
    let models = models.into_values().map(|(model, aliases)| {
        json!({
            "id": model.name.as_str(),
            "aliases": aliases,
            "max_model_len": model.max_context_tokens,
            "is_served": app.workers.serve(&model.name, app.config.beacon_fresh),
        })
    });
    let told = json!({"object": "list", "data": Vec::<Value>::from_iter(models)});
    json_response(StatusCode::OK, &told)
}
