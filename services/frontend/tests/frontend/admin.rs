//! The operators' port: nobody comes in without a credential, and keys made there open the clients' port.

use std::sync::Arc;
use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sha2::Sha256;
use tempfile::TempDir;
use tokio::net::TcpListener;
use vlinders_frontend::{
    AdminParts, Books, Credentials, FrontendHandle, KeyAuthenticator, KeyCacheConfig, Tenants,
};
use vlinders_ledger::conformance::event;
use vlinders_ledger::{
    ApiKey, KeyDigest, KeyRules, KeySecret, KeyStore, Ledger, NewKey, Scope, Scopes, SqliteLedger,
    TenantStore, UsageReports, new_key_id,
};
use vlinders_service_kit::{Clock, Metrics};
use vlinders_types::{KeyId, TenantId, UsageEvent};

use crate::support::{Setting, StoppedClock, World, check_error, within};

const WEBHOOK_SECRET: &str = "whsec_of_this_test";
const TOKEN: &str = "a token of the operators of this test";

struct Operators {
    world: World,
    ledger: Arc<SqliteLedger>,
    url: String,
    _folder: TempDir,
}

impl Operators {
    async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let ledger = SqliteLedger::open(&folder.path().join("ledger.sqlite")).expect("a ledger");
        let ledger = Arc::new(ledger);
        let keys = || {
            let cache = KeyCacheConfig {
                fresh: Duration::ZERO,
                ..KeyCacheConfig::default()
            };
            let store = Arc::clone(&ledger) as Arc<dyn KeyStore>;
            Arc::new(KeyAuthenticator::new(
                store,
                cache,
                Arc::new(StoppedClock),
                &Metrics::default(),
            ))
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let world = World::with(Setting {
            authenticator: Arc::new(Credentials {
                keys: Some(keys()),
                ..Credentials::default()
            }),
            books: Books {
                reports: Some(Arc::clone(&ledger) as Arc<dyn UsageReports>),
                prices: None,
            },
            tenants: Tenants {
                store: Some(Arc::clone(&ledger) as Arc<dyn TenantStore>),
                webhook_secret: Some(WEBHOOK_SECRET.into()),
            },
            admin: Some(AdminParts {
                listener,
                store: Arc::clone(&ledger) as Arc<dyn KeyStore>,
                keys: keys(),
                token: Some(KeyDigest::of(TOKEN)),
            }),
            ..Setting::default()
        })
        .await;
        Self {
            world,
            ledger,
            url,
            _folder: folder,
        }
    }

    async fn ask(
        &self,
        method: &str,
        path: &str,
        key: Option<&str>,
        body: Option<&Value>,
    ) -> reqwest::Response {
        let method = Method::from_bytes(method.as_bytes()).expect("a method");
        let mut request = self.world.client.request(method, format!("{}{path}", self.url));
        if let Some(key) = key {
            request = request.bearer_auth(key);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        within(request.send()).await.expect("an answer")
    }

    /// What the operator is told.
    async fn told(&self, method: &str, path: &str, body: Option<&Value>) -> Value {
        let response = self.ask(method, path, Some(TOKEN), body).await;
        assert_eq!(response.status(), StatusCode::OK, "{method} {path}");
        within(response.json()).await.expect("JSON")
    }

    async fn status_of_client(&self, key: &str) -> u16 {
        let request = self
            .world
            .client
            .get(self.world.url("/v1/models"))
            .bearer_auth(key);
        within(request.send()).await.expect("an answer").status().as_u16()
    }

    async fn key_for(&self, scopes: &[Scope]) -> String {
        let secret = KeySecret::generate().expect("the system has random numbers");
        let key = ApiKey {
            id: new_key_id().expect("the system has random numbers"),
            prefix: secret.prefix(),
            rules: KeyRules {
                scopes: Scopes::of(scopes),
                ..KeyRules::new("a key", TenantId::new("t"))
            },
            created_ms: 1,
            revoked_ms: None,
            last_used_ms: None,
        };
        let digest = secret.digest();
        self.ledger
            .insert_key(&NewKey { key, digest })
            .await
            .expect("a new key is stored");
        secret.reveal().to_owned()
    }
}

#[tokio::test]
async fn every_route_of_operators_asks_for_a_credential() {
    let operators = Operators::start().await;
    let client = operators
        .key_for(&[Scope::Inference, Scope::Metrics, Scope::Usage])
        .await;
    let routes = FrontendHandle::admin_routes();
    assert!(routes.len() >= 10);
    let known = routes
        .into_iter()
        .chain([("GET", "/nowhere"), ("POST", "/health"), ("GET", "/metrics")]);
    for (method, path) in known {
        let path = path.replace("{id}", "key_0");
        for key in [None, Some("vl-0"), Some("a.b.c"), Some("")] {
            let response = operators.ask(method, &path, key, Some(&json!({}))).await;
            assert_eq!(
                response.headers()["www-authenticate"],
                "Bearer",
                "{method} {path}"
            );
            check_error(response, 401, "invalid_api_key").await;
        }
        let response = operators
            .ask(method, &path, Some(&client), Some(&json!({})))
            .await;
        check_error(response, 403, "missing_scope").await;
        // And none of them is there for clients.
        let request = operators
            .world
            .client
            .get(operators.world.url("/v1/keys"))
            .bearer_auth(&client);
        assert_eq!(within(request.send()).await.expect("an answer").status(), 404);
    }
    let admin = operators.key_for(&[Scope::Admin]).await;
    for key in [&admin, TOKEN] {
        assert_eq!(
            operators.ask("GET", "/v1/keys", Some(key), None).await.status(),
            200
        );
    }
}

#[tokio::test]
async fn a_key_lives_and_ends_at_the_operators_port() {
    let operators = Operators::start().await;
    let rules = json!({"name": "laptop", "tenant": "acme", "daily_tokens": 500, "models": ["alias"]});
    let made = operators.told("POST", "/v1/keys", Some(&rules)).await;
    let (id, first) = (
        made["id"].as_str().expect("an id"),
        made["secret"].as_str().expect("a secret"),
    );
    assert_eq!(
        (&made["tenant"], &made["state"]),
        (&json!("acme"), &json!("valid"))
    );
    assert_eq!(operators.status_of_client(first).await, 200);
    let path = format!("/v1/keys/{id}");
    let changed = json!({"daily_tokens": null, "monthly_nanos": 7, "scopes": ["inference", "usage"]});
    let changed = operators.told("PATCH", &path, Some(&changed)).await;
    assert_eq!(
        (&changed["daily_tokens"], &changed["monthly_nanos"]),
        (&Value::Null, &json!(7))
    );
    assert_eq!(
        (&changed["name"], &changed["models"]),
        (&json!("laptop"), &json!(["alias"]))
    );
    assert!(changed.get("secret").is_none());
    assert_eq!(operators.told("GET", &path, None).await, changed);
    let rotated = operators
        .told("POST", &format!("{path}/rotate"), Some(&json!({"grace_s": 0})))
        .await;
    let second = rotated["secret"].as_str().expect("a secret");
    assert_eq!(
        (
            operators.status_of_client(first).await,
            operators.status_of_client(second).await
        ),
        (401, 200)
    );
    let ended = operators.told("DELETE", &path, None).await;
    assert_eq!(ended["state"], "revoked");
    assert_eq!(
        operators.told("DELETE", &path, None).await["revoked_ms"],
        ended["revoked_ms"]
    );
    assert_eq!(operators.status_of_client(second).await, 401);
    let list = operators.told("GET", "/v1/keys", None).await;
    assert_eq!(list["data"][0]["state"], "revoked");
    assert!(!list.to_string().contains("secret"));
}

#[tokio::test]
async fn what_operators_cannot_do_is_told_by_name() {
    let operators = Operators::start().await;
    let made = operators
        .told("POST", "/v1/keys", Some(&json!({"name": "x"})))
        .await;
    let path = format!("/v1/keys/{}", made["id"].as_str().expect("an id"));
    operators.told("DELETE", &path, None).await;
    for (method, path, body, status, code) in [
        ("PATCH", path.clone(), json!({"name": "x"}), 400, "key_revoked"),
        ("POST", format!("{path}/rotate"), json!({}), 400, "key_revoked"),
        (
            "GET",
            "/v1/keys/key_0".to_owned(),
            json!({}),
            404,
            "key_not_found",
        ),
        (
            "POST",
            "/v1/keys".to_owned(),
            json!({"tenant": "x"}),
            400,
            "invalid_value",
        ),
        ("POST", "/v1/keys".to_owned(), json!([]), 400, "invalid_json"),
        (
            "POST",
            format!("{path}/rotate"),
            json!({"grace": 1}),
            400,
            "unknown_parameter",
        ),
        ("PUT", "/v1/keys".to_owned(), json!({}), 405, "method_not_allowed"),
    ] {
        let response = operators.ask(method, &path, Some(TOKEN), Some(&body)).await;
        check_error(response, status, code).await;
    }
}

#[tokio::test]
async fn operators_see_limits_and_what_is_used_of_them_models_and_health() {
    let operators = Operators::start().await;
    let rules = json!({"name": "n", "tenant": "t", "monthly_tokens": 500, "requests_per_minute": 3});
    let made = operators.told("POST", "/v1/keys", Some(&rules)).await;
    let id = made["id"].as_str().expect("an id");
    let now_ms = StoppedClock.now_ms();
    let day_ms = 24 * 3600 * 1000;
    let used = |number: u32, created_ms: u64| UsageEvent {
        tenant: TenantId::new("t"),
        key: KeyId::new(id),
        created_ms,
        finished_ms: created_ms + 1,
        ..event(number)
    };
    let events = [used(4, now_ms), used(6, now_ms - day_ms)];
    operators.ledger.record(&events).await.expect("recording works");
    let limits = operators
        .told("GET", &format!("/v1/keys/{id}/limits"), None)
        .await;
    let told = |tokens: u64, limit: Option<u64>| json!({"tokens": {"limit": limit, "used": tokens}, "nanos": {"limit": null, "used": null}});
    assert_eq!(limits["daily"], told(14, None));
    assert_eq!(limits["monthly"], told(30, Some(500)));
    assert_eq!(
        (&limits["requests_per_minute"], &limits["id"]),
        (&json!(3), &json!(id))
    );
    let models = operators.told("GET", "/v1/models", None).await;
    assert_eq!(
        (
            &models["data"][0]["id"],
            &models["data"][0]["aliases"],
            &models["data"][0]["is_served"]
        ),
        (&json!("tiny"), &json!(["alias", "org/tiny"]), &json!(true))
    );
    assert_eq!(operators.told("GET", "/health", None).await["status"], "ready");
    let document = operators.told("GET", "/openapi.json", None).await;
    assert!(document["paths"]["/v1/keys/{id}/rotate"]["post"].is_object());
}

/// An event as Stripe signs it.
async fn notify(operators: &Operators, event: &Value, secret: &str, written_s: u64) -> reqwest::Response {
    let body = event.to_string();
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("any key will do");
    mac.update(format!("{written_s}.{body}").as_bytes());
    let digits: String = mac
        .finalize()
        .into_bytes()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let request = operators
        .world
        .client
        .post(operators.world.url("/webhooks/stripe"));
    let request = request
        .header("stripe-signature", format!("t={written_s},v1={digits}"))
        .header("content-type", "application/json; charset=utf-8")
        .body(body);
    within(request.send()).await.expect("an answer")
}

/// What Stripe says of the subscription of `cus_1`.
fn subscription(id: &str, created: u64, status: &str) -> Value {
    let object = json!({"id": "sub_1", "customer": "cus_1", "status": status});
    json!({"id": id, "type": "customer.subscription.updated", "created": created, "data": {"object": object}})
}

fn now_s() -> u64 {
    StoppedClock.now_ms() / 1000
}

#[tokio::test]
async fn only_what_is_signed_just_now_is_listened_to() {
    let operators = Operators::start().await;
    let key = operators.key_for(&[Scope::Inference]).await;
    let customer = json!({"stripe_customer": "cus_1"});
    let mapped = operators.told("PATCH", "/v1/tenants/t", Some(&customer)).await;
    assert_eq!(
        (&mapped["stripe_customer"], &mapped["is_suspended"]),
        (&json!("cus_1"), &json!(false))
    );
    let response = operators
        .ask("PATCH", "/v1/tenants/other", Some(TOKEN), Some(&customer))
        .await;
    check_error(response, 400, "invalid_value").await;
    let ended = subscription("evt_1", 10, "canceled");
    for (secret, written_s) in [
        ("whsec_other", now_s()),
        (WEBHOOK_SECRET, now_s() - 301),
        (WEBHOOK_SECRET, now_s() + 301),
    ] {
        let response = notify(&operators, &ended, secret, written_s).await;
        check_error(response, 401, "invalid_signature").await;
    }
    let unsigned = operators.world.post("/webhooks/stripe", &ended).send();
    check_error(
        within(unsigned).await.expect("an answer"),
        401,
        "invalid_signature",
    )
    .await;
    let nothing = notify(&operators, &json!({}), WEBHOOK_SECRET, now_s()).await;
    check_error(nothing, 400, "invalid_event").await;
    assert_eq!(operators.status_of_client(&key).await, 200);
}

#[tokio::test]
async fn a_tenant_whose_subscription_ends_is_suspended_until_it_is_active_again() {
    let operators = Operators::start().await;
    let key = operators.key_for(&[Scope::Inference]).await;
    let rules = json!({"name": "o", "tenant": "other"});
    let other = operators.told("POST", "/v1/keys", Some(&rules)).await;
    let customer = json!({"stripe_customer": "cus_1"});
    operators.told("PATCH", "/v1/tenants/t", Some(&customer)).await;
    let told = async |event: &Value| {
        let response = notify(&operators, event, WEBHOOK_SECRET, now_s()).await;
        assert_eq!(response.status(), 200);
    };
    let ended = subscription("evt_1", 10, "canceled");
    told(&ended).await;
    let request = operators.world.client.get(operators.world.url("/v1/models"));
    let response = within(request.bearer_auth(&key).send()).await.expect("an answer");
    check_error(response, 403, "tenant_suspended").await;
    let other = other["secret"].as_str().expect("a secret");
    assert_eq!(operators.status_of_client(other).await, 200);
    told(&subscription("evt_2", 10, "active")).await;
    assert_eq!(operators.status_of_client(&key).await, 200);
    // The same event again changes nothing, nor does one that decides nothing.
    for event in [ended, subscription("evt_3", 20, "past_due")] {
        told(&event).await;
        assert_eq!(operators.status_of_client(&key).await, 200);
    }
    for (is_halted, status) in [(true, 403), (false, 200)] {
        let change = json!({"is_halted": is_halted});
        operators.told("PATCH", "/v1/tenants/t", Some(&change)).await;
        assert_eq!(operators.status_of_client(&key).await, status);
    }
}
