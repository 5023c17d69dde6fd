//! `/v1/models`.

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use vlinders_openai_api::{ModelList, ModelObject};

use super::{error_response, json_response};
use crate::ServedModel;
use crate::app::App;
use crate::generate::model_not_found;

/// All models, under each of their names.
pub(crate) async fn list(State(app): State<Arc<App>>, headers: HeaderMap) -> Response {
    if let Err(error) = app.authenticator.authenticate(&headers).await {
        return error_response(&error);
    }
    let objects = app
        .models
        .names()
        .map(|(name, model)| object(&app, name, model))
        .collect();
    json_response(StatusCode::OK, &ModelList::new(objects))
}

/// One model by name or alias.
pub(crate) async fn one(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    name: Result<Path<String>, PathRejection>,
) -> Response {
    if let Err(error) = app.authenticator.authenticate(&headers).await {
        return error_response(&error);
    }
    let name = name.map_or_else(|_| String::new(), |Path(name)| name);
    match app.models.find(&name) {
        Some(model) => json_response(StatusCode::OK, &object(&app, &name, model)),
        None => error_response(&model_not_found(&name)),
    }
}

fn object(app: &App, name: &str, model: &ServedModel) -> ModelObject {
    ModelObject::new(name, app.started_s, model.max_context_tokens)
}
