//! Finding out who calls.

mod cache;
mod credentials;
mod keys;
mod refusal;
mod tokens;

use async_trait::async_trait;
use axum::http::HeaderMap;
use vlinders_ledger::{Scope, Scopes};
use vlinders_openai_api::ApiError;
use vlinders_types::{KeyId, TenantId};

pub(crate) use self::credentials::credential;
pub use self::credentials::{Credentials, FixedKey};
pub use self::keys::{KeyAuthenticator, KeyCacheConfig};
pub use self::tokens::{KeySource, TokenAuthenticator, TokenConfig, TokenFault};
use crate::Caller;

/// Finds out who calls, or refuses.
#[async_trait]
pub trait Authenticator: Send + Sync + 'static {
    /// Reads the credentials from the headers.
    ///
    /// # Errors
    /// The 401, 403 or 503 to answer with.
    async fn authenticate(&self, headers: &HeaderMap) -> Result<Caller, ApiError>;

    /// Whether somebody who came in before would come in now, and with which rights.
    ///
    /// # Errors
    /// 401 when not, 503 when nobody can tell.
    async fn renew(&self, caller: Caller) -> Result<Caller, ApiError> {
        Ok(caller)
    }
}

/// Lets everybody in as tenant `default` with key `local`. Credentials are accepted and not looked at.
#[derive(Clone, Copy, Debug, Default)]
pub struct Anonymous;

#[async_trait]
impl Authenticator for Anonymous {
    async fn authenticate(&self, _headers: &HeaderMap) -> Result<Caller, ApiError> {
        Ok(Caller {
            scopes: Scopes::of(&[Scope::Inference, Scope::Metrics]),
            ..Caller::new(TenantId::new("default"), KeyId::new("local"))
        })
    }
}
