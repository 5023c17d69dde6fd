//! Settings every process has.

use std::path::PathBuf;

use clap::Args;
use vlinders_service_kit::{
    Checks, Given, LogFormat, Metrics, Tasks, Traces, TracesConfig, TracesError, check_log_level,
    init_logging,
};

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
    /// Collector of traces (OTLP over HTTP): http://localhost:4318 [default: no traces]
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_name = "URL")]
    otel_exporter_otlp_endpoint: Option<String>,
    /// Share of requests to trace, 0 to 1, among those that come without a `traceparent`
    #[arg(
        long,
        env = "OTEL_TRACES_SAMPLER_ARG",
        value_name = "SHARE",
        default_value = "1.0"
    )]
    trace_sample_ratio: Given<f64>,
}

/// How a process tells what it does, and on how many threads it does it.
#[derive(Clone, Debug)]
pub(crate) struct LogSettings {
    level: String,
    format: LogFormat,
    io_threads: Option<usize>,
    traces: Option<TracesConfig>,
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
            traces: self.traces(checks),
        }
    }

    fn traces(&self, checks: &mut Checks) -> Option<TracesConfig> {
        let sample_ratio = checks.value("trace_sample_ratio", &self.trace_sample_ratio);
        // Set and empty is not set, as others read this variable.
        let endpoint = self.otel_exporter_otlp_endpoint.as_deref();
        let config = TracesConfig {
            // One that cannot be read is told already.
            sample_ratio: sample_ratio.unwrap_or(1.0),
            ..TracesConfig::new(endpoint.filter(|url| !url.is_empty())?)
        };
        let error = match config.check() {
            Ok(()) => return Some(config),
            Err(error) => error,
        };
        let id = match error {
            TracesError::SampleRatio(_) => "trace_sample_ratio",
            TracesError::Endpoint { .. } | TracesError::Exporter(_) => "otel_exporter_otlp_endpoint",
        };
        checks.fault(id, error);
        None
    }
}

impl LogSettings {
    /// How lines are written.
    pub(crate) fn format(&self) -> LogFormat {
        self.format
    }

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

    /// Starts sending traces, if anybody wants them.
    ///
    /// # Errors
    /// When the environment asks for a way of sending that this build does not have.
    pub(crate) fn start_traces(&self, tasks: &Tasks, metrics: &Metrics) -> anyhow::Result<Traces> {
        Ok(match &self.traces {
            Some(config) => Traces::start(config.clone(), tasks, metrics)?,
            None => Traces::off(),
        })
    }
}
