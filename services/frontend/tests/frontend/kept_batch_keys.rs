//! Batches and the keys they were made with.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use axum::http::HeaderMap;
use serde_json::json;
use vlinders_frontend::{
    Admission, Authenticator, Caller, Cost, Exhausted, InProcessLimiter, Kept, Limiter, RateLimit, Used,
};
use vlinders_ledger::{BatchStore, NewBatch, SqliteLedger};
use vlinders_openai_api::ApiError;
use vlinders_types::{KeyId, TenantId};

use crate::kept_batches::{CHAT, answer, created, lines, reached, rules, told};
use crate::kept_files::uploaded;
use crate::kept_responses::{ByHeader, keeping};
use crate::support::{Setting, StoppedClock, World, check_error, within};

/// Lets everybody in whose key is good, and says when one is not any more.
struct Revocable(AtomicBool);

#[async_trait]
impl Authenticator for Revocable {
    async fn authenticate(&self, headers: &HeaderMap) -> Result<Caller, ApiError> {
        ByHeader.authenticate(headers).await
    }
    async fn renew(&self, caller: Caller) -> Result<Caller, ApiError> {
        if self.0.load(Ordering::Relaxed) {
            return Err(ApiError::new(401, "invalid_api_key", "no"));
        }
        Ok(caller)
    }
}

#[tokio::test]
async fn lines_of_a_revoked_key_fail() {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(SqliteLedger::open(&folder.path().join("kept.sqlite")).unwrap());
    let door = Arc::new(Revocable(AtomicBool::new(true)));
    let setting = Setting {
        authenticator: Arc::clone(&door) as _,
        kept: Some(Kept {
            store: Arc::clone(&store) as _,
            rules: rules(),
        }),
        ..Setting::default()
    };
    let world = World::with(setting).await;
    let file = uploaded(&world, lines(2).as_bytes()).await;
    let batch = created(&world, &file).await;
    let batch = reached(&world, &batch["id"], &["completed"]).await;
    assert_eq!(
        batch["request_counts"],
        json!({"total": 2, "completed": 0, "failed": 2})
    );
    let failures = told(&world, &batch["error_file_id"]).await;
    for line in failures.values() {
        assert_eq!(line["response"]["status_code"], 401);
        assert_eq!(line["response"]["body"]["error"]["code"], "invalid_api_key");
    }
    assert_eq!(world.bus_pending().await, 0);
}

/// Has no room until it is told.
struct Strict {
    inner: InProcessLimiter,
    has_room: AtomicBool,
    retry_after: Duration,
}

#[async_trait]
impl Limiter for Strict {
    async fn admit(&self, caller: &Caller, cost: &Cost) -> Admission {
        if self.has_room.swap(true, Ordering::Relaxed) {
            return self.inner.admit(caller, cost).await;
        }
        Admission::Refused {
            limit: RateLimit::default(),
            why: Exhausted::Requests,
            retry_after: self.retry_after,
        }
    }
    async fn settle(&self, caller: &Caller, cost: &Cost, used: Used) -> bool {
        self.inner.settle(caller, cost, used).await
    }
}

#[tokio::test]
async fn a_limit_means_to_wait_and_not_to_fail() {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(SqliteLedger::open(&folder.path().join("kept.sqlite")).unwrap());
    let limiter = Strict {
        inner: InProcessLimiter::unlimited(Arc::new(StoppedClock)),
        has_room: AtomicBool::new(false),
        retry_after: Duration::from_millis(10),
    };
    let setting = Setting {
        limiter: Arc::new(limiter),
        authenticator: Arc::new(ByHeader),
        kept: Some(Kept {
            store: Arc::clone(&store) as _,
            rules: rules(),
        }),
        ..Setting::default()
    };
    let world = World::with(setting).await;
    let file = uploaded(&world, lines(1).as_bytes()).await;
    let batch = created(&world, &file).await;
    let request = world.take().await;
    answer(&world, &request, "Hello").await;
    let batch = reached(&world, &batch["id"], &["completed"]).await;
    assert_eq!(
        batch["request_counts"],
        json!({"total": 1, "completed": 1, "failed": 0})
    );
    let metrics = world.metrics().await;
    assert!(
        metrics.contains("vlinders_batch_line_retries_total{} 1"),
        "{metrics}"
    );
}

#[tokio::test]
async fn a_tenant_has_so_many_open_batches() {
    let mut rules = rules();
    rules.batches.open = 1;
    rules.batches.at_once = 0;
    let (world, store, _folder) = keeping(rules).await;
    let file = uploaded(&world, lines(1).as_bytes()).await;
    created(&world, &file).await;
    let body = json!({"input_file_id": file, "endpoint": CHAT, "completion_window": "24h"});
    let answer = within(world.post("/v1/batches", &body).send()).await.unwrap();
    check_error(answer, 429, "too_many_batches").await;
    let none = NewBatch {
        id: "batch_1".to_owned(),
        tenant: TenantId::new("other"),
        key: KeyId::new("other"),
        rights: "{}".to_owned(),
        endpoint: CHAT.to_owned(),
        input_file: file,
        metadata: None,
        output_expires_s: None,
        created_ms: 0,
        expires_ms: 1,
    };
    assert!(
        !store.create_batch(&none, 9).await.unwrap(),
        "the file is not theirs"
    );
}
