//! `vlinders healthcheck`: one question to a running process, for images without a shell.

use std::time::Duration;

use anyhow::{anyhow, bail};
use clap::Args;
use vlinders_service_kit::{Checks, Given, ask_process};

/// Seconds that may be waited.
const TIMEOUT_S: u64 = 3600;

/// Arguments of `vlinders healthcheck`.
#[derive(Args, Clone, Debug)]
pub(crate) struct HealthcheckArgs {
    /// What to ask: /live, /ready or /health of a process
    #[arg(
        long,
        env = "HEALTHCHECK_URL",
        value_name = "URL",
        default_value = "http://127.0.0.1:8000/health"
    )]
    url: String,
    /// Seconds to wait for the answer
    #[arg(long, value_name = "SECONDS", default_value = "5")]
    timeout_s: Given<u64>,
}

/// Asks once.
///
/// # Errors
/// When the answer is not 200.
pub(crate) fn run(args: &HealthcheckArgs, mut checks: Checks) -> anyhow::Result<()> {
    let seconds = checks.number("timeout_s", &args.timeout_s, 1..=TIMEOUT_S);
    checks.finish()?;
    let url = &args.url;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let asking = ask_process(url, Duration::from_secs(seconds));
    let (status, body) = runtime.block_on(asking).map_err(|why| anyhow!("{url} {why}"))?;
    if status != 200 {
        let body = body.trim();
        bail!("{url} answers {status}: {body}");
    }
    Ok(())
}
