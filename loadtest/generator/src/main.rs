//! The load generator.

use std::fs;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::Parser;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use vlinders_loadtest::arguments::Arguments;
use vlinders_loadtest::failure::{one_line, usage_line};
use vlinders_loadtest::plan::Plan;
use vlinders_loadtest::{Alarm, Report, carry_out, self_test};

/// A command line that cannot work.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) if error.use_stderr() => return failed(&usage_line(&error), USAGE),
        Err(error) => {
            print!("{error}");
            return ExitCode::SUCCESS;
        }
    };
    if arguments.self_test {
        return match self_test() {
            Ok(told) => {
                print!("{told}");
                ExitCode::SUCCESS
            }
            Err(error) => failed(&one_line(&error), 1),
        };
    }
    let plan = match Plan::check(arguments) {
        Ok(plan) => plan,
        Err(error) => return failed(&one_line(&error), USAGE),
    };
    match run(plan) {
        Ok(report) if report.is_failure() => ExitCode::FAILURE,
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => failed(&one_line(&error), 1),
    }
}

fn failed(line: &str, code: u8) -> ExitCode {
    eprintln!("vlinders-loadtest: {line}");
    ExitCode::from(code)
}

/// Everything happens on one thread: the server under test, often on the same machine, keeps the others.
fn run(plan: Plan) -> anyhow::Result<Report> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("no runtime to be had")?;
    runtime.block_on(async {
        let json = plan.json.clone();
        let (stop, stops) = watch::channel(false);
        let mut interrupt = signal(SignalKind::interrupt()).context("signals cannot be watched")?;
        let mut terminate = signal(SignalKind::terminate()).context("signals cannot be watched")?;
        let alarm = Alarm::exact().context("no timer to be had")?;
        let report = {
            let network = Arc::new(plan.network.clone());
            let mut work = std::pin::pin!(carry_out(plan, network, alarm, stops));
            tokio::select! {
                report = &mut work => report?,
                () = either(&mut interrupt, &mut terminate) => {
                    // What was measured is reported; if it is not at once, a second signal ends everything.
                    let _ = stop.send(true);
                    tokio::select! {
                        report = &mut work => report?,
                        () = either(&mut interrupt, &mut terminate) => anyhow::bail!("interrupted"),
                    }
                }
            }
        };
        print!("{}", report.table());
        if let Some(path) = json {
            let text = serde_json::to_string_pretty(&report).context("the report cannot be written")?;
            fs::write(&path, text + "\n").with_context(|| format!("--json: {}", path.display()))?;
        }
        Ok(report)
    })
}

async fn either(interrupt: &mut Signal, terminate: &mut Signal) {
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}
