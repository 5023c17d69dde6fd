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
use crate::kept::prepare_response;

/// `/v1/responses`.
pub(crate) async fn responses(
    State(app): State<Arc<App>>,
    Extension(context): Extension<RequestContext>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Response {
    let asker = caller.clone();
    let asked = read(&app, request, move |app, body| {
        parse_responses(body, caller.unknown_fields(app.config.unknown_fields))
    });
    let Asked { head, mut request } = match asked.await {
        Ok(asked) => asked,
        Err(error) => return error_response(&error),
    };
    let request_id = context.request_id.to_string();
    let keeper = match prepare_response(&app, &asker, &mut request, &request_id).await {
        Ok(keeper) => keeper,
        Err(error) => return error_response(&error),
    };
    request.echo.insert("store".to_owned(), keeper.is_some().into());
    let created_s = app.clock.now_ms() / 1000;
    let writer = ResponsesWriter::new(&request_id, created_s, request.echo);
    ask(app, context, (head, &request.chat), (writer, keeper)).await
}
