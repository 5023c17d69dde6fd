//! The price table, and the one function that prices tokens.

use std::collections::BTreeMap;

use vlinders_types::{BillingClass, ModelName, TokenCounts};

use super::Amount;
use crate::UsageTotal;

/// Tokens to be priced, of one request or of many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    /// Of prompts, those found in a cache included.
    pub prompt: u64,
    /// Of these, found in a cache.
    pub cached: u64,
    /// Generated.
    pub completion: u64,
}

impl From<TokenCounts> for Tokens {
    fn from(counts: TokenCounts) -> Self {
        Self {
            prompt: counts.prompt.into(),
            cached: counts.cached.into(),
            completion: counts.completion.into(),
        }
    }
}

impl From<&UsageTotal> for Tokens {
    fn from(total: &UsageTotal) -> Self {
        Self {
            prompt: total.prompt_tokens,
            cached: total.cached_tokens,
            completion: total.completion_tokens,
        }
    }
}

/// What a class of requests pays of the price, in thousandths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Factor(u32);

impl Factor {
    /// The whole price.
    pub const WHOLE: Self = Self(1000);
    /// Ten times the price.
    pub const MOST: Self = Self(10_000);

    /// So many thousandths, of which there are [`Factor::MOST`] at most.
    #[must_use]
    pub fn thousandths(count: u32) -> Option<Self> {
        Some(Self(count)).filter(|factor| factor.0 <= Self::MOST.0)
    }
}

/// Prices of one model for one class of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rates {
    /// Nanos for a million prompt tokens that had to be computed.
    pub prompt: u64,
    /// Nanos for a million prompt tokens that were found in a cache.
    pub cached_prompt: u64,
    /// Nanos for a million generated tokens.
    pub completion: u64,
    /// What the class pays of that.
    pub factor: Factor,
}

impl Rates {
    /// What these tokens cost. Linear: parts add up to the whole, exactly.
    #[must_use]
    pub fn price(&self, tokens: Tokens) -> Amount {
        let computed = tokens.prompt.saturating_sub(tokens.cached);
        let cached = tokens.cached.min(tokens.prompt);
        let kinds = [
            (computed, self.prompt),
            (cached, self.cached_prompt),
            (tokens.completion, self.completion),
        ];
        // Nanos for a million tokens, times thousandths: billionths of a nano for each token.
        let parts = kinds.map(|(count, price)| {
            let whole = u128::from(count) * u128::from(price);
            whole.saturating_mul(self.factor.0.into())
        });
        parts.into_iter().map(Amount::of_parts).sum()
    }

    /// The most that so many tokens can cost, whatever of the prompt is found in a cache.
    #[must_use]
    pub fn most(&self, prompt: u64, completion: u64) -> Amount {
        let tokens = |cached| Tokens {
            prompt,
            cached,
            completion,
        };
        self.price(tokens(0)).max(self.price(tokens(prompt)))
    }
}

/// What tokens cost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PriceTable {
    /// What a thousand million nanos are one of, such as `EUR`.
    currency: String,
    models: BTreeMap<ModelName, Rates>,
    others: Option<Rates>,
    factors: BTreeMap<BillingClass, Factor>,
}

impl PriceTable {
    /// A table without prices.
    #[must_use]
    pub fn new(currency: &str) -> Self {
        Self {
            currency: currency.to_owned(),
            models: BTreeMap::new(),
            others: None,
            factors: BTreeMap::new(),
        }
    }

    /// With prices of one model, or of every model that has none of its own.
    #[must_use]
    pub fn with_rates(mut self, model: Option<ModelName>, rates: Rates) -> Self {
        match model {
            Some(model) => {
                self.models.insert(model, rates);
            }
            None => self.others = Some(rates),
        }
        self
    }

    /// With what a class of requests pays of the price; without, it is the whole.
    #[must_use]
    pub fn with_factor(mut self, class: BillingClass, factor: Factor) -> Self {
        self.factors.insert(class, factor);
        self
    }

    /// The currency's name.
    #[must_use]
    pub fn currency(&self) -> &str {
        &self.currency
    }

    /// The prices of a model for a class of requests. None: nobody has set them.
    #[must_use]
    pub fn rates(&self, model: &ModelName, class: BillingClass) -> Option<Rates> {
        let rates = self.models.get(model).or(self.others.as_ref())?;
        let factor = self.factors.get(&class).copied();
        Some(Rates {
            factor: factor.unwrap_or(rates.factor),
            ..*rates
        })
    }

    /// What a sum of usage cost, where there are prices for it.
    #[must_use]
    pub fn amount(&self, total: &UsageTotal) -> Option<Amount> {
        let rates = self.rates(&total.model, total.class)?;
        Some(rates.price(total.into()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rates(prompt: u64, cached_prompt: u64, completion: u64, thousandths: u32) -> Rates {
        Rates {
            prompt,
            cached_prompt,
            completion,
            factor: Factor::thousandths(thousandths).unwrap(),
        }
    }

    fn tokens((computed, cached, completion): (u64, u64, u64)) -> Tokens {
        Tokens {
            prompt: computed + cached,
            cached,
            completion,
        }
    }

    #[test]
    fn prices_are_for_a_million_tokens_and_a_class_pays_its_share() {
        let standard = rates(3_000_000_000, 300_000_000, 15_000_000_000, 1000);
        let used = tokens((1000, 500, 200));
        // 1000 · 3000 + 500 · 300 + 200 · 15000.
        assert_eq!(standard.price(used).nanos(), 6_150_000);
        let table = PriceTable::new("EUR")
            .with_rates(None, standard)
            .with_rates(Some(ModelName::new("free")), rates(0, 0, 0, 1000))
            .with_factor(BillingClass::Batch, Factor(500))
            .with_factor(BillingClass::Cached, Factor(0));
        let cost = |model: &str, class| {
            let rates = table.rates(&ModelName::new(model), class).unwrap();
            rates.price(used).nanos()
        };
        assert_eq!(cost("any", BillingClass::Standard), 6_150_000);
        assert_eq!(cost("any", BillingClass::Batch), 3_075_000);
        assert_eq!(cost("any", BillingClass::Cached), 0);
        assert_eq!(cost("free", BillingClass::Standard), 0);
        let nobody = PriceTable::new("EUR").rates(&ModelName::new("any"), BillingClass::Standard);
        assert_eq!(nobody, None);
        assert_eq!(Factor::thousandths(10_001), None);
    }

    prop_compose! {
        fn any_rates()(
            prompt in 0..=1_000_000_000_000_000_u64,
            cached in 0..=1_000_000_000_000_000_u64,
            completion in 0..=1_000_000_000_000_000_u64,
            factor in 0_u32..=10_000,
        ) -> Rates {
            rates(prompt, cached, completion, factor)
        }
    }

    /// Requests that cost less than there are numbers for nanos.
    fn any_tokens() -> impl Strategy<Value = Vec<(u64, u64, u64)>> {
        let count = 0..=10_000_000_u64;
        prop::collection::vec((count.clone(), count.clone(), count), 1..20)
    }

    proptest! {
        #[test]
        fn requests_add_up_to_their_sum_in_any_order(rates in any_rates(), mut requests in any_tokens()) {
            let price = |requests: &[(u64, u64, u64)]| -> Amount {
                requests.iter().map(|request| rates.price(tokens(*request))).sum()
            };
            let sum = requests.iter().fold((0, 0, 0), |sum, request| {
                (sum.0 + request.0, sum.1 + request.1, sum.2 + request.2)
            });
            let whole = rates.price(tokens(sum));
            prop_assert_eq!(price(&requests), whole);
            requests.reverse();
            prop_assert_eq!(price(&requests), whole);
        }

        #[test]
        fn each_rounding_is_off_by_half_a_nano_at_most(rates in any_rates(), requests in any_tokens()) {
            let amounts = Vec::from_iter(requests.iter().map(|request| rates.price(tokens(*request))));
            let rounded: u128 = amounts.iter().map(|amount| u128::from(amount.nanos())).sum();
            let whole = u128::from(amounts.iter().copied().sum::<Amount>().nanos());
            prop_assert!(rounded.abs_diff(whole) <= amounts.len() as u128 / 2 + 1);
        }

        #[test]
        fn prices_that_are_whole_nanos_for_a_token_leave_nothing_to_round(
            (prompt, cached, completion) in (0_u64..1_000_000, 0_u64..1_000_000, 0_u64..1_000_000),
            requests in any_tokens(),
        ) {
            let rates = rates(prompt * 1_000_000, cached * 1_000_000, completion * 1_000_000, 1000);
            let amounts = Vec::from_iter(requests.iter().map(|request| rates.price(tokens(*request))));
            let rounded: u64 = amounts.iter().map(|amount| amount.nanos()).sum();
            prop_assert_eq!(rounded, amounts.into_iter().sum::<Amount>().nanos());
        }

        #[test]
        fn no_request_costs_more_than_the_most(rates in any_rates(), requests in any_tokens()) {
            for (computed, cached, completion) in requests {
                let price = rates.price(tokens((computed, cached, completion)));
                prop_assert!(price <= rates.most(computed + cached, completion));
                prop_assert!(rates.most(computed, completion) <= rates.most(computed + cached, completion));
            }
        }
    }
}
