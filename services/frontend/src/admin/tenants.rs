//! Tenants: who pays for them, and whether they may go on.

use std::sync::Arc;

use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json};
use vlinders_ledger::{LedgerError, TenantAccount, TenantStore};
use vlinders_openai_api::ApiError;
use vlinders_types::TenantId;

use super::Admin;
use super::rules::object;
use crate::http::{error_response, json_response, read_json};

const NAME_BYTES: usize = 128;

fn told(answer: Result<Value, ApiError>) -> Response {
    match answer {
        Ok(value) => json_response(StatusCode::OK, &value),
        Err(error) => error_response(&error),
    }
}

fn store(admin: &Admin) -> Result<&Arc<dyn TenantStore>, ApiError> {
    let store = admin.app.tenants.store.as_ref();
    store.ok_or_else(|| {
        ApiError::new(
            404,
            "tenants_not_kept",
            "tenants are not kept where this server could read them",
        )
    })
}

fn shown(account: &TenantAccount) -> Value {
    json!({
        "object": "tenant",
        "tenant": account.tenant.as_str(),
        "stripe_customer": account.customer,
        "is_suspended": account.is_suspended(),
        "halted_ms": account.halted_ms,
        "unpaid_ms": account.unpaid_ms,
    })
}

/// All of whom anything is known.
pub(super) async fn list(State(admin): State<Arc<Admin>>) -> Response {
    let list = async {
        let accounts = store(&admin)?.tenant_accounts().await;
        let accounts = accounts.map_err(|error| unavailable(&error))?;
        Ok(json!({"object": "list", "data": Vec::from_iter(accounts.iter().map(shown))}))
    };
    told(list.await)
}

/// A tenant with another customer, or halted, or let go on.
pub(super) async fn change(
    State(admin): State<Arc<Admin>>,
    Path(tenant): Path<String>,
    request: Request,
) -> Response {
    told(changed(&admin, &tenant, request).await)
}

async fn changed(admin: &Admin, tenant: &str, request: Request) -> Result<Value, ApiError> {
    let store = store(admin)?;
    let body = read_json(&admin.app, request).await?;
    let is_name =
        |text: &str| !text.is_empty() && text.len() <= NAME_BYTES && !text.chars().any(char::is_control);
    if !is_name(tenant) {
        return Err(ApiError::invalid("tenant", "is no name of a tenant"));
    }
    let tenant = TenantId::new(tenant);
    let (mut customer, mut halted) = (None, None);
    for (field, value) in object(&body.bytes)? {
        match (field.as_str(), value) {
            ("stripe_customer", Value::Null) => customer = Some(None),
            ("stripe_customer", Value::String(id)) if is_name(&id) => customer = Some(Some(id)),
            ("is_halted", Value::Bool(flag)) => halted = Some(flag),
            ("stripe_customer", _) => {
                return Err(ApiError::invalid(&field, "must be the id of a customer, or null"));
            }
            ("is_halted", _) => return Err(ApiError::invalid(&field, "must be true or false")),
            _ => {
                let text = "is not known here; known are stripe_customer, is_halted";
                return Err(ApiError::invalid(&field, text).with_code("unknown_parameter"));
            }
        }
    }
    if let Some(customer) = customer {
        let set = store.set_customer(&tenant, customer.as_deref()).await;
        if !set.map_err(|error| unavailable(&error))? {
            return Err(ApiError::invalid(
                "stripe_customer",
                "pays for another tenant already",
            ));
        }
    }
    if let Some(halted) = halted {
        let since_ms = halted.then(|| admin.app.clock.now_ms());
        let set = store.halt_tenant(&tenant, since_ms).await;
        set.map_err(|error| unavailable(&error))?;
    }
    admin.app.standing.learn(&**store).await;
    tracing::info!(%tenant, "tenant changed");
    let accounts = store
        .tenant_accounts()
        .await
        .map_err(|error| unavailable(&error))?;
    let account = accounts.iter().find(|account| account.tenant == tenant);
    account
        .map(shown)
        .ok_or_else(|| ApiError::invalid("stripe_customer", "or is_halted must be given"))
}

fn unavailable(error: &LedgerError) -> ApiError {
    tracing::warn!(%error, "tenants cannot be read or changed");
    ApiError::new(
        503,
        "tenants_unavailable",
        "tenants cannot be read or changed now; try again soon",
    )
    .with_retry_after(1)
}
