//! Keys as they lie in a table, the same in every database.

use vlinders_types::{KeyId, TenantId};

use super::{ApiKey, Budget, KeyDigest, KeyLimits, KeyRules, StoredKey};
use crate::LedgerError;
use crate::rows::{foreign, number};

/// The columns of `api_keys`, in the order of [`KeyRow`].
pub(crate) const COLUMNS: &str = "id, hash, previous_hash, previous_until_ms, prefix, name, tenant, scopes, models, \
                                  is_lenient, max_priority, requests_per_minute, tokens_per_minute, \
                                  concurrent_streams, daily_tokens, daily_nanos, monthly_tokens, monthly_nanos, \
                                  expires_ms, created_ms, revoked_ms, last_used_ms";

/// A row as it was read: not checked yet.
pub(crate) struct KeyRow {
    pub(crate) id: String,
    pub(crate) hash: String,
    pub(crate) previous_hash: Option<String>,
    pub(crate) previous_until_ms: Option<i64>,
    pub(crate) prefix: String,
    pub(crate) name: String,
    pub(crate) tenant: String,
    pub(crate) scopes: String,
    /// One name in each line.
    pub(crate) models: Option<String>,
    pub(crate) is_lenient: bool,
    pub(crate) max_priority: Option<i64>,
    pub(crate) requests_per_minute: Option<i64>,
    pub(crate) tokens_per_minute: Option<i64>,
    pub(crate) concurrent_streams: Option<i64>,
    pub(crate) daily_tokens: Option<i64>,
    pub(crate) daily_nanos: Option<i64>,
    pub(crate) monthly_tokens: Option<i64>,
    pub(crate) monthly_nanos: Option<i64>,
    pub(crate) expires_ms: Option<i64>,
    pub(crate) created_ms: i64,
    pub(crate) revoked_ms: Option<i64>,
    pub(crate) last_used_ms: Option<i64>,
}

/// Reads a [`KeyRow`] from any database's row, whose columns are had with this method.
macro_rules! key_row {
    ($row:expr, $get:ident) => {
        $crate::keys::KeyRow {
            id: $row.$get(0)?,
            hash: $row.$get(1)?,
            previous_hash: $row.$get(2)?,
            previous_until_ms: $row.$get(3)?,
            prefix: $row.$get(4)?,
            name: $row.$get(5)?,
            tenant: $row.$get(6)?,
            scopes: $row.$get(7)?,
            models: $row.$get(8)?,
            is_lenient: $row.$get(9)?,
            max_priority: $row.$get(10)?,
            requests_per_minute: $row.$get(11)?,
            tokens_per_minute: $row.$get(12)?,
            concurrent_streams: $row.$get(13)?,
            daily_tokens: $row.$get(14)?,
            daily_nanos: $row.$get(15)?,
            monthly_tokens: $row.$get(16)?,
            monthly_nanos: $row.$get(17)?,
            expires_ms: $row.$get(18)?,
            created_ms: $row.$get(19)?,
            revoked_ms: $row.$get(20)?,
            last_used_ms: $row.$get(21)?,
        }
    };
}
pub(crate) use key_row;

impl KeyRow {
    pub(crate) fn into_key(self) -> Result<StoredKey, LedgerError> {
        let limits = KeyLimits {
            requests_per_minute: maybe("requests_per_minute", self.requests_per_minute)?,
            tokens_per_minute: maybe("tokens_per_minute", self.tokens_per_minute)?,
            concurrent_streams: maybe("concurrent_streams", self.concurrent_streams)?,
            daily: Budget {
                tokens: maybe("daily_tokens", self.daily_tokens)?,
                nanos: maybe("daily_nanos", self.daily_nanos)?,
            },
            monthly: Budget {
                tokens: maybe("monthly_tokens", self.monthly_tokens)?,
                nanos: maybe("monthly_nanos", self.monthly_nanos)?,
            },
        };
        let Ok(scopes) = self.scopes.parse() else {
            return Err(foreign("scopes", self.scopes));
        };
        let rules = KeyRules {
            name: self.name,
            tenant: TenantId::new(&self.tenant),
            scopes,
            models: self
                .models
                .map(|names| names.lines().map(str::to_owned).collect()),
            is_lenient: self.is_lenient,
            max_priority: maybe("max_priority", self.max_priority)?,
            limits,
            expires_ms: maybe("expires_ms", self.expires_ms)?,
        };
        let key = ApiKey {
            id: KeyId::new(&self.id),
            prefix: self.prefix,
            rules,
            created_ms: number("created_ms", self.created_ms)?,
            revoked_ms: maybe("revoked_ms", self.revoked_ms)?,
            last_used_ms: maybe("last_used_ms", self.last_used_ms)?,
        };
        let previous = self.previous_hash.as_deref().map(digest).transpose()?;
        let until_ms = maybe("previous_until_ms", self.previous_until_ms)?;
        Ok(StoredKey {
            key,
            digest: digest(&self.hash)?,
            previous: previous.zip(until_ms),
        })
    }
}

/// The hash is not repeated: logs are read by many.
fn digest(text: &str) -> Result<KeyDigest, LedgerError> {
    KeyDigest::parse(text).ok_or_else(|| foreign("hash", "…".to_owned()))
}

fn maybe<T: TryFrom<i64>>(what: &'static str, value: Option<i64>) -> Result<Option<T>, LedgerError> {
    value.map(|value| number(what, value)).transpose()
}
