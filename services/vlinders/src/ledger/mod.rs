//! `vlinders ledger`: what the ledger holds.

mod export;

use std::path::PathBuf;

use anyhow::{Context, ensure};
use clap::{Args, Subcommand};
use serde_json::json;
use vlinders_ledger::{Ledger, PostgresLedger, SqliteLedger, UsageQuery, UsageTotal};
use vlinders_service_kit::Checks;
use vlinders_types::{ModelName, TenantId, UsageEvent};

use self::export::{ExportArgs, export};
use crate::settings::{DatabaseArgs, data_dir};

/// The ledger's name inside the data folder.
pub(crate) const LEDGER_FILE: &str = "usage.sqlite";

/// Flags of `vlinders ledger`.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct LedgerArgs {
    #[command(subcommand)]
    command: Option<LedgerCommand>,
    /// Folder `vlinders up` keeps usage in [default: $XDG_DATA_HOME/vlinders or ~/.local/share/vlinders]
    #[arg(long, env = "DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,
    #[command(flatten)]
    database: DatabaseArgs,
    /// Only this tenant's
    #[arg(long)]
    tenant: Option<String>,
    /// Only of this model
    #[arg(long)]
    model: Option<String>,
    /// The newest so many requests
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: u32,
    /// Sums by tenant, model and class instead of requests
    #[arg(long)]
    totals: bool,
    /// One JSON object per line
    #[arg(long)]
    json: bool,
}

/// What to do with the ledger beside looking at it.
#[derive(Debug, Subcommand)]
enum LedgerCommand {
    /// Print usage by hour, tenant, model and class, for bills
    Export(ExportArgs),
}

/// Prints usage.
///
/// # Errors
/// When there is no ledger or it cannot be read.
pub(crate) fn run(args: &LedgerArgs, mut checks: Checks) -> anyhow::Result<()> {
    if let Some(LedgerCommand::Export(args)) = &args.command {
        return export(args, checks);
    }
    let database = args.database.read(&mut checks);
    checks.finish()?;
    let query = UsageQuery {
        tenant: args.tenant.as_deref().map(TenantId::new),
        model: args.model.as_deref().map(ModelName::new),
        limit: Some(args.limit),
        ..UsageQuery::default()
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("no threads to be had")?;
    runtime.block_on(async {
        let ledger: Box<dyn Ledger> = match database {
            Some(options) => Box::new(PostgresLedger::open(options).await.context("--database-url")?),
            None => Box::new(of_folder(args.data_dir.as_ref())?),
        };
        if args.totals {
            print_totals(&ledger.totals(&query).await?, args.json);
        } else {
            print_requests(&ledger.usage(&query).await?, args.json);
        }
        Ok(())
    })
}

/// The ledger of `vlinders up`.
pub(crate) fn of_folder(data_dir_given: Option<&PathBuf>) -> anyhow::Result<SqliteLedger> {
    let path = data_dir(data_dir_given)?.join(LEDGER_FILE);
    ensure!(
        path.is_file(),
        "no usage at {}: nothing was served yet, or --data-dir is another folder",
        path.display()
    );
    SqliteLedger::open(&path).with_context(|| format!("cannot open {}", path.display()))
}

fn print_requests(events: &[UsageEvent], as_json: bool) {
    if !as_json {
        println!(
            "{:<26} {:<12} {:<20} {:>7} {:>7} {:>10} {:<10} {:>9} {:>9}",
            "request", "tenant", "model", "prompt", "cached", "completion", "finish", "ttft ms", "total ms"
        );
    }
    for event in events {
        if as_json {
            println!("{}", as_line(event));
            continue;
        }
        let since = |ms: u64| ms.saturating_sub(event.created_ms);
        let first = event
            .first_token_ms
            .map_or_else(|| "-".to_owned(), |ms| since(ms).to_string());
        println!(
            "{:<26} {:<12} {:<20} {:>7} {:>7} {:>10} {:<10} {:>9} {:>9}",
            event.request_id,
            event.tenant.as_str(),
            event.model.as_str(),
            event.counts.prompt,
            event.counts.cached,
            event.counts.completion,
            event.finish.name(),
            first,
            since(event.finished_ms)
        );
    }
}

fn as_line(event: &UsageEvent) -> serde_json::Value {
    json!({
        "request_id": event.request_id.to_string(),
        "attempt": event.attempt,
        "tenant": event.tenant.as_str(),
        "key": event.key.as_str(),
        "model": event.model.as_str(),
        "class": event.class.name(),
        "writer": event.writer.as_str(),
        "prompt_tokens": event.counts.prompt,
        "cached_tokens": event.counts.cached,
        "completion_tokens": event.counts.completion,
        "finish": event.finish.name(),
        "stream": event.stream,
        "created_ms": event.created_ms,
        "first_token_ms": event.first_token_ms,
        "finished_ms": event.finished_ms,
    })
}

fn print_totals(totals: &[UsageTotal], as_json: bool) {
    if !as_json {
        println!(
            "{:<12} {:<20} {:<8} {:>9} {:>14} {:>14} {:>17}",
            "tenant", "model", "class", "requests", "prompt tokens", "cached tokens", "completion tokens"
        );
    }
    for total in totals {
        let (tenant, model) = (total.tenant.as_str(), total.model.as_str());
        if as_json {
            let line = json!({
                "tenant": tenant,
                "model": model,
                "class": total.class.name(),
                "requests": total.requests,
                "prompt_tokens": total.prompt_tokens,
                "cached_tokens": total.cached_tokens,
                "completion_tokens": total.completion_tokens,
            });
            println!("{line}");
        } else {
            println!(
                "{tenant:<12} {model:<20} {:<8} {:>9} {:>14} {:>14} {:>17}",
                total.class.name(),
                total.requests,
                total.prompt_tokens,
                total.cached_tokens,
                total.completion_tokens
            );
        }
    }
}
