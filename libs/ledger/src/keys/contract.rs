//! The [`KeyStore`] trait.

use async_trait::async_trait;
use vlinders_types::KeyId;

use super::{ApiKey, KeyDigest, KeyRules, NewKey, NewSecret, StoredKey};
use crate::LedgerError;

/// Keeps keys.
#[async_trait]
pub trait KeyStore: Send + Sync + 'static {
    /// Stores a new key.
    async fn insert_key(&self, key: &NewKey) -> Result<(), LedgerError>;

    /// The key of this secret or of the one before it, whether it is valid or not.
    async fn find_key(&self, digest: &KeyDigest) -> Result<Option<StoredKey>, LedgerError>;

    /// The key of this name.
    async fn key(&self, id: &KeyId) -> Result<Option<ApiKey>, LedgerError>;

    /// All keys, in the order in which they were made.
    async fn keys(&self) -> Result<Vec<ApiKey>, LedgerError>;

    /// Gives a key other rules. False: there is none, or it is revoked.
    async fn change_key(&self, id: &KeyId, rules: &KeyRules) -> Result<bool, LedgerError>;

    /// Gives a key another secret. False: there is none, or it is revoked.
    async fn rotate_key(&self, id: &KeyId, secret: &NewSecret) -> Result<bool, LedgerError>;

    /// Takes a key's worth for good. False: there is none, or it is revoked already.
    async fn revoke_key(&self, id: &KeyId, now_ms: u64) -> Result<bool, LedgerError>;

    /// Notes when keys were used last.
    async fn keys_used(&self, used: &[(KeyId, u64)]) -> Result<(), LedgerError>;
}
