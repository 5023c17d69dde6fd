//! The one binary: `vlinders up` runs everything in one process, further subcommands run one role each over real servers,
//! look at what was used, or measure.

mod bench;
mod demo;
mod failure;
mod greeting;
mod ledger;
mod models;
mod progress;
mod roles;
mod serving;
mod settings;
mod streams;
mod up;
mod workers;

use std::process::ExitCode;

use clap::{Command as ClapCommand, CommandFactory, FromArgMatches, Parser, Subcommand};
use vlinders_service_kit::Checks;
use vlinders_worker::Role;

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
    /// Run the HTTP side of a cluster.
    Frontend(Box<settings::FrontendArgs>),
    /// Run a worker that computes prompts.
    Prefill(Box<settings::WorkerArgs>),
    /// Run a worker that generates tokens.
    Decode(Box<settings::WorkerArgs>),
    /// Run the service that records usage in Postgres.
    Usage(Box<settings::UsageRoleArgs>),
    /// Print what was used: one line per request, or totals.
    Ledger(Box<ledger::LedgerArgs>),
    /// Measure.
    #[command(subcommand)]
    Bench(bench::BenchCommand),
}

fn main() -> ExitCode {
    let (cli, checks) = match parse() {
        Ok(parsed) => parsed,
        Err(Unparsed::Arguments(error)) => return failure::report_usage(&error),
        Err(Unparsed::File(error)) => return failure::report(&error),
    };
    match run(cli.command, checks) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure::report(&error),
    }
}

fn run(command: Command, checks: Checks) -> anyhow::Result<()> {
    match command {
        Command::Up(args) => up::run(args.read(checks)?),
        Command::Frontend(args) => roles::run_frontend(args.read(checks)?),
        Command::Prefill(args) => roles::run_worker(Role::Prefill, args.read(Role::Prefill, checks)?),
        Command::Decode(args) => roles::run_worker(Role::Decode, args.read(Role::Decode, checks)?),
        Command::Usage(args) => roles::run_usage(args.read(checks)?),
        Command::Ledger(args) => ledger::run(&args, checks),
        Command::Bench(bench) => bench::run(&bench),
    }
}

enum Unparsed {
    Arguments(clap::Error),
    File(anyhow::Error),
}

/// Parses the arguments twice: first to learn which settings file there is, then with its values as defaults.
fn parse() -> Result<(Cli, Checks), Unparsed> {
    let command = Cli::command();
    let first = command.clone().try_get_matches().map_err(Unparsed::Arguments)?;
    let layered = settings::layered(command, &first).map_err(Unparsed::File)?;
    let matches = layered
        .command
        .clone()
        .try_get_matches()
        .map_err(Unparsed::Arguments)?;
    let cli = Cli::from_arg_matches(&matches).map_err(Unparsed::Arguments)?;
    let names = matches.subcommand().map(|(role, given)| {
        let subcommand = layered.command.find_subcommand(role);
        subcommand.map(|subcommand: &ClapCommand| settings::origins(subcommand, given, &layered.keys))
    });
    let mut checks = Checks::new(names.flatten().unwrap_or_default());
    for fault in layered.faults {
        checks.other_fault(fault);
    }
    Ok((cli, checks))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_do_not_contradict_each_other() {
        Cli::command().debug_assert();
    }
}
