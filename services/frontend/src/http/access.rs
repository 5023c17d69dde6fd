//! Who may come to which path. Nobody comes in without being known, except where it stands here.

use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::http::HeaderValue;
use axum::http::header::WWW_AUTHENTICATE;
use axum::middleware::Next;
use axum::response::Response;
use vlinders_ledger::Scope;
use vlinders_openai_api::ApiError;

use super::error_response;
use crate::app::App;

/// What a path asks of whoever comes to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Everybody,
    AnyKey,
    KeyFor(Scope),
}

/// The layer between the envelope and all routes. Routes find the caller in the request's extensions.
pub(crate) async fn authenticate(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    let access = access_to(route, app.config.open_metrics);
    if access == Access::Everybody {
        return next.run(request).await;
    }
    let caller = match app.authenticator.authenticate(request.headers()).await {
        Ok(caller) => caller,
        Err(error) => return refused(&error),
    };
    if let Err(error) = app.standing.require(&caller.tenant) {
        return refused(&error);
    }
    if let Access::KeyFor(scope) = access
        && !caller.may(scope)
    {
        let text = format!("this API key is not for {}; use another one", scope.name());
        return refused(&ApiError::new(403, "missing_scope", text));
    }
    request.extensions_mut().insert(caller);
    next.run(request).await
}

/// A path that is not named here computes something, or is none.
fn access_to(route: Option<&str>, open_metrics: bool) -> Access {
    match route {
        Some("/health" | "/live" | "/ready") => Access::Everybody,
        // Its signature is its credential.
        Some("/webhooks/stripe") => Access::Everybody,
        Some("/metrics" | "/version") if open_metrics => Access::Everybody,
        Some("/metrics") => Access::KeyFor(Scope::Metrics),
        None | Some("/version" | "/openapi.json" | "/v1/models" | "/v1/models/{*id}" | "/v1/usage") => {
            Access::AnyKey
        }
        Some(_) => Access::KeyFor(Scope::Inference),
    }
}

/// An error, with the way to come in where nobody was known.
pub(crate) fn refused(error: &ApiError) -> Response {
    let mut response = error_response(error);
    if error.status == 401 {
        let scheme = HeaderValue::from_static("Bearer");
        response.headers_mut().insert(WWW_AUTHENTICATE, scheme);
    }
    response
}
