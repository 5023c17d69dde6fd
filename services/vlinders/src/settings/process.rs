//! Settings every process has.

use std::path::PathBuf;

use clap::Args;
use vlinders_service_kit::{Checks, Given, LogFormat, check_log_level, init_logging};

const THREADS: usize = 1024;

/// Flags of every process.
#[derive(Args, Clone, Debug)]
pub(crate) struct ProcessArgs {
    /// File with settings (server.yaml); flags and environment go before it
    #[arg(long, env = "CONFIG_FILE", value_name = "FILE")]
    config_file: Option<PathBuf>,
    /// error, warn, info, debug or trace, or a filter
    #[arg(long, env = "LOG_LEVEL", default_value = "info")]
    log_level: String,
    /// `text` or `json`
    #[arg(long, env = "LOG_FORMAT", default_value = "text")]
    log_format: Given<LogFormat>,
    /// Threads for connections and messages, beside those that compute [default: one per core]
    #[arg(long, env = "IO_THREADS", value_name = "N")]
    io_threads: Option<Given<usize>>,
}

/// How a process logs and runs.
#[derive(Clone, Debug)]
pub(crate) struct LogSettings {
    level: String,
    format: LogFormat,
    io_threads: Option<usize>,
}

impl ProcessArgs {
    pub(crate) fn read(&self, checks: &mut Checks) -> LogSettings {
        let level = self.log_level.to_ascii_lowercase();
        if let Err(error) = check_log_level(&level) {
            checks.fault("log_level", error);
        }
        LogSettings {
            level,
            format: checks.value("log_format", &self.log_format).unwrap_or_default(),
            io_threads: checks.optional_number("io_threads", self.io_threads.as_ref(), 1..=THREADS),
        }
    }
}

impl LogSettings {
    /// Starts logging, then the threads that everything runs on.
    ///
    /// # Errors
    /// When the level is none, or there are no threads.
    pub(crate) fn start(&self) -> anyhow::Result<tokio::runtime::Runtime> {
        init_logging(&self.level, self.format)?;
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        if let Some(threads) = self.io_threads {
            builder.worker_threads(threads);
        }
        anyhow::Context::context(builder.enable_all().build(), "no threads to be had")
    }
}
