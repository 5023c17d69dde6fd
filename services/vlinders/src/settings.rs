//! The settings of `vlinders up`: read once, checked completely, all faults told together before a port opens.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use vlinders_service_kit::LogFormat;

/// Sequences at once at most: each has its places in several queues.
const SEQUENCES: u64 = 16_384;
/// Tokens of a step at most: all their activations are held at once.
const STEP_TOKENS: u64 = 1 << 20;
/// A tebibyte.
const KV_MEMORY_MIB: u64 = 1 << 20;
const QUEUED_REQUESTS: u64 = 1_000_000;
/// A day.
const DEADLINE_S: u64 = 24 * 3600;
const THREADS: u64 = 1024;

/// Flags of `vlinders up`. Each has an environment variable of the same meaning.
#[derive(Args, Clone, Debug)]
pub(crate) struct UpArgs {
    /// Folder of the model to serve, in the Hugging Face layout [default: the built-in demo model]
    #[arg(long, env = "MODEL_PATH", value_name = "DIR")]
    pub(crate) model: Option<PathBuf>,
    /// Name to serve it under [default: the folder's name]
    #[arg(long, env = "SERVED_MODEL_NAME", value_name = "NAME")]
    pub(crate) served_model_name: Option<String>,
    /// Further names that mean the same model; may be given several times
    #[arg(long = "alias", value_name = "NAME")]
    pub(crate) aliases: Vec<String>,
    /// Where to listen
    #[arg(
        long,
        env = "LISTEN",
        value_name = "ADDR:PORT",
        default_value = "127.0.0.1:8000"
    )]
    pub(crate) listen: SocketAddr,
    /// `split` runs a prefill and a decode role, `both` one worker that does both
    #[arg(long, env = "ROLE", value_enum, default_value_t = UpRole::Split)]
    pub(crate) role: UpRole,
    /// What computes: `cpu`, `reference` (slow and simple) or `sim` (no model, deterministic tokens)
    #[arg(long, env = "BACKEND", value_enum, default_value_t = BackendKind::Cpu)]
    pub(crate) backend: BackendKind,
    /// Compute threads [default: one per core]
    #[arg(long, env = "COMPUTE_THREADS", value_name = "N")]
    pub(crate) threads: Option<usize>,
    /// Tokens of the longest sequence [default: what the model and the KV memory allow]
    #[arg(long, env = "MAX_MODEL_LEN", value_name = "TOKENS")]
    pub(crate) max_model_len: Option<u32>,
    /// Sequences each role holds at once
    #[arg(long, env = "MAX_NUM_SEQS", value_name = "N", default_value_t = 64)]
    pub(crate) max_num_seqs: u32,
    /// New tokens in one engine step
    #[arg(
        long,
        env = "MAX_NUM_BATCHED_TOKENS",
        value_name = "TOKENS",
        default_value_t = 512
    )]
    pub(crate) max_num_batched_tokens: u32,
    /// Prompt tokens of one sequence computed in one step
    #[arg(
        long,
        env = "PREFILL_CHUNK_TOKENS",
        value_name = "TOKENS",
        default_value_t = 256
    )]
    pub(crate) prefill_chunk_tokens: u32,
    /// Keep computed prefixes for later requests
    #[arg(long, env = "ENABLE_PREFIX_CACHING", value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    pub(crate) enable_prefix_caching: bool,
    /// Memory for keys and values, per role, in MiB
    #[arg(long, env = "KV_MEMORY_MIB", value_name = "MIB", default_value_t = 1024)]
    pub(crate) kv_memory_mib: u64,
    /// Requests that may wait in the queue; more are refused with 429
    #[arg(long, env = "MAX_QUEUED_REQUESTS", value_name = "N", default_value_t = 1024)]
    pub(crate) max_queued_requests: u64,
    /// Seconds after which a request has lost its use
    #[arg(
        long,
        env = "REQUEST_DEADLINE_S",
        value_name = "SECONDS",
        default_value_t = 300
    )]
    pub(crate) request_deadline_s: u64,
    /// Folder for usage [default: $XDG_DATA_HOME/vlinders or ~/.local/share/vlinders]
    #[arg(long, env = "DATA_DIR", value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// error, warn, info, debug or trace, or a filter
    #[arg(long, env = "LOG_LEVEL", default_value = "info")]
    pub(crate) log_level: String,
    /// `text` or `json`
    #[arg(long, env = "LOG_FORMAT", default_value = "text")]
    pub(crate) log_format: LogFormat,
    /// `--backend sim`: microseconds of one step
    #[arg(long, value_name = "US", default_value_t = 0)]
    pub(crate) sim_step_us: u64,
    /// `--backend sim`: nanoseconds for each prompt token of a step
    #[arg(long, value_name = "NS", default_value_t = 0)]
    pub(crate) sim_token_ns: u64,
}

/// How the roles are laid out in the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum UpRole {
    /// One prefill and one decode worker, with a hand-off between them.
    Split,
    /// One worker that does both.
    Both,
}

/// What computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum BackendKind {
    /// The fast CPU kernels.
    Cpu,
    /// The plain loops they are checked against.
    Reference,
    /// Tokens from a hash: for measuring everything around the engine.
    Sim,
}

impl UpArgs {
    /// Finds every setting that cannot work, all at once.
    ///
    /// # Errors
    /// One line that lists them.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        let mut faults = Vec::new();
        let numbers = [
            ("--max-num-seqs", u64::from(self.max_num_seqs), SEQUENCES),
            (
                "--max-num-batched-tokens",
                u64::from(self.max_num_batched_tokens),
                STEP_TOKENS,
            ),
            (
                "--prefill-chunk-tokens",
                u64::from(self.prefill_chunk_tokens),
                STEP_TOKENS,
            ),
            ("--kv-memory-mib", self.kv_memory_mib, KV_MEMORY_MIB),
            ("--max-queued-requests", self.max_queued_requests, QUEUED_REQUESTS),
            ("--request-deadline-s", self.request_deadline_s, DEADLINE_S),
            (
                "--max-model-len",
                self.max_model_len.map_or(1, u64::from),
                u64::from(u32::MAX),
            ),
            (
                "--threads",
                self.threads.map_or(1, |threads| threads as u64),
                THREADS,
            ),
        ];
        for (name, value, most) in numbers {
            if !(1..=most).contains(&value) {
                faults.push(format!("{name}: {value} is not from 1 to {most}"));
            }
        }
        if self.max_num_batched_tokens < self.max_num_seqs {
            faults.push(format!(
                "--max-num-batched-tokens: {} is less than --max-num-seqs ({}); every sequence needs room for a token",
                self.max_num_batched_tokens, self.max_num_seqs
            ));
        }
        if let Some(model) = &self.model
            && !model.is_dir()
        {
            faults.push(format!("--model: {} is no folder", model.display()));
        }
        if !self.listen.ip().is_loopback() {
            faults.push(format!(
                "--listen: {} is open to the network and there are no API keys yet; use a loopback address",
                self.listen
            ));
        }
        anyhow::ensure!(faults.is_empty(), "{}", faults.join("; "));
        Ok(())
    }
}

/// Where usage is kept.
///
/// # Errors
/// When no folder is given and there is no home to put one in.
pub(crate) fn data_dir(given: Option<&PathBuf>) -> anyhow::Result<PathBuf> {
    if let Some(given) = given {
        return Ok(given.clone());
    }
    let data_home = std::env::var_os("XDG_DATA_HOME")
        .filter(|path| !path.is_empty())
        .map(PathBuf::from);
    let home = || {
        std::env::var_os("HOME")
            .filter(|path| !path.is_empty())
            .map(|home| PathBuf::from(home).join(".local/share"))
    };
    let base = data_home.or_else(home);
    let base =
        base.ok_or_else(|| anyhow::anyhow!("--data-dir: give a folder, there is no home folder to use"))?;
    Ok(base.join("vlinders"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: UpArgs,
    }

    fn parsed(words: &[&str]) -> UpArgs {
        Line::try_parse_from(std::iter::once(&"up").chain(words))
            .unwrap()
            .args
    }

    #[test]
    fn the_defaults_are_sound() {
        parsed(&[]).check().unwrap();
    }

    #[test]
    fn all_faults_are_told_together() {
        let args = parsed(&[
            "--max-num-seqs",
            "0",
            "--model",
            "/nowhere",
            "--listen",
            "0.0.0.0:1",
        ]);
        let line = args.check().unwrap_err().to_string();
        for named in ["--max-num-seqs", "--model: /nowhere", "--listen"] {
            assert!(line.contains(named), "{line}");
        }
    }
}
