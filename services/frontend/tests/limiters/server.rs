//! A Redis server of a test's own, on a free port, in a scratch folder.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Client, Cmd, RedisResult};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

/// Other things may be using the machine.
const START_LIMIT: Duration = Duration::from_secs(30);
/// Somebody else may take the free port first.
const TRIES: u32 = 5;

/// A running server. Dropped, it ends. It also ends with the thread that started it.
pub(crate) struct RedisServer {
    folder: TempDir,
    port: u16,
    process: Option<Child>,
    settings: Vec<String>,
}

impl RedisServer {
    pub(crate) async fn start() -> Self {
        Self::start_with(tempfile::tempdir().unwrap(), Vec::new()).await
    }

    /// A server that speaks TLS at a second port, with this certificate and key in PEM; and its address there.
    pub(crate) async fn start_sealed(certificate: &str, key: &str) -> (Self, String) {
        let folder = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let mut settings = vec!["--tls-auth-clients".to_owned(), "no".to_owned()];
        settings.extend(["--tls-port".to_owned(), port.to_string()]);
        for (name, text) in [("cert", certificate), ("key", key)] {
            let file = folder.path().join(format!("{name}.pem"));
            std::fs::write(&file, text).unwrap();
            settings.extend([format!("--tls-{name}-file"), file.display().to_string()]);
        }
        let server = Self::start_with(folder, settings).await;
        (server, format!("rediss://localhost:{port}"))
    }

    async fn start_with(folder: TempDir, settings: Vec<String>) -> Self {
        let mut server = Self {
            folder,
            port: 0,
            process: None,
            settings,
        };
        for _ in 0..TRIES {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            server.port = listener.local_addr().unwrap().port();
            drop(listener);
            if server.run().await {
                return server;
            }
        }
        panic!("redis-server does not start");
    }

    pub(crate) fn address(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Runs one command.
    pub(crate) async fn ask<T: redis::FromRedisValue>(&self, command: &mut Cmd) -> RedisResult<T> {
        command.query_async(&mut self.connect().await?).await
    }

    pub(crate) async fn connect(&self) -> RedisResult<MultiplexedConnection> {
        Client::open(self.address())?
            .get_multiplexed_async_connection()
            .await
    }

    /// Ends it as a crash would. Nothing it held is kept.
    pub(crate) fn crash(&mut self) {
        let mut process = self.process.take().expect("the server runs");
        process.kill().unwrap();
        process.wait().unwrap();
    }

    pub(crate) async fn start_again(&mut self) {
        assert!(self.run().await, "redis-server does not start again");
    }

    /// Stops its work, or lets it go on: connections stay and nobody answers.
    pub(crate) fn signal(&self, signal: &str) {
        let id = self.process.as_ref().expect("the server runs").id().to_string();
        assert!(
            Command::new("kill")
                .args(["-s", signal, &id])
                .status()
                .unwrap()
                .success()
        );
    }

    /// Whether the server runs and answers.
    async fn run(&mut self) -> bool {
        let process = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--", &program()])
            .args(["--bind", "127.0.0.1", "--port", &self.port.to_string()])
            .args(["--save", "", "--appendonly", "no"])
            .args(&self.settings)
            .current_dir(self.folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("setpriv, of Debian's package `util-linux`, starts redis-server");
        self.process = Some(process);
        let answers = timeout(START_LIMIT, async {
            while self.ask::<String>(&mut redis::cmd("PING")).await.is_err() {
                let process = self.process.as_mut().expect("it was just started");
                if !matches!(process.try_wait(), Ok(None)) {
                    return false;
                }
                sleep(Duration::from_millis(20)).await;
            }
            true
        });
        answers.await.unwrap_or(false)
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        if self.process.is_some() {
            self.crash();
        }
    }
}

fn program() -> String {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/bin".into(), "/usr/local/bin".into()]);
    let found = folders
        .map(|folder| folder.join("redis-server"))
        .find(|file| file.is_file());
    let found = found
        .expect("Redis is not installed: install Debian's package `redis-server`, or let tests/run do it");
    found.display().to_string()
}
