//! Every role as a process of its own, with real servers between them.

mod member;
mod plan;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context, ensure};
use tempfile::TempDir;

use self::member::{Launch, Member, Place};
pub use self::plan::{Plan, Role};
use crate::process::{run_to_end_with, show_end};
use crate::usage::parse_rows;
use crate::{Client, NatsServer, PostgresServer, RedisServer, Samples, Switch, UsageRow, until};

/// Longer than a process waits for its parts when it is asked to stop.
const STOP: Duration = Duration::from_secs(60);
/// Lines of each log shown when something went wrong.
const SHOWN_LINES: usize = 200;

/// A cluster that runs. Dropped without [`Cluster::stop`], all of it is killed and the ends of all logs are shown.
pub struct Cluster {
    plan: Plan,
    home: TempDir,
    /// By name, such as `decode-0`. Those that have ended stay here.
    members: BTreeMap<String, Member>,
    /// So many were started of each role.
    started: BTreeMap<Role, usize>,
    is_stopped: bool,
    switch: Option<Switch>,
    /// What carries all messages.
    pub nats: NatsServer,
    /// What holds limits.
    pub redis: RedisServer,
    /// What holds usage.
    pub postgres: PostgresServer,
}

impl Cluster {
    /// Starts servers and processes, and waits until every process is ready.
    ///
    /// # Errors
    /// When something does not come up.
    pub async fn start(plan: Plan) -> anyhow::Result<Self> {
        let mut cluster = Self::unstarted(plan).await?;
        cluster.launch_all().await?;
        cluster.all_ready().await?;
        Ok(cluster)
    }

    /// Starts the servers and nothing else.
    ///
    /// # Errors
    /// When one does not come up.
    pub async fn unstarted(plan: Plan) -> anyhow::Result<Self> {
        let switch = if plan.has_hosts {
            Some(Switch::new().await?)
        } else {
            None
        };
        let here = switch
            .as_ref()
            .map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), Switch::ours);
        Ok(Self {
            nats: NatsServer::start(here, &plan.nats).await?,
            redis: RedisServer::start(here).await?,
            postgres: PostgresServer::start(here).await?,
            plan,
            home: TempDir::new()?,
            members: BTreeMap::new(),
            started: BTreeMap::new(),
            is_stopped: false,
            switch,
        })
    }

    /// Starts every process: all at once, each waits for what it needs of the others.
    ///
    /// # Errors
    /// When the program is not there.
    pub async fn launch_all(&mut self) -> anyhow::Result<()> {
        for role in Role::ALL {
            for _ in 0..self.plan.count(role) {
                self.launch(role).await?;
            }
        }
        Ok(())
    }

    /// Waits until every process is ready.
    ///
    /// # Errors
    /// When one does not come up.
    pub async fn all_ready(&mut self) -> anyhow::Result<()> {
        for (name, member) in &mut self.members {
            member.ready().await.with_context(|| name.clone())?;
        }
        Ok(())
    }

    /// The folder of logs and of what processes keep.
    #[must_use]
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// Names of the processes of a role that run, in the order in which they were started.
    #[must_use]
    pub fn names(&self, role: Role) -> Vec<String> {
        let members = self.members.iter();
        members
            .filter(|(_, member)| member.launch.role == role && member.is_running)
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// Names of all processes a role ever had here.
    #[must_use]
    pub fn everybody(&self, role: Role) -> Vec<String> {
        let members = self.members.iter();
        members
            .filter(|(_, member)| member.launch.role == role)
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// Clients of the frontends that run.
    ///
    /// # Errors
    /// When one cannot be made.
    pub fn frontends(&self) -> anyhow::Result<Vec<Client>> {
        let names = self.names(Role::Frontend);
        names.iter().map(|name| self.client(name)).collect()
    }

    /// A client of what this process serves over HTTP.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn client(&self, name: &str) -> anyhow::Result<Client> {
        Client::new(&self.member(name)?.url)
    }

    /// `http://ADDR:PORT` of this process.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn url(&self, name: &str) -> anyhow::Result<&str> {
        Ok(&self.member(name)?.url)
    }

    /// The id of this process.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn process(&self, name: &str) -> anyhow::Result<u32> {
        Ok(self.member(name)?.process.id())
    }

    /// What this frontend says it serves.
    ///
    /// # Errors
    /// When there is no such frontend.
    pub fn model(&self, name: &str) -> anyhow::Result<&str> {
        Ok(&self.member(name)?.model)
    }

    /// What a shell needs to start one more process of this role.
    #[must_use]
    pub fn command_line(&self, role: Role, name: &str) -> String {
        let launch = Launch::new(self, role, name, &Place::Here);
        launch.map_or_else(|error| error.to_string(), |launch| launch.command_line())
    }

    /// Everything every process has logged, by name.
    ///
    /// # Errors
    /// When a log cannot be read.
    pub fn logs(&self) -> anyhow::Result<Vec<(&str, String)>> {
        let logs = self.members.iter().map(|(name, member)| {
            let log = std::fs::read(&member.launch.log)?;
            Ok((name.as_str(), String::from_utf8_lossy(&log).into_owned()))
        });
        logs.collect()
    }

    /// The metrics of one process.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn metrics(&self, name: &str) -> anyhow::Result<Samples> {
        Samples::parse(&self.client(name)?.get_text("/metrics").await?)
    }

    /// The metrics of all processes of a role that run.
    ///
    /// # Errors
    /// When one does not answer.
    pub async fn metrics_of(&self, role: Role) -> anyhow::Result<Vec<(String, Samples)>> {
        let mut all = Vec::new();
        for name in self.names(role) {
            let samples = self.metrics(&name).await.with_context(|| name.clone())?;
            all.push((name, samples));
        }
        Ok(all)
    }

    /// Waits until nothing runs and every block is free or only cached, in every worker and frontend.
    ///
    /// # Errors
    /// What is still held after a long while.
    pub async fn settled(&self) -> anyhow::Result<()> {
        until(async || {
            for (name, samples) in self.metrics_of(Role::Frontend).await? {
                samples.is_zero("vlinders_requests_in_flight").context(name)?;
            }
            for role in [Role::Prefill, Role::Decode] {
                for (name, samples) in self.metrics_of(role).await? {
                    samples.blocks_free().context(name.clone())?;
                    samples.is_zero("vlinders_sequences_running").context(name)?;
                }
            }
            Ok(())
        })
        .await
    }

    /// The ledger's rows, newest first, as `vlinders ledger` prints them.
    ///
    /// # Errors
    /// When that fails.
    pub async fn rows(&self) -> anyhow::Result<Vec<UsageRow>> {
        let scratch = tempfile::tempdir()?;
        let variables = [("POSTGRES_PASSWORD", self.postgres.password())];
        let url = self.postgres.url();
        let arguments = ["ledger", "--database-url", &url, "--json", "--limit", "1000000"];
        let ended = run_to_end_with(scratch.path(), &variables, &arguments).await?;
        ensure!(ended.status.success(), "vlinders ledger: {}", ended.errors);
        parse_rows(&ended.output)
    }

    /// Runs `vlinders` with these arguments and the cluster's database, to its end, and returns what it says.
    ///
    /// # Errors
    /// When it fails.
    pub async fn run_with_database(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let scratch = tempfile::tempdir()?;
        let variables = [("POSTGRES_PASSWORD", self.postgres.password())];
        let url = self.postgres.url();
        let arguments = [arguments, &["--database-url", &url]].concat();
        let ended = run_to_end_with(scratch.path(), &variables, &arguments).await?;
        ensure!(ended.status.success(), "{arguments:?}: {}", ended.errors);
        Ok(ended.output)
    }

    /// Ends a process as a crash would.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&mut self, name: &str) -> anyhow::Result<()> {
        let member = self.running(name)?;
        member.is_running = false;
        member.process.kill()
    }

    /// Sends a signal by its name, such as `STOP`.
    ///
    /// # Errors
    /// When it does not run.
    pub fn signal(&mut self, name: &str, signal: &str) -> anyhow::Result<()> {
        self.running(name)?.process.signal(signal)
    }

    /// Asks a process to leave and waits for its end.
    ///
    /// # Errors
    /// When it goes on, or does not end with 0.
    pub async fn leave(&mut self, name: &str) -> anyhow::Result<()> {
        self.signal(name, "TERM")?;
        let status = self.end(name).await?;
        ensure!(status.success(), "{name} ended with {status}");
        Ok(())
    }

    /// Waits for the end of a process.
    ///
    /// # Errors
    /// When it goes on.
    pub async fn end(&mut self, name: &str) -> anyhow::Result<ExitStatus> {
        let member = self.running(name)?;
        let status = member.process.end(STOP).await.with_context(|| name.to_owned())?;
        member.is_running = false;
        Ok(status)
    }

    /// Those that have ended since the last look, though nobody here ended them.
    pub fn departed(&mut self) -> Vec<(String, ExitStatus)> {
        let running = self.members.iter_mut().filter(|(_, member)| member.is_running);
        let ended = running.filter_map(|(name, member)| {
            let status = member.process.status()?;
            member.is_running = false;
            Some((name.clone(), status))
        });
        ended.collect()
    }

    /// Starts a process again that has ended, with what it had on disk, and waits until it is ready.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn restart(&mut self, name: &str) -> anyhow::Result<()> {
        let member = self.members.get_mut(name);
        let member = member.with_context(|| format!("no {name}"))?;
        ensure!(!member.is_running, "{name} still runs");
        member.start()?;
        member.ready().await
    }

    /// Starts one more process of this role, waits until it is ready and tells its name.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn add(&mut self, role: Role) -> anyhow::Result<String> {
        let name = self.launch(role).await?;
        self.running(&name)?.ready().await?;
        Ok(name)
    }

    /// Asks every process to stop, frontends first and usage last, and waits for their ends.
    ///
    /// # Errors
    /// Those that do not end with 0, or in which something panicked.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        let mut faults = Vec::new();
        for roles in [
            &[Role::Frontend] as &[Role],
            &[Role::Prefill, Role::Decode],
            &[Role::Usage],
        ] {
            let names: Vec<String> = roles.iter().flat_map(|role| self.names(*role)).collect();
            for name in &names {
                // Who is gone already is found below.
                let _ = self.signal(name, "TERM");
            }
            for name in &names {
                match self.end(name).await {
                    Ok(status) if status.success() => {}
                    Ok(status) => faults.push(format!("{name} ended with {status}")),
                    Err(late) => faults.push(format!("{late:#}")),
                }
            }
        }
        for (name, log) in self.logs()? {
            if log.contains("panicked at") {
                faults.push(format!("{name} panicked"));
            }
        }
        ensure!(faults.is_empty(), "{}", faults.join("; "));
        self.is_stopped = true;
        Ok(())
    }

    /// Prints the ends of all logs.
    pub fn show_logs(&mut self) {
        for (name, member) in &mut self.members {
            let status = member.process.status();
            let state = status.map_or_else(|| "still running".to_owned(), |status| status.to_string());
            show_end(&format!("{name} ({state})"), &member.launch.log, SHOWN_LINES);
        }
        let log = self.home.path().join("nats-server.log");
        if std::fs::write(&log, self.nats.log()).is_ok() {
            show_end("nats-server", &log, SHOWN_LINES);
        }
    }

    /// Ends the cluster and keeps its folder.
    #[must_use]
    pub fn keep(mut self) -> PathBuf {
        self.home.disable_cleanup(true);
        self.home.path().to_path_buf()
    }

    async fn launch(&mut self, role: Role) -> anyhow::Result<String> {
        let number = self.started.entry(role).or_default();
        let name = format!("{}-{number}", role.name());
        *number += 1;
        let place = match &mut self.switch {
            Some(switch) => Place::There(switch.host().await?),
            None => Place::Here,
        };
        let launch = Launch::new(self, role, &name, &place)?;
        self.members.insert(name.clone(), Member::new(launch, place)?);
        Ok(name)
    }

    fn member(&self, name: &str) -> anyhow::Result<&Member> {
        self.members.get(name).with_context(|| format!("no {name}"))
    }

    fn running(&mut self, name: &str) -> anyhow::Result<&mut Member> {
        let member = self.members.get_mut(name);
        let member = member.with_context(|| format!("no {name}"))?;
        ensure!(member.is_running, "{name} does not run");
        Ok(member)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if !self.is_stopped {
            self.show_logs();
        }
    }
}
