//! The servers the parts of Vlinders talk to, each on a free port and in a scratch folder of its own.

mod nats;
mod postgres;
mod redis;

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context;

pub use self::nats::NatsServer;
pub use self::postgres::PostgresServer;
pub use self::redis::RedisServer;
use crate::Dice;

/// Somebody else may take a free port first.
const TRIES: u32 = 5;

/// A port nobody listens on. It is below those that the system gives to callers: a caller that knocks again and again
/// at such a port while its server is away can reach itself, and then the server cannot come back.
pub(crate) fn free_port(address: IpAddr) -> anyhow::Result<u16> {
    static ASKED: AtomicU64 = AtomicU64::new(0);
    let asked = ASKED.fetch_add(1, Ordering::Relaxed);
    let mut dice = Dice::new((u64::from(std::process::id()) << 32) | asked);
    let mut found = (0..1000).filter_map(|_| {
        let port = u16::try_from(10_000 + dice.below(22_000)).ok()?;
        TcpListener::bind(SocketAddr::new(address, port)).ok()?;
        Some(port)
    });
    found
        .next()
        .with_context(|| format!("{address} has no free port"))
}

/// The program of this name on the path, or where packages put what is for administrators.
fn on_path(name: &str, package: &str) -> anyhow::Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/bin", "/usr/sbin", "/usr/local/bin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(usual)
        .map(|folder| folder.join(name))
        .find(|program| program.is_file())
        .with_context(|| {
            format!("there is no {name}: install Debian's package `{package}`, or let tests/run do it")
        })
}
