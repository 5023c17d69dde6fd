//! Whoever collects the money.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use vlinders_billing::{ApiAddress, MeterConfig, MeterValue};
use vlinders_service_kit::{Checks, Given, SettingValue};

use super::stores::secret_from_environment;

/// A day: a meter takes no usage that is much older.
const EVERY_S: u64 = 24 * 3600;
const METER_BYTES: usize = 100;

/// Flags of whoever sends usage to a meter.
#[derive(Args, Clone, Debug)]
pub(crate) struct StripeArgs {
    /// File with the secret key of Stripe, in place of STRIPE_KEY [default: usage goes to no meter]
    #[arg(long, env = "STRIPE_KEY_FILE", value_name = "FILE")]
    stripe_key_file: Option<PathBuf>,
    /// The meter's event name
    #[arg(long, env = "STRIPE_METER", value_name = "NAME")]
    stripe_meter: Option<String>,
    /// What the meter counts: `nanos`, which needs --prices, or `tokens`
    #[arg(long, env = "STRIPE_VALUE", value_name = "UNIT", default_value = "nanos")]
    stripe_value: Given<Unit>,
    /// Seconds that usage is added up before it is sent
    #[arg(long, env = "STRIPE_EVERY_S", value_name = "SECONDS", default_value = "3600")]
    stripe_every_s: Given<u64>,
    /// Where the API is
    #[arg(
        long,
        env = "STRIPE_URL",
        value_name = "URL",
        default_value = "https://api.stripe.com"
    )]
    stripe_url: Given<Address>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Unit(MeterValue);

impl SettingValue for Unit {
    fn read(text: &str) -> Result<Self, String> {
        match text {
            "nanos" => Ok(Self(MeterValue::Nanos)),
            "tokens" => Ok(Self(MeterValue::Tokens)),
            _ => Err("is nothing a meter counts; use `nanos` or `tokens`".to_owned()),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Address(ApiAddress);

impl SettingValue for Address {
    fn read(text: &str) -> Result<Self, String> {
        ApiAddress::parse(text)
            .map(Self)
            .map_err(|error| error.to_string())
    }
}

/// Where usage goes.
#[derive(Clone)]
pub(crate) struct StripeSettings(pub(crate) MeterConfig);

/// Without the key.
impl fmt::Debug for StripeSettings {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_tuple("StripeSettings").field(&self.0.meter).finish()
    }
}

impl StripeArgs {
    /// None: it goes nowhere.
    pub(crate) fn read(&self, has_prices: bool, checks: &mut Checks) -> Option<StripeSettings> {
        let key = secret_from_environment("STRIPE_KEY");
        let key = checks.secret("stripe_key", key.as_ref(), self.stripe_key_file.as_ref());
        let value = checks.value("stripe_value", &self.stripe_value);
        let every = checks.number("stripe_every_s", &self.stripe_every_s, 1..=EVERY_S);
        let address = checks.value("stripe_url", &self.stripe_url);
        let (key, meter) = match (key, &self.stripe_meter) {
            (Some(key), Some(meter)) => (key, meter),
            (Some(_), None) => {
                checks.fault("stripe_meter", "is missing beside the key of Stripe");
                return None;
            }
            (None, Some(_)) => {
                checks.fault("stripe_key_file", "is missing beside the meter");
                return None;
            }
            (None, None) => return None,
        };
        if meter.is_empty() || meter.len() > METER_BYTES || meter.chars().any(char::is_control) {
            checks.fault("stripe_meter", "is no name of a meter");
        }
        let (Unit(value), Address(address)) = (value?, address?);
        if value == MeterValue::Nanos && !has_prices {
            checks.fault("stripe_value", "is nanos, which needs --prices");
        }
        let every = Duration::from_secs(every);
        Some(StripeSettings(MeterConfig {
            address,
            every,
            tick: Duration::from_secs(5).min(every),
            ..MeterConfig::new(key, meter.clone(), value)
        }))
    }
}

/// Flags of whoever hears what becomes of customers.
#[derive(Args, Clone, Debug)]
pub(crate) struct WebhookArgs {
    /// File with the secret that signs events to POST /webhooks/stripe, in place of STRIPE_WEBHOOK_SECRET [default: there is
    /// no such route]
    #[arg(long, env = "STRIPE_WEBHOOK_SECRET_FILE", value_name = "FILE")]
    stripe_webhook_secret_file: Option<PathBuf>,
}

impl WebhookArgs {
    /// The secret. `has_database` tells whether there is somewhere to keep what becomes of tenants.
    pub(crate) fn read(&self, has_database: bool, checks: &mut Checks) -> Option<String> {
        let secret = secret_from_environment("STRIPE_WEBHOOK_SECRET");
        let file = self.stripe_webhook_secret_file.as_ref();
        let secret = checks.secret("stripe_webhook_secret", secret.as_ref(), file)?;
        if !has_database {
            checks.fault("stripe_webhook_secret", "needs --database-url, where tenants are");
        }
        Some(secret)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: StripeArgs,
    }

    fn read(words: &[&str], has_prices: bool) -> Result<Option<MeterConfig>, String> {
        let line = Line::try_parse_from(std::iter::once(&"x").chain(words)).unwrap();
        let mut checks = Checks::default();
        let settings = line.args.read(has_prices, &mut checks);
        checks.finish().map_err(|faults| faults.to_string())?;
        Ok(settings.map(|StripeSettings(config)| config))
    }

    #[test]
    fn usage_goes_nowhere_unless_all_of_it_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let key = folder.path().join("key");
        std::fs::write(&key, "sk_test\n").unwrap();
        let key = key.to_str().unwrap();
        assert!(matches!(read(&[], true), Ok(None)));
        let both = ["--stripe-key-file", key, "--stripe-meter", "usage"];
        let config = read(&both, true).unwrap().unwrap();
        assert_eq!(
            (config.key.as_str(), config.value),
            ("sk_test", MeterValue::Nanos)
        );
        for (words, has_prices, told) in [
            (&both[..2], true, "--stripe-meter: is missing"),
            (&both[2..], true, "--stripe-key-file: is missing"),
            (&both[..], false, "--stripe-value: is nanos"),
            (
                &["--stripe-url", "http://api.stripe.com"][..],
                true,
                "--stripe-url: ",
            ),
            (&["--stripe-every-s", "0"][..], true, "--stripe-every-s: 0"),
        ] {
            let fault = read(words, has_prices).err().unwrap();
            assert!(fault.contains(told), "{fault}");
        }
    }
}
