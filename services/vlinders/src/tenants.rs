//! `vlinders tenants`: who pays for tenants, and whether they may go on.

use std::path::PathBuf;

use anyhow::{Context, ensure};
use clap::{Args, Subcommand};
use serde_json::json;
use vlinders_ledger::{PostgresLedger, TenantAccount, TenantStore};
use vlinders_service_kit::{Checks, Clock, Given, SystemClock, rfc3339};
use vlinders_types::TenantId;

use crate::ledger::of_folder;
use crate::settings::DatabaseArgs;

const NAME_BYTES: usize = 128;

/// Flags of `vlinders tenants`.
#[derive(Args, Debug)]
pub(crate) struct TenantsArgs {
    #[command(subcommand)]
    command: TenantsCommand,
}

/// What to do with tenants.
#[derive(Debug, Subcommand)]
enum TenantsCommand {
    /// Show tenants with a customer, and those that were suspended
    List {
        #[command(flatten)]
        place: PlaceArgs,
    },
    /// Say who pays for a tenant, or let it do nothing
    Change {
        /// Its name, as its keys have it
        tenant: String,
        /// The customer of Stripe that pays, or `none`
        #[arg(long, value_name = "ID")]
        stripe_customer: Option<String>,
        /// Whether its keys are good for nothing
        #[arg(long, value_name = "BOOL")]
        halted: Option<Given<bool>>,
        #[command(flatten)]
        place: PlaceArgs,
    },
}

/// Where tenants are, and how they are shown.
#[derive(Args, Debug)]
struct PlaceArgs {
    /// Folder of `vlinders up` [default: $XDG_DATA_HOME/vlinders or ~/.local/share/vlinders]
    #[arg(long, env = "DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,
    #[command(flatten)]
    database: DatabaseArgs,
    /// One JSON object per line
    #[arg(long)]
    json: bool,
}

/// Runs one of them.
///
/// # Errors
/// When the settings are wrong or the database cannot be used.
pub(crate) fn run(args: &TenantsArgs, mut checks: Checks) -> anyhow::Result<()> {
    let (TenantsCommand::List { place } | TenantsCommand::Change { place, .. }) = &args.command;
    let database = place.database.read(&mut checks);
    let change = match &args.command {
        TenantsCommand::List { .. } => None,
        TenantsCommand::Change {
            tenant,
            stripe_customer,
            halted,
            ..
        } => {
            for (id, text) in [
                ("tenant", Some(tenant)),
                ("stripe_customer", stripe_customer.as_ref()),
            ] {
                let is_bad = |text: &String| {
                    text.is_empty() || text.len() > NAME_BYTES || text.chars().any(char::is_control)
                };
                if text.is_some_and(is_bad) {
                    checks.fault(
                        id,
                        format_args!("is empty, longer than {NAME_BYTES} bytes or has control characters"),
                    );
                }
            }
            Some((
                tenant,
                stripe_customer,
                checks.optional("halted", halted.as_ref()),
            ))
        }
    };
    checks.finish()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("no threads to be had")?;
    runtime.block_on(async {
        let store: Box<dyn TenantStore> = match database {
            Some(options) => Box::new(PostgresLedger::open(options).await.context("--database-url")?),
            None => Box::new(of_folder(place.data_dir.as_ref())?),
        };
        if let Some((tenant, customer, halted)) = change {
            let tenant = TenantId::new(tenant);
            if let Some(customer) = customer {
                let customer = Some(customer.as_str()).filter(|customer| *customer != "none");
                let is_set = store.set_customer(&tenant, customer).await?;
                ensure!(is_set, "--stripe-customer: pays for another tenant already");
            }
            if let Some(halted) = halted {
                store
                    .halt_tenant(&tenant, halted.then(|| SystemClock.now_ms()))
                    .await?;
            }
        }
        show(&store.tenant_accounts().await?, place.json);
        Ok(())
    })
}

fn show(accounts: &[TenantAccount], as_json: bool) {
    if !as_json {
        println!(
            "{:<24} {:<28} {:<26} {:<26}",
            "tenant", "customer", "halted since", "unpaid since"
        );
    }
    let time = |ms: Option<u64>| ms.map_or_else(|| "-".to_owned(), rfc3339);
    for account in accounts {
        let customer = account.customer.as_deref();
        if as_json {
            let line = json!({
                "tenant": account.tenant.as_str(),
                "stripe_customer": customer,
                "halted_ms": account.halted_ms,
                "unpaid_ms": account.unpaid_ms,
            });
            println!("{line}");
        } else {
            println!(
                "{:<24} {:<28} {:<26} {:<26}",
                account.tenant.as_str(),
                customer.unwrap_or("-"),
                time(account.halted_ms),
                time(account.unpaid_ms)
            );
        }
    }
}
