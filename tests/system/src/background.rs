//! Processes in the background, which never outlive whoever started them.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};

use crate::process::{ended, signal};

/// One process. Dropped, it is killed. It is killed too when the thread that started it ends in whatever way.
#[derive(Debug)]
pub(crate) struct Background {
    child: Child,
    status: Option<ExitStatus>,
}

impl Background {
    /// Starts a command of [`bound`] with everything it says at the end of this file.
    pub(crate) fn start(mut command: Command, log: &Path) -> anyhow::Result<Self> {
        let log = open_log(log)?;
        command.stdout(log.try_clone()?).stderr(log);
        Self::spawn(command)
    }

    /// Starts a command whose outputs are arranged already.
    pub(crate) fn spawn(mut command: Command) -> anyhow::Result<Self> {
        // Ctrl-C in a terminal is for us alone: we end our processes in order.
        command.process_group(0);
        let child = command
            .spawn()
            .with_context(|| format!("{command:?} (setpriv is of the package util-linux)"))?;
        Ok(Self { child, status: None })
    }

    pub(crate) const fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it did.
    pub(crate) fn status(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.child.try_wait().ok().flatten();
        }
        self.status
    }

    pub(crate) fn signal(&mut self, name: &str) -> anyhow::Result<()> {
        let status = self.status();
        // Afterwards the id may be somebody else's.
        ensure!(status.is_none(), "process {} has ended: {status:?}", self.id());
        signal(self.id(), name)
    }

    /// Waits for its end.
    pub(crate) async fn end(&mut self, patience: Duration) -> anyhow::Result<ExitStatus> {
        if let Some(status) = self.status {
            return Ok(status);
        }
        let status = ended(&mut self.child, patience).await?;
        self.status = Some(status);
        Ok(status)
    }

    /// Ends it as a crash would.
    pub(crate) fn kill(&mut self) -> anyhow::Result<()> {
        if self.status().is_none() {
            self.child.kill()?;
            self.status = Some(self.child.wait()?);
        }
        Ok(())
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // It cannot be told to anybody.
        let _ = self.kill();
    }
}

/// The beginning of a command that gets this signal when the thread that starts it ends, and that reads nothing. What it
/// shall run follows behind `--`.
pub(crate) fn bound(signal: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", signal]);
    command.stdin(Stdio::null());
    command
}

pub(crate) fn open_log(path: &Path) -> anyhow::Result<File> {
    let mut options = File::options();
    options
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| path.display().to_string())
}
