//! What every ledger says of usage by stretches of time. Each claim gets an empty one.

use vlinders_types::{BillingClass, KeyId, ModelName, TenantId};

use super::event;
use crate::{Amount, Factor, Ledger, PriceTable, Rates, UsageQuery, UsageReports};

/// Sums by stretch hold each request once, whenever it was recorded, and asking changes nothing.
///
/// # Panics
/// When they do not.
pub async fn periods_are_sums_also_of_what_came_late<L: Ledger + UsageReports>(ledger: &L) {
    let mut events = Vec::from_iter((0..8).map(event));
    for (event, finished_ms) in events
        .iter_mut()
        .zip([0, 999, 1000, 1001, 1999, 2000, 7000, 7001])
    {
        event.finished_ms = finished_ms;
    }
    events[1].key = KeyId::new("another");
    let late = events.split_off(4);
    let told = async |query: UsageQuery| {
        let periods = ledger.periods(&query, 1000).await.expect("summing works");
        let line = |period: crate::UsagePeriod| {
            let total = period.total;
            (
                period.start_ms,
                total.tenant.as_str().to_owned(),
                total.requests,
                total.prompt_tokens,
            )
        };
        Vec::from_iter(periods.into_iter().map(line))
    };
    let row = |start_ms: u64, tenant: &str, requests: u64, prompt: u64| {
        (start_ms, tenant.to_owned(), requests, prompt)
    };
    ledger.record(&events).await.expect("recording works");
    let early = [
        row(0, "a", 1, 0),
        row(0, "b", 1, 1),
        row(1000, "a", 1, 2),
        row(1000, "b", 1, 3),
    ];
    for _ in 0..2 {
        assert_eq!(told(UsageQuery::default()).await, early);
        ledger.record(&events).await.expect("recording works");
    }
    ledger.record(&late).await.expect("recording works");
    let all = [
        row(0, "a", 1, 0),
        row(0, "b", 1, 1),
        row(1000, "a", 2, 6),
        row(1000, "b", 1, 3),
        row(2000, "b", 1, 5),
        row(7000, "a", 1, 6),
        row(7000, "b", 1, 7),
    ];
    assert_eq!(told(UsageQuery::default()).await, all);
    let narrow = UsageQuery {
        tenant: Some(TenantId::new("b")),
        key: Some(KeyId::new("key")),
        from_ms: Some(1000),
        until_ms: Some(7000),
        ..UsageQuery::default()
    };
    assert_eq!(
        told(narrow.clone()).await,
        [row(1000, "b", 1, 3), row(2000, "b", 1, 5)]
    );
    let first = UsageQuery {
        limit: Some(1),
        ..narrow
    };
    assert_eq!(told(first).await, [row(1000, "b", 1, 3)]);
}

/// Whatever the stretch, what its sums cost is what its rows cost, to the last part of a nano.
///
/// # Panics
/// When it is not.
pub async fn sums_cost_what_their_rows_cost<L: Ledger + UsageReports>(ledger: &L) {
    let rates = |prompt, cached_prompt, completion| Rates {
        prompt,
        cached_prompt,
        completion,
        factor: Factor::WHOLE,
    };
    let prices = PriceTable::new("EUR")
        .with_rates(None, rates(2_500_001, 333_333, 9_999_999))
        .with_rates(Some(ModelName::new("other")), rates(7, 1, 3))
        .with_factor(
            BillingClass::Batch,
            Factor::thousandths(333).expect("a third is a factor"),
        );
    let events = (0..60).map(|number| {
        let mut event = event(number);
        event.class = BillingClass::ALL[number as usize % 3];
        event.finished_ms = 1000 + 777 * u64::from(number);
        if number % 5 == 0 {
            event.model = ModelName::new("other");
        }
        event
    });
    ledger
        .record(&Vec::from_iter(events))
        .await
        .expect("recording works");
    let rows = ledger.usage(&UsageQuery::default()).await.expect("reading works");
    let of_rows = rows.iter().map(|row| {
        let rates = prices.rates(&row.model, row.class).expect("there are prices");
        rates.price(row.counts.into())
    });
    let expected: Amount = of_rows.sum();
    for period_ms in [1, 1000, 3_600_000, u64::MAX / 2] {
        let periods = ledger
            .periods(&UsageQuery::default(), period_ms)
            .await
            .expect("summing works");
        let amounts = periods.iter().map(|period| prices.amount(&period.total));
        let sum: Option<Amount> = amounts.sum();
        assert_eq!(sum, Some(expected), "{period_ms}");
    }
}
