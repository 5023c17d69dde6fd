//! `vlinders bench`: how fast, beside how fast the machine allows.

mod engine;
mod limits;

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::settings::BackendChoice;

/// What to measure.
#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Prompt and generation speed of the engine alone, beside the limits of memory and arithmetic
    Engine(EngineBenchArgs),
}

/// Flags of `vlinders bench engine`.
#[derive(Args, Clone, Debug)]
pub(crate) struct EngineBenchArgs {
    /// Folder of the model [default: the built-in demo model]
    #[arg(long, env = "MODEL_PATH", value_name = "DIR")]
    model: Option<PathBuf>,
    /// Prompt tokens of each sequence
    #[arg(long, value_name = "TOKENS", default_value_t = 512)]
    prompt: u32,
    /// Tokens generated for each sequence
    #[arg(long, value_name = "TOKENS", default_value_t = 128)]
    decode: u32,
    /// Sequences at once; several sizes are measured in turn
    #[arg(long, value_name = "N,N", value_delimiter = ',', default_values_t = [1_u32, 8])]
    batch: Vec<u32>,
    /// Prompt tokens computed in one step
    #[arg(long, value_name = "TOKENS", default_value_t = 512)]
    chunk: u32,
    /// Times each size is measured; the median is printed
    #[arg(long, value_name = "N", default_value_t = 3)]
    repeat: u32,
    /// What computes: `auto` (a GPU where there is one), `cuda`, `cpu` or `reference`
    #[arg(
        long,
        visible_alias = "device",
        env = "BACKEND",
        value_enum,
        default_value = "auto"
    )]
    backend: BackendChoice,
    /// Share of a GPU's memory to use
    #[arg(
        long,
        env = "GPU_MEMORY_UTILIZATION",
        value_name = "SHARE",
        default_value_t = 0.9
    )]
    gpu_memory_utilization: f64,
    /// What a GPU's arithmetic does at most, as measured beside; without it only memory is a limit there
    #[arg(long, value_name = "GFLOP/S")]
    gpu_gflop_per_s: Option<f64>,
    /// Compute threads [default: one per core]
    #[arg(long, env = "COMPUTE_THREADS", value_name = "N")]
    threads: Option<usize>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs it.
///
/// # Errors
/// When a setting is out of range or the model cannot be loaded.
pub(crate) fn run(command: &BenchCommand) -> anyhow::Result<()> {
    match command {
        BenchCommand::Engine(args) => engine::run(args),
    }
}
