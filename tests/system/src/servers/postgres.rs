//! A Postgres server.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use tempfile::TempDir;

use super::{TRIES, free_port};
use crate::background::{Background, bound};
use crate::until;

const USER: &str = "vlinders";
const PASSWORD: &str = "scratch-password";
/// A stop writes what is in memory, on a disk that others use too.
const STOP: Duration = Duration::from_secs(60);

/// A server that runs, or is away for a while and keeps what it stored.
pub struct PostgresServer {
    folder: TempDir,
    programs: PathBuf,
    address: SocketAddr,
    process: Option<Background>,
}

impl PostgresServer {
    /// Makes and starts a server.
    ///
    /// # Errors
    /// When there is no program or it does not start.
    pub async fn start(address: IpAddr) -> anyhow::Result<Self> {
        let programs = programs()?;
        let folder = TempDir::new()?;
        initialise(&programs, folder.path())?;
        let mut server = Self {
            folder,
            programs,
            address: SocketAddr::new(address, free_port(address)?),
            process: None,
        };
        for _ in 1..TRIES {
            if server.back().await.is_ok() {
                return Ok(server);
            }
            server.address.set_port(free_port(address)?);
        }
        server.back().await?;
        Ok(server)
    }

    /// `postgres://USER@ADDR:PORT/DATABASE`, without the password.
    #[must_use]
    pub fn url(&self) -> String {
        format!("postgres://{USER}@{}/postgres", self.address)
    }

    /// The password that goes with [`PostgresServer::url`].
    #[must_use]
    pub const fn password(&self) -> &'static str {
        PASSWORD
    }

    /// Ends it as an operator would: clients are told to go.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        let Some(mut process) = self.process.take() else {
            return Ok(());
        };
        process.signal("INT")?;
        process.end(STOP).await?;
        Ok(())
    }

    /// Starts it on its port, with what it had stored, and waits until it answers.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn back(&mut self) -> anyhow::Result<()> {
        let (host, port) = (self.address.ip().to_string(), self.address.port().to_string());
        let mut command = as_postgres(&self.programs.join("postgres"))?;
        command
            .current_dir(self.folder.path())
            .args(["-D", "data", "-k", "", "-p", &port, "-c"])
            .arg(format!("listen_addresses={host}"));
        let log = self.folder.path().join("log");
        let process = self.process.insert(Background::start(command, &log)?);
        let asks = self.programs.join("pg_isready");
        let is_up = until(async || {
            if process.status().is_some() {
                return Ok(false);
            }
            let answers = Command::new(&asks)
                .args(["--quiet", "-h", &host, "-p", &port])
                .stdout(Stdio::null())
                .status()?;
            ensure!(answers.success(), "pg_isready says {answers}");
            Ok(true)
        })
        .await?;
        let said = || fs::read_to_string(&log).unwrap_or_default();
        ensure!(is_up, "postgres does not start:\n{}", said());
        Ok(())
    }
}

/// A process of it that lives on keeps memory other servers want: all of them end at once on this signal.
impl Drop for PostgresServer {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            let told = process.signal("QUIT");
            if told.is_ok() {
                // The last process waits for the others, which end within milliseconds.
                let _ = process.child().wait();
            }
        }
    }
}

/// The folder of the newest installed version.
fn programs() -> anyhow::Result<PathBuf> {
    let installed = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten();
    let mut folders: Vec<(u32, PathBuf)> = installed
        .filter_map(|entry| {
            let version = entry.file_name().to_str()?.parse().ok()?;
            Some((version, entry.path().join("bin")))
        })
        .collect();
    folders.sort();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let newest_first = folders.into_iter().rev().map(|(_, folder)| folder);
    let is_whole = |folder: &PathBuf| {
        ["initdb", "postgres", "pg_isready"]
            .iter()
            .all(|name| folder.join(name).is_file())
    };
    newest_first
        .chain(std::env::split_paths(&path))
        .find(is_whole)
        .context("there is no Postgres: install Debian's package `postgresql`, or let tests/run do it")
}

fn initialise(programs: &Path, folder: &Path) -> anyhow::Result<()> {
    fs::write(folder.join("password"), PASSWORD)?;
    if let Some((user, group)) = server_user()? {
        chown(folder, Some(user), Some(group))?;
    }
    let made = as_postgres(&programs.join("initdb"))?
        .current_dir(folder)
        .args(["-D", "data", "-U", USER, "--auth=scram-sha-256"])
        .args(["--pwfile=password", "--encoding=UTF8", "--locale=C", "--no-sync"])
        .output()?;
    ensure!(
        made.status.success(),
        "initdb failed:\n{}",
        String::from_utf8_lossy(&made.stderr)
    );
    let append = |file: &str, lines: &str| {
        let path = folder.join("data").join(file);
        let text = fs::read_to_string(&path)?;
        fs::write(&path, format!("{text}\n{lines}\n"))
    };
    // Nothing here has to outlive the machine.
    append("postgresql.conf", "fsync = off\nmax_connections = 60")?;
    // It listens where nobody else can call, on loopback or inside a switch of our own.
    append("pg_hba.conf", "host all all 0.0.0.0/0 scram-sha-256")?;
    Ok(())
}

/// A command that ends with this thread, and never as root, whom Postgres refuses.
fn as_postgres(program: &Path) -> anyhow::Result<Command> {
    let mut command = bound("QUIT");
    if let Some((user, group)) = server_user()? {
        command.arg(format!("--reuid={user}"));
        command.arg(format!("--regid={group}"));
        command.arg("--clear-groups");
    }
    command.arg("--").arg(program);
    Ok(command)
}

/// The user and group of Debian's package, when this process is root.
fn server_user() -> anyhow::Result<Option<(u32, u32)>> {
    if fs::metadata("/proc/self")?.uid() != 0 {
        return Ok(None);
    }
    let users = fs::read_to_string("/etc/passwd")?;
    let line = users.lines().find(|line| line.starts_with("postgres:"));
    let line = line
        .context("Postgres does not run as root: Debian's package `postgresql` adds the user `postgres`")?;
    let mut numbers = line.split(':').skip(2).map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(user)), Some(Ok(group))) => Ok(Some((user, group))),
        _ => anyhow::bail!("/etc/passwd has no ids for `postgres`"),
    }
}
