//! Other ways to ask for an answer. Each is translated into a request for the chat endpoint, goes through its one door with
//! all that lies behind it, and what comes back is told in the dialect's own words. A dialect decides nothing.

mod messages;
mod responses;
mod retell;

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use axum::http::request::Parts;
use axum::http::{HeaderValue, Uri};
use axum::response::Response;
use serde_json::Value;
use vlinders_openai_api::{ApiError, Retelling};

use crate::Caller;
use crate::app::App;
use crate::generate;
use crate::http::{RequestContext, read_json};
use crate::kept::Keeper;

pub(crate) use messages::{count_tokens, messages};
pub(crate) use responses::responses;

/// A request whose body is read: its head, and what it asks for.
struct Asked<T> {
    head: Parts,
    request: T,
}

/// Reads a body in this dialect. The work is done in turn with that of requests being prepared.
async fn read<T: Send + 'static>(
    app: &Arc<App>,
    request: Request,
    parse: impl FnOnce(&App, &[u8]) -> Result<T, ApiError> + Send + 'static,
) -> Result<Asked<T>, ApiError> {
    let (head, body) = request.into_parts();
    let mut whole = Request::new(body);
    *whole.headers_mut() = head.headers.clone();
    let body = read_json(app, whole).await?;
    let parsing = Arc::clone(app);
    let request = app.preparer.run(move || parse(&parsing, &body.bytes)).await?;
    Ok(Asked { head, request })
}

/// Whoever the layer before all routes let in.
fn caller_of(head: &Parts) -> Caller {
    let caller = head.extensions.get::<Caller>();
    caller.cloned().expect("no route is reached without a caller")
}

/// Asks the chat endpoint for a translated request, and tells its answer.
async fn ask(
    app: Arc<App>,
    context: RequestContext,
    (mut head, chat): (Parts, &Value),
    (writer, keeper): (impl Retelling, Option<Keeper>),
) -> Response {
    let caller = caller_of(&head);
    head.headers.remove(CONTENT_LENGTH);
    head.headers.remove(TRANSFER_ENCODING);
    let body = serde_json::to_vec(chat).expect("JSON can be written as JSON");
    let record = Arc::clone(&context.record);
    let request = Request::from_parts(head, Body::from(body));
    let response = generate::chat(State(app), Extension(context), Extension(caller), request).await;
    retell::retell(response, record, writer, keeper).await
}

/// Changes the body of an error where the path has a shape of its own for it.
pub(crate) fn reword(path: &Uri, error: &ApiError, request_id: &HeaderValue) -> Option<Body> {
    if !messages::is_at(path) {
        return None;
    }
    let request_id = request_id.to_str().unwrap_or_default();
    let shape = vlinders_openai_api::messages_error(error, request_id);
    Some(Body::from(shape.to_string()))
}

/// Whether answers at this path carry their id under its other name too.
pub(crate) fn names_request_id(path: &Uri) -> bool {
    messages::is_at(path)
}
