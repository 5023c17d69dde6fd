//! One bucket for all frontends.

use std::time::{Duration, Instant};

use futures::future::join_all;
use redis::cmd;
use tokio::time::{sleep, timeout};
use vlinders_frontend::{Admission, Limiter};
use vlinders_service_kit::Metrics;

use crate::server::RedisServer;
use crate::{admitted, caller, cost, limits, redis_limiter};

const BUCKET: &str = "vl:limit:{a}:requests";

#[tokio::test]
async fn two_frontends_together_let_in_what_one_may() {
    let server = RedisServer::start().await;
    let metrics = Metrics::default();
    let frontends = [(); 2].map(|()| redis_limiter(&server, limits(30), &metrics));
    let started = Instant::now();
    let caller = caller("a");
    let costs = Vec::from_iter((0..400).map(|_| cost()));
    let asked = (0..400).map(|number: usize| frontends[number % 2].admit(&caller, &costs[number]));
    let admissions = join_all(asked).await;
    let let_in = admissions.into_iter().filter_map(admitted).count();
    // One more every two seconds.
    let filled = usize::try_from(started.elapsed().as_secs()).unwrap() / 2 + 1;
    assert!((30..=30 + filled).contains(&let_in), "{let_in}");
    assert!(
        metrics
            .encode()
            .contains("vlinders_limiter_outage_requests_total{policy=\"limit_locally\"} 0")
    );
}

#[tokio::test]
async fn refused_requests_do_not_make_the_wait_longer() {
    let server = RedisServer::start().await;
    let metrics = Metrics::default();
    // Two requests at once, and one more every 300 ms: no minute has to pass.
    let limiter = redis_limiter(&server, limits(200), &metrics);
    let caller = caller("a");
    while admitted(limiter.admit(&caller, &cost()).await).is_some() {}
    let full_at: f64 = server.ask(cmd("GET").arg(BUCKET)).await.unwrap();
    let expires_ms: i64 = server.ask(cmd("PEXPIRETIME").arg(BUCKET)).await.unwrap();
    let mut refusals = 0;
    let last = loop {
        match limiter.admit(&caller, &cost()).await {
            Admission::Refused { retry_after, .. } => {
                refusals += 1;
                assert!(retry_after <= Duration::from_millis(300), "{retry_after:?}");
                let (now_full, now_expires): (f64, i64) = (
                    server.ask(cmd("GET").arg(BUCKET)).await.unwrap(),
                    server.ask(cmd("PEXPIRETIME").arg(BUCKET)).await.unwrap(),
                );
                assert_eq!((now_full, now_expires), (full_at, expires_ms));
            }
            Admission::Admitted(limit) => break limit.requests.unwrap(),
            Admission::Unavailable { .. } => panic!("redis is there"),
        }
    };
    assert_eq!(last.remaining, 0);
    assert!(refusals > 0);
    // The bucket expires when it is full, to the millisecond or two in which the server rounds.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "milliseconds since 1970 are far from the limit"
    )]
    let full_ms = (full_at / 1000.0) as i64;
    assert!(
        (0..=20).contains(&(expires_ms - full_ms)),
        "{expires_ms} {full_ms}"
    );
}

#[tokio::test]
async fn a_full_bucket_leaves_nothing_in_redis() {
    let server = RedisServer::start().await;
    let metrics = Metrics::default();
    let limiter = redis_limiter(&server, limits(600), &metrics);
    assert!(admitted(limiter.admit(&caller("a"), &cost()).await).is_some());
    limiter.check().await.unwrap();
    // The server counts what has expired until it has time to remove it.
    let emptied = timeout(Duration::from_secs(30), async {
        while server.ask::<u64>(&mut cmd("DBSIZE")).await.unwrap() > 0 {
            sleep(Duration::from_millis(20)).await;
        }
    });
    emptied.await.expect("every bucket expires");
}

#[tokio::test]
async fn a_clock_that_was_set_back_locks_nobody_out() {
    let server = RedisServer::start().await;
    let metrics = Metrics::default();
    let limiter = redis_limiter(&server, limits(60), &metrics);
    // Full again in a hundred years.
    let far = "4936870000000000";
    let _set: String = server.ask(cmd("SET").arg(BUCKET).arg(far)).await.unwrap();
    let Admission::Refused { retry_after, .. } = limiter.admit(&caller("a"), &cost()).await else {
        panic!("admitted");
    };
    assert!(retry_after <= Duration::from_secs(61), "{retry_after:?}");
}
