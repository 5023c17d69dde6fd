//! A NATS server with JetStream.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context, ensure};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;

use super::{TRIES, free_port, on_path};
use crate::background::{Background, bound};
use crate::{repository, until};

/// A server that runs, or is away for a while and keeps what it stored.
pub struct NatsServer {
    folder: TempDir,
    address: SocketAddr,
    process: Option<Background>,
}

impl NatsServer {
    /// Starts a server with these further lines in its configuration, such as users and what they may do.
    ///
    /// # Errors
    /// When there is no program or it does not start.
    pub async fn start(address: IpAddr, configuration: &str) -> anyhow::Result<Self> {
        let mut server = Self::away(address, configuration)?;
        for _ in 1..TRIES {
            if server.back().await.is_ok() {
                return Ok(server);
            }
            server = Self::away(address, configuration)?;
        }
        server.back().await?;
        Ok(server)
    }

    /// A server that is not there yet: [`NatsServer::back`] starts it.
    ///
    /// # Errors
    /// When it has no place.
    pub fn away(address: IpAddr, configuration: &str) -> anyhow::Result<Self> {
        let folder = TempDir::new()?;
        let address = SocketAddr::new(address, free_port(address)?);
        let store = folder.path().join("store");
        // Prompts of the longest contexts do not fit into the usual megabyte.
        let text = format!(
            "listen: \"{address}\"\nmax_payload: 32MB\njetstream {{ store_dir: \"{}\" }}\n{configuration}\n",
            store.display()
        );
        fs::write(folder.path().join("server.conf"), text)?;
        Ok(Self {
            folder,
            address,
            process: None,
        })
    }

    /// `nats://ADDR:PORT`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    /// Ends it as a crash would.
    ///
    /// # Errors
    /// When it cannot be ended.
    pub fn crash(&mut self) -> anyhow::Result<()> {
        self.process.take().map_or(Ok(()), |mut process| process.kill())
    }

    /// Starts it on its port, with what it had stored, and waits until it answers.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn back(&mut self) -> anyhow::Result<()> {
        let mut command = bound("KILL");
        command
            .arg("--")
            .arg(program()?)
            .arg("--config")
            .arg(self.folder.path().join("server.conf"));
        let log = self.folder.path().join("log");
        let process = self.process.insert(Background::start(command, &log)?);
        let address = self.address;
        until(async || {
            if process.status().is_some() {
                return Ok(false);
            }
            let mut greeting = String::new();
            let mut connection = BufReader::new(TcpStream::connect(address).await?);
            connection.read_line(&mut greeting).await?;
            ensure!(greeting.starts_with("INFO "), "{greeting}");
            Ok(true)
        })
        .await
        .and_then(|is_up| {
            ensure!(is_up, "nats-server does not start:\n{}", self.log());
            Ok(())
        })
    }

    /// All it has said.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

/// The program: named, or installed by `tests/run`, or anywhere on the path.
fn program() -> anyhow::Result<PathBuf> {
    if let Some(named) = std::env::var_os("VLINDERS_NATS_SERVER") {
        return Ok(named.into());
    }
    let installed = repository().join(".test-env/bin/nats-server");
    if installed.is_file() {
        return Ok(installed);
    }
    on_path("nats-server", "nats-server").context("2.11 or newer; VLINDERS_NATS_SERVER may name one")
}
