//! A NATS server of one's own: on a free port, in a scratch folder, gone with the test.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use vlinders_bus::{Bus, ConsumerSpec, NatsBus, NatsOptions, NatsStorage, StreamName, StreamRules, Subject};

/// Longer than anything here takes.
pub(crate) const LONG: Duration = Duration::from_secs(20);
pub(crate) const SUBJECT: &str = "vl.req.model.default";

/// A server that runs, or is stopped for a while.
pub(crate) struct Server {
    child: Option<Child>,
    folder: TempDir,
    pub(crate) port: u16,
    config: String,
}

impl Server {
    /// Starts a server without users.
    pub(crate) fn start() -> Self {
        Self::with_config("")
    }

    /// Starts a server with more lines in its configuration.
    pub(crate) fn with_config(config: &str) -> Self {
        let mut server = Self::stopped(config);
        server.run();
        server
    }

    /// A server that does not run yet.
    pub(crate) fn stopped(config: &str) -> Self {
        let free = TcpListener::bind("127.0.0.1:0").expect("there is a free port");
        Self {
            child: None,
            folder: TempDir::new().expect("a scratch folder can be made"),
            port: free.local_addr().expect("it is bound").port(),
            config: config.to_owned(),
        }
    }

    /// Starts it, with what it had on disk.
    pub(crate) fn run(&mut self) {
        let folder = self.folder.path();
        let config = folder.join("server.conf");
        let store = folder.join("store");
        let text = format!(
            "listen: \"127.0.0.1:{}\"\njetstream {{ store_dir: \"{}\" }}\n{}\n",
            self.port,
            store.display(),
            self.config
        );
        std::fs::write(&config, text).expect("the scratch folder can be written");
        let child = Command::new(binary())
            .arg("--config")
            .arg(&config)
            .arg("--log")
            .arg(folder.join("server.log"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        self.child = Some(child.expect("the server's program can be run"));
    }

    /// Kills it without a warning.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("it is our own process");
            child.wait().expect("it was started here");
        }
    }

    pub(crate) fn options(&self) -> NatsOptions {
        NatsOptions {
            start_limit: LONG,
            ..NatsOptions::new(vec![format!("nats://127.0.0.1:{}", self.port)])
        }
    }

    pub(crate) async fn bus(&self) -> NatsBus {
        self.bus_with(self.options()).await
    }

    pub(crate) async fn bus_with(&self, options: NatsOptions) -> NatsBus {
        match NatsBus::connect(options).await {
            Ok(bus) => bus,
            Err(error) => panic!("{error}\n{}", self.log()),
        }
    }

    pub(crate) async fn memory_bus(&self) -> NatsBus {
        self.bus_with(NatsOptions {
            request_storage: NatsStorage::Memory,
            ..self.options()
        })
        .await
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("server.log")).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The server's program: named, or installed by `tests/run`, or anywhere on the path.
fn binary() -> PathBuf {
    if let Some(named) = std::env::var_os("VLINDERS_NATS_SERVER") {
        return PathBuf::from(named);
    }
    let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.test-env/bin/nats-server");
    if installed.is_file() {
        return installed;
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|folder| folder.join("nats-server"))
        .find(|program| program.is_file())
        .expect("no nats-server: run tests/run, which installs it, or name one in VLINDERS_NATS_SERVER")
}

pub(crate) fn rules() -> StreamRules {
    StreamRules {
        max_messages: 10_000,
        max_age: Duration::from_secs(3600),
        dedup_window: Duration::from_secs(120),
    }
}

pub(crate) fn everything(stream: StreamName) -> ConsumerSpec {
    ConsumerSpec {
        stream,
        filter: Subject::new(stream.subjects()),
        name: "usage".to_owned(),
        ack_wait: Duration::from_secs(10),
        max_deliver: 3,
    }
}

/// Stores a message whose payload is its id.
pub(crate) async fn put(bus: &NatsBus, id: &str) {
    let stored = bus
        .enqueue(
            StreamName::Requests,
            &Subject::new(SUBJECT),
            id,
            id.to_owned().into(),
        )
        .await;
    stored.unwrap_or_else(|error| panic!("{id}: {error}"));
}

/// A bus with nothing on it, and its server.
pub(crate) async fn fresh() -> (Arc<dyn Bus>, Server) {
    let server = Server::start();
    (Arc::new(server.bus().await), server)
}
