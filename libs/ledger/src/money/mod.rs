//! What usage costs.

mod amount;
mod prices;

pub use amount::Amount;
pub use prices::{Factor, PriceTable, Rates, Tokens};
