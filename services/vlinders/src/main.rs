//! The one binary: `vlinders up` runs everything in one process; further subcommands look at what it did.

mod bench;
mod demo;
mod failure;
mod models;
mod progress;
mod settings;
mod up;
mod usage;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// OpenAI-compatible serving of large language models, prefill and decode on separate pools.
#[derive(Debug, Parser)]
#[command(
    name = "vlinders",
    version,
    propagate_version = true,
    disable_help_subcommand = true
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run every role in one process: nothing else to install.
    Up(Box<settings::UpArgs>),
    /// Print what was used: one line per request, or totals.
    Usage(usage::UsageArgs),
    /// Measure.
    #[command(subcommand)]
    Bench(bench::BenchCommand),
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return failure::report_usage(&error),
    };
    let done = match cli.command {
        Command::Up(args) => up::run(*args),
        Command::Usage(args) => usage::run(&args),
        Command::Bench(bench) => bench::run(&bench),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure::report(&error),
    }
}
