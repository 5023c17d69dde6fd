//! The one binary: `vlinders up` runs everything in one process, further subcommands run one role each over real servers,
//! look at what was used, or measure.

mod bench;
mod credentials;
mod demo;
mod failure;
mod greeting;
mod healthcheck;
mod keys;
mod ledger;
mod models;
mod operators;
mod progress;
mod roles;
mod serving;
mod settings;
mod spool;
mod streams;
mod tenants;
mod up;
mod watches;
mod workers;

use std::ffi::OsString;
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
    /// Ask a running process how it fares; exit code 0 when it answers 200.
    Healthcheck(healthcheck::HealthcheckArgs),
    /// Make, show, change and end API keys.
    Keys(Box<keys::KeysArgs>),
    /// Show and change who pays for tenants, and whether they may go on.
    Tenants(Box<tenants::TenantsArgs>),
    /// Measure.
    #[command(subcommand)]
    Bench(bench::BenchCommand),
}

fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().collect();
    let (cli, checks) = match parse(words.into_iter()) {
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
        Command::Healthcheck(args) => healthcheck::run(&args, checks),
        Command::Keys(args) => keys::run(*args, checks),
        Command::Tenants(args) => tenants::run(&args, checks),
        Command::Bench(bench) => bench::run(&bench),
    }
}

enum Unparsed {
    Arguments(clap::Error),
    File(anyhow::Error),
}

/// Parses the arguments twice: first to learn which settings file there is, then with its values as defaults.
fn parse(words: impl Iterator<Item = OsString> + Clone) -> Result<(Cli, Checks), Unparsed> {
    let command = Cli::command();
    let first = command
        .clone()
        .try_get_matches_from(words.clone())
        .map_err(Unparsed::Arguments)?;
    let layered = settings::layered(command, &first).map_err(Unparsed::File)?;
    let matches = layered
        .command
        .clone()
        .try_get_matches_from(words)
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

    /// What `vlinders prefill` with this file and these flags makes of them.
    fn prefill(file: &str, flags: &[&str]) -> Result<settings::WorkerSettings, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("server.yaml");
        std::fs::write(&path, file).unwrap();
        let words = ["vlinders", "prefill", "--config-file", path.to_str().unwrap()];
        let words: Vec<OsString> = words.iter().chain(flags).map(OsString::from).collect();
        let (cli, checks) = match parse(words.into_iter()) {
            Ok(parsed) => parsed,
            Err(Unparsed::Arguments(error)) => panic!("{error}"),
            Err(Unparsed::File(error)) => return Err(format!("{error:#}")),
        };
        let Command::Prefill(args) = cli.command else {
            panic!("another command");
        };
        args.read(Role::Prefill, checks)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_flag_goes_before_the_file_and_the_file_before_the_default() {
        let file = "engine: {max_num_seqs: 7, kv_memory_mib: 9}\nserver: {host: 0.0.0.0, port: 80}\n";
        let settings = prefill(file, &["--kv-memory-mib", "11"]).unwrap();
        assert_eq!(settings.engine.max_num_seqs, 7);
        assert_eq!(settings.engine.kv_memory_mib, 11);
        assert_eq!(settings.engine.max_num_batched_tokens, 512);
    }

    #[test]
    fn faults_of_a_file_are_told_with_their_keys_beside_those_of_flags() {
        let file = "engine: {max_num_seqs: many, max_nums: 1}\nsevrer: {port: 1}\n";
        let line = prefill(file, &["--threads", "0"]).err().unwrap();
        for word in [
            "engine.max_num_seqs in ",
            "`many` is no whole number",
            "engine.max_nums in ",
            "sevrer.port in ",
            "no such section",
            "--threads: 0",
        ] {
            assert!(line.contains(word), "lacks {word}: {line}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let line = prefill("- a\n", &[]).err().unwrap();
        assert!(line.contains("server.yaml: expected sections"), "{line}");
    }
}
