//! What is kept for a request and settled when it is over: budgets, tokens in a minute, requests at one time.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use redis::cmd;
use tokio::time::{sleep, timeout};
use vlinders_frontend::{
    Admission, BudgetUnit, Caller, Cost, Exhausted, InProcessLimiter, Limiter, RedisLimits, Used,
};
use vlinders_ledger::{Budget, KeyLimits};
use vlinders_service_kit::{Clock, Metrics, SystemClock, Tasks};

use crate::server::RedisServer;
use crate::{caller, cost, limits, redis_limiter};

fn with(limits: KeyLimits) -> Caller {
    Caller {
        limits,
        ..caller("a")
    }
}

fn tokens(count: Option<u64>) -> Budget {
    Budget {
        tokens: count,
        nanos: None,
    }
}

/// Every token costs three nanos.
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

fn refused(admission: Admission) -> Option<(Exhausted, Duration)> {
    match admission {
        Admission::Refused { why, retry_after, .. } => Some((why, retry_after)),
        Admission::Admitted(_) | Admission::Unavailable { .. } => None,
    }
}

/// What every limiter does with a budget of a hundred tokens, or of what they cost.
async fn budgets_conform(limiter: &dyn Limiter, unit: BudgetUnit) {
    let (each, budget): (u64, fn(u64) -> Budget) = match unit {
        BudgetUnit::Tokens => (1, |count| tokens(Some(count))),
        BudgetUnit::Nanos => (3, |count| Budget {
            tokens: None,
            nanos: Some(3 * count),
        }),
    };
    let caller = with(KeyLimits {
        daily: budget(100),
        monthly: budget(1000),
        ..KeyLimits::default()
    });
    let (first, second) = (of(60), of(40));
    for cost in [&first, &second] {
        assert_eq!(refused(limiter.admit(&caller, cost).await), None);
    }
    let (why, retry_after) = refused(limiter.admit(&caller, &of(1)).await).expect("it is spent");
    assert_eq!(why, Exhausted::Budget { unit, left: 0 });
    assert!(retry_after <= Duration::from_secs(24 * 3600));
    // The first used less than was kept for it; telling it twice changes nothing.
    assert!(limiter.settle(&caller, &first, used(10)).await);
    limiter.settle(&caller, &first, used(0)).await;
    let (why, _) = refused(limiter.admit(&caller, &of(51)).await).expect("fifty are left");
    assert_eq!(
        why,
        Exhausted::Budget {
            unit,
            left: 50 * each
        }
    );
    assert_eq!(refused(limiter.admit(&caller, &of(50)).await), None);
    // And this one more.
    assert!(limiter.settle(&caller, &second, used(45)).await);
    let (why, _) = refused(limiter.admit(&caller, &of(1)).await).expect("it is spent");
    assert_eq!(why, Exhausted::Budget { unit, left: 0 });
}

/// What every limiter does with two requests at one time.
async fn streams_conform(limiter: &dyn Limiter) {
    let caller = with(KeyLimits {
        concurrent_streams: Some(2),
        ..KeyLimits::default()
    });
    let running = [of(5), of(5)];
    for cost in &running {
        assert_eq!(refused(limiter.admit(&caller, cost).await), None);
    }
    let (why, _) = refused(limiter.admit(&caller, &of(5)).await).expect("two run");
    assert_eq!(why, Exhausted::Streams { most: 2 });
    assert!(limiter.settle(&caller, &running[0], used(5)).await);
    assert_eq!(refused(limiter.admit(&caller, &of(5)).await), None);
    assert!(refused(limiter.admit(&caller, &of(5)).await).is_some());
}

/// What every limiter does with a hundred tokens a minute.
async fn tokens_conform(limiter: &dyn Limiter) {
    let caller = with(KeyLimits {
        tokens_per_minute: Some(100),
        ..KeyLimits::default()
    });
    let large = of(90);
    let Admission::Admitted(limit) = limiter.admit(&caller, &large).await else {
        panic!("refused");
    };
    let window = limit.tokens.expect("tokens are limited");
    assert_eq!(window.limit, 100);
    assert!((10..=30).contains(&window.remaining), "{window:?}");
    let (why, retry_after) = refused(limiter.admit(&caller, &of(60)).await).expect("ten are left");
    assert_eq!(why, Exhausted::Tokens);
    assert!(retry_after <= Duration::from_secs(30), "{retry_after:?}");
    assert!(limiter.settle(&caller, &large, used(20)).await);
    assert_eq!(refused(limiter.admit(&caller, &of(60)).await), None);
    // More than a minute holds comes in when the minute is whole, and its debt is paid before the next.
    let other = Caller {
        limits: caller.limits,
        ..crate::caller("b")
    };
    let huge = of(5000);
    assert_eq!(refused(limiter.admit(&other, &huge).await), None);
    assert!(limiter.settle(&other, &huge, used(180)).await);
    let (why, retry_after) = refused(limiter.admit(&other, &of(1)).await).expect("in debt");
    assert_eq!(why, Exhausted::Tokens);
    assert!(retry_after > Duration::from_secs(20), "{retry_after:?}");
}

#[tokio::test]
async fn what_is_kept_is_settled_in_the_process() {
    let new = || InProcessLimiter::unlimited(Arc::new(SystemClock));
    budgets_conform(&new(), BudgetUnit::Tokens).await;
    budgets_conform(&new(), BudgetUnit::Nanos).await;
    streams_conform(&new()).await;
    tokens_conform(&new()).await;
}

/// Whatever was written lies in the slot of its key, and expires.
async fn everything_goes_by_itself(server: &RedisServer) {
    let keys: Vec<String> = server.ask(cmd("KEYS").arg("*")).await.unwrap();
    assert!(!keys.is_empty());
    for key in keys {
        assert!(key.contains("{a}") || key.contains("{b}"), "{key}");
        let expires_ms: i64 = server.ask(cmd("PTTL").arg(&key)).await.unwrap();
        assert!(expires_ms > 0, "{key} stays");
    }
}

#[tokio::test]
async fn what_is_kept_is_settled_in_redis() {
    let server = RedisServer::start().await;
    let metrics = Metrics::default();
    let limiter = redis_limiter(&server, limits(1000), &metrics);
    let mut flush = cmd("FLUSHALL");
    for unit in [BudgetUnit::Tokens, BudgetUnit::Nanos] {
        budgets_conform(&limiter, unit).await;
        everything_goes_by_itself(&server).await;
        let _ok: String = server.ask(&mut flush).await.unwrap();
    }
    streams_conform(&limiter).await;
    let _ok: String = server.ask(&mut flush).await.unwrap();
    tokens_conform(&limiter).await;
    everything_goes_by_itself(&server).await;
}

#[tokio::test]
async fn two_frontends_spend_one_budget_to_the_token() {
    let server = RedisServer::start().await;
    let metrics = Metrics::default();
    let frontends = [(); 2].map(|()| redis_limiter(&server, limits(1_000_000), &metrics));
    let caller = with(KeyLimits {
        concurrent_streams: Some(7),
        daily: tokens(Some(10_000)),
        ..KeyLimits::default()
    });
    let ask = |number: usize| {
        let (limiter, caller) = (&frontends[number % 2], &caller);
        async move {
            let cost = of(10 + number as u64 % 30);
            let spent = cost.tokens / (1 + number as u64 % 3);
            match limiter.admit(caller, &cost).await {
                Admission::Admitted(_) => {
                    tokio::task::yield_now().await;
                    assert!(limiter.settle(caller, &cost, used(spent)).await);
                    spent
                }
                Admission::Refused { .. } => 0,
                Admission::Unavailable { .. } => panic!("redis is away"),
            }
        }
    };
    let mut spent = 0;
    // Until nothing that is asked for fits any more, and then a little longer.
    for round in 0..1000 {
        if spent > 9_990 {
            break;
        }
        spent += join_all((0..50).map(|number| ask(round * 50 + number)))
            .await
            .iter()
            .sum::<u64>();
    }
    let period = SystemClock.now_ms() / 86_400_000;
    let keys: Vec<String> = server.ask(cmd("KEYS").arg("vl:limit:{a}:day:*")).await.unwrap();
    let stored: u64 = server.ask(cmd("HGET").arg(&keys[0]).arg("used")).await.unwrap();
    if period == SystemClock.now_ms() / 86_400_000 {
        assert_eq!(stored, spent);
    }
    assert!((9_900..=10_000).contains(&spent), "{spent}");
    let running: u64 = server
        .ask(cmd("ZCARD").arg("vl:limit:{a}:running"))
        .await
        .unwrap();
    assert_eq!(running, 0);
}

#[tokio::test]
async fn a_crashed_frontends_place_comes_back_and_a_living_ones_is_kept() {
    let server = RedisServer::start().await;
    let metrics = Metrics::default();
    let lease = RedisLimits {
        lease: Duration::from_millis(800),
        check_every: Duration::from_millis(100),
        ..limits(1_000_000)
    };
    let caller = with(KeyLimits {
        concurrent_streams: Some(2),
        ..KeyLimits::default()
    });
    let crashed = redis_limiter(&server, lease, &metrics);
    assert_eq!(refused(crashed.admit(&caller, &of(1)).await), None);
    drop(crashed);
    let (living, tasks) = (Arc::new(redis_limiter(&server, lease, &metrics)), Tasks::new());
    living.watch(&tasks);
    let kept = of(1);
    assert_eq!(refused(living.admit(&caller, &kept).await), None);
    let other = redis_limiter(&server, lease, &metrics);
    let back = timeout(Duration::from_secs(30), async {
        while refused(other.admit(&caller, &of(1)).await).is_some() {
            sleep(Duration::from_millis(20)).await;
        }
    });
    back.await.expect("the place of the crashed one comes back");
    assert!(living.settle(&caller, &kept, used(1)).await, "it was not lost");
    tasks.stop(Duration::from_secs(30)).await.unwrap();
}
