//! One `vlinders up` in a scratch folder.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tempfile::TempDir;

use crate::process::{ProcessFacts, announced, command, ended, first_word, show_end, signal};
use crate::{Client, Samples, UsageRow, usage_rows};

/// Until it listens: an unoptimised program on a machine that compiles something else takes seconds.
const START: Duration = Duration::from_secs(60);
/// Longer than the program itself waits for its parts when it stops.
const STOP: Duration = Duration::from_secs(45);
/// Lines of its log shown when something went wrong.
const SHOWN_LINES: usize = 40;

/// A server that runs. Dropped without [`Server::stop`], it is killed and the end of its log is shown.
pub struct Server {
    child: Child,
    address: String,
    home: Option<TempDir>,
    begun: Instant,
    /// Talks to it.
    pub client: Client,
}

/// A server that has stopped well.
#[derive(Debug)]
pub struct Stopped {
    home: TempDir,
    /// Its whole log.
    pub log: String,
}

impl Server {
    /// Starts it with these arguments behind `up`, on a free port, and waits until it listens.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn start(arguments: &[&str]) -> anyhow::Result<Self> {
        Self::start_in(TempDir::new()?, arguments).await
    }

    /// Kills it as the sudden end of its machine would, and starts another one over what it has left.
    ///
    /// # Errors
    /// When it cannot be killed, or the next one does not come up.
    pub async fn killed_and_started_again(mut self, arguments: &[&str]) -> anyhow::Result<Self> {
        self.child.kill().context("it cannot be killed")?;
        self.child.wait()?;
        let home = self.home.take().context("a server has a home until it stopped")?;
        Self::start_in(home, arguments).await
    }

    async fn start_in(home: TempDir, arguments: &[&str]) -> anyhow::Result<Self> {
        let data = data_folder(home.path());
        let begun = Instant::now();
        let mut child = command(home.path())?
            .args(["up", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(&data)
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(File::create(log_file(home.path()))?)
            .spawn()
            .context("the program cannot be started")?;
        let output = child.stdout.take().context("its output was asked for")?;
        let mut server = Self {
            child,
            address: String::new(),
            home: Some(home),
            begun,
            client: Client::new("")?,
        };
        let told = tokio::time::timeout(START, announced(output, "vlinders is listening on "))
            .await
            .context("it does not say where it listens")??;
        server.address = first_word(&told);
        server.client = Client::new(&server.address)?;
        Ok(server)
    }

    /// `http://ADDR`.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.address
    }

    /// Where it keeps usage and keys.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        data_folder(self.home())
    }

    /// Since the process was started.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.begun.elapsed()
    }

    /// What the kernel knows of it.
    #[must_use]
    pub fn facts(&self) -> ProcessFacts {
        ProcessFacts::new(self.child.id())
    }

    /// Its metrics now.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn metrics(&self) -> anyhow::Result<Samples> {
        Samples::parse(&self.client.get_text("/metrics").await?)
    }

    /// Its newest usage rows, read while it runs.
    ///
    /// # Errors
    /// When `vlinders ledger` fails.
    pub async fn usage(&self) -> anyhow::Result<Vec<UsageRow>> {
        usage_rows(self.home()).await
    }

    /// Asks it to stop, as Ctrl-C does.
    ///
    /// # Errors
    /// When it is gone.
    pub fn interrupt(&self) -> anyhow::Result<()> {
        signal(self.child.id(), "INT")
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it goes on, does not exit with 0, or something panicked.
    pub async fn wait(mut self) -> anyhow::Result<Stopped> {
        let status: ExitStatus = ended(&mut self.child, STOP).await?;
        let log = std::fs::read_to_string(log_file(self.home()))?;
        ensure!(status.success(), "the server ended with {status}");
        ensure!(
            !log.contains("panicked at"),
            "something panicked inside the server"
        );
        let home = self.home.take().context("a server has a home until it stopped")?;
        Ok(Stopped { home, log })
    }

    /// Asks it to stop and waits for its end.
    ///
    /// # Errors
    /// See [`Server::wait`].
    pub async fn stop(self) -> anyhow::Result<Stopped> {
        self.interrupt()?;
        self.wait().await
    }

    fn home(&self) -> &Path {
        self.home
            .as_ref()
            .expect("taken only by `wait`, which consumes the server")
            .path()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let Some(home) = &self.home else { return };
        // It may have ended by itself; there is nothing to be done about a failure here.
        let _ = self.child.kill();
        let _ = self.child.wait();
        show_end("the server", &log_file(home.path()), SHOWN_LINES);
    }
}

impl Stopped {
    /// Its usage rows.
    ///
    /// # Errors
    /// When `vlinders ledger` fails.
    pub async fn usage(&self) -> anyhow::Result<Vec<UsageRow>> {
        usage_rows(self.home.path()).await
    }

    /// The folder it had for itself.
    #[must_use]
    pub fn home(&self) -> &Path {
        self.home.path()
    }
}

/// Where a server keeps usage.
pub(crate) fn data_folder(home: &Path) -> PathBuf {
    home.join("data")
}

fn log_file(home: &Path) -> PathBuf {
    home.join("log")
}
