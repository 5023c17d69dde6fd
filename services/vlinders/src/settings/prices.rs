//! What tokens cost: prices.yaml.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Map, Value};
use vlinders_ledger::{Factor, PriceTable, Rates};
use vlinders_service_kit::{Checks, read_yaml};
use vlinders_types::{BillingClass, ModelName};

/// A million tokens for a million of the currency: with it no sum of a request leaves its range.
const MOST_NANOS: u64 = 1_000_000_000_000_000;
const CURRENCY_BYTES: usize = 16;
/// Every model that has no prices of its own.
const OTHERS: &str = "*";

/// Flags of whoever tells or charges what usage costs.
#[derive(Args, Clone, Debug)]
pub(crate) struct PriceArgs {
    /// File with what tokens cost (prices.yaml) [default: amounts are not told]
    #[arg(long, env = "PRICES_FILE", value_name = "FILE")]
    prices: Option<PathBuf>,
}

impl PriceArgs {
    /// The price table, if one is given.
    pub(crate) fn read(&self, checks: &mut Checks) -> Option<PriceTable> {
        let path = self.prices.as_ref()?;
        let whole: Value = read_yaml(path)
            .map_err(|error| checks.fault("prices", error))
            .ok()?;
        let mut reading = Reading { faults: Vec::new() };
        let table = reading.table(&whole);
        for fault in &reading.faults {
            checks.fault("prices", format_args!("{}: {fault}", path.display()));
        }
        Some(table).filter(|_| reading.faults.is_empty())
    }
}

/// Collects what is wrong with the file.
struct Reading {
    faults: Vec<String>,
}

impl Reading {
    fn table(&mut self, whole: &Value) -> PriceTable {
        let empty = Map::new();
        let whole = self.section("the file", whole).unwrap_or(&empty);
        self.only("", whole, &["currency", "classes", "models"]);
        let currency = whole.get("currency").and_then(Value::as_str).unwrap_or_default();
        if currency.is_empty() || currency.len() > CURRENCY_BYTES || currency.contains(char::is_control) {
            self.fault("currency", "is missing or no name such as EUR");
        }
        let mut table = PriceTable::new(currency);
        let classes = whole
            .get("classes")
            .and_then(|classes| self.section("classes", classes));
        for (name, factor) in classes.unwrap_or(&empty) {
            let place = format!("classes.{name}");
            match (BillingClass::named(name), self.factor(&place, factor)) {
                (Some(class), Some(factor)) => table = table.with_factor(class, factor),
                (Some(_), None) => {}
                (None, _) => {
                    let known = BillingClass::ALL.map(BillingClass::name).join(", ");
                    self.fault(&place, &format!("is no class of requests; known are {known}"));
                }
            }
        }
        let models = whole
            .get("models")
            .and_then(|models| self.section("models", models));
        if models.is_none_or(Map::is_empty) {
            self.fault("models", "is missing or empty");
        }
        for (name, prices) in models.unwrap_or(&empty) {
            if let Some(rates) = self.rates(&format!("models.{name}"), prices) {
                let model = (name != OTHERS).then(|| ModelName::new(name));
                table = table.with_rates(model, rates);
            }
        }
        table
    }

    fn rates(&mut self, place: &str, prices: &Value) -> Option<Rates> {
        let prices = self.section(place, prices)?;
        self.only(
            &format!("{place}."),
            prices,
            &["prompt", "cached_prompt", "completion"],
        );
        let mut price = |name: &str| {
            let place = format!("{place}.{name}");
            let Some(value) = prices.get(name) else {
                self.fault(&place, "is missing");
                return None;
            };
            let nanos = value.as_u64().filter(|nanos| *nanos <= MOST_NANOS);
            if nanos.is_none() {
                let text = format!("`{value}` is no whole number of nanos from 0 to {MOST_NANOS}");
                self.fault(&place, &text);
            }
            nanos
        };
        let prompt = price("prompt");
        // Nobody has said that a cached one is cheaper.
        let cached_prompt = if prices.contains_key("cached_prompt") {
            price("cached_prompt")
        } else {
            prompt
        };
        Some(Rates {
            completion: price("completion")?,
            prompt: prompt?,
            cached_prompt: cached_prompt?,
            factor: Factor::WHOLE,
        })
    }

    fn factor(&mut self, place: &str, value: &Value) -> Option<Factor> {
        let factor = thousandths(&value.to_string()).and_then(Factor::thousandths);
        if factor.is_none() {
            let text = format!("`{value}` is no number from 0 to 10 with three decimals at most");
            self.fault(place, &text);
        }
        factor
    }

    fn section<'a>(&mut self, place: &str, value: &'a Value) -> Option<&'a Map<String, Value>> {
        let section = value.as_object();
        if section.is_none() {
            self.fault(place, "is no section with keys");
        }
        section
    }

    fn only(&mut self, prefix: &str, section: &Map<String, Value>, known: &[&str]) {
        for name in section.keys().filter(|name| !known.contains(&name.as_str())) {
            let known = known.join(", ");
            self.fault(
                &format!("{prefix}{name}"),
                &format!("is not known here; known are {known}"),
            );
        }
    }

    fn fault(&mut self, place: &str, text: &str) {
        self.faults.push(format!("{place}: {text}"));
    }
}

/// `0.5` is 500: read as it is written, since no binary fraction is a tenth.
fn thousandths(text: &str) -> Option<u32> {
    let (whole, rest) = text.split_once('.').unwrap_or((text, ""));
    let is_plain = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || rest.len() > 3 || !is_plain(whole) || !is_plain(rest) {
        return None;
    }
    let whole: u32 = whole.parse().ok()?;
    let rest: u32 = format!("{rest:0<3}").parse().ok()?;
    whole.checked_mul(1000)?.checked_add(rest)
}

#[cfg(test)]
mod tests {
    use vlinders_ledger::Tokens;

    use super::*;

    fn read(text: &str) -> Result<PriceTable, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("prices.yaml");
        std::fs::write(&path, text).unwrap();
        let mut checks = Checks::default();
        let table = PriceArgs { prices: Some(path) }.read(&mut checks);
        checks.finish().map_err(|faults| faults.to_string())?;
        Ok(table.unwrap())
    }

    #[test]
    fn a_table_prices_models_by_name_and_classes_by_factor() {
        let table = read(
            "currency: EUR\nclasses: {batch: 0.5, cached: 0.125}\nmodels:\n  \"*\": {prompt: 2000000, completion: 8000000}\n  \
             m/one: {prompt: 1000000, cached_prompt: 0, completion: 1000000}\n",
        )
        .unwrap();
        let tokens = Tokens {
            prompt: 10,
            cached: 4,
            completion: 5,
        };
        let nanos = |model: &str, class| {
            let rates = table.rates(&ModelName::new(model), class).unwrap();
            rates.price(tokens).nanos()
        };
        assert_eq!(table.currency(), "EUR");
        assert_eq!(nanos("any", BillingClass::Standard), 60);
        assert_eq!(nanos("any", BillingClass::Batch), 30);
        assert_eq!(nanos("m/one", BillingClass::Standard), 11);
        // 1.375, to the nearest.
        assert_eq!(nanos("m/one", BillingClass::Cached), 1);
    }

    #[test]
    fn every_fault_is_told_by_its_place() {
        let told = read(
            "classes: {night: 0.5, batch: 11, cached: 0.0001}\nmodels:\n  a: {prompt: 1.5, completion: -1, tax: 3}\n  \
             b: 7\nvat: 19\n",
        )
        .unwrap_err();
        for place in [
            "currency: is missing",
            "classes.night: is no class",
            "classes.batch: `11`",
            "classes.cached: `0.0001`",
            "models.a.prompt: `1.5`",
            "models.a.completion: `-1`",
            "models.a.tax: is not known",
            "models.b: is no section",
            "vat: is not known",
        ] {
            assert!(told.contains(place), "lacks {place}: {told}");
        }
        assert!(told.contains("--prices: ") && !told.contains('\n'), "{told}");
        for text in [
            "currency: EUR\n",
            "currency: EUR\nmodels: {}\n",
            "- 1\n",
            "models: {a: {}}\n",
        ] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_factor_is_what_is_written() {
        for (text, count) in [
            ("0", 0),
            ("1", 1000),
            ("0.5", 500),
            ("0.125", 125),
            ("10.0", 10_000),
        ] {
            assert_eq!(thousandths(text), Some(count), "{text}");
        }
        for text in ["", ".5", "-1", "1e3", "0.0001", "4294968", "\"1\"", "true"] {
            assert_eq!(thousandths(text), None, "{text}");
        }
    }
}
