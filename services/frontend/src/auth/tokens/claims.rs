//! What a token says of its bearer.

use serde::Deserialize;
use vlinders_ledger::{Budget, KeyLimits, Scope, Scopes};
use vlinders_types::{KeyId, TenantId};

use crate::Caller;

/// Names that others give.
const NAME_BYTES: usize = 128;
const MODELS: usize = 100;
/// Begins the names of those who come with tokens, and of no keys.
const KEY_PREFIX: &str = "jwt:";

/// Whether whoever has this name came with a token.
pub(in crate::auth) fn is_of_token(key: &KeyId) -> bool {
    key.as_str().starts_with(KEY_PREFIX)
}

/// Claims of ours beside those every token has.
#[derive(Debug, Deserialize)]
pub(super) struct Claims {
    sub: String,
    tenant: String,
    /// Names separated by spaces. Those of other services are none of ours.
    scope: Option<String>,
    models: Option<Vec<String>>,
    max_priority: Option<i32>,
    requests_per_minute: Option<u32>,
    tokens_per_minute: Option<u64>,
    concurrent_streams: Option<u32>,
    daily_tokens: Option<u64>,
    daily_nanos: Option<u64>,
    monthly_tokens: Option<u64>,
    monthly_nanos: Option<u64>,
}

impl Claims {
    /// None when a name is no name, or a list too long.
    pub(super) fn into_caller(self) -> Option<Caller> {
        let are_names = is_name(&self.sub) && is_name(&self.tenant);
        let are_models = self
            .models
            .as_ref()
            .is_none_or(|models| models.len() <= MODELS && models.iter().all(|name| is_name(name)));
        if !are_names || !are_models {
            return None;
        }
        Some(Caller {
            scopes: self.scope.as_deref().map_or_else(Scopes::default, scopes),
            models: self.models.map(Into::into),
            max_priority: self.max_priority,
            limits: KeyLimits {
                requests_per_minute: self.requests_per_minute,
                tokens_per_minute: self.tokens_per_minute,
                concurrent_streams: self.concurrent_streams,
                daily: Budget {
                    tokens: self.daily_tokens,
                    nanos: self.daily_nanos,
                },
                monthly: Budget {
                    tokens: self.monthly_tokens,
                    nanos: self.monthly_nanos,
                },
            },
            // Limits are counted by this name: two bearers share none, whatever they call themselves.
            ..Caller::new(
                TenantId::new(&self.tenant),
                KeyId::new(&format!(
                    "{KEY_PREFIX}{}:{}:{}",
                    self.tenant.len(),
                    self.tenant,
                    self.sub
                )),
            )
        })
    }
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.len() <= NAME_BYTES && !text.chars().any(char::is_control)
}

fn scopes(text: &str) -> Scopes {
    let named = |scope: &Scope| text.split(' ').any(|name| name == scope.name());
    Scopes::of(&Vec::from_iter(Scope::ALL.into_iter().filter(named)))
}
