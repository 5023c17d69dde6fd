//! `/v1/messages` and `/v1/messages/count_tokens`.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Request, State};
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use serde_json::json;
use vlinders_openai_api::{ApiError, MessagesUse, MessagesWriter, parse_chat, parse_messages};

use super::{Asked, ask, read};
use crate::Caller;
use crate::app::App;
use crate::generate::{Admitting, chat_prompt, find_model};
use crate::http::{RequestContext, error_response, json_response};

pub(super) fn is_at(path: &Uri) -> bool {
    let path = path.path();
    path == "/v1/messages" || path.starts_with("/v1/messages/")
}

/// `/v1/messages`.
pub(crate) async fn messages(
    State(app): State<Arc<App>>,
    Extension(context): Extension<RequestContext>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Response {
    let asked = read(&app, request, move |app, body| {
        let unknown = caller.unknown_fields(app.config.unknown_fields);
        parse_messages(body, MessagesUse::Answer, unknown)
    });
    let Asked { head, request } = match asked.await {
        Ok(asked) => asked,
        Err(error) => return error_response(&error),
    };
    let writer = MessagesWriter::new(&context.request_id.to_string(), request.model);
    ask(app, context, (head, &request.chat), (writer, None)).await
}

/// `/v1/messages/count_tokens`.
pub(crate) async fn count_tokens(
    State(app): State<Arc<App>>,
    Extension(context): Extension<RequestContext>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Response {
    let admitting = Admitting {
        app: &app,
        context: &context,
        caller: &caller,
    };
    let counting = caller.clone();
    let answered = async {
        let counted = read(&app, request, move |app, body| count(app, &counting, body)).await?;
        Ok(json_response(
            StatusCode::OK,
            &json!({"input_tokens": counted.request}),
        ))
    };
    admitting.answer_for_nothing(answered).await
}

fn count(app: &App, caller: &Caller, body: &[u8]) -> Result<usize, ApiError> {
    let unknown = caller.unknown_fields(app.config.unknown_fields);
    let asked = parse_messages(body, MessagesUse::Count, unknown)?;
    let chat = parse_chat(asked.chat.to_string().as_bytes(), unknown)?;
    caller.require_model(&chat.model)?;
    let model = find_model(app, &chat.model)?;
    Ok(chat_prompt(app, &model, &chat, false)?.len())
}
