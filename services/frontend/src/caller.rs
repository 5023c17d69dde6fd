//! Who calls. Until keys exist, everybody is the same tenant.

use async_trait::async_trait;
use axum::http::HeaderMap;
use vlinders_openai_api::ApiError;
use vlinders_types::{KeyId, TenantId};

/// Whoever sent a request, once known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Who pays, and whose cache it is.
    pub tenant: TenantId,
    /// The key the request came with.
    pub key: KeyId,
}

/// Finds out who calls, or refuses.
#[async_trait]
pub trait Authenticator: Send + Sync + 'static {
    /// Reads the credentials from the headers.
    ///
    /// # Errors
    /// The 401 or 403 to answer with.
    async fn authenticate(&self, headers: &HeaderMap) -> Result<Caller, ApiError>;
}

/// Lets everybody in as tenant `default` with key `local`. Credentials are accepted and not looked at.
#[derive(Clone, Copy, Debug, Default)]
pub struct Anonymous;

#[async_trait]
impl Authenticator for Anonymous {
    async fn authenticate(&self, _headers: &HeaderMap) -> Result<Caller, ApiError> {
        Ok(Caller {
            tenant: TenantId::new("default"),
            key: KeyId::new("local"),
        })
    }
}
