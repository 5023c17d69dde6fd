//! Tenants as customers: who pays for them, and whether they may go on.

use async_trait::async_trait;
use vlinders_types::TenantId;

use crate::LedgerError;
use crate::selection::Value;
use crate::statements::{Statement, Statements, count, maybe_count, maybe_text, text};

const READING: &str = "tenants cannot be read";
const WRITING: &str = "tenants cannot be changed";

/// What is known of a tenant beside its keys. Of most nothing is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantAccount {
    /// Who.
    pub tenant: TenantId,
    /// The customer that pays, in the words of whoever collects the money.
    pub customer: Option<String>,
    /// Since when an operator lets it do nothing, milliseconds since 1970.
    pub halted_ms: Option<u64>,
    /// Since when its customer does not pay, milliseconds since 1970.
    pub unpaid_ms: Option<u64>,
}

impl TenantAccount {
    /// Whether its keys are good for nothing.
    #[must_use]
    pub fn is_suspended(&self) -> bool {
        self.halted_ms.is_some() || self.unpaid_ms.is_some()
    }
}

/// What whoever collects the money says of a customer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Unique: one that comes again changes nothing.
    pub id: String,
    /// When it was written, seconds since 1970. Notices come in any order; the newest counts.
    pub written_s: u64,
    /// Who it is about.
    pub customer: String,
    /// Whether the customer pays.
    pub pays: bool,
}

/// What became of a notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Noticed {
    /// It was new and is acted on, as far as there is a tenant and no newer one.
    New,
    /// It had come before; nothing changes.
    Again,
}

/// Keeps tenants.
#[async_trait]
pub trait TenantStore: Send + Sync + 'static {
    /// All of whom anything is known, by name.
    async fn tenant_accounts(&self) -> Result<Vec<TenantAccount>, LedgerError>;

    /// Says who pays for a tenant from now on. False: the customer pays for another one.
    async fn set_customer(&self, tenant: &TenantId, customer: Option<&str>) -> Result<bool, LedgerError>;

    /// Lets a tenant do nothing since this time, or go on.
    async fn halt_tenant(&self, tenant: &TenantId, since_ms: Option<u64>) -> Result<(), LedgerError>;

    /// Those whose keys are good for nothing.
    async fn suspended_tenants(&self) -> Result<Vec<TenantId>, LedgerError>;

    /// Acts on a notice, once.
    async fn take_notice(&self, notice: &Notice, now_ms: u64) -> Result<Noticed, LedgerError>;

    /// Forgets which notices came before this time. Those that old are not sent again.
    async fn forget_notices(&self, before_ms: u64) -> Result<(), LedgerError>;
}

#[async_trait]
impl<D: Statements + 'static> TenantStore for D {
    async fn tenant_accounts(&self) -> Result<Vec<TenantAccount>, LedgerError> {
        let sql = "SELECT tenant, customer, halted_ms, unpaid_ms FROM tenants ORDER BY tenant";
        let rows = self.read(READING, Statement::new(sql, [])).await?;
        let accounts = rows.into_iter().map(|mut row| {
            Ok(TenantAccount {
                tenant: TenantId::new(&row.text("tenant")?),
                customer: row.maybe_text("customer")?,
                halted_ms: row.maybe_number("halted_ms")?,
                unpaid_ms: row.maybe_number("unpaid_ms")?,
            })
        });
        accounts.collect()
    }

    async fn set_customer(&self, tenant: &TenantId, customer: Option<&str>) -> Result<bool, LedgerError> {
        // What another customer did not pay is not this one's debt.
        let sql = "INSERT INTO tenants (tenant, customer, noticed_s) SELECT CAST(? AS TEXT), CAST(? AS TEXT), 0 \
                   WHERE NOT EXISTS (SELECT 1 FROM tenants WHERE customer = ? AND tenant <> ?) \
                   ON CONFLICT (tenant) DO UPDATE SET customer = excluded.customer, unpaid_ms = NULL, noticed_s = 0";
        let name = tenant.as_str();
        let values = [text(name), maybe_text(customer), maybe_text(customer), text(name)];
        self.change(WRITING, Statement::new(sql, values)).await
    }

    async fn halt_tenant(&self, tenant: &TenantId, since_ms: Option<u64>) -> Result<(), LedgerError> {
        let sql = "INSERT INTO tenants (tenant, halted_ms, noticed_s) VALUES (?, ?, 0) \
                   ON CONFLICT (tenant) DO UPDATE SET halted_ms = excluded.halted_ms";
        let values = [text(tenant.as_str()), maybe_count(since_ms)];
        self.change(WRITING, Statement::new(sql, values))
            .await
            .map(|_| ())
    }

    async fn suspended_tenants(&self) -> Result<Vec<TenantId>, LedgerError> {
        let sql = "SELECT tenant FROM tenants WHERE halted_ms IS NOT NULL OR unpaid_ms IS NOT NULL";
        let rows = self.read(READING, Statement::new(sql, [])).await?;
        let tenants = rows
            .into_iter()
            .map(|mut row| Ok(TenantId::new(&row.text("tenant")?)));
        tenants.collect()
    }

    async fn take_notice(&self, notice: &Notice, now_ms: u64) -> Result<Noticed, LedgerError> {
        let sql = "INSERT INTO notices (id, received_ms) VALUES (?, ?) ON CONFLICT (id) DO NOTHING";
        let first = Statement::new(sql, [text(&notice.id), count(now_ms)]).that_changes();
        let unpaid = if notice.pays {
            Value::MaybeNumber(None)
        } else {
            maybe_count(Some(now_ms))
        };
        let sql = "UPDATE tenants SET unpaid_ms = ?, noticed_s = ? WHERE customer = ? AND noticed_s <= ?";
        let written = count(notice.written_s);
        let values = [unpaid, count(notice.written_s), text(&notice.customer), written];
        let changed = self
            .write(WRITING, vec![first, Statement::new(sql, values)])
            .await?;
        Ok(if changed.is_some() {
            Noticed::New
        } else {
            Noticed::Again
        })
    }

    async fn forget_notices(&self, before_ms: u64) -> Result<(), LedgerError> {
        let sql = "DELETE FROM notices WHERE received_ms < ?";
        self.change(WRITING, Statement::new(sql, [count(before_ms)]))
            .await
            .map(|_| ())
    }
}
