//! Responses that clients may come back to, with the conversations they end.

use async_trait::async_trait;
use vlinders_types::TenantId;

use crate::LedgerError;
use crate::statements::{Statement, Statements, count, text};

const READING: &str = "responses cannot be read";
const WRITING: &str = "responses cannot be changed";

/// A response and the conversation up to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredResponse {
    /// Its id, unique.
    pub id: String,
    /// Whose it is.
    pub tenant: TenantId,
    /// The items it answers, those of the responses before it included: a list in JSON.
    pub items: String,
    /// The response, as JSON.
    pub response: String,
    /// Milliseconds since 1970.
    pub created_ms: u64,
    /// From then on there is none, milliseconds since 1970.
    pub expires_ms: u64,
}

/// Keeps responses.
#[async_trait]
pub trait ResponseStore: Send + Sync + 'static {
    /// Keeps one. Keeping it again changes nothing.
    async fn keep_response(&self, response: &StoredResponse) -> Result<(), LedgerError>;

    /// A tenant's response of this id, unless its time is over.
    async fn response(
        &self,
        tenant: &TenantId,
        id: &str,
        now_ms: u64,
    ) -> Result<Option<StoredResponse>, LedgerError>;

    /// Forgets a tenant's response. False: there is none.
    async fn forget_response(&self, tenant: &TenantId, id: &str) -> Result<bool, LedgerError>;

    /// Forgets all whose time is over.
    async fn forget_old_responses(&self, now_ms: u64) -> Result<(), LedgerError>;
}

#[async_trait]
impl<D: Statements + 'static> ResponseStore for D {
    async fn keep_response(&self, response: &StoredResponse) -> Result<(), LedgerError> {
        let sql = "INSERT INTO responses (id, tenant, items, response, created_ms, expires_ms) \
                   VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING";
        let values = [
            text(&response.id),
            text(response.tenant.as_str()),
            text(&response.items),
            text(&response.response),
            count(response.created_ms),
            count(response.expires_ms),
        ];
        self.change(WRITING, Statement::new(sql, values))
            .await
            .map(|_| ())
    }

    async fn response(
        &self,
        tenant: &TenantId,
        id: &str,
        now_ms: u64,
    ) -> Result<Option<StoredResponse>, LedgerError> {
        let sql = "SELECT id, items, response, created_ms, expires_ms FROM responses \
                   WHERE id = ? AND tenant = ? AND expires_ms > ?";
        let values = [text(id), text(tenant.as_str()), count(now_ms)];
        let Some(mut row) = self.one(READING, Statement::new(sql, values)).await? else {
            return Ok(None);
        };
        Ok(Some(StoredResponse {
            id: row.text("id")?,
            tenant: tenant.clone(),
            items: row.text("items")?,
            response: row.text("response")?,
            created_ms: row.number("created_ms")?,
            expires_ms: row.number("expires_ms")?,
        }))
    }

    async fn forget_response(&self, tenant: &TenantId, id: &str) -> Result<bool, LedgerError> {
        let sql = "DELETE FROM responses WHERE id = ? AND tenant = ?";
        let values = [text(id), text(tenant.as_str())];
        self.change(WRITING, Statement::new(sql, values)).await
    }

    async fn forget_old_responses(&self, now_ms: u64) -> Result<(), LedgerError> {
        let sql = "DELETE FROM responses WHERE expires_ms <= ?";
        self.change(WRITING, Statement::new(sql, [count(now_ms)]))
            .await
            .map(|_| ())
    }
}
