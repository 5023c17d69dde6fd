//! Redis goes away, hangs, or refuses writes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::cmd;
use tokio::time::{sleep, timeout};
use vlinders_frontend::{Admission, DuringOutage, Limiter, RedisFault, RedisLimiter, RedisLimits};
use vlinders_service_kit::{Metrics, Tasks};

use crate::server::RedisServer;
use crate::{admitted, caller, cost, limits, redis_limiter};

fn outage_limits(during_outage: DuringOutage) -> RedisLimits {
    RedisLimits {
        during_outage,
        pause: Duration::from_millis(200),
        ..limits(1000)
    }
}

async fn comes_back(limiter: &RedisLimiter) {
    let back = timeout(Duration::from_secs(30), async {
        while limiter.check().await.is_err() {
            sleep(Duration::from_millis(50)).await;
        }
    });
    back.await.expect("the server is used again");
}

#[tokio::test]
async fn while_redis_is_away_each_frontend_keeps_its_own_limit() {
    let mut server = RedisServer::start().await;
    let metrics = Metrics::default();
    let policy = DuringOutage::LimitLocally { per_minute: 2 };
    let limiter = redis_limiter(&server, outage_limits(policy), &metrics);
    assert_eq!(
        admitted(limiter.admit(&caller("a"), &cost()).await)
            .unwrap()
            .limit,
        1000
    );

    server.crash();
    let limits = [
        limiter.admit(&caller("a"), &cost()).await,
        limiter.admit(&caller("a"), &cost()).await,
    ];
    assert_eq!(limits.map(|it| admitted(it).unwrap().remaining), [1, 0]);
    assert!(admitted(limiter.admit(&caller("a"), &cost()).await).is_none());
    let text = metrics.encode();
    assert!(
        text.contains("limiter_outage_requests_total{policy=\"limit_locally\"} 3"),
        "{text}"
    );
    assert!(text.contains("vlinders_limiter_up{} 0"), "{text}");

    server.start_again().await;
    comes_back(&limiter).await;
    assert_eq!(
        admitted(limiter.admit(&caller("a"), &cost()).await)
            .unwrap()
            .limit,
        1000
    );
    assert!(metrics.encode().contains("vlinders_limiter_up{} 1"));
}

#[tokio::test]
async fn a_frontend_may_rather_refuse_than_lose_count() {
    let mut server = RedisServer::start().await;
    server.crash();
    let metrics = Metrics::default();
    let limiter = redis_limiter(&server, outage_limits(DuringOutage::Refuse), &metrics);
    let retry_after = Duration::from_millis(200);
    assert_eq!(
        limiter.admit(&caller("a"), &cost()).await,
        Admission::Unavailable { retry_after }
    );
    assert!(
        metrics
            .encode()
            .contains("limiter_outage_requests_total{policy=\"refuse\"} 1")
    );
}

#[tokio::test]
async fn a_watched_redis_is_known_to_be_away_and_back_before_anybody_asks() {
    let mut server = RedisServer::start().await;
    let (metrics, tasks) = (Metrics::default(), Tasks::new());
    let limits = RedisLimits {
        check_every: Duration::from_millis(20),
        ..outage_limits(DuringOutage::Refuse)
    };
    let limiter = Arc::new(redis_limiter(&server, limits, &metrics));
    limiter.watch(&tasks);
    let shows = async |state: &str| {
        let shown = timeout(Duration::from_secs(30), async {
            while !metrics.encode().contains(state) {
                sleep(Duration::from_millis(5)).await;
            }
        });
        shown.await.expect(state);
    };
    shows("vlinders_limiter_up{} 1.0\n").await;
    server.crash();
    shows("vlinders_limiter_up{} 0.0\n").await;
    assert!(admitted(limiter.admit(&caller("a"), &cost()).await).is_none());
    server.start_again().await;
    shows("vlinders_limiter_up{} 1.0\n").await;
    assert!(admitted(limiter.admit(&caller("a"), &cost()).await).is_some());
    assert!(
        metrics
            .encode()
            .contains("limiter_outage_requests_total{policy=\"refuse\"} 1\n")
    );
    tasks.stop(Duration::from_secs(30)).await.unwrap();
}

#[tokio::test]
async fn a_redis_that_hangs_holds_up_one_request_in_a_while() {
    let server = RedisServer::start().await;
    let metrics = Metrics::default();
    let limits = RedisLimits {
        answer_limit: Duration::from_millis(500),
        pause: Duration::from_secs(60),
        ..RedisLimits::per_minute(1000)
    };
    let limiter = redis_limiter(&server, limits, &metrics);
    assert!(admitted(limiter.admit(&caller("a"), &cost()).await).is_some());
    server.signal("STOP");
    let started = Instant::now();
    for _ in 0..100 {
        assert!(admitted(limiter.admit(&caller("a"), &cost()).await).is_some());
    }
    let waited = started.elapsed();
    assert!(
        waited >= Duration::from_millis(500) && waited < Duration::from_secs(10),
        "{waited:?}"
    );
    server.signal("CONT");
    comes_back(&limiter).await;
}

#[tokio::test]
async fn a_redis_that_answers_pings_and_refuses_writes_is_away() {
    let server = RedisServer::start().await;
    let metrics = Metrics::default();
    let policy = DuringOutage::LimitLocally { per_minute: 2 };
    let limiter = redis_limiter(&server, outage_limits(policy), &metrics);
    limiter.check().await.unwrap();

    let replicate = |host: &str, port: &str| cmd("REPLICAOF").arg(host).arg(port).clone();
    let _ok: String = server.ask(&mut replicate("127.0.0.1", "1")).await.unwrap();
    assert_eq!(server.ask::<String>(&mut cmd("PING")).await.unwrap(), "PONG");
    let fault = limiter.check().await.unwrap_err();
    assert!(matches!(&fault, RedisFault::Server { .. }), "{fault}");
    let text = fault.to_string();
    assert!(
        text.to_lowercase().contains("read") && !text.contains('\n'),
        "{text}"
    );
    assert_eq!(
        admitted(limiter.admit(&caller("a"), &cost()).await)
            .unwrap()
            .limit,
        2
    );

    let _ok: String = server.ask(&mut replicate("NO", "ONE")).await.unwrap();
    comes_back(&limiter).await;
    assert_eq!(
        admitted(limiter.admit(&caller("a"), &cost()).await)
            .unwrap()
            .limit,
        1000
    );
}

#[tokio::test]
async fn an_idle_connection_that_the_server_closed_is_not_an_outage() {
    let server = RedisServer::start().await;
    let metrics = Metrics::default();
    let limiter = redis_limiter(&server, limits(1000), &metrics);
    for _ in 0..3 {
        assert_eq!(
            admitted(limiter.admit(&caller("a"), &cost()).await)
                .unwrap()
                .limit,
            1000
        );
        let mut kill = cmd("CLIENT");
        kill.arg("KILL")
            .arg("TYPE")
            .arg("normal")
            .arg("SKIPME")
            .arg("yes");
        let _killed: u64 = server.ask(&mut kill).await.unwrap();
    }
    assert!(
        metrics
            .encode()
            .contains("limiter_outage_requests_total{policy=\"limit_locally\"} 0")
    );
}

#[tokio::test]
async fn a_wrong_password_is_told_by_the_check() {
    let server = RedisServer::start().await;
    let _ok: String = server
        .ask(cmd("CONFIG").arg("SET").arg("requirepass").arg("right"))
        .await
        .unwrap();
    let address = vlinders_frontend::RedisAddress::parse(&server.address()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    for (password, is_right) in [("wrong", false), ("right\n", true)] {
        std::fs::write(&file, password).unwrap();
        let address = address.clone().with_password_file(&file).unwrap();
        let clock = std::sync::Arc::new(vlinders_service_kit::SystemClock);
        let limiter = RedisLimiter::new(&address, limits(1), clock, &Metrics::default()).unwrap();
        let checked = limiter.check().await;
        assert_eq!(checked.is_ok(), is_right, "{checked:?}");
        if let Err(fault) = checked {
            let text = fault.to_string();
            assert!(
                text.starts_with("redis at 127.0.0.1:") && !text.contains("wrong"),
                "{text}"
            );
        }
    }
}
