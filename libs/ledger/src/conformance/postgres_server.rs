//! A Postgres server of a test's own, on a free port, in a scratch folder.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use deadpool_postgres::tokio_postgres::NoTls;
use deadpool_postgres::{Manager, Pool};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use crate::PostgresOptions;

const USER: &str = "vlinders";
const PASSWORD: &str = "scratch-password";
/// Other things may be using the machine.
const START_LIMIT: Duration = Duration::from_secs(60);
/// Somebody else may take the free port first.
const TRIES: u32 = 5;

/// A running server. Dropped, it ends and its folder goes. It also ends with the thread that started it.
pub struct PostgresServer {
    folder: TempDir,
    programs: PathBuf,
    port: u16,
    process: Option<Child>,
    databases: AtomicU32,
    /// More of its settings.
    settings: Vec<String>,
}

impl PostgresServer {
    /// Makes and starts a server.
    ///
    /// # Panics
    /// When Postgres is not installed, or does not start.
    pub async fn start() -> Self {
        Self::start_in(
            tempfile::tempdir().expect("a scratch folder can be made"),
            Vec::new(),
        )
        .await
    }

    /// Makes and starts a server that also speaks TLS, with this certificate and key in PEM.
    ///
    /// # Panics
    /// When Postgres is not installed, or does not start.
    pub async fn start_sealed(certificate: &str, key: &str) -> Self {
        let folder = tempfile::tempdir().expect("a scratch folder can be made");
        let mut settings = vec!["ssl=on".to_owned()];
        for (name, text) in [("cert", certificate), ("key", key)] {
            let file = folder.path().join(format!("{name}.pem"));
            fs::write(&file, text).expect("the scratch folder can be written");
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("the file is ours");
            if let Some((user, group)) = server_user() {
                chown(&file, Some(user), Some(group)).expect("root may give files away");
            }
            settings.push(format!("ssl_{name}_file={}", file.display()));
        }
        Self::start_in(folder, settings).await
    }

    async fn start_in(folder: TempDir, settings: Vec<String>) -> Self {
        let programs = programs();
        initialise(&programs, folder.path());
        let mut server = Self {
            settings,
            folder,
            programs,
            port: 0,
            process: None,
            databases: AtomicU32::new(0),
        };
        for _ in 0..TRIES {
            let listener = TcpListener::bind("127.0.0.1:0").expect("there is a free port");
            server.port = listener.local_addr().expect("it is bound").port();
            drop(listener);
            if server.run().await {
                return server;
            }
        }
        panic!("postgres does not start:\n{}", server.log());
    }

    /// The address of a new, empty database.
    ///
    /// # Panics
    /// When the server refuses it.
    pub async fn new_database(&self) -> String {
        let database = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        let sql = format!("CREATE DATABASE {database}");
        self.execute("postgres", &sql).await;
        self.address(&database)
    }

    /// The address of a database, whether there is one or not.
    #[must_use]
    pub fn address(&self, database: &str) -> String {
        format!("postgres://{USER}:{PASSWORD}@127.0.0.1:{}/{database}", self.port)
    }

    /// Runs SQL in a database.
    ///
    /// # Panics
    /// When the server refuses it.
    pub async fn execute(&self, database: &str, sql: &str) {
        self.try_execute(database, sql)
            .await
            .expect("the server runs the SQL");
    }

    /// Ends the server as an operator would: clients are told to go.
    ///
    /// # Panics
    /// When it runs no more.
    pub fn stop(&mut self) {
        self.end("INT");
    }

    /// Ends the server as a crash would: nothing is written any more.
    ///
    /// # Panics
    /// When it runs no more.
    pub fn crash(&mut self) {
        self.end("QUIT");
    }

    /// Starts it again where it was.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start_again(&mut self) {
        assert!(self.run().await, "postgres does not start again:\n{}", self.log());
    }

    /// Whether the server runs and answers.
    async fn run(&mut self) -> bool {
        let log =
            fs::File::create(self.folder.path().join("log")).expect("the scratch folder can be written");
        let also = log.try_clone().expect("a file has two handles");
        let process = as_postgres(&self.programs.join("postgres"))
            .current_dir(self.folder.path())
            .args(["-D", "data", "-k", "", "-c", "listen_addresses=127.0.0.1"])
            .args(["-p", &self.port.to_string(), "-c", "max_connections=40"])
            .args(self.settings.iter().flat_map(|setting| ["-c", setting]))
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(also)
            .spawn()
            .expect("setpriv, of Debian's package `util-linux`, starts postgres");
        self.process = Some(process);
        let answers = timeout(START_LIMIT, async {
            while self.try_execute("postgres", "SELECT 1").await.is_err() {
                if self.has_ended() {
                    return false;
                }
                sleep(Duration::from_millis(20)).await;
            }
            true
        });
        answers.await.unwrap_or(false)
    }

    async fn try_execute(&self, database: &str, sql: &str) -> Result<(), Box<dyn std::error::Error>> {
        let config = PostgresOptions::parse(&self.address(database))?.config;
        let pool = Pool::builder(Manager::new(config, NoTls)).max_size(1).build()?;
        pool.get().await?.batch_execute(sql).await?;
        Ok(())
    }

    fn has_ended(&mut self) -> bool {
        let process = self.process.as_mut();
        process.is_none_or(|process| !matches!(process.try_wait(), Ok(None)))
    }

    fn end(&mut self, signal: &str) {
        let mut process = self.process.take().expect("the server runs");
        // The id is the server's own: setpriv becomes what it starts.
        let id = process.id().to_string();
        let told = Command::new("kill").args(["-s", signal, &id]).status();
        assert!(
            told.is_ok_and(|status| status.success()),
            "the server takes signals"
        );
        process.wait().expect("the server ends");
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        if !self.has_ended() {
            self.end("QUIT");
        }
    }
}

/// The folder of the newest installed version.
fn programs() -> PathBuf {
    let installed = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten();
    let mut folders: Vec<(u32, PathBuf)> = installed
        .filter_map(|entry| {
            Some((
                entry.file_name().to_str()?.parse().ok()?,
                entry.path().join("bin"),
            ))
        })
        .collect();
    folders.sort();
    let mut folders = Vec::from_iter(folders.into_iter().rev().map(|(_, folder)| folder));
    let path = std::env::var_os("PATH").unwrap_or_default();
    folders.extend(std::env::split_paths(&path));
    let found = folders
        .into_iter()
        .find(|folder| folder.join("initdb").is_file() && folder.join("postgres").is_file());
    found.expect("Postgres is not installed: install Debian's package `postgresql`, or let tests/run do it")
}

fn initialise(programs: &Path, folder: &Path) {
    let password = folder.join("password");
    fs::write(&password, PASSWORD).expect("the scratch folder can be written");
    if let Some((user, group)) = server_user() {
        chown(folder, Some(user), Some(group)).expect("root may give files away");
    }
    let made = as_postgres(&programs.join("initdb"))
        .current_dir(folder)
        .args(["-D", "data", "-U", USER, "--auth=scram-sha-256"])
        .args(["--pwfile=password", "--encoding=UTF8", "--locale=C", "--no-sync"])
        .output()
        .expect("setpriv, of Debian's package `util-linux`, starts initdb");
    assert!(
        made.status.success(),
        "initdb failed:\n{}",
        String::from_utf8_lossy(&made.stderr)
    );
    // Nothing here has to outlive the machine.
    let settings = folder.join("data/postgresql.conf");
    let mut text = fs::read_to_string(&settings).expect("initdb writes settings");
    text += "\nfsync = off\n";
    fs::write(settings, text).expect("settings can be written");
}

/// A command that ends with this thread, and never as root, whom Postgres refuses.
fn as_postgres(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "QUIT"]);
    if let Some((user, group)) = server_user() {
        command.arg(format!("--reuid={user}"));
        command.arg(format!("--regid={group}"));
        command.arg("--clear-groups");
    }
    command.arg("--").arg(program);
    command
}

/// The user and group of Debian's package, when this process is root.
fn server_user() -> Option<(u32, u32)> {
    let own = fs::metadata("/proc/self").expect("/proc is mounted").uid();
    if own != 0 {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").expect("there are users");
    let line = users.lines().find(|line| line.starts_with("postgres:"));
    let line =
        line.expect("Postgres does not run as root: Debian's package `postgresql` adds the user `postgres`");
    let mut numbers = line.split(':').skip(2).map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(user)), Some(Ok(group))) => Some((user, group)),
        _ => panic!("/etc/passwd has no ids for `postgres`"),
    }
}
