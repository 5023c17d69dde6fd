//! `vlinders ledger export`: usage by hour, for bills.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use serde_json::json;
use vlinders_ledger::{Amount, PostgresLedger, PriceTable, UsagePeriod, UsageQuery, UsageReports};
use vlinders_service_kit::{Checks, Given, SettingValue, rfc3339};
use vlinders_types::{ModelName, TenantId};

use super::of_folder;
use crate::settings::{DatabaseArgs, PriceArgs};

const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;
/// Days from 1970 to the year 10000.
const DAYS: u64 = 2_932_896;

/// Flags of `vlinders ledger export`.
#[derive(Args, Debug)]
pub(super) struct ExportArgs {
    /// Folder `vlinders up` keeps usage in [default: $XDG_DATA_HOME/vlinders or ~/.local/share/vlinders]
    #[arg(long, env = "DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,
    #[command(flatten)]
    database: DatabaseArgs,
    /// `csv` or `json`, one object per line
    #[arg(long, value_name = "FORMAT", default_value = "csv")]
    format: Given<Format>,
    /// From this day of UTC on, such as 2026-11-01
    #[arg(long, value_name = "DATE")]
    from: Option<Given<Date>>,
    /// Until the beginning of this day of UTC
    #[arg(long, value_name = "DATE")]
    to: Option<Given<Date>>,
    /// Only this tenant's
    #[arg(long)]
    tenant: Option<String>,
    /// Only of this model
    #[arg(long)]
    model: Option<String>,
    #[command(flatten)]
    prices: PriceArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Csv,
    Json,
}

impl SettingValue for Format {
    fn read(text: &str) -> Result<Self, String> {
        match text {
            "csv" => Ok(Self::Csv),
            "json" => Ok(Self::Json),
            _ => Err("is no format; use `csv` or `json`".to_owned()),
        }
    }
}

/// The beginning of a day, milliseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Date(u64);

impl SettingValue for Date {
    fn read(text: &str) -> Result<Self, String> {
        // The one calendar here is the one that writes dates: days are in their order there as here.
        let name = |day: u64| rfc3339(day * DAY_MS)[..10].to_owned();
        let (mut low, mut high) = (0, DAYS);
        while low < high {
            let middle = low.midpoint(high);
            if name(middle).as_str() < text {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        if name(low) == text {
            return Ok(Self(low * DAY_MS));
        }
        Err("is no date such as 2026-11-01".to_owned())
    }
}

/// Prints usage by hour, tenant, model and class.
///
/// # Errors
/// When a setting is wrong or the ledger cannot be read.
pub(super) fn export(args: &ExportArgs, mut checks: Checks) -> anyhow::Result<()> {
    let database = args.database.read(&mut checks);
    let format = checks.value("format", &args.format);
    let from = checks.optional("from", args.from.as_ref());
    let until = checks.optional("to", args.to.as_ref());
    if let (Some(Date(from)), Some(Date(until))) = (from, until)
        && until <= from
    {
        checks.fault("to", "is not after --from");
    }
    let prices = args.prices.read(&mut checks);
    checks.finish()?;
    let query = UsageQuery {
        tenant: args.tenant.as_deref().map(TenantId::new),
        model: args.model.as_deref().map(ModelName::new),
        from_ms: from.map(|Date(ms)| ms),
        until_ms: until.map(|Date(ms)| ms),
        ..UsageQuery::default()
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("no threads to be had")?;
    let periods = runtime.block_on(async {
        let reports: Box<dyn UsageReports> = match database {
            Some(options) => Box::new(PostgresLedger::open(options).await.context("--database-url")?),
            None => Box::new(of_folder(args.data_dir.as_ref())?),
        };
        anyhow::Ok(reports.periods(&query, HOUR_MS).await?)
    })?;
    print(&periods, prices.as_ref(), format.unwrap_or(Format::Csv));
    Ok(())
}

/// With prices, each line has its amount: none where there is no price for the model.
fn print(periods: &[UsagePeriod], prices: Option<&PriceTable>, format: Format) {
    if format == Format::Csv {
        let amounts = if prices.is_some() { ",nanos,currency" } else { "" };
        println!("hour,tenant,model,requests,prompt_tokens,cached_tokens,completion_tokens,class{amounts}");
    }
    for UsagePeriod { start_ms, total } in periods {
        let (hour, tenant, model) = (rfc3339(*start_ms), total.tenant.as_str(), total.model.as_str());
        let nanos = prices.map(|prices| prices.amount(total).map(Amount::nanos));
        let currency = prices.map_or("", PriceTable::currency);
        match format {
            Format::Csv => {
                let amount = nanos.map(|nanos| {
                    let nanos = nanos.map_or_else(String::new, |nanos| nanos.to_string());
                    format!(",{nanos},{}", field(currency))
                });
                println!(
                    "{hour},{},{},{},{},{},{},{}{}",
                    field(tenant),
                    field(model),
                    total.requests,
                    total.prompt_tokens,
                    total.cached_tokens,
                    total.completion_tokens,
                    total.class.name(),
                    amount.unwrap_or_default()
                );
            }
            Format::Json => {
                let mut line = json!({
                    "hour": hour,
                    "tenant": tenant,
                    "model": model,
                    "requests": total.requests,
                    "prompt_tokens": total.prompt_tokens,
                    "cached_tokens": total.cached_tokens,
                    "completion_tokens": total.completion_tokens,
                    "class": total.class.name(),
                });
                if let Some(nanos) = nanos {
                    line["nanos"] = nanos.into();
                    line["currency"] = currency.into();
                }
                println!("{line}");
            }
        }
    }
}

/// A text as one field, whatever it holds. A table that opens the file must not take a name for a formula.
fn field(text: &str) -> String {
    let text = if text.starts_with(['=', '+', '-', '@', '\t', '\r']) {
        format!("'{text}")
    } else {
        text.to_owned()
    };
    if text.contains(['"', ',', '\n', '\r']) {
        return format!("\"{}\"", text.replace('"', "\"\""));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_days_of_utc() {
        assert_eq!(Date::read("1970-01-01"), Ok(Date(0)));
        assert_eq!(Date::read("2024-02-29"), Ok(Date(1_709_164_800_000)));
        for text in ["2023-02-29", "2026-13-01", "yesterday", "", "2026-11-1"] {
            assert!(Date::read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_name_is_one_field_and_no_formula() {
        assert_eq!(field("acme"), "acme");
        assert_eq!(field("a,\"b\"\n"), "\"a,\"\"b\"\"\n\"");
        assert_eq!(field("=1+1"), "'=1+1");
    }
}
