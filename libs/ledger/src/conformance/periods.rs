//! What every ledger says of usage by stretches of time. Each claim gets an empty one.

use vlinders_types::{KeyId, TenantId};

use super::event;
use crate::{Ledger, UsageQuery, UsageReports};

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
    assert_eq!(told(narrow).await, [row(1000, "b", 1, 3), row(2000, "b", 1, 5)]);
}
