//! What usage costs, who pays, and usage on its way to whoever collects the money.

mod amount;
mod meters;
mod prices;
mod tenants;

pub use amount::Amount;
pub(crate) use meters::HOUR_MS;
pub use meters::{MeterBacklog, MeterEvent, MeterStore};
pub use prices::{Factor, PriceTable, Rates, Tokens};
pub use tenants::{Notice, Noticed, TenantAccount, TenantStore};
