//! What usage costs, and where it is written down.

use std::sync::Arc;

use vlinders_ledger::{PriceTable, Rates, UsageReports};
use vlinders_openai_api::ApiError;
use vlinders_types::{BillingClass, ModelName};

use crate::Caller;

/// What a frontend knows of usage beyond the requests it serves.
#[derive(Clone, Default)]
pub struct Books {
    /// The ledger, where there is one to read.
    pub reports: Option<Arc<dyn UsageReports>>,
    /// What tokens cost, where somebody has said so.
    pub prices: Option<Arc<PriceTable>>,
}

impl Books {
    /// What a request of this caller costs. None: nobody counts money.
    ///
    /// # Errors
    /// 403 when the key has a budget of money and nobody knows what the model costs: it could not be held to it.
    pub(crate) fn rates(
        &self,
        caller: &Caller,
        model: &ModelName,
        class: BillingClass,
    ) -> Result<Option<Rates>, ApiError> {
        let prices = self.prices.as_ref();
        let rates = prices.and_then(|prices| prices.rates(model, class));
        let limits = &caller.limits;
        let has_budget = limits.daily.nanos.is_some() || limits.monthly.nanos.is_some();
        if has_budget && rates.is_none() {
            let text = "model: this API key has a budget of money and this model has no price here; use another model \
                        or key";
            return Err(ApiError {
                param: Some("model".to_owned()),
                ..ApiError::new(403, "model_not_priced", text)
            });
        }
        Ok(rates)
    }

    /// An amount as people read it, such as `0.25 EUR`.
    pub(crate) fn shown(&self, nanos: u64) -> String {
        let (whole, rest) = (nanos / 1_000_000_000, nanos % 1_000_000_000);
        let rest = format!("{rest:09}");
        let rest = rest.trim_end_matches('0');
        let point = if rest.is_empty() { "" } else { "." };
        let currency = self.prices.as_ref().map_or("", |prices| prices.currency());
        format!("{whole}{point}{rest} {currency}").trim_end().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_have_no_more_digits_than_they_need() {
        let books = Books {
            prices: Some(Arc::new(PriceTable::new("EUR"))),
            reports: None,
        };
        assert_eq!(books.shown(0), "0 EUR");
        assert_eq!(books.shown(250_000_000), "0.25 EUR");
        assert_eq!(books.shown(12_000_000_001), "12.000000001 EUR");
        assert_eq!(Books::default().shown(1), "0.000000001");
    }
}
