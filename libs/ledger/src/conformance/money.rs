//! What every ledger does for whoever collects the money. Each claim gets an empty one.

use vlinders_types::{BillingClass, TenantId, UsageEvent};

use super::event;
use crate::{Ledger, MeterBacklog, MeterEvent, MeterStore, Notice, Noticed, TenantStore};

const HOUR_MS: u64 = 3_600_000;

fn ended(number: u32, finished_ms: u64) -> UsageEvent {
    UsageEvent {
        finished_ms,
        ..event(number)
    }
}

/// Requests and prompt tokens, sorted by tenant, hour and class.
fn lines(mut events: Vec<MeterEvent>) -> Vec<(String, u64, BillingClass, u64, u64)> {
    events.sort_by_key(|event| (event.total.tenant.clone(), event.hour_ms, event.total.class));
    let line = |event: MeterEvent| {
        let total = event.total;
        let tenant = total.tenant.as_str().to_owned();
        (
            tenant,
            event.hour_ms,
            total.class,
            total.requests,
            total.prompt_tokens,
        )
    };
    events.into_iter().map(line).collect()
}

async fn claim(ledger: &dyn MeterStore, now_ms: u64) -> Vec<MeterEvent> {
    let claimed = ledger.claim_meters(now_ms, now_ms + 100, 10).await;
    claimed.expect("events can be claimed")
}

async fn close(ledger: &dyn MeterStore, batch: &str) -> u64 {
    let closed = ledger.close_meters(batch, HOUR_MS * 9).await;
    closed.expect("sums can be closed")
}

async fn with_customer(ledger: &dyn TenantStore) {
    let mapped = ledger.set_customer(&TenantId::new("a"), Some("cus_1")).await;
    assert!(mapped.expect("tenants can be changed"));
}

/// What a customer pays for is in exactly one event, however often and late it is recorded, and with no other tenant's.
///
/// # Panics
/// When it is not.
pub async fn paid_usage_is_in_one_event<L: Ledger + MeterStore + TenantStore>(ledger: &L) {
    let record = async |events: &[UsageEvent]| ledger.record(events).await.expect("recording works");
    // Before there is a customer nobody pays.
    record(&[ended(2, 5)]).await;
    with_customer(ledger).await;
    let batch = UsageEvent {
        class: BillingClass::Batch,
        ..ended(8, HOUR_MS + 2)
    };
    let events = [
        ended(4, 7),
        ended(6, HOUR_MS),
        ended(10, HOUR_MS + 1),
        batch,
        ended(3, 8),
    ];
    record(&events).await;
    record(&events).await;
    assert_eq!(claim(ledger, 1000).await, [], "nothing is closed yet");
    assert_eq!(close(ledger, "one").await, 3);
    record(&[ended(12, HOUR_MS + 5)]).await;
    let claimed = claim(ledger, 1000).await;
    let (standard, batch) = (BillingClass::Standard, BillingClass::Batch);
    let line = |hour_ms, class, requests, tokens| ("a".to_owned(), hour_ms, class, requests, tokens);
    let expected = [
        line(0, standard, 1, 4),
        line(HOUR_MS, standard, 2, 16),
        line(HOUR_MS, batch, 1, 8),
    ];
    assert_eq!(lines(claimed.clone()), expected);
    let mut ids = Vec::from_iter(claimed.iter().map(MeterEvent::id));
    // What came late is an event of its own.
    assert_eq!(close(ledger, "two").await, 1);
    let late = claim(ledger, 1050).await;
    assert_eq!(lines(late.clone()), [line(HOUR_MS, standard, 1, 12)]);
    ids.extend(late.iter().map(MeterEvent::id));
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 4, "each has an id of its own");
    for event in claimed.iter().chain(&late) {
        assert_eq!((event.customer.as_deref(), event.tries), (Some("cus_1"), 1));
    }
}

/// An event is somebody's while it is sent, and due again until it is taken or put aside. Its worth stays as it was.
///
/// # Panics
/// When it is otherwise.
pub async fn an_event_is_due_until_it_is_taken<L: Ledger + MeterStore + TenantStore>(ledger: &L) {
    with_customer(ledger).await;
    let events = [ended(2, 1), ended(4, HOUR_MS), ended(6, 2 * HOUR_MS)];
    ledger.record(&events).await.expect("recording works");
    assert_eq!(close(ledger, "one").await, 3);
    let claimed = claim(ledger, 1000).await;
    assert_eq!(claimed.len(), 3);
    assert_eq!(claim(ledger, 1050).await, [], "they are somebody's");
    let changed = async {
        ledger.meter_sent(&claimed[0], 1060).await?;
        ledger.value_meter(&claimed[1], 77).await?;
        ledger.put_off_meter(&claimed[1], 5000).await?;
        ledger.park_meter(&claimed[2], "no").await
    };
    changed.await.expect("events can be changed");
    assert_eq!(claim(ledger, 4999).await, []);
    for (now_ms, tries) in [(5000, 2), (5100, 3)] {
        let again = claim(ledger, now_ms).await;
        assert_eq!(again.len(), 1);
        assert_eq!((again[0].id(), again[0].value), (claimed[1].id(), Some(77)));
        assert_eq!((again[0].tries, again[0].first_try_ms), (tries, 5000));
    }
    let backlog = ledger.meter_backlog().await.expect("events can be counted");
    let expected = MeterBacklog {
        waiting: 1,
        parked: 1,
    };
    assert_eq!(backlog, expected);
}

/// A customer pays for one tenant; who does not pay is suspended, by the newest word on it and by each word once.
///
/// # Panics
/// When it is otherwise.
pub async fn notices_suspend_and_resume<L: TenantStore>(ledger: &L) {
    let (one, two) = (TenantId::new("one"), TenantId::new("two"));
    let customer = async |tenant: &TenantId, customer: Option<&str>| {
        ledger
            .set_customer(tenant, customer)
            .await
            .expect("tenants can be changed")
    };
    assert!(customer(&one, Some("cus_1")).await);
    assert!(customer(&one, Some("cus_1")).await, "again");
    assert!(!customer(&two, Some("cus_1")).await, "it pays for another");
    assert!(customer(&two, Some("cus_2")).await);
    let suspended = async || {
        let mut tenants = ledger.suspended_tenants().await.expect("tenants can be read");
        tenants.sort();
        tenants
    };
    let notice = async |id: &str, written_s: u64, pays: bool| {
        let notice = Notice {
            id: id.to_owned(),
            written_s,
            customer: "cus_1".to_owned(),
            pays,
        };
        ledger
            .take_notice(&notice, 99)
            .await
            .expect("tenants can be changed")
    };
    assert_eq!(notice("e1", 10, false).await, Noticed::New);
    assert_eq!(suspended().await, std::slice::from_ref(&one));
    assert_eq!(notice("e2", 10, true).await, Noticed::New);
    assert_eq!(suspended().await, []);
    assert_eq!(notice("e1", 10, false).await, Noticed::Again);
    assert_eq!(suspended().await, [], "a word that comes again changes nothing");
    assert_eq!(notice("e3", 9, false).await, Noticed::New);
    assert_eq!(suspended().await, [], "an older word changes nothing");
    assert_eq!(notice("e4", 11, false).await, Noticed::New);
    // What an operator halts goes on when the operator says so, whoever pays.
    ledger
        .halt_tenant(&one, Some(5))
        .await
        .expect("tenants can be changed");
    assert_eq!(notice("e5", 12, true).await, Noticed::New);
    assert_eq!(suspended().await, std::slice::from_ref(&one));
    ledger
        .halt_tenant(&one, None)
        .await
        .expect("tenants can be changed");
    ledger
        .halt_tenant(&TenantId::new("three"), Some(6))
        .await
        .expect("tenants can be changed");
    assert_eq!(suspended().await, [TenantId::new("three")]);
    let accounts = ledger.tenant_accounts().await.expect("tenants can be read");
    let told = accounts.iter().map(|account| {
        (
            account.tenant.as_str(),
            account.customer.as_deref(),
            account.is_suspended(),
        )
    });
    let expected = [
        ("one", Some("cus_1"), false),
        ("three", None, true),
        ("two", Some("cus_2"), false),
    ];
    assert_eq!(Vec::from_iter(told), expected);
    ledger.forget_notices(100).await.expect("tenants can be changed");
    assert_eq!(notice("e1", 1, false).await, Noticed::New);
}
