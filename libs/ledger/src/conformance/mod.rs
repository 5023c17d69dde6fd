//! The suite that every ledger passes. Each claim gets an empty ledger.

pub mod kept;
pub mod keys;
pub mod money;
pub mod periods;
mod postgres_server;

use vlinders_types::{
    BillingClass, FinishReason, KeyId, ModelName, RequestId, TenantId, TokenCounts, UsageEvent, WorkerId,
};

pub use self::postgres_server::PostgresServer;
use crate::{Ledger, Recorded, UsageQuery, UsageReports, UsageTotal};

/// An event whose facts follow from its number: odd ones are tenant `b`'s.
#[must_use]
pub fn event(number: u32) -> UsageEvent {
    let odd = !number.is_multiple_of(2);
    UsageEvent {
        request_id: RequestId::from_parts(1_000, u128::from(number)),
        attempt: number % 3,
        tenant: TenantId::new(if odd { "b" } else { "a" }),
        key: KeyId::new("key"),
        model: ModelName::new("model"),
        writer: WorkerId::new("decode-0"),
        class: BillingClass::Standard,
        counts: TokenCounts {
            prompt: number,
            cached: number / 2,
            completion: 10,
        },
        finish: if odd {
            FinishReason::Cancelled
        } else {
            FinishReason::Length
        },
        stream: odd,
        created_ms: 1_000,
        first_token_ms: odd.then_some(1_500),
        finished_ms: 2_000 + u64::from(number),
    }
}

/// What is recorded reads back as it was, newest first.
///
/// # Panics
/// When it does not.
pub async fn recorded_events_read_back(ledger: &dyn Ledger) {
    let events: Vec<UsageEvent> = (0..5).map(event).collect();
    let recorded = ledger.record(&events).await.expect("recording works");
    assert_eq!(
        recorded,
        Recorded {
            inserted: 5,
            duplicates: 0
        }
    );
    let mut read = ledger.usage(&UsageQuery::default()).await.expect("reading works");
    read.reverse();
    assert_eq!(read, events);
}

/// The same event again changes nothing, alone or among others, even with other numbers in it.
///
/// # Panics
/// When it does.
pub async fn a_request_is_recorded_once(ledger: &dyn Ledger) {
    ledger.record(&[event(1)]).await.expect("recording works");
    let mut other = event(1);
    other.counts.completion = 999;
    let recorded = ledger
        .record(&[event(1), event(2), other, event(2)])
        .await
        .expect("recording works");
    assert_eq!(
        recorded,
        Recorded {
            inserted: 1,
            duplicates: 3
        }
    );
    let read = ledger.usage(&UsageQuery::default()).await.expect("reading works");
    assert_eq!(read, [event(2), event(1)]);
}

/// Every part of a query narrows what it finds.
///
/// # Panics
/// When it does not.
pub async fn queries_narrow(ledger: &dyn Ledger) {
    let events: Vec<UsageEvent> = (0..10).map(event).collect();
    ledger.record(&events).await.expect("recording works");
    let queries = [
        (
            UsageQuery {
                tenant: Some(TenantId::new("b")),
                ..UsageQuery::default()
            },
            vec![9, 7, 5, 3, 1],
        ),
        (
            UsageQuery {
                model: Some(ModelName::new("other")),
                ..UsageQuery::default()
            },
            vec![],
        ),
        (
            UsageQuery {
                from_ms: Some(2_007),
                ..UsageQuery::default()
            },
            vec![9, 8, 7],
        ),
        (
            UsageQuery {
                until_ms: Some(2_002),
                ..UsageQuery::default()
            },
            vec![1, 0],
        ),
        (
            UsageQuery {
                begun_from_ms: Some(1_000),
                begun_until_ms: Some(1_001),
                limit: Some(1),
                ..UsageQuery::default()
            },
            vec![9],
        ),
        (
            UsageQuery {
                begun_from_ms: Some(1_001),
                ..UsageQuery::default()
            },
            vec![],
        ),
        (
            UsageQuery {
                limit: Some(2),
                ..UsageQuery::default()
            },
            vec![9, 8],
        ),
    ];
    for (query, expected) in queries {
        let expected: Vec<UsageEvent> = expected.into_iter().map(event).collect();
        assert_eq!(
            ledger.usage(&query).await.expect("reading works"),
            expected,
            "{query:?}"
        );
    }
}

/// Totals are the sums of what they cover.
///
/// # Panics
/// When they are not.
pub async fn totals_are_sums(ledger: &dyn Ledger) {
    let events: Vec<UsageEvent> = (0..4).map(event).collect();
    ledger.record(&events).await.expect("recording works");
    let total = |tenant: &str, prompt_tokens, cached_tokens| UsageTotal {
        tenant: TenantId::new(tenant),
        model: ModelName::new("model"),
        class: BillingClass::Standard,
        requests: 2,
        prompt_tokens,
        cached_tokens,
        completion_tokens: 20,
    };
    let totals = ledger
        .totals(&UsageQuery::default())
        .await
        .expect("summing works");
    assert_eq!(totals, [total("a", 2, 1), total("b", 4, 1)]);
}

/// What has different prices is summed apart, over all time and by stretches of it.
///
/// # Panics
/// When it is not.
pub async fn classes_are_summed_apart<L: Ledger + UsageReports>(ledger: &L) {
    let of_class = |(number, class): (u32, BillingClass)| UsageEvent {
        class,
        ..event(number * 2)
    };
    let classes = [
        BillingClass::Standard,
        BillingClass::Batch,
        BillingClass::Cached,
        BillingClass::Batch,
    ];
    let events = Vec::from_iter((0..4).zip(classes).map(of_class));
    ledger.record(&events).await.expect("recording works");
    let mut read = ledger.usage(&UsageQuery::default()).await.expect("reading works");
    read.reverse();
    assert_eq!(read, events);
    let expected = [
        (BillingClass::Batch, 2, 8),
        (BillingClass::Cached, 1, 4),
        (BillingClass::Standard, 1, 0),
    ];
    let told = |total: &UsageTotal| (total.class, total.requests, total.prompt_tokens);
    let totals = ledger
        .totals(&UsageQuery::default())
        .await
        .expect("summing works");
    assert_eq!(Vec::from_iter(totals.iter().map(told)), expected);
    let periods = ledger
        .periods(&UsageQuery::default(), 10_000)
        .await
        .expect("summing works");
    assert_eq!(
        Vec::from_iter(periods.iter().map(|period| told(&period.total))),
        expected
    );
}

/// The largest numbers and the strangest names come back as they were.
///
/// # Panics
/// When they do not.
pub async fn extremes_read_back(ledger: &dyn Ledger) {
    let mut large = event(1);
    large.attempt = u32::MAX;
    large.counts = TokenCounts {
        prompt: u32::MAX,
        cached: u32::MAX,
        completion: u32::MAX,
    };
    // The year 10000.
    large.finished_ms = 253_402_300_800_000;
    let mut strange = event(2);
    strange.tenant = TenantId::new("a'; DROP TABLE usage; -- \"\\ {x,y} \u{1F98B}");
    strange.key = KeyId::new("");
    strange.first_token_ms = Some(0);
    let events = [large, strange];
    let recorded = ledger.record(&events).await.expect("recording works");
    assert_eq!(recorded.inserted, 2);
    let read = ledger.usage(&UsageQuery::default()).await.expect("reading works");
    assert_eq!(read, events);
    let nothing = ledger.record(&[]).await.expect("nothing to record is no fault");
    assert_eq!(nothing, Recorded::default());
}
