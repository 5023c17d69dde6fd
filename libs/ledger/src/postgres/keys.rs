//! Keys in Postgres.

use async_trait::async_trait;
use vlinders_types::KeyId;

use super::PostgresLedger;
use super::fault::Fault;
use crate::keys::{self, key_row};
use crate::selection::Selection;
use crate::{ApiKey, KeyDigest, KeyRules, KeyStore, LedgerError, NewKey, NewSecret, StoredKey};

const MARK: char = '$';
const READING: &str = "keys cannot be read";
const WRITING: &str = "keys cannot be changed";

impl PostgresLedger {
    async fn stored_keys(&self, selection: &Selection) -> Result<Vec<StoredKey>, LedgerError> {
        let cannot = |fault: Fault| fault.while_open(READING);
        let rows = self.select(selection).await.map_err(cannot)?;
        let read = |row: &deadpool_postgres::tokio_postgres::Row| Ok(key_row!(row, try_get));
        let rows = rows
            .iter()
            .map(|row| read(row).map_err(|error| cannot(Fault::of(&self.address, &error))));
        rows.map(|row| row?.into_key()).collect()
    }

    async fn change_keys(&self, selection: &Selection) -> Result<bool, LedgerError> {
        let changed = self.change(selection).await;
        Ok(changed.map_err(|fault| fault.while_open(WRITING))? > 0)
    }
}

#[async_trait]
impl KeyStore for PostgresLedger {
    async fn insert_key(&self, key: &NewKey) -> Result<(), LedgerError> {
        self.change_keys(&keys::insert(key, MARK)).await.map(|_| ())
    }

    async fn find_key(&self, digest: &KeyDigest) -> Result<Option<StoredKey>, LedgerError> {
        Ok(self.stored_keys(&keys::find(digest, MARK)).await?.pop())
    }

    async fn key(&self, id: &KeyId) -> Result<Option<ApiKey>, LedgerError> {
        let found = self.stored_keys(&keys::one(id, MARK)).await?.pop();
        Ok(found.map(|stored| stored.key))
    }

    async fn keys(&self) -> Result<Vec<ApiKey>, LedgerError> {
        let all = self.stored_keys(&keys::list(MARK)).await?;
        Ok(all.into_iter().map(|stored| stored.key).collect())
    }

    async fn change_key(&self, id: &KeyId, rules: &KeyRules) -> Result<bool, LedgerError> {
        self.change_keys(&keys::change(id, rules, MARK)).await
    }

    async fn rotate_key(&self, id: &KeyId, secret: &NewSecret) -> Result<bool, LedgerError> {
        let statement = keys::rotate(id, secret, MARK);
        self.change_keys(&statement).await
    }

    async fn revoke_key(&self, id: &KeyId, now_ms: u64) -> Result<bool, LedgerError> {
        self.change_keys(&keys::revoke(id, now_ms, MARK)).await
    }

    async fn keys_used(&self, used: &[(KeyId, u64)]) -> Result<(), LedgerError> {
        for (id, at_ms) in used {
            self.change_keys(&keys::used(id, *at_ms, MARK)).await?;
        }
        Ok(())
    }
}
