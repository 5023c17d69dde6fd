//! Nobody comes in without a key, and a key opens what it is for.

#![expect(
    clippy::unwrap_used,
    reason = "a failed step of a test ends it, here as in the test itself"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use reqwest::Method;
use serde_json::json;
use vlinders_frontend::{Credentials, FrontendConfig, FrontendHandle, KeyAuthenticator, KeyCacheConfig};
use vlinders_ledger::{
    ApiKey, KeyDigest, KeyRules, KeySecret, KeyStore, LedgerError, NewKey, NewSecret, Scope, Scopes,
    SqliteLedger, StoredKey, new_key_id,
};
use vlinders_service_kit::Metrics;
use vlinders_types::{KeyId, TenantId};

use crate::support::{QUIET, Setting, StoppedClock, World, check_error, within};

/// Keys in a scratch file, in a database that can be away, and that counts who asks.
struct Store {
    inner: SqliteLedger,
    _folder: tempfile::TempDir,
    is_away: AtomicBool,
    asked: AtomicUsize,
}

impl Store {
    fn new() -> Arc<Self> {
        let folder = tempfile::tempdir().unwrap();
        Arc::new(Self {
            inner: SqliteLedger::open(&folder.path().join("keys.sqlite")).unwrap(),
            _folder: folder,
            is_away: AtomicBool::new(false),
            asked: AtomicUsize::new(0),
        })
    }

    /// Makes a key with these rules.
    async fn add(&self, change: impl FnOnce(&mut KeyRules)) -> (KeyId, String) {
        let secret = KeySecret::generate().unwrap();
        let mut rules = KeyRules::new("a key", TenantId::new("tenant-7"));
        change(&mut rules);
        let key = ApiKey {
            id: new_key_id().unwrap(),
            prefix: secret.prefix(),
            rules,
            created_ms: 1,
            revoked_ms: None,
            last_used_ms: None,
        };
        let digest = secret.digest();
        let new = NewKey { key, digest };
        self.inner.insert_key(&new).await.unwrap();
        (new.key.id, secret.reveal().to_owned())
    }
}

#[async_trait]
impl KeyStore for Store {
    async fn find_key(&self, digest: &KeyDigest) -> Result<Option<StoredKey>, LedgerError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        if self.is_away.load(Ordering::Relaxed) {
            return Err(LedgerError::Closed);
        }
        self.inner.find_key(digest).await
    }
    async fn insert_key(&self, key: &NewKey) -> Result<(), LedgerError> {
        self.inner.insert_key(key).await
    }
    async fn key(&self, id: &KeyId) -> Result<Option<ApiKey>, LedgerError> {
        self.inner.key(id).await
    }
    async fn keys(&self) -> Result<Vec<ApiKey>, LedgerError> {
        self.inner.keys().await
    }
    async fn change_key(&self, id: &KeyId, rules: &KeyRules) -> Result<bool, LedgerError> {
        self.inner.change_key(id, rules).await
    }
    async fn rotate_key(&self, id: &KeyId, secret: &NewSecret) -> Result<bool, LedgerError> {
        self.inner.rotate_key(id, secret).await
    }
    async fn revoke_key(&self, id: &KeyId, now_ms: u64) -> Result<bool, LedgerError> {
        self.inner.revoke_key(id, now_ms).await
    }
    async fn keys_used(&self, used: &[(KeyId, u64)]) -> Result<(), LedgerError> {
        self.inner.keys_used(used).await
    }
}

async fn world_with(store: &Arc<Store>, cache: KeyCacheConfig) -> World {
    let store = Arc::clone(store) as Arc<dyn KeyStore>;
    let keys = KeyAuthenticator::new(store, cache, Arc::new(StoppedClock), &Metrics::default());
    World::with(Setting {
        config: FrontendConfig {
            beacon_fresh: QUIET,
            ..Default::default()
        },
        authenticator: Arc::new(Credentials {
            keys: Some(Arc::new(keys)),
            ..Credentials::default()
        }),
        ..Default::default()
    })
    .await
}

async fn world(store: &Arc<Store>) -> World {
    world_with(store, KeyCacheConfig::default()).await
}

async fn listed(world: &World, key: &str) -> reqwest::Response {
    let request = world.client.get(world.url("/v1/models")).bearer_auth(key);
    within(request.send()).await.unwrap()
}

#[tokio::test]
async fn every_route_but_three_asks_for_a_key() {
    let store = Store::new();
    let (_, secret) = store.add(|_| {}).await;
    let world = world(&store).await;
    let routes = FrontendHandle::routes();
    assert!(routes.len() >= 9);
    let known = routes
        .iter()
        .copied()
        .chain([("GET", "/nowhere"), ("DELETE", "/v1/models"), ("POST", "/")]);
    for (method, path) in known {
        let url = world.url(&path.replace("{*id}", "tiny"));
        let ask = |key: &'static str| {
            let request = world
                .client
                .request(Method::from_bytes(method.as_bytes()).unwrap(), &url);
            let request = request.header("content-type", "application/json");
            if key.is_empty() {
                request
            } else {
                request.bearer_auth(key)
            }
        };
        for key in ["", "vl-0000", "sk-proj-1", "a.b.c"] {
            let response = within(ask(key).send()).await.unwrap();
            if path == "/webhooks/stripe" {
                // Nobody has configured it.
                check_error(response, 404, "not_found").await;
                continue;
            }
            if ["/health", "/live", "/ready"].contains(&path) {
                assert_eq!(response.status(), 200, "{path}");
                continue;
            }
            assert_eq!(response.status(), 401, "{method} {path} with {key:?}");
            assert_eq!(response.headers()["www-authenticate"], "Bearer");
            if path.starts_with("/v1/messages") {
                let body: serde_json::Value = within(response.json()).await.unwrap();
                assert_eq!(body["error"]["type"], "authentication_error");
                continue;
            }
            let error = check_error(response, 401, "invalid_api_key").await;
            assert_eq!(error["type"], "invalid_request_error");
        }
    }
    assert_eq!(listed(&world, &secret).await.status(), 200);
    let request = world
        .client
        .get(world.url("/v1/models"))
        .header("x-api-key", &secret);
    assert_eq!(within(request.send()).await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_key_opens_what_it_is_for_and_shows_no_other_model() {
    let store = Store::new();
    let (_, limited) = store
        .add(|rules| {
            rules.models = Some(vec!["alias".to_owned()]);
            rules.max_priority = Some(3);
            rules.is_lenient = true;
        })
        .await;
    let (_, metrics) = store
        .add(|rules| rules.scopes = Scopes::of(&[Scope::Metrics]))
        .await;
    let (_, admin) = store
        .add(|rules| rules.scopes = Scopes::of(&[Scope::Admin]))
        .await;
    let world = world(&store).await;
    let get = async |path: &str, key: &str| {
        let request = world.client.get(world.url(path)).bearer_auth(key);
        within(request.send()).await.unwrap()
    };
    let models: serde_json::Value = get("/v1/models", &limited).await.json().await.unwrap();
    let names: Vec<_> = models["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|model| &model["id"])
        .collect();
    assert_eq!(names, ["alias"]);
    assert_eq!(get("/v1/models/alias", &limited).await.status(), 200);
    check_error(get("/v1/models/tiny", &limited).await, 404, "model_not_found").await;
    let refused = within(world.chat(&json!({"model": "tiny"})).bearer_auth(&limited).send());
    let error = check_error(refused.await.unwrap(), 403, "model_not_allowed").await;
    assert_eq!(
        (error["type"].as_str(), error["param"].as_str()),
        (Some("permission_error"), Some("model"))
    );
    assert_eq!(world.bus_pending().await, 0);

    let asked = world
        .chat(&json!({"priority": 9, "no_such_field": 1}))
        .bearer_auth(&limited);
    let answered = async {
        let request = world.take().await;
        assert_eq!((request.tenant.as_str(), request.priority), ("tenant-7", 3));
        world.answer(&request, "yes").await;
    };
    let (response, ()) = tokio::join!(within(asked.send()), answered);
    assert_eq!(response.unwrap().status(), 200);

    for (key, status) in [(&metrics, 200), (&admin, 200), (&limited, 403)] {
        assert_eq!(get("/metrics", key).await.status(), status);
    }
    let refused = within(world.chat(&json!({})).bearer_auth(&metrics).send())
        .await
        .unwrap();
    check_error(refused, 403, "missing_scope").await;
}

#[tokio::test]
async fn a_revoked_key_ends_and_a_known_one_is_not_asked_for_twice() {
    let store = Store::new();
    let (id, secret) = store.add(|_| {}).await;
    let (_, expired) = store.add(|rules| rules.expires_ms = Some(5)).await;
    let world = world(&store).await;
    check_error(listed(&world, &expired).await, 401, "invalid_api_key").await;
    for _ in 0..20 {
        assert_eq!(listed(&world, &secret).await.status(), 200);
        assert_eq!(listed(&world, "vl-stranger").await.status(), 401);
    }
    let asked = store.asked.load(Ordering::Relaxed);
    assert!((3..20).contains(&asked), "{asked}");
    assert!(store.revoke_key(&id, 2).await.unwrap());
    within(async {
        while listed(&world, &secret).await.status() == 200 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    check_error(listed(&world, &secret).await, 401, "invalid_api_key").await;
}

#[tokio::test]
async fn without_the_database_known_keys_go_on_and_strangers_wait() {
    let store = Store::new();
    let (_, secret) = store.add(|_| {}).await;
    let (_, other) = store.add(|_| {}).await;
    let cache = KeyCacheConfig {
        fresh: Duration::ZERO,
        pause: Duration::from_millis(10),
        ..KeyCacheConfig::default()
    };
    let world = world_with(&store, cache).await;
    assert_eq!(listed(&world, &secret).await.status(), 200);
    store.is_away.store(true, Ordering::Relaxed);
    assert_eq!(listed(&world, &secret).await.status(), 200);
    let response = listed(&world, &other).await;
    assert_eq!(response.headers()["retry-after"], "1");
    check_error(response, 503, "keys_unavailable").await;
    store.is_away.store(false, Ordering::Relaxed);
    within(async {
        while listed(&world, &other).await.status() != 200 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}
