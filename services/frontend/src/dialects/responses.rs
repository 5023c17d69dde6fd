//! `/v1/responses`.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Request, State};
use axum::response::Response;
use vlinders_openai_api::{ResponsesWriter, parse_responses};

use super::{Asked, ask, read};
use crate::Caller;
use crate::app::App;
use crate::http::{RequestContext, error_response};

/// `/v1/responses`.
pub(crate) async fn responses(
    State(app): State<Arc<App>>,
    Extension(context): Extension<RequestContext>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Response {
    let asked = read(&app, request, move |app, body| {
        parse_responses(body, caller.unknown_fields(app.config.unknown_fields))
    });
    let Asked { head, request } = match asked.await {
        Ok(asked) => asked,
        Err(error) => return error_response(&error),
    };
    let created_s = app.clock.now_ms() / 1000;
    let writer = ResponsesWriter::new(&context.request_id.to_string(), created_s, request.echo);
    ask(app, context, (head, &request.chat), writer).await
}
