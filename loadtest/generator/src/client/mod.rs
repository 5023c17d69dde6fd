//! Connections, and one request on one of them.

mod exchange;
mod link;
mod network;

pub(crate) use self::exchange::{Asked, Client, Order};
pub(crate) use self::link::Link;
pub use self::network::{Connect, Connecting, Network, Stream};
