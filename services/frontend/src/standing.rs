//! Which tenants may go on, and what whoever collects the money says of them.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::json;
use tokio::time::{MissedTickBehavior, interval};
use vlinders_billing::{read_notice, verify};
use vlinders_ledger::{Noticed, TenantStore};
use vlinders_openai_api::ApiError;
use vlinders_service_kit::{Stage, Tasks};
use vlinders_types::TenantId;

use crate::app::App;
use crate::http::{error_response, json_response, read_json};

/// The database is asked so often who is suspended: so long a tenant goes on, as a revoked key does.
const ASK_EVERY: Duration = Duration::from_secs(2);

/// Tenants, as far as anybody keeps what becomes of them.
#[derive(Clone, Default)]
pub struct Tenants {
    /// Where that is kept.
    pub store: Option<Arc<dyn TenantStore>>,
    /// Signs what comes to `/webhooks/stripe`. None: there is no such route.
    pub webhook_secret: Option<Arc<str>>,
}

/// Who is suspended, as the database had it a moment ago. While that is away, nothing changes.
#[derive(Default)]
pub(crate) struct Standing(Mutex<HashSet<TenantId>>);

impl Standing {
    /// Learns who is suspended, and keeps learning.
    pub(crate) async fn watch(tenants: &Tenants, tasks: &Tasks) -> Arc<Self> {
        let standing = Arc::new(Self::default());
        let Some(store) = tenants.store.clone() else {
            return standing;
        };
        standing.learn(&*store).await;
        let (learner, stopping) = (Arc::clone(&standing), tasks.stopping(Stage::Work));
        tasks.spawn(Stage::Work, "tenants-standing", async move {
            let mut ticks = interval(ASK_EVERY);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    biased;
                    () = stopping.cancelled() => return,
                    _ = ticks.tick() => learner.learn(&*store).await,
                }
            }
        });
        standing
    }

    pub(crate) async fn learn(&self, store: &dyn TenantStore) {
        match store.suspended_tenants().await {
            Ok(tenants) => {
                let tenants = tenants.into_iter().collect();
                *self.0.lock().unwrap_or_else(PoisonError::into_inner) = tenants;
            }
            Err(error) => tracing::debug!(%error, "it is not known who is suspended"),
        }
    }

    /// Refuses a tenant that may not go on.
    pub(crate) fn require(&self, tenant: &TenantId) -> Result<(), ApiError> {
        let is_suspended = self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(tenant);
        if is_suspended {
            let text = "this account is suspended; ask whoever runs this server, or pay what is due";
            return Err(ApiError::new(403, "tenant_suspended", text));
        }
        Ok(())
    }
}

/// `/webhooks/stripe`: who signs knows the secret, and nobody else is listened to.
pub(crate) async fn webhook(State(app): State<Arc<App>>, request: Request) -> Response {
    match taken(&app, request).await {
        Ok(()) => json_response(StatusCode::OK, &json!({"received": true})),
        Err(error) => error_response(&error),
    }
}

async fn taken(app: &App, request: Request) -> Result<(), ApiError> {
    let (Some(store), Some(secret)) = (&app.tenants.store, &app.tenants.webhook_secret) else {
        return Err(ApiError::new(404, "not_found", "no such route: /webhooks/stripe"));
    };
    let bad = || {
        ApiError::new(
            401,
            "invalid_signature",
            "the signature is missing, wrong or too old",
        )
    };
    let header = request.headers().get("stripe-signature");
    let header = header
        .and_then(|value| value.to_str().ok())
        .ok_or_else(bad)?
        .to_owned();
    let body = read_json(app, request).await?;
    let now_ms = app.clock.now_ms();
    verify(&header, &body.bytes, secret, now_ms / 1000).map_err(|_bad| bad())?;
    let notice =
        read_notice(&body.bytes).map_err(|error| ApiError::new(400, "invalid_event", error.to_string()))?;
    let Some(notice) = notice else { return Ok(()) };
    let noticed = store.take_notice(&notice, now_ms).await.map_err(|error| {
        tracing::warn!(%error, "a notice about a customer is not taken");
        ApiError::new(
            503,
            "tenants_unavailable",
            "this cannot be kept now; send it again",
        )
        .with_retry_after(1)
    })?;
    if noticed == Noticed::New {
        tracing::info!(
            notice = notice.id,
            pays = notice.pays,
            "a notice about a customer"
        );
        app.standing.learn(&**store).await;
    }
    Ok(())
}
