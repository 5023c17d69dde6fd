//! `/v1/models`.

use std::sync::Arc;

use axum::Extension;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use vlinders_openai_api::{ModelList, ModelObject};

use super::{error_response, json_response};
use crate::app::App;
use crate::generate::model_not_found;
use crate::{Caller, ServedModel};

/// All models the caller may use, under each of their names.
pub(crate) async fn list(State(app): State<Arc<App>>, Extension(caller): Extension<Caller>) -> Response {
    let objects = app
        .models
        .names()
        .filter(|(name, _)| caller.may_use(name))
        .map(|(name, model)| object(&app, name, model))
        .collect();
    json_response(StatusCode::OK, &ModelList::new(objects))
}

/// One model by name or alias.
pub(crate) async fn one(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    name: Result<Path<String>, PathRejection>,
) -> Response {
    let name = name.map_or_else(|_| String::new(), |Path(name)| name);
    match app.models.find(&name).filter(|_| caller.may_use(&name)) {
        Some(model) => json_response(StatusCode::OK, &object(&app, &name, model)),
        None => error_response(&model_not_found(&name)),
    }
}

fn object(app: &App, name: &str, model: &ServedModel) -> ModelObject {
    ModelObject::new(name, app.started_s, model.max_context_tokens)
}
