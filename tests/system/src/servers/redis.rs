//! A Redis server.

use std::fs;
use std::net::{IpAddr, SocketAddr};

use anyhow::ensure;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{TRIES, free_port, on_path};
use crate::background::{Background, bound};
use crate::until;

/// A running server.
pub struct RedisServer {
    folder: TempDir,
    address: SocketAddr,
    process: Option<Background>,
}

impl RedisServer {
    /// Starts a server.
    ///
    /// # Errors
    /// When there is no program or it does not start.
    pub async fn start(address: IpAddr) -> anyhow::Result<Self> {
        let mut tries = 1;
        loop {
            let mut server = Self {
                folder: TempDir::new()?,
                address: SocketAddr::new(address, free_port(address)?),
                process: None,
            };
            match server.back().await {
                Ok(()) => return Ok(server),
                Err(error) if tries == TRIES => return Err(error),
                Err(_taken) => tries += 1,
            }
        }
    }

    /// `redis://ADDR:PORT`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// Ends it as a crash would. Nothing it held is kept.
    ///
    /// # Errors
    /// When it cannot be ended.
    pub fn crash(&mut self) -> anyhow::Result<()> {
        self.process.take().map_or(Ok(()), |mut process| process.kill())
    }

    /// Makes it forget everything.
    ///
    /// # Errors
    /// When it does not.
    pub async fn wipe(&self) -> anyhow::Result<()> {
        let mut connection = TcpStream::connect(self.address).await?;
        connection.write_all(b"FLUSHALL\r\n").await?;
        let mut answer = [0; 3];
        connection.read_exact(&mut answer).await?;
        ensure!(&answer == b"+OK", "it says {answer:?}");
        Ok(())
    }

    /// Starts it on its port and waits until it answers.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn back(&mut self) -> anyhow::Result<()> {
        let mut command = bound("KILL");
        command
            .arg("--")
            .arg(on_path("redis-server", "redis-server")?)
            .args(["--bind", &self.address.ip().to_string()])
            .args(["--port", &self.address.port().to_string()])
            .args(["--save", "", "--appendonly", "no", "--protected-mode", "no"])
            .current_dir(self.folder.path());
        let log = self.folder.path().join("log");
        let process = self.process.insert(Background::start(command, &log)?);
        let address = self.address;
        let is_up = until(async || {
            if process.status().is_some() {
                return Ok(false);
            }
            let mut connection = TcpStream::connect(address).await?;
            connection.write_all(b"PING\r\n").await?;
            let mut answer = [0; 5];
            connection.read_exact(&mut answer).await?;
            ensure!(&answer == b"+PONG", "it says {answer:?}");
            Ok(true)
        })
        .await?;
        let said = || fs::read_to_string(&log).unwrap_or_default();
        ensure!(is_up, "redis-server does not start:\n{}", said());
        Ok(())
    }
}
