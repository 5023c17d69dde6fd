//! The rules of a key as flags.

use anyhow::Context;
use clap::Args;
use vlinders_ledger::{KeyRules, Scopes};
use vlinders_service_kit::{Checks, Given};
use vlinders_types::TenantId;

/// Names that people give.
const NAME_BYTES: usize = 128;
/// Ten years.
const EXPIRY_S: u64 = 10 * 366 * 24 * 3600;
const MODELS: usize = 100;
/// The most a database and a limiter count exactly.
const MOST: u64 = 1 << 53;

/// What an operator decides about a key. `none` takes a rule away.
#[derive(Args, Debug)]
pub(super) struct RuleArgs {
    /// A name for people
    #[arg(long)]
    name: Option<String>,
    /// Who pays, and whose cache it is [default: default]
    #[arg(long)]
    tenant: Option<String>,
    /// What it is for: inference, metrics, usage (of its whole tenant), admin [default: inference]
    #[arg(long, value_name = "LIST")]
    scopes: Option<String>,
    /// Names of the models it may use, as clients write them, separated by commas [default: all]
    #[arg(long, value_name = "LIST")]
    models: Option<String>,
    /// Pass over fields of requests that nobody knows rather than refuse them
    #[arg(long, value_name = "BOOL")]
    lenient: Option<Given<bool>>,
    /// Priority of its requests at most
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    max_priority: Option<String>,
    /// Seconds until it is worth nothing
    #[arg(long, value_name = "SECONDS")]
    expires_in_s: Option<String>,
    /// Requests in a minute [default: what the server gives every key]
    #[arg(long, value_name = "N")]
    requests_per_minute: Option<String>,
    /// Tokens in a minute, of prompts and answers together
    #[arg(long, value_name = "N")]
    tokens_per_minute: Option<String>,
    /// Requests that may run at one time
    #[arg(long, value_name = "N")]
    concurrent_streams: Option<String>,
    /// Tokens in a day of UTC
    #[arg(long, value_name = "N")]
    daily_tokens: Option<String>,
    /// Tokens in a month of UTC
    #[arg(long, value_name = "N")]
    monthly_tokens: Option<String>,
    /// Money in a day of UTC, in billionths of the price table's currency
    #[arg(long, value_name = "NANOS")]
    daily_nanos: Option<String>,
    /// Money in a month of UTC, in billionths of the price table's currency
    #[arg(long, value_name = "NANOS")]
    monthly_nanos: Option<String>,
}

impl RuleArgs {
    /// Notes every fault. A new key needs a name.
    pub(super) fn check(&self, is_new: bool, checks: &mut Checks) {
        if is_new && self.name.is_none() {
            checks.fault("name", "is missing: by it you will know the key again");
        }
        for (id, text) in [("name", &self.name), ("tenant", &self.tenant)] {
            let is_plain = |text: &&String| {
                !text.is_empty() && text.len() <= NAME_BYTES && !text.chars().any(char::is_control)
            };
            if text.as_ref().is_some_and(|text| !is_plain(&text)) {
                checks.fault(
                    id,
                    format_args!("is empty, longer than {NAME_BYTES} bytes or has control characters"),
                );
            }
        }
        if let Err(error) = self.scopes.as_deref().map(str::parse::<Scopes>).transpose() {
            checks.fault("scopes", error);
        }
        if self
            .models
            .as_deref()
            .is_some_and(|names| names.split(',').count() > MODELS)
        {
            checks.fault("models", format_args!("are more than {MODELS}"));
        }
        checks.optional("lenient", self.lenient.as_ref());
        let priority = self
            .max_priority
            .as_deref()
            .map(|text| maybe(text, |text| text.parse::<i32>().ok()));
        if priority == Some(Err(())) {
            checks.fault("max_priority", "is no whole number and not `none`");
        }
        for (id, text, most) in self.numbers() {
            if text.map(|text| number(text, most)) == Some(Err(())) {
                checks.fault(
                    id,
                    format_args!("is neither a whole number from 0 to {most} nor `none`"),
                );
            }
        }
    }

    fn numbers(&self) -> [(&'static str, Option<&str>, u64); 8] {
        [
            ("expires_in_s", self.expires_in_s.as_deref(), EXPIRY_S),
            (
                "requests_per_minute",
                self.requests_per_minute.as_deref(),
                u64::from(u32::MAX),
            ),
            ("tokens_per_minute", self.tokens_per_minute.as_deref(), MOST),
            (
                "concurrent_streams",
                self.concurrent_streams.as_deref(),
                u64::from(u32::MAX),
            ),
            ("daily_tokens", self.daily_tokens.as_deref(), MOST),
            ("monthly_tokens", self.monthly_tokens.as_deref(), MOST),
            ("daily_nanos", self.daily_nanos.as_deref(), MOST),
            ("monthly_nanos", self.monthly_nanos.as_deref(), MOST),
        ]
    }

    /// The rules of a new key.
    pub(super) fn rules(&self, now_ms: u64) -> anyhow::Result<KeyRules> {
        let name = self.name.as_deref().context("a key has a name")?;
        self.over(KeyRules::new(name, TenantId::new("default")), now_ms)
    }

    /// The rules of a key that has some. What was not named stays.
    pub(super) fn over(&self, mut rules: KeyRules, now_ms: u64) -> anyhow::Result<KeyRules> {
        let unchecked = |()| anyhow::anyhow!("a flag was not checked");
        if let Some(name) = &self.name {
            rules.name.clone_from(name);
        }
        if let Some(tenant) = &self.tenant {
            rules.tenant = TenantId::new(tenant);
        }
        if let Some(scopes) = &self.scopes {
            rules.scopes = scopes.parse()?;
        }
        if let Some(models) = &self.models {
            let names = models.split(',').map(str::trim).filter(|name| !name.is_empty());
            rules.models = (models != "none").then(|| names.map(str::to_owned).collect());
        }
        if let Some(Ok(lenient)) = self.lenient.as_ref().map(Given::get) {
            rules.is_lenient = *lenient;
        }
        if let Some(text) = &self.max_priority {
            rules.max_priority = maybe(text, |text| text.parse().ok()).map_err(unchecked)?;
        }
        let limits = &mut rules.limits;
        let [
            expires,
            requests,
            tokens,
            streams,
            daily,
            monthly,
            daily_nanos,
            monthly_nanos,
        ] = self
            .numbers()
            .map(|(_, text, most)| text.map(|text| number(text, most).ok().flatten()));
        let small = |number: Option<u64>| number.and_then(|number| u32::try_from(number).ok());
        rules.expires_ms = expires.map_or(rules.expires_ms, |seconds| {
            seconds.map(|seconds| now_ms + 1000 * seconds)
        });
        limits.requests_per_minute = requests.map_or(limits.requests_per_minute, small);
        limits.tokens_per_minute = tokens.unwrap_or(limits.tokens_per_minute);
        limits.concurrent_streams = streams.map_or(limits.concurrent_streams, small);
        limits.daily.tokens = daily.unwrap_or(limits.daily.tokens);
        limits.monthly.tokens = monthly.unwrap_or(limits.monthly.tokens);
        limits.daily.nanos = daily_nanos.unwrap_or(limits.daily.nanos);
        limits.monthly.nanos = monthly_nanos.unwrap_or(limits.monthly.nanos);
        Ok(rules)
    }
}

fn maybe<T>(text: &str, read: impl Fn(&str) -> Option<T>) -> Result<Option<T>, ()> {
    match text.trim() {
        "none" => Ok(None),
        text => read(text).map(Some).ok_or(()),
    }
}

fn number(text: &str, most: u64) -> Result<Option<u64>, ()> {
    maybe(text, |text| text.parse().ok().filter(|number| *number <= most))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: RuleArgs,
    }

    fn args(words: &[&str]) -> RuleArgs {
        Line::try_parse_from(std::iter::once(&"x").chain(words))
            .unwrap()
            .args
    }

    fn faults(words: &[&str]) -> String {
        let mut checks = Checks::default();
        args(words).check(true, &mut checks);
        checks
            .finish()
            .map_or_else(|faults| faults.to_string(), |()| String::new())
    }

    #[test]
    fn what_was_not_named_stays_and_none_takes_away() {
        let made = args(&["--name", "n", "--models", "a, b", "--requests-per-minute", "7"]);
        let rules = made.rules(1000).unwrap();
        assert_eq!(rules.models.as_deref().unwrap(), ["a", "b"]);
        let changed = args(&[
            "--models",
            "none",
            "--tokens-per-minute",
            "9",
            "--monthly-nanos",
            "5000000000",
            "--expires-in-s",
            "3",
        ]);
        let rules = changed.over(rules, 1000).unwrap();
        assert_eq!((rules.models, rules.name.as_str()), (None, "n"));
        assert_eq!(rules.limits.requests_per_minute, Some(7));
        assert_eq!(rules.limits.tokens_per_minute, Some(9));
        assert_eq!(rules.limits.monthly.nanos, Some(5_000_000_000));
        assert_eq!(rules.expires_ms, Some(4000));
    }

    #[test]
    fn all_faults_are_told_together() {
        let told = faults(&[
            "--tenant",
            "",
            "--scopes",
            "root",
            "--lenient",
            "maybe",
            "--max-priority",
            "x",
            "--daily-tokens",
            "x",
            "--concurrent-streams",
            "4294967296",
        ]);
        for name in [
            "--name",
            "--tenant",
            "--scopes",
            "--lenient",
            "--max-priority",
            "--daily-tokens",
            "--concurrent-streams",
        ] {
            assert!(told.contains(&format!("{name}: ")), "lacks {name}: {told}");
        }
        assert_eq!(faults(&["--name", "n", "--max-priority", "-3"]), "");
    }
}
