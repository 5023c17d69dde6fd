//! Processes: one that runs to its end, and what the kernel knows of one that runs.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use tokio::sync::oneshot;

use crate::program;

/// Between two looks at whether a process has ended.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// What a process left behind.
#[derive(Debug)]
pub struct Ended {
    /// How it ended.
    pub status: ExitStatus,
    /// Standard output.
    pub output: String,
    /// Standard error.
    pub errors: String,
}

/// Runs the program until it ends. It sees no variable of ours, and a home of its own.
///
/// # Errors
/// When it cannot be started or does not end within a minute.
pub async fn run_to_end(home: &Path, arguments: &[&str]) -> anyhow::Result<Ended> {
    run_to_end_with(home, &[], arguments).await
}

/// The same with these variables.
///
/// # Errors
/// See [`run_to_end`].
pub async fn run_to_end_with(
    home: &Path,
    variables: &[(&str, &str)],
    arguments: &[&str],
) -> anyhow::Result<Ended> {
    let (output, errors) = (home.join("output"), home.join("errors"));
    let mut child = command(home)?
        .envs(variables.iter().copied())
        .args(arguments)
        .stdout(File::create(&output)?)
        .stderr(File::create(&errors)?)
        .spawn()
        .context("the program cannot be started")?;
    let status = ended(&mut child, Duration::from_secs(60)).await;
    if status.is_err() {
        child.kill()?;
        child.wait()?;
    }
    let ended = Ended {
        output: std::fs::read_to_string(&output)?,
        errors: std::fs::read_to_string(&errors)?,
        status: status.with_context(|| format!("vlinders {arguments:?}"))?,
    };
    Ok(ended)
}

/// The program with a clean environment, backtraces asked for.
pub(crate) fn command(home: &Path) -> anyhow::Result<Command> {
    let mut command = Command::new(program()?);
    command
        .env_clear()
        .env("HOME", home)
        .env("RUST_BACKTRACE", "1")
        .stdin(Stdio::null());
    Ok(command)
}

/// What stands behind `mark` in the first line of output that has it. A thread goes on reading, so that the program never
/// waits for us.
pub(crate) async fn announced(output: ChildStdout, mark: &'static str) -> anyhow::Result<String> {
    let (found, told) = oneshot::channel();
    std::thread::spawn(move || {
        let mut found = Some(found);
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if let Some((_, told)) = line.split_once(mark)
                && let Some(found) = found.take()
            {
                // Nobody waits any more when the test has given up.
                let _ = found.send(told.to_owned());
            }
        }
    });
    match told.await {
        Ok(told) => Ok(told),
        Err(_closed) => bail!("it ended before it was ready"),
    }
}

/// Up to the first space.
pub(crate) fn first_word(text: &str) -> String {
    text.split(' ').next().unwrap_or_default().to_owned()
}

/// Waits for the end of a process.
pub(crate) async fn ended(child: &mut Child, patience: Duration) -> anyhow::Result<ExitStatus> {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        ensure!(
            begun.elapsed() < patience,
            "process {} still runs after {} s",
            child.id(),
            patience.as_secs()
        );
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Sends a signal by its name, such as `INT`.
pub(crate) fn signal(pid: u32, name: &str) -> anyhow::Result<()> {
    let sent = Command::new("kill")
        .args([&format!("-{name}"), &pid.to_string()])
        .status()?;
    ensure!(sent.success(), "process {pid} cannot be signalled");
    Ok(())
}

/// Prints the last lines of a log.
pub(crate) fn show_end(name: &str, log: &Path, shown_lines: usize) {
    let log = std::fs::read(log).unwrap_or_default();
    let log = String::from_utf8_lossy(&log);
    let lines: Vec<&str> = log.lines().collect();
    eprintln!("--- the end of the log of {name} ---");
    for line in &lines[lines.len().saturating_sub(shown_lines)..] {
        eprintln!("{line}");
    }
}

/// What the kernel knows of a process.
#[derive(Clone, Copy, Debug)]
pub struct ProcessFacts {
    pid: u32,
}

impl ProcessFacts {
    pub(crate) const fn new(pid: u32) -> Self {
        Self { pid }
    }

    /// Open file descriptors.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn descriptors(&self) -> anyhow::Result<usize> {
        Ok(std::fs::read_dir(format!("/proc/{}/fd", self.pid))?.count())
    }

    /// Memory it holds, in bytes.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn resident_bytes(&self) -> anyhow::Result<u64> {
        self.memory("VmRSS:")
    }

    /// The most memory it ever held, in bytes.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn peak_bytes(&self) -> anyhow::Result<u64> {
        self.memory("VmHWM:")
    }

    /// Processes it has started and that still exist.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn children(&self) -> anyhow::Result<usize> {
        let mut children = 0;
        for task in std::fs::read_dir(format!("/proc/{}/task", self.pid))? {
            // A thread may end while we look.
            let list = std::fs::read_to_string(task?.path().join("children")).unwrap_or_default();
            children += list.split_whitespace().count();
        }
        Ok(children)
    }

    fn memory(&self, name: &str) -> anyhow::Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        let Some(line) = status.lines().find_map(|line| line.strip_prefix(name)) else {
            bail!("process {} has no {name}", self.pid);
        };
        let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(kib * 1024)
    }
}
