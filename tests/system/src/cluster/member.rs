//! One process of a cluster.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::process::{ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::Context;

use super::{Cluster, Role};
use crate::background::{Background, bound, open_log};
use crate::process::{announced, first_word};
use crate::switch::Host;
use crate::{Client, program, until};

/// An unoptimised program on a machine that compiles something else takes seconds.
const START: Duration = Duration::from_secs(90);

/// Where a process runs.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    Here,
    There(Host),
}

/// How a process is started, the first time and again.
#[derive(Clone, Debug)]
pub(super) struct Launch {
    pub(super) role: Role,
    arguments: Vec<String>,
    variables: Vec<(String, String)>,
    pub(super) log: PathBuf,
}

/// A process.
pub(super) struct Member {
    pub(super) launch: Launch,
    place: Place,
    pub(super) process: Background,
    output: Option<ChildStdout>,
    /// Until it was killed or its end was seen.
    pub(super) is_running: bool,
    /// `http://ADDR:PORT`, empty until it is ready.
    pub(super) url: String,
    /// What a frontend says it serves.
    pub(super) model: String,
}

impl Launch {
    pub(super) fn new(cluster: &Cluster, role: Role, name: &str, place: &Place) -> anyhow::Result<Self> {
        let address = match place {
            Place::Here => IpAddr::V4(Ipv4Addr::LOCALHOST),
            Place::There(host) => host.address,
        };
        let any_port = format!("{address}:0");
        let mut arguments = vec![role.name().to_owned()];
        let mut add = |flag: &str, value: &str| arguments.extend([flag.to_owned(), value.to_owned()]);
        add("--nats-url", &cluster.nats.url());
        match role {
            Role::Frontend => {
                add("--redis-url", &cluster.redis.url());
                add("--listen", &any_port);
                if cluster.plan.has_database() {
                    add("--database-url", &cluster.postgres.url());
                }
                if cluster.plan.requires_keys {
                    add("--require-keys", "true");
                }
            }
            Role::Prefill | Role::Decode => {
                add("--worker-name", name);
                add("--kv-listen", &any_port);
                add("--kv-transports", &cluster.plan.transports);
                add("--health-listen", &any_port);
            }
            Role::Usage => {
                add("--database-url", &cluster.postgres.url());
                add("--health-listen", &any_port);
            }
        }
        arguments.extend_from_slice(cluster.plan.arguments(role));
        arguments.extend_from_slice(cluster.plan.arguments_of(name));
        let folder = |name: &str| {
            let folder = cluster.home().join(name);
            std::fs::create_dir_all(&folder)?;
            let folder = folder.to_str().context("scratch folders have plain names")?;
            anyhow::Ok(folder.to_owned())
        };
        // One for all of a host: neighbours send what a killed process has not.
        let data = match place {
            Place::Here => "data",
            Place::There(_) => name,
        };
        let mut variables = vec![
            ("HOME".to_owned(), folder(name)?),
            ("DATA_DIR".to_owned(), folder(data)?),
        ];
        let mut set = |name: &str, value: &str| variables.push((name.to_owned(), value.to_owned()));
        match role {
            Role::Frontend => {
                if matches!(place, Place::There(_)) {
                    set("ALLOW_ANONYMOUS", "true");
                }
                if cluster.plan.has_database() {
                    set("POSTGRES_PASSWORD", cluster.postgres.password());
                }
            }
            // Named, since a socket's path must be short.
            Role::Prefill | Role::Decode => set("KV_SOCKET_DIR", &folder("kv")?),
            Role::Usage => set("POSTGRES_PASSWORD", cluster.postgres.password()),
        }
        variables.extend_from_slice(cluster.plan.variables());
        Ok(Self {
            role,
            arguments,
            variables,
            log: cluster.home().join(format!("{name}.log")),
        })
    }

    /// As a shell takes it.
    pub(super) fn command_line(&self) -> String {
        let mut line = String::new();
        for (name, value) in &self.variables {
            let _ = write!(line, "{name}='{value}' ");
        }
        let program = program().map_or_else(|_| "vlinders".to_owned(), |path| path.display().to_string());
        line.push_str(&program);
        for argument in &self.arguments {
            let _ = write!(line, " '{argument}'");
        }
        line
    }

    fn command(&self, place: &Place) -> anyhow::Result<Command> {
        let mut command = bound("KILL");
        command.arg("--");
        if let Place::There(host) = place {
            command.args(host.enter());
        }
        command
            .arg(program()?)
            .args(&self.arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("RUST_BACKTRACE", "1")
            .envs(self.variables.iter().map(|(name, value)| (name, value)));
        Ok(command)
    }
}

impl Member {
    /// Starts it.
    pub(super) fn new(launch: Launch, place: Place) -> anyhow::Result<Self> {
        let (process, output) = spawn(&launch, &place)?;
        Ok(Self {
            launch,
            place,
            process,
            output: Some(output),
            is_running: true,
            url: String::new(),
            model: String::new(),
        })
    }

    /// Starts it again.
    pub(super) fn start(&mut self) -> anyhow::Result<()> {
        let (process, output) = spawn(&self.launch, &self.place)?;
        self.process = process;
        self.output = Some(output);
        self.is_running = true;
        Ok(())
    }

    /// Waits until it says that it is ready, and is.
    pub(super) async fn ready(&mut self) -> anyhow::Result<()> {
        let output = self.output.take().context("it was waited for already")?;
        let mark = match self.launch.role {
            Role::Frontend => "vlinders is listening on ",
            Role::Prefill | Role::Decode | Role::Usage => "is ready; health on ",
        };
        let told = tokio::time::timeout(START, announced(output, mark))
            .await
            .context("it does not say that it is ready")??;
        self.url = first_word(&told);
        let model = told
            .split_once(" serves ")
            .and_then(|(_, told)| told.split_once(". "));
        self.model = model.map_or("", |(model, _)| model).to_owned();
        let client = Client::new(&self.url)?;
        until(async || client.get_text("/ready").await).await?;
        Ok(())
    }
}

fn spawn(launch: &Launch, place: &Place) -> anyhow::Result<(Background, ChildStdout)> {
    let mut command = launch.command(place)?;
    command.stdout(Stdio::piped()).stderr(open_log(&launch.log)?);
    let mut process = Background::spawn(command)?;
    let output = process
        .child()
        .stdout
        .take()
        .context("its output was asked for")?;
    Ok((process, output))
}
