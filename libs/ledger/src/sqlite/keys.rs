//! Keys in SQLite.

use async_trait::async_trait;
use rusqlite::params_from_iter;
use vlinders_types::KeyId;

use super::{SqliteLedger, failed};
use crate::keys::{self, KeyRow, key_row};
use crate::selection::Selection;
use crate::{ApiKey, KeyDigest, KeyRules, KeyStore, LedgerError, NewKey, NewSecret, StoredKey};

const MARK: char = '?';

impl SqliteLedger {
    async fn stored_keys(&self, selection: Selection) -> Result<Vec<StoredKey>, LedgerError> {
        let read = move |connection: &mut rusqlite::Connection| -> rusqlite::Result<Vec<KeyRow>> {
            let mut select = connection.prepare_cached(&selection.sql)?;
            let rows = select.query_map(params_from_iter(selection.values), |row| Ok(key_row!(row, get)))?;
            rows.collect()
        };
        self.run(move |connection| {
            let rows = read(connection).map_err(|error| failed("keys cannot be read", error))?;
            rows.into_iter().map(KeyRow::into_key).collect()
        })
        .await
    }

    /// All or none. How many rows they changed.
    async fn change_keys(&self, statements: Vec<Selection>) -> Result<usize, LedgerError> {
        let change = move |connection: &mut rusqlite::Connection| -> rusqlite::Result<usize> {
            let transaction = connection.transaction()?;
            let mut changed = 0;
            for Selection { sql, values } in statements {
                changed += transaction
                    .prepare_cached(&sql)?
                    .execute(params_from_iter(values))?;
            }
            transaction.commit()?;
            Ok(changed)
        };
        self.run(move |connection| {
            change(connection).map_err(|error| failed("keys cannot be changed", error))
        })
        .await
    }
}

#[async_trait]
impl KeyStore for SqliteLedger {
    async fn insert_key(&self, key: &NewKey) -> Result<(), LedgerError> {
        self.change_keys(vec![keys::insert(key, MARK)]).await.map(|_| ())
    }

    async fn find_key(&self, digest: &KeyDigest) -> Result<Option<StoredKey>, LedgerError> {
        Ok(self.stored_keys(keys::find(digest, MARK)).await?.pop())
    }

    async fn key(&self, id: &KeyId) -> Result<Option<ApiKey>, LedgerError> {
        let found = self.stored_keys(keys::one(id, MARK)).await?.pop();
        Ok(found.map(|stored| stored.key))
    }

    async fn keys(&self) -> Result<Vec<ApiKey>, LedgerError> {
        let all = self.stored_keys(keys::list(MARK)).await?;
        Ok(all.into_iter().map(|stored| stored.key).collect())
    }

    async fn change_key(&self, id: &KeyId, rules: &KeyRules) -> Result<bool, LedgerError> {
        let changed = self.change_keys(vec![keys::change(id, rules, MARK)]).await?;
        Ok(changed > 0)
    }

    async fn rotate_key(&self, id: &KeyId, secret: &NewSecret) -> Result<bool, LedgerError> {
        let statement = keys::rotate(id, secret, MARK);
        Ok(self.change_keys(vec![statement]).await? > 0)
    }

    async fn revoke_key(&self, id: &KeyId, now_ms: u64) -> Result<bool, LedgerError> {
        Ok(self.change_keys(vec![keys::revoke(id, now_ms, MARK)]).await? > 0)
    }

    async fn keys_used(&self, used: &[(KeyId, u64)]) -> Result<(), LedgerError> {
        let statements = used.iter().map(|(id, at_ms)| keys::used(id, *at_ms, MARK));
        self.change_keys(statements.collect()).await.map(|_| ())
    }
}
