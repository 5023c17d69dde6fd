//! Budgets of money, and `/v1/usage`: nobody spends more than a key may, and nobody reads of another tenant.

use std::sync::Arc;

use async_trait::async_trait;
use axum::http::HeaderMap;
use serde_json::{Value, json};
use vlinders_frontend::{Authenticator, Books, Caller};
use vlinders_ledger::conformance::event;
use vlinders_ledger::{
    Budget, Factor, KeyLimits, Ledger, PriceTable, Rates, Scope, Scopes, SqliteLedger, UsageReports,
};
use vlinders_openai_api::ApiError;
use vlinders_types::{BillingClass, FinishReason, KeyId, ModelName, TenantId, TokenCounts, UsageEvent};

use crate::support::{Setting, World, check_error, last, within};

/// Lets in whoever says who it is: `TENANT KEY SCOPES`.
struct Trusting(KeyLimits);

#[async_trait]
impl Authenticator for Trusting {
    async fn authenticate(&self, headers: &HeaderMap) -> Result<Caller, ApiError> {
        let who = headers["x-who"].to_str().expect("a test writes plain words");
        let words = Vec::from_iter(who.split(' '));
        Ok(Caller {
            limits: self.0,
            scopes: words[2].parse::<Scopes>().expect("a test names scopes"),
            ..Caller::new(TenantId::new(words[0]), KeyId::new(words[1]))
        })
    }
}

/// A prompt token costs two nanos and one of an answer ten.
fn prices() -> Arc<PriceTable> {
    let rates = Rates {
        prompt: 2_000_000,
        cached_prompt: 1_000_000,
        completion: 10_000_000,
        factor: Factor::WHOLE,
    };
    let half = Factor::thousandths(500).expect("a half is a factor");
    let table = PriceTable::new("EUR").with_rates(Some(ModelName::new("tiny")), rates);
    Arc::new(table.with_factor(BillingClass::Batch, half))
}

async fn world(daily_nanos: Option<u64>, books: Books) -> World {
    let limits = KeyLimits {
        daily: Budget {
            tokens: None,
            nanos: daily_nanos,
        },
        ..KeyLimits::default()
    };
    World::with(Setting {
        authenticator: Arc::new(Trusting(limits)),
        books,
        ..Setting::default()
    })
    .await
}

#[tokio::test]
async fn a_budget_of_money_is_spent_to_the_nano() {
    let books = Books {
        prices: Some(prices()),
        reports: None,
    };
    let world = world(Some(1000), books).await;
    let ask = |max_tokens: u32| {
        let body = json!({"prompt": [72, 105, 33], "model": "tiny", "max_tokens": max_tokens});
        world
            .post("/v1/completions", &body)
            .header("x-who", "t k inference")
    };
    // It may cost 6 + 50 · 10, and costs the 14 of seven tokens, as the worker says, and 3 · 10.
    let worker = async {
        let request = world.take().await;
        world
            .send(&request, vec![last(0, 3, "yes", FinishReason::Stop)])
            .await;
    };
    let (answer, ()) = within(async { tokio::join!(ask(50).send(), worker) }).await;
    let answer = answer.expect("an answer");
    assert_eq!(answer.status(), 200);
    within(answer.bytes()).await.expect("a body");
    within(async {
        loop {
            let response = ask(96).send().await.expect("an answer");
            let retries = response.headers()["x-should-retry"].clone();
            let error = check_error(response, 429, "insufficient_quota").await;
            assert_eq!(
                (error["type"].as_str(), retries.to_str().ok()),
                (Some("rate_limit_error"), Some("false"))
            );
            let text = error["message"].as_str().expect("a text");
            assert!(text.contains("may cost 0.000000966 EUR"), "{text}");
            // It is settled behind the answer's back.
            if text.contains("and 0.000000956 EUR are left") {
                return;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    let worker = async {
        let request = world.take().await;
        world.answer(&request, "no").await;
    };
    let (answer, ()) = within(async { tokio::join!(ask(95).send(), worker) }).await;
    assert_eq!(answer.expect("an answer").status(), 200);
}

#[tokio::test]
async fn a_budget_of_money_needs_a_price() {
    for books in [
        Books::default(),
        Books {
            prices: Some(Arc::new(PriceTable::new("EUR"))),
            reports: None,
        },
    ] {
        let world = world(Some(1000), books).await;
        let request = world.chat(&json!({})).header("x-who", "t k inference");
        let response = within(request.send()).await.expect("an answer");
        let error = check_error(response, 403, "model_not_priced").await;
        assert_eq!(error["param"], "model");
        assert_eq!(world.bus_pending().await, 0);
    }
}

fn used(number: u32, tenant: &str, key: &str, finished_s: u64) -> UsageEvent {
    UsageEvent {
        tenant: TenantId::new(tenant),
        key: KeyId::new(key),
        model: ModelName::new("tiny"),
        counts: TokenCounts {
            prompt: 100,
            cached: 40,
            completion: 7,
        },
        finished_ms: finished_s * 1000,
        ..event(number)
    }
}

/// The hour in which the test's clock stands still.
const HOUR_S: u64 = 1_699_999_200;

async fn told(world: &World, who: &str, query: &str) -> reqwest::Response {
    let request = world.client.get(world.url(&format!("/v1/usage{query}")));
    within(request.header("x-who", who).send())
        .await
        .expect("an answer")
}

async fn body(response: reqwest::Response) -> Value {
    assert_eq!(response.status(), 200);
    within(response.json()).await.expect("JSON")
}

#[tokio::test]
async fn usage_is_told_to_whom_it_belongs_and_to_nobody_else() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let ledger = SqliteLedger::open(&folder.path().join("usage.sqlite")).expect("a ledger");
    let mut batch = used(3, "acme", "one", HOUR_S - 3600);
    batch.class = BillingClass::Batch;
    let mut unpriced = used(4, "acme", "two", HOUR_S);
    unpriced.model = ModelName::new("gone");
    let events = [
        used(1, "acme", "one", HOUR_S),
        used(2, "acme", "one", HOUR_S + 1),
        batch,
        unpriced,
        used(5, "other", "one", HOUR_S),
        used(6, "acme", "one", HOUR_S - 40 * 24 * 3600),
    ];
    ledger.record(&events).await.expect("recording works");
    let books = Books {
        prices: Some(prices()),
        reports: Some(Arc::new(ledger) as Arc<dyn UsageReports>),
    };
    let world = world(None, books).await;
    // 60 · 2 + 40 · 1 + 7 · 10.
    let nanos = 230;
    let line = |start: u64, class: &str, requests: u64, nanos: u64| {
        json!({
            "requests": requests, "prompt_tokens": 100 * requests, "cached_tokens": 40 * requests,
            "completion_tokens": 7 * requests, "nanos": nanos, "start": start, "model": "tiny", "class": class,
        })
    };
    let own = body(told(&world, "acme one inference", "").await).await;
    let expected = [
        line(HOUR_S - 3600, "batch", 1, nanos / 2),
        line(HOUR_S, "standard", 2, 2 * nanos),
    ];
    assert_eq!(own["data"], json!(expected));
    assert_eq!(own["currency"], "EUR");
    assert_eq!(own["total"]["requests"], 3);
    assert_eq!(own["total"]["nanos"], nanos / 2 + 2 * nanos);
    let alias = body(told(&world, "acme one inference", "?model=alias&start=1699999200").await).await;
    assert_eq!(alias["data"], json!([expected[1]]));

    let refused = told(&world, "acme one inference", "?scope=tenant").await;
    let error = check_error(refused, 403, "missing_scope").await;
    assert_eq!(error["param"], "scope");
    let whole = body(told(&world, "acme one usage", "?scope=tenant&bucket=day").await).await;
    assert_eq!(whole["total"]["requests"], 4);
    assert_eq!(whole["total"]["nanos"], Value::Null, "one of them has no price");
    let other = body(told(&world, "other one admin", "?scope=tenant").await).await;
    assert_eq!(other["total"]["requests"], 1);
    let nobody = body(told(&world, "nobody one usage", "?scope=tenant&bucket=day").await).await;
    assert_eq!(
        (&nobody["data"], &nobody["total"]["nanos"]),
        (&json!([]), &json!(0))
    );
    let error = check_error(
        told(&world, "acme one usage", "?tenant=other").await,
        400,
        "unknown_parameter",
    )
    .await;
    assert_eq!(error["param"], "tenant");
}

#[tokio::test]
async fn without_a_ledger_usage_is_not_told() {
    let world = world(None, Books::default()).await;
    let response = told(&world, "acme one inference", "").await;
    check_error(response, 404, "usage_not_kept").await;
    let everything = Scopes::of(&Scope::ALL).to_string();
    let response = told(&world, &format!("acme one {everything}"), "?scope=tenant").await;
    check_error(response, 404, "usage_not_kept").await;
}
