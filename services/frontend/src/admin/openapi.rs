//! The operators' port described for programs.

use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Map, Value, json};

use super::routes;
use super::rules::MOST;
use crate::http::json_response;

/// The route.
pub(super) async fn document() -> Response {
    json_response(StatusCode::OK, &describe())
}

fn describe() -> Value {
    let mut paths = Map::new();
    for (method, path) in routes() {
        let entry = paths.entry(path).or_insert_with(|| json!({}));
        entry[method.to_ascii_lowercase()] = operation(method, path);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Vlinders, for operators", "version": env!("CARGO_PKG_VERSION"),
            "description": "Keys and their limits, models, health.",
        },
        "paths": paths,
        "components": {
            "schemas": {"Error": error(), "Key": key(), "Rules": rules(false), "NewKey": rules(true)},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
        "security": [{"bearer": []}, {"key": []}],
    })
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

fn operation(method: &str, path: &str) -> Value {
    let (about, body, answer) = match (method, path) {
        ("GET", "/health") => (
            "Whether requests can be answered, and what runs.",
            None,
            json!({"type": "object"}),
        ),
        ("GET", "/openapi.json") => ("This document.", None, json!({"type": "object"})),
        ("GET", "/v1/models") => (
            "Models, their names, and whether workers serve them.",
            None,
            list(&json!({"type": "object"})),
        ),
        ("GET", "/v1/keys") => ("All keys, without their secrets.", None, list(&reference("Key"))),
        ("POST", "/v1/keys") => (
            "Makes a key; `secret` is shown this once.",
            Some(reference("NewKey")),
            reference("Key"),
        ),
        ("GET", "/v1/keys/{id}") => ("One key.", None, reference("Key")),
        ("GET", "/v1/tenants") => (
            "Tenants with a customer, and those that were suspended.",
            None,
            list(&json!({"type": "object"})),
        ),
        ("PATCH", "/v1/tenants/{id}") => (
            "Says who pays for a tenant, or lets it do nothing.",
            Some(
                json!({"type": "object", "additionalProperties": false, "properties": {
                "stripe_customer": {"type": ["string", "null"], "maxLength": 128}, "is_halted": {"type": "boolean"}}}),
            ),
            json!({"type": "object"}),
        ),
        ("PATCH", _) => (
            "Gives a key other rules; those not named stay, null takes away.",
            Some(reference("Rules")),
            reference("Key"),
        ),
        ("DELETE", _) => ("Ends a key, for good.", None, reference("Key")),
        ("POST", _) => (
            "Gives a key another secret, shown this once; the one it has goes on for `grace_s` seconds.",
            Some(
                json!({"type": "object", "additionalProperties": false, "properties": {"grace_s":
                {"type": "integer", "minimum": 0, "maximum": 31_536_000, "default": 86_400}}}),
            ),
            reference("Key"),
        ),
        (_, _) => (
            "What a key may use and has used, as the ledger has it.",
            None,
            json!({"type": "object"}),
        ),
    };
    let failed = json!({"description": "Refused or failed.",
        "content": {"application/json": {"schema": reference("Error")}}});
    let mut told = json!({
        "summary": about,
        "responses": {
            "200": {"description": "The answer.", "content": {"application/json": {"schema": answer}}},
            "4XX": failed.clone(), "5XX": failed,
        },
    });
    if let Some(schema) = body {
        told["requestBody"] = json!({"required": true, "content": {"application/json": {"schema": schema}}});
    }
    if path.contains("{id}") {
        told["parameters"] = json!([{"name": "id", "in": "path", "required": true,
            "schema": {"type": "string", "minLength": 1}}]);
    }
    told
}

fn list(item: &Value) -> Value {
    json!({"type": "object", "required": ["object", "data"],
        "properties": {"object": {"const": "list"}, "data": {"type": "array", "items": item}}})
}

fn error() -> Value {
    let text_or_null = json!({"type": ["string", "null"]});
    let error = json!({"type": "object", "required": ["message", "type", "param", "code"], "properties": {
        "message": {"type": "string"}, "type": {"type": "string"}, "param": text_or_null, "code": text_or_null}});
    json!({"type": "object", "required": ["error"], "properties": {"error": error}})
}

fn rules(is_new: bool) -> Value {
    let count = |most: u64| json!({"type": ["integer", "null"], "minimum": 0, "maximum": most});
    let name = json!({"type": "string", "minLength": 1, "maxLength": 128});
    let small = u64::from(u32::MAX);
    let required: &[&str] = if is_new { &["name"] } else { &[] };
    json!({
        "type": "object", "additionalProperties": false, "required": required,
        "properties": {
            "name": name, "tenant": name,
            "scopes": {"type": "array", "items": {"enum": ["inference", "metrics", "usage", "admin"]}},
            "models": {"type": ["array", "null"], "maxItems": 100, "items": name},
            "is_lenient": {"type": "boolean"},
            "max_priority": {"type": ["integer", "null"], "minimum": i32::MIN, "maximum": i32::MAX},
            "expires_ms": count(MOST),
            "requests_per_minute": count(small), "concurrent_streams": count(small),
            "tokens_per_minute": count(MOST), "daily_tokens": count(MOST), "daily_nanos": count(MOST),
            "monthly_tokens": count(MOST), "monthly_nanos": count(MOST),
        },
    })
}

fn key() -> Value {
    let mut key = rules(false);
    let more = json!({
        "id": {"type": "string"}, "object": {"const": "api_key"}, "prefix": {"type": "string"},
        "state": {"enum": ["valid", "expired", "revoked"]}, "secret": {"type": "string"},
        "created_ms": {"type": "integer"}, "revoked_ms": {"type": ["integer", "null"]},
        "last_used_ms": {"type": ["integer", "null"]},
    });
    for (name, schema) in more.as_object().into_iter().flatten() {
        key["properties"][name] = schema.clone();
    }
    key["required"] = json!(["id", "object", "prefix", "state", "name", "tenant", "scopes"]);
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_is_described() {
        let document = describe();
        for (method, path) in routes() {
            let told = &document["paths"][path][method.to_ascii_lowercase()];
            assert!(told["summary"].is_string(), "{method} {path}");
        }
    }

    #[test]
    fn every_rule_that_can_be_set_is_described() {
        let mut known = vlinders_ledger::KeyRules::new("n", vlinders_types::TenantId::new("t"));
        for (name, schema) in rules(true)["properties"].as_object().unwrap() {
            let value = match schema["type"].as_str() {
                Some("string") => json!("x"),
                Some("array") => json!([]),
                Some("boolean") => json!(true),
                _ => Value::Null,
            };
            let fields = Map::from_iter([(name.clone(), value)]);
            super::super::rules::change(&mut known, &fields).unwrap();
        }
    }
}
