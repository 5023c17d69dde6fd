//! What operators ask of a running server, on a port of its own: keys and their limits, models, health. Nothing here is
//! reachable on the port that clients use, and nothing without a credential.

mod door;
mod keys;
mod openapi;
mod rules;
mod state;
mod tenants;

use std::sync::Arc;

use axum::Router;
use axum::http::{Method, Uri};
use axum::middleware::from_fn_with_state;
use axum::response::Response;
use axum::routing::{MethodRouter, delete, get, patch, post};
use tokio::net::TcpListener;
use vlinders_ledger::{KeyDigest, KeyStore};
use vlinders_openai_api::ApiError;

use crate::KeyAuthenticator;
use crate::app::App;
use crate::http::{envelope, error_response};

/// What the operators' port is made of.
pub struct AdminParts {
    /// Where it listens.
    pub listener: TcpListener,
    /// The keys there are.
    pub store: Arc<dyn KeyStore>,
    /// Knows keys; those for `admin` come in.
    pub keys: Arc<KeyAuthenticator>,
    /// Whoever comes with the secret of this digest comes in too.
    pub token: Option<KeyDigest>,
}

/// What every handler of the operators' port can reach.
struct Admin {
    app: Arc<App>,
    store: Arc<dyn KeyStore>,
    keys: Arc<KeyAuthenticator>,
    token: Option<KeyDigest>,
}

/// One path and what answers there.
struct Route {
    method: &'static str,
    path: &'static str,
    answer: MethodRouter<Arc<Admin>>,
}

/// Every route there is, and the only place they come from: tests knock at each.
fn table() -> Vec<Route> {
    let route = |method, path, answer| Route { method, path, answer };
    vec![
        route("GET", "/health", get(state::health)),
        route("GET", "/openapi.json", get(openapi::document)),
        route("GET", "/v1/models", get(state::models)),
        route("GET", "/v1/keys", get(keys::list)),
        route("POST", "/v1/keys", post(keys::create)),
        route("GET", "/v1/keys/{id}", get(keys::one)),
        route("PATCH", "/v1/keys/{id}", patch(keys::change)),
        route("DELETE", "/v1/keys/{id}", delete(keys::revoke)),
        route("POST", "/v1/keys/{id}/rotate", post(keys::rotate)),
        route("GET", "/v1/keys/{id}/limits", get(keys::limits)),
        route("GET", "/v1/tenants", get(tenants::list)),
        route("PATCH", "/v1/tenants/{id}", patch(tenants::change)),
    ]
}

/// Methods and paths, as routes are written.
pub(crate) fn routes() -> Vec<(&'static str, &'static str)> {
    let routes = table().into_iter();
    routes.map(|route| (route.method, route.path)).collect()
}

/// All routes as a service, and where it listens.
pub(crate) fn service(app: &Arc<App>, parts: AdminParts) -> (Router, TcpListener) {
    let admin = Arc::new(Admin {
        app: Arc::clone(app),
        store: parts.store,
        keys: parts.keys,
        token: parts.token,
    });
    let router = table()
        .into_iter()
        .fold(Router::new(), |router, route| {
            router.route(route.path, route.answer)
        })
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(not_found)
        .layer(from_fn_with_state(Arc::clone(&admin), door::authenticate))
        .layer(from_fn_with_state(Arc::clone(app), envelope::wrap))
        .with_state(admin);
    (router, parts.listener)
}

async fn not_found(uri: Uri) -> Response {
    let text = format!("no such route: {}", uri.path());
    error_response(&ApiError::new(404, "not_found", text))
}

async fn method_not_allowed(method: Method, uri: Uri) -> Response {
    let text = format!("{} does not answer {method}", uri.path());
    error_response(&ApiError::new(405, "method_not_allowed", text))
}
