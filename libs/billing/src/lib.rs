//! Stripe: what tenants with a customer there have used goes to a meter, and what Stripe says of customers comes back as
//! signed notices. Off unless somebody configures it.

mod address;
mod call;
mod notice;
mod sender;
mod signature;

pub use address::{ApiAddress, BadAddress};
pub use notice::{UnreadableNotice, read_notice};
pub use sender::{MeterConfig, MeterLedger, MeterParts, MeterValue, start};
pub use signature::{BadSignature, verify};
