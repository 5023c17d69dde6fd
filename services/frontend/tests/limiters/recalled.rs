//! A budget that was spent stays spent, whoever forgets it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use redis::cmd;
use tempfile::TempDir;
use vlinders_frontend::{
    Admission, BudgetUnit, Caller, Cost, Exhausted, InProcessLimiter, Limiter, PastUse, RedisLimiter, Used,
};
use vlinders_ledger::conformance::event;
use vlinders_ledger::{
    Budget, Factor, KeyLimits, Ledger, LedgerError, PriceTable, Rates, Recorded, SqliteLedger, UsagePeriod,
    UsageQuery, UsageReports, UsageTotal,
};
use vlinders_service_kit::{Clock, Metrics, SystemClock};
use vlinders_types::{KeyId, RequestId, TokenCounts, UsageEvent};

use crate::server::RedisServer;
use crate::{caller, cost, limits, redis_limiter};

/// A ledger in a scratch file that can be away.
struct Books {
    inner: SqliteLedger,
    _folder: TempDir,
    is_away: AtomicBool,
}

impl Books {
    fn new() -> Arc<Self> {
        let folder = tempfile::tempdir().unwrap();
        Arc::new(Self {
            inner: SqliteLedger::open(&folder.path().join("usage.sqlite")).unwrap(),
            _folder: folder,
            is_away: AtomicBool::new(false),
        })
    }

    /// Writes down what a request has used.
    async fn write(&self, key: &str, request: RequestId, tokens: u32) {
        let now_ms = SystemClock.now_ms();
        let event = UsageEvent {
            request_id: request,
            tenant: caller(key).tenant,
            key: KeyId::new(key),
            counts: TokenCounts {
                prompt: tokens,
                cached: 0,
                completion: 0,
            },
            created_ms: now_ms,
            finished_ms: now_ms + 1,
            ..event(0)
        };
        assert_eq!(self.inner.record(&[event]).await.unwrap().inserted, 1);
    }

    /// Every token costs three nanos.
    fn past(self: &Arc<Self>) -> Option<Arc<PastUse>> {
        let rates = Rates {
            prompt: 3_000_000,
            cached_prompt: 0,
            completion: 3_000_000,
            factor: Factor::WHOLE,
        };
        let prices = PriceTable::new("EUR").with_rates(None, rates);
        let reports = Arc::clone(self) as Arc<dyn UsageReports>;
        Some(Arc::new(PastUse::new(reports, Some(Arc::new(prices)))))
    }
}

#[async_trait]
impl Ledger for Books {
    async fn record(&self, events: &[UsageEvent]) -> Result<Recorded, LedgerError> {
        self.inner.record(events).await
    }
    async fn usage(&self, query: &UsageQuery) -> Result<Vec<UsageEvent>, LedgerError> {
        self.inner.usage(query).await
    }
    async fn totals(&self, query: &UsageQuery) -> Result<Vec<UsageTotal>, LedgerError> {
        if self.is_away.load(Ordering::Relaxed) {
            return Err(LedgerError::Closed);
        }
        self.inner.totals(query).await
    }
}

#[async_trait]
impl UsageReports for Books {
    async fn periods(&self, query: &UsageQuery, period_ms: u64) -> Result<Vec<UsagePeriod>, LedgerError> {
        self.inner.periods(query, period_ms).await
    }
}

/// A hundred tokens a month, or what they cost.
fn with_budget(key: &str, unit: BudgetUnit) -> Caller {
    let monthly = match unit {
        BudgetUnit::Tokens => Budget {
            tokens: Some(100),
            nanos: None,
        },
        BudgetUnit::Nanos => Budget {
            tokens: None,
            nanos: Some(300),
        },
    };
    Caller {
        limits: KeyLimits {
            monthly,
            ..KeyLimits::default()
        },
        ..caller(key)
    }
}

fn of(tokens: u64) -> Cost {
    Cost {
        tokens,
        nanos: 3 * tokens,
        ..cost()
    }
}

fn used(tokens: u64) -> Used {
    Used {
        tokens,
        nanos: 3 * tokens,
    }
}

/// Tokens that are left, found out by asking for more than there can be.
async fn left(limiter: &dyn Limiter, caller: &Caller) -> u64 {
    let admission = limiter.admit(caller, &of(1000)).await;
    let Admission::Refused {
        why: Exhausted::Budget { unit, left },
        ..
    } = admission
    else {
        panic!("{admission:?}");
    };
    match unit {
        BudgetUnit::Tokens => left,
        BudgetUnit::Nanos => left / 3,
    }
}

async fn admit(limiter: &dyn Limiter, caller: &Caller, tokens: u64) -> Cost {
    let cost = of(tokens);
    let admission = limiter.admit(caller, &cost).await;
    assert!(matches!(admission, Admission::Admitted(_)), "{admission:?}");
    cost
}

async fn wipe(server: &RedisServer) {
    let _ok: String = server.ask(&mut cmd("FLUSHALL")).await.unwrap();
}

fn shared(server: &RedisServer, books: &Arc<Books>) -> RedisLimiter {
    redis_limiter(server, limits(1000), &Metrics::default()).with_past(books.past())
}

#[tokio::test]
async fn after_redis_was_wiped_a_spent_budget_is_spent() {
    let server = RedisServer::start().await;
    let books = Books::new();
    let frontends = [shared(&server, &books), shared(&server, &books)];
    for (key, unit) in [("a", BudgetUnit::Tokens), ("b", BudgetUnit::Nanos)] {
        let caller = with_budget(key, unit);
        let ended = admit(&frontends[0], &caller, 50).await;
        books.write(key, ended.request, 30).await;
        assert!(frontends[0].settle(&caller, &ended, used(30)).await);
        assert_eq!(left(&frontends[1], &caller).await, 70);
        // Two run when all is lost. Nobody is there to tell of them but they themselves.
        let running = admit(&frontends[0], &caller, 20).await;
        let other = admit(&frontends[1], &caller, 10).await;
        assert_eq!(left(&frontends[0], &caller).await, 40);
        wipe(&server).await;
        assert_eq!(left(&frontends[1], &caller).await, 70);
        assert!(frontends[0].settle(&caller, &running, used(15)).await);
        assert!(frontends[1].settle(&caller, &other, used(10)).await);
        assert_eq!(left(&frontends[0], &caller).await, 45);
        // Each of them once.
        frontends[0].settle(&caller, &running, used(15)).await;
        assert_eq!(left(&frontends[0], &caller).await, 45);
        // What comes after is settled as ever.
        let after = admit(&frontends[1], &caller, 45).await;
        assert_eq!(left(&frontends[0], &caller).await, 0);
        assert!(frontends[1].settle(&caller, &after, used(5)).await);
        assert_eq!(left(&frontends[0], &caller).await, 40);
    }
}

#[tokio::test]
async fn a_process_that_begins_again_remembers_what_was_spent() {
    let books = Books::new();
    for (key, unit) in [("a", BudgetUnit::Tokens), ("b", BudgetUnit::Nanos)] {
        let caller = with_budget(key, unit);
        for life in 0..3 {
            let limiter = InProcessLimiter::unlimited(Arc::new(SystemClock)).with_past(books.past());
            assert_eq!(left(&limiter, &caller).await, 100 - 20 * life);
            let cost = admit(&limiter, &caller, 30).await;
            assert_eq!(left(&limiter, &caller).await, 70 - 20 * life);
            books.write(key, cost.request, 20).await;
            assert!(limiter.settle(&caller, &cost, used(20)).await);
            assert_eq!(left(&limiter, &caller).await, 80 - 20 * life);
        }
    }
}

#[tokio::test]
async fn a_budget_nobody_can_tell_of_lets_nobody_in() {
    let server = RedisServer::start().await;
    let books = Books::new();
    let shared = shared(&server, &books);
    let alone = InProcessLimiter::unlimited(Arc::new(SystemClock)).with_past(books.past());
    let caller = with_budget("a", BudgetUnit::Tokens);
    for limiter in [&shared as &dyn Limiter, &alone] {
        books.is_away.store(true, Ordering::Relaxed);
        let admission = limiter.admit(&caller, &of(1)).await;
        assert!(
            matches!(admission, Admission::Unavailable { .. }),
            "{admission:?}"
        );
        // Who has no budget is not asked about.
        assert!(matches!(
            limiter.admit(&crate::caller("b"), &of(1)).await,
            Admission::Admitted(_)
        ));
        books.is_away.store(false, Ordering::Relaxed);
        assert_eq!(left(limiter, &caller).await, 100);
        // Once it is known, the ledger may be away.
        books.is_away.store(true, Ordering::Relaxed);
        assert_eq!(left(limiter, &caller).await, 100);
    }
}
