//! Keys as their owners and operators see them.

use vlinders_types::{KeyId, TenantId};

use super::{KeyDigest, KeyLimits, Scopes};

/// What an operator decides about a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRules {
    /// For people.
    pub name: String,
    /// Who pays, and whose cache it is.
    pub tenant: TenantId,
    /// What it is for.
    pub scopes: Scopes,
    /// Names of the models it may use, as clients write them. None: all.
    pub models: Option<Vec<String>>,
    /// Fields nobody knows are passed over rather than refused.
    pub is_lenient: bool,
    /// Requests go into the queue with this priority at most.
    pub max_priority: Option<i32>,
    /// How much it may use.
    pub limits: KeyLimits,
    /// From then on it is worth nothing, milliseconds since 1970.
    pub expires_ms: Option<u64>,
}

impl KeyRules {
    /// For inference with every model, without limits of its own.
    #[must_use]
    pub fn new(name: &str, tenant: TenantId) -> Self {
        Self {
            name: name.to_owned(),
            tenant,
            scopes: Scopes::default(),
            models: None,
            is_lenient: false,
            max_priority: None,
            limits: KeyLimits::default(),
            expires_ms: None,
        }
    }
}

/// A key as it may be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiKey {
    /// Its name in bills, limits and logs.
    pub id: KeyId,
    /// The beginning of its secret.
    pub prefix: String,
    /// What was decided about it.
    pub rules: KeyRules,
    /// Milliseconds since 1970.
    pub created_ms: u64,
    /// Since when it is worth nothing.
    pub revoked_ms: Option<u64>,
    /// Roughly: it is noted now and then.
    pub last_used_ms: Option<u64>,
}

impl ApiKey {
    /// Whether it lets anybody in at this time.
    #[must_use]
    pub fn is_valid_at(&self, now_ms: u64) -> bool {
        self.revoked_ms.is_none() && self.rules.expires_ms.is_none_or(|end| now_ms < end)
    }
}

/// A key to be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewKey {
    /// How it may be shown.
    pub key: ApiKey,
    /// Of its secret.
    pub digest: KeyDigest,
}

/// Another secret for a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewSecret {
    /// Of the secret.
    pub digest: KeyDigest,
    /// Its beginning.
    pub prefix: String,
    /// Until when the one it replaces is good too, milliseconds since 1970.
    pub previous_until_ms: u64,
}

/// A key as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredKey {
    /// How it may be shown.
    pub key: ApiKey,
    /// Of its secret.
    pub digest: KeyDigest,
    /// Of the secret before it, and until when that is good too, milliseconds since 1970.
    pub previous: Option<(KeyDigest, u64)>,
}

impl StoredKey {
    /// Whether this secret lets anybody in at this time.
    #[must_use]
    pub fn opens_with(&self, digest: &KeyDigest, now_ms: u64) -> bool {
        let is_previous = self
            .previous
            .is_some_and(|(previous, until_ms)| previous == *digest && now_ms < until_ms);
        self.key.is_valid_at(now_ms) && (self.digest == *digest || is_previous)
    }
}
