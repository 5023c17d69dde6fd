//! The limiters: one suite for both, and what Redis adds.

#![expect(
    clippy::unwrap_used,
    reason = "a failed step of a test ends it, here as in the test itself"
)]

mod outages;
mod recalled;
mod sealed;
mod server;
mod settled;
mod shared;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use server::RedisServer;
use vlinders_frontend::{
    Admission, Caller, Cost, InProcessLimiter, Limiter, RedisAddress, RedisLimiter, RedisLimits, Window,
};
use vlinders_service_kit::{Clock, Metrics, SystemClock};
use vlinders_types::{KeyId, RequestId, TenantId};

fn caller(key: &str) -> Caller {
    Caller::new(TenantId::new("tenant"), KeyId::new(key))
}

/// Patient: these tests share their machine with others.
fn limits(per_minute: u32) -> RedisLimits {
    RedisLimits {
        answer_limit: Duration::from_secs(10),
        ..RedisLimits::per_minute(per_minute)
    }
}

fn redis_limiter(server: &RedisServer, limits: RedisLimits, metrics: &Metrics) -> RedisLimiter {
    let address = RedisAddress::parse(&server.address()).unwrap();
    RedisLimiter::new(&address, limits, Arc::new(SystemClock), metrics).unwrap()
}

/// A request that is like no other.
fn cost() -> Cost {
    static ASKED: AtomicU64 = AtomicU64::new(0);
    Cost {
        request: RequestId::from_parts(0, ASKED.fetch_add(1, Ordering::Relaxed).into()),
        started_ms: SystemClock.now_ms(),
        tokens: 0,
        nanos: 0,
    }
}

/// The requests that are left, if it was let in.
fn admitted(admission: Admission) -> Option<Window> {
    match admission {
        Admission::Admitted(limit) => limit.requests,
        Admission::Refused { .. } | Admission::Unavailable { .. } => None,
    }
}

/// What every limiter of three requests in a minute does.
async fn conforms(limiter: &dyn Limiter) {
    let started = Instant::now();
    for left in [2, 1, 0] {
        let limit = admitted(limiter.admit(&caller("a"), &cost()).await).expect("there is room");
        assert_eq!(limit.limit, 3);
        // A slow machine may see the bucket fill.
        assert!(limit.remaining == left || started.elapsed() > Duration::from_secs(20));
        assert!(limit.reset <= Duration::from_secs(60));
    }
    let Admission::Refused {
        limit, retry_after, ..
    } = limiter.admit(&caller("a"), &cost()).await
    else {
        assert!(started.elapsed() > Duration::from_secs(20), "admitted");
        return;
    };
    let limit = limit.requests.unwrap();
    assert_eq!(limit.remaining, 0);
    assert!(retry_after <= Duration::from_secs(20) && limit.reset <= Duration::from_secs(60));
    assert!(
        retry_after + started.elapsed() >= Duration::from_secs(19),
        "{retry_after:?}"
    );
    assert!(admitted(limiter.admit(&caller("b"), &cost()).await).is_some());
}

async fn lets_nothing_in(limiter: &dyn Limiter) {
    let Admission::Refused { limit, .. } = limiter.admit(&caller("a"), &cost()).await else {
        panic!("admitted");
    };
    let limit = limit.requests.unwrap();
    assert_eq!((limit.limit, limit.remaining), (0, 0));
}

#[tokio::test]
async fn the_limiter_in_the_process_conforms() {
    conforms(&InProcessLimiter::per_minute(3, Arc::new(SystemClock))).await;
    lets_nothing_in(&InProcessLimiter::per_minute(0, Arc::new(SystemClock))).await;
}

#[tokio::test]
async fn the_limiter_in_redis_conforms() {
    let server = RedisServer::start().await;
    let metrics = Metrics::default();
    conforms(&redis_limiter(&server, limits(3), &metrics)).await;
    lets_nothing_in(&redis_limiter(&server, limits(0), &metrics)).await;
    assert!(metrics.encode().contains("vlinders_limiter_up{} 1"));
}
