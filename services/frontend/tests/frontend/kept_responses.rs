//! Responses that clients come back to.

#![expect(
    clippy::unwrap_used,
    reason = "a failed step of a test ends it, here as in the test itself"
)]

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::http::HeaderMap;
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;
use vlinders_frontend::{Authenticator, Caller, Kept, KeptRules, ResponseKeeping};
use vlinders_ledger::{ResponseStore, Scope, Scopes, SqliteLedger};
use vlinders_openai_api::ApiError;
use vlinders_types::{FinishReason, KeyId, TenantId};

use crate::support::{Setting, World, check_error, chunk, last, within};

const PATH: &str = "/v1/responses";

/// Whoever comes is the tenant of this header.
pub(crate) struct ByHeader;

#[async_trait]
impl Authenticator for ByHeader {
    async fn authenticate(&self, headers: &HeaderMap) -> Result<Caller, ApiError> {
        let tenant = headers.get("tenant").and_then(|value| value.to_str().ok());
        let tenant = tenant.unwrap_or("one");
        Ok(Caller {
            scopes: Scopes::of(&[Scope::Inference, Scope::Metrics]),
            ..Caller::new(TenantId::new(tenant), KeyId::new(tenant))
        })
    }
}

/// A frontend that keeps things in a scratch file.
pub(crate) async fn keeping(rules: KeptRules) -> (World, Arc<SqliteLedger>, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(SqliteLedger::open(&folder.path().join("kept.sqlite")).unwrap());
    let setting = Setting {
        authenticator: Arc::new(ByHeader),
        kept: Some(Kept {
            store: Arc::clone(&store) as _,
            rules,
        }),
        ..Setting::default()
    };
    (World::with(setting).await, store, folder)
}

async fn asked(world: &World, body: &Value, text: &str) -> Value {
    let worker = async {
        let request = world.take().await;
        world.answer(&request, text).await;
    };
    let (answer, ()) = within(async { tokio::join!(world.post(PATH, body).send(), worker) }).await;
    let answer = answer.unwrap();
    assert_eq!(answer.status(), 200);
    answer.json().await.unwrap()
}

pub(crate) async fn called(world: &World, method: Method, path: &str, tenant: &str) -> reqwest::Response {
    let request = world
        .client
        .request(method, world.url(path))
        .header("tenant", tenant);
    within(request.send()).await.unwrap()
}

#[tokio::test]
async fn a_conversation_goes_on_where_it_was() {
    let (world, _store, _folder) = keeping(KeptRules::default()).await;
    let first = asked(
        &world,
        &json!({"model": "alias", "input": "hi", "instructions": "be kind"}),
        "Hello",
    )
    .await;
    assert_eq!(first["store"], true);
    let id = first["id"].as_str().unwrap();
    let body = json!({"model": "alias", "input": "more", "previous_response_id": id});
    let worker = async {
        let request = world.take().await;
        // Instructions hold for one answer.
        assert_eq!(
            request.prompt_ids.len(),
            "<user>hi<assistant>Hello<user>more>".len()
        );
        world.answer(&request, "Again").await;
    };
    let (second, ()) = within(async { tokio::join!(world.post(PATH, &body).send(), worker) }).await;
    let second: Value = second.unwrap().json().await.unwrap();
    assert_eq!(second["previous_response_id"], id);
    let path = format!("{PATH}/{}", second["id"].as_str().unwrap());
    let shown: Value = called(&world, Method::GET, &path, "one")
        .await
        .json()
        .await
        .unwrap();
    assert_eq!(shown, second);
    let page = async |query: &str| -> Value {
        let answer = called(&world, Method::GET, &format!("{path}/input_items{query}"), "one").await;
        answer.json().await.unwrap()
    };
    let items = page("?order=asc").await;
    let texts = |items: &Value| {
        let items = items["data"].as_array().unwrap();
        Vec::from_iter(
            items
                .iter()
                .map(|item| item["content"][0]["text"].as_str().unwrap().to_owned()),
        )
    };
    assert_eq!(texts(&items), ["hi", "Hello", "more"]);
    let some = page("?limit=2").await;
    assert_eq!(
        (texts(&some), &some["has_more"]),
        (vec!["more".to_owned(), "Hello".to_owned()], &json!(true))
    );
    let rest = page(&format!("?after={}", some["last_id"].as_str().unwrap())).await;
    assert_eq!(
        (texts(&rest), &rest["has_more"]),
        (vec!["hi".to_owned()], &json!(false))
    );
}

#[tokio::test]
async fn a_streamed_response_is_kept_when_it_ends() {
    let (world, _store, _folder) = keeping(KeptRules::default()).await;
    let body = json!({"model": "alias", "input": "hi", "stream": true});
    let worker = async {
        let request = world.take().await;
        let end = last(1, 1, "lo", FinishReason::Length);
        world.send(&request, vec![chunk(0, 1, "Hel"), end]).await;
    };
    let (answer, ()) = within(async { tokio::join!(world.post(PATH, &body).send(), worker) }).await;
    let text = within(answer.unwrap().text()).await.unwrap();
    let (_, end) = text.rsplit_once("data: ").unwrap();
    let end: Value = serde_json::from_str(end).unwrap();
    let told = &end["response"];
    assert_eq!(
        (&end["type"], &told["store"]),
        (&json!("response.incomplete"), &json!(true))
    );
    let path = format!("{PATH}/{}", told["id"].as_str().unwrap());
    let shown: Value = called(&world, Method::GET, &path, "one")
        .await
        .json()
        .await
        .unwrap();
    assert_eq!(shown, *told);
}

#[tokio::test]
async fn a_response_is_its_tenants_alone_and_goes_when_told() {
    let (world, _store, _folder) = keeping(KeptRules::default()).await;
    let first = asked(&world, &json!({"model": "alias", "input": "hi"}), "Hello").await;
    let id = first["id"].as_str().unwrap();
    let path = format!("{PATH}/{id}");
    for path in [
        path.clone(),
        format!("{path}/input_items"),
        format!("{PATH}/resp_1"),
    ] {
        let answer = called(&world, Method::GET, &path, "other").await;
        check_error(answer, 404, "response_not_found").await;
    }
    check_error(
        called(&world, Method::DELETE, &path, "other").await,
        404,
        "response_not_found",
    )
    .await;
    let body = json!({"model": "alias", "input": "more", "previous_response_id": id});
    let follow = world.post(PATH, &body).header("tenant", "other");
    let error = check_error(
        within(follow.send()).await.unwrap(),
        404,
        "previous_response_not_found",
    )
    .await;
    assert_eq!(error["param"], "previous_response_id");
    let deleted: Value = called(&world, Method::DELETE, &path, "one")
        .await
        .json()
        .await
        .unwrap();
    assert_eq!(deleted, json!({"id": id, "object": "response", "deleted": true}));
    check_error(
        called(&world, Method::GET, &path, "one").await,
        404,
        "response_not_found",
    )
    .await;
    let error = check_error(
        within(world.post(PATH, &body).send()).await.unwrap(),
        404,
        "previous_response_not_found",
    )
    .await;
    assert_eq!(error["param"], "previous_response_id");
}

#[tokio::test]
async fn what_is_kept_is_as_the_client_and_the_operator_say() {
    use ResponseKeeping::{Never, UnlessRefused, WhenAsked};
    for (responses, store, is_kept) in [
        (UnlessRefused, json!(null), true),
        (UnlessRefused, json!(false), false),
        (WhenAsked, json!(null), false),
        (WhenAsked, json!(true), true),
        (Never, json!(null), false),
        (Never, json!(false), false),
    ] {
        let rules = KeptRules {
            responses,
            ..KeptRules::default()
        };
        let (world, _store, _folder) = keeping(rules).await;
        let told = asked(
            &world,
            &json!({"model": "alias", "input": "hi", "store": store}),
            "Hello",
        )
        .await;
        assert_eq!(told["store"], is_kept, "{responses:?} {store}");
        let path = format!("{PATH}/{}", told["id"].as_str().unwrap());
        let shown = called(&world, Method::GET, &path, "one").await;
        assert_eq!(shown.status() == 200, is_kept, "{responses:?} {store}");
    }
    let rules = KeptRules {
        responses: Never,
        ..KeptRules::default()
    };
    let (world, _store, _folder) = keeping(rules).await;
    for (name, value) in [("store", json!(true)), ("previous_response_id", json!("resp_1"))] {
        let mut body = json!({"model": "alias", "input": "hi"});
        body[name] = value;
        let answer = within(world.post(PATH, &body).send()).await.unwrap();
        let error = check_error(answer, 400, "unsupported_parameter").await;
        assert_eq!(error["param"], name);
    }
}

#[tokio::test]
async fn old_responses_are_forgotten() {
    let rules = KeptRules {
        sweep_every: Duration::from_millis(5),
        ..KeptRules::default()
    };
    let (_world, store, _folder) = keeping(rules).await;
    let old = vlinders_ledger::StoredResponse {
        id: "resp_1".to_owned(),
        tenant: TenantId::new("one"),
        items: "[]".to_owned(),
        response: "{}".to_owned(),
        created_ms: 0,
        expires_ms: 1,
    };
    store.keep_response(&old).await.unwrap();
    within(async {
        while store.response(&old.tenant, "resp_1", 0).await.unwrap().is_some() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}
