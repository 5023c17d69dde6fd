//! A process that cannot start says why in one line. What may still come is waited for.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::{Context, ensure};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use vlinders_system_tests::{Cluster, NatsServer, PostgresServer, Role, run_to_end_with};

use crate::{Checked, plan};

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// Such words must not be told to anybody.
const WRONG_SECRET: &str = "a-wrong-word";

/// One try to start.
#[derive(Clone, Debug)]
struct Start {
    role: Role,
    arguments: Vec<String>,
    variables: Vec<(String, String)>,
}

impl Start {
    fn new(role: Role, nats_url: &str) -> Self {
        let start = Self {
            role,
            arguments: vec![role.name().to_owned()],
            variables: Vec::new(),
        };
        let start = start.with("--nats-url", nats_url);
        match role {
            Role::Frontend => start.with("--listen", "127.0.0.1:0"),
            Role::Prefill | Role::Decode => start
                .with("--worker-name", "worker")
                .with("--kv-listen", "127.0.0.1:0")
                .with("--health-listen", "127.0.0.1:0"),
            Role::Usage => start.with("--health-listen", "127.0.0.1:0"),
        }
    }

    /// Sets a flag, or sets it anew.
    fn with(mut self, flag: &str, value: &str) -> Self {
        if let Some(position) = self.arguments.iter().position(|known| known == flag) {
            self.arguments.drain(position..position + 2);
        }
        self.arguments.extend([flag.to_owned(), value.to_owned()]);
        self
    }

    fn with_variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Where usage goes, for the role that wants to know.
    fn with_ledger(self, postgres: &PostgresServer) -> Self {
        if self.role != Role::Usage {
            return self;
        }
        self.with("--database-url", &postgres.url())
            .with_variable("POSTGRES_PASSWORD", postgres.password())
    }

    /// It ends with one line that has these words. Lines of its log may come before.
    async fn refused(&self, words: &[&str]) -> Checked {
        let home = tempfile::tempdir()?;
        let arguments: Vec<&str> = self.arguments.iter().map(String::as_str).collect();
        let variables = self
            .variables
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()));
        let variables: Vec<_> = variables.collect();
        let ended = run_to_end_with(home.path(), &variables, &arguments).await?;
        let told = format!("{arguments:?}: {:?}\n{}", ended.status, ended.errors);
        ensure!(ended.status.code().is_some_and(|code| code != 0), "{told}");
        ensure!(ended.output.is_empty(), "{told}\noutput: {}", ended.output);
        ensure!(!told.contains(WRONG_SECRET), "{told}");
        let mut lines = ended.errors.lines().filter(|line| line.starts_with("vlinders: "));
        let line = lines.next().with_context(|| format!("no line: {told}"))?;
        ensure!(
            lines.next().is_none() && ended.errors.trim_end().ends_with(line),
            "{told}"
        );
        ensure!(line.len() < 600, "{told}");
        for word in words {
            ensure!(line.contains(word), "lacks {word:?}: {told}");
        }
        Ok(())
    }
}

/// Runs all of these at once and tells all that went wrong.
async fn all_refused(starts: impl IntoIterator<Item = Start>, words: &[&str]) -> Checked {
    let mut running = JoinSet::new();
    for start in starts {
        let words: Vec<String> = words.iter().map(ToString::to_string).collect();
        running.spawn(async move {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            start.refused(&words).await
        });
    }
    let ended = running.join_all().await.into_iter();
    let faults: Vec<String> = ended
        .filter_map(|ended| Some(format!("{:#}", ended.err()?)))
        .collect();
    ensure!(faults.is_empty(), "\n{}", faults.join("\n"));
    Ok(())
}

#[tokio::test]
async fn without_a_nats_server_the_address_is_named() -> Checked {
    let gone = NatsServer::away(HERE, "")?.url();
    let postgres = PostgresServer::start(HERE).await?;
    let start = |role| {
        let start = Start::new(role, &gone).with_ledger(&postgres);
        start.with("--start-limit-s", "1")
    };
    all_refused(Role::ALL.map(start), &[&gone]).await
}

#[tokio::test]
async fn an_address_that_is_none_is_named_before_anything_is_waited_for() -> Checked {
    let start = |role| {
        let start = Start::new(role, "http://nowhere:1");
        if role == Role::Usage {
            return start.with("--database-url", "postgres://vlinders@127.0.0.1:1/postgres");
        }
        start
    };
    all_refused(Role::ALL.map(start), &["http://nowhere:1"]).await
}

/// Greets like a server of this version and says nothing more.
async fn greeter(version: &'static str) -> anyhow::Result<(String, JoinSet<()>)> {
    let listener = TcpListener::bind((HERE, 0)).await?;
    let url = format!("nats://{}", listener.local_addr()?);
    let greeting = format!(
        "INFO {{\"server_id\":\"x\",\"version\":\"{version}\",\"proto\":1,\"headers\":true,\"max_payload\":1048576,\
         \"jetstream\":true}}\r\n"
    );
    let mut greets = JoinSet::new();
    greets.spawn(async move {
        let mut open = Vec::new();
        while let Ok((mut connection, _)) = listener.accept().await {
            // Whoever left does not hear it.
            let _ = connection.write_all(greeting.as_bytes()).await;
            open.push(connection);
        }
    });
    Ok((url, greets))
}

#[tokio::test]
async fn a_nats_server_that_is_too_old_is_named_with_its_version() -> Checked {
    let (url, _greets) = greeter("2.10.29").await?;
    let postgres = PostgresServer::start(HERE).await?;
    let start = |role| Start::new(role, &url).with_ledger(&postgres);
    all_refused(Role::ALL.map(start), &["2.10.29", "2.11"]).await
}

#[tokio::test]
async fn a_wrong_login_is_refused_and_not_told() -> Checked {
    let users = r#"authorization { users = [ { user: "one", password: "secret" } ] }"#;
    let server = NatsServer::start(HERE, users).await?;
    let postgres = PostgresServer::start(HERE).await?;
    let url = server.url();
    let start = |role| {
        let start = Start::new(role, &url).with_ledger(&postgres);
        start
            .with_variable("NATS_USER", "one")
            .with_variable("NATS_PASSWORD", WRONG_SECRET)
    };
    all_refused(Role::ALL.map(start), &[&url, "refuses"]).await
}

#[tokio::test]
async fn a_missing_permission_is_named() -> Checked {
    // It may do everything but ask for streams and consumers.
    let users = r#"authorization { users = [
        { user: "one", password: "secret", permissions: { publish: { deny: ["$JS.API.>"] } } }
    ] }"#;
    let server = NatsServer::start(HERE, users).await?;
    let postgres = PostgresServer::start(HERE).await?;
    let start = |role| {
        let start = Start::new(role, &server.url()).with_ledger(&postgres);
        start
            .with_variable("NATS_USER", "one")
            .with_variable("NATS_PASSWORD", "secret")
    };
    all_refused(Role::ALL.map(start), &["ermission", "$JS.API"]).await
}

#[tokio::test]
async fn a_wrong_postgres_password_is_refused_and_not_told() -> Checked {
    let nats = NatsServer::start(HERE, "").await?;
    let postgres = PostgresServer::start(HERE).await?;
    let start = Start::new(Role::Usage, &nats.url())
        .with("--database-url", &postgres.url())
        .with_variable("POSTGRES_PASSWORD", WRONG_SECRET);
    start.refused(&["--database-url", "password"]).await
}

#[tokio::test]
async fn a_bad_models_file_is_named() -> Checked {
    let nats = NatsServer::start(HERE, "").await?;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("models.yaml");
    let path = path.to_str().context("scratch folders have plain names")?;
    for (text, words) in [
        ("models: [", &[path] as &[&str]),
        ("models:\n  - nmae: x\n", &[path, "nmae"]),
        ("models: 7\n", &[path]),
        ("models: []\n", &[path]),
        ("models:\n  - name: x\n    path: nowhere\n", &[path, "nowhere"]),
    ] {
        std::fs::write(path, text)?;
        let roles = [Role::Frontend, Role::Prefill, Role::Decode];
        let start = |role| Start::new(role, &nats.url()).with_variable("MODELS_FILE", path);
        all_refused(roles.map(start), words).await?;
    }
    std::fs::remove_file(path)?;
    let start = Start::new(Role::Frontend, &nats.url()).with_variable("MODELS_FILE", path);
    start.refused(&[path, "MODELS_FILE"]).await
}

#[tokio::test]
async fn a_taken_port_is_named_with_its_flag() -> Checked {
    let nats = NatsServer::start(HERE, "").await?;
    let postgres = PostgresServer::start(HERE).await?;
    let taken = TcpListener::bind((HERE, 0)).await?;
    let taken = taken.local_addr()?.to_string();
    let mut faults = Vec::new();
    for (role, flag) in [
        (Role::Frontend, "--listen"),
        (Role::Prefill, "--health-listen"),
        (Role::Prefill, "--kv-listen"),
        (Role::Decode, "--health-listen"),
        (Role::Decode, "--kv-listen"),
        (Role::Usage, "--health-listen"),
    ] {
        let start = Start::new(role, &nats.url()).with_ledger(&postgres);
        let refused = start.with(flag, &taken).refused(&[flag, &taken]).await;
        faults.extend(refused.err().map(|fault| fault.to_string()));
    }
    ensure!(faults.is_empty(), "\n{}", faults.join("\n"));
    Ok(())
}

#[tokio::test]
async fn servers_that_come_late_are_waited_for() -> Checked {
    let mut cluster = Cluster::unstarted(plan()).await?;
    cluster.nats.crash()?;
    cluster.postgres.stop().await?;
    cluster.launch_all().await?;
    // Long enough that whoever does not wait is gone.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let gone = cluster.departed();
    ensure!(gone.is_empty(), "did not wait: {gone:?}");
    cluster.nats.back().await?;
    cluster.postgres.back().await?;
    cluster.all_ready().await?;
    cluster.stop().await
}
