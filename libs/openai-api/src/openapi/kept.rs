//! The routes to what is kept for tenants.

use serde_json::{Map, Value, json};

use super::answers::{self, object, text};
use super::responses;

/// Adds the routes to the document's paths.
pub(super) fn add(paths: &mut Map<String, Value>) {
    let deleted =
        |kind: &str| object(&json!({"id": text(), "object": {"const": kind}, "deleted": {"const": true}}));
    let mut put = |path: &str, method: &str, (about, answer): (&str, &Value), parameters: &[Value]| {
        let mut told = json!({"summary": about, "responses": responses(path, answer, false)});
        let mut parameters = parameters.to_vec();
        if path.contains("{id}") {
            parameters.push(id());
        }
        if !parameters.is_empty() {
            told["parameters"] = parameters.into();
        }
        let entry = paths.entry(path.to_owned()).or_insert_with(|| json!({}));
        entry[method] = told;
    };
    let one = "/v1/responses/{id}";
    put(
        one,
        "get",
        ("Shows a response that was kept.", &answers::responses()),
        &[],
    );
    put(one, "delete", ("Forgets a response.", &deleted("response")), &[]);
    let about = "Lists what a response answers, with what came before it.";
    let item = object(&json!({"id": text(), "type": text()}));
    let items = page(&item);
    let asked = [limit(100), order(), after()];
    put("/v1/responses/{id}/input_items", "get", (about, &items), &asked);
}

fn id() -> Value {
    json!({"name": "id", "in": "path", "required": true, "schema": {"type": "string", "minLength": 1}})
}

fn limit(most: usize) -> Value {
    json!({"name": "limit", "in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": most}})
}

fn order() -> Value {
    json!({"name": "order", "in": "query", "schema": {"enum": ["asc", "desc"]}})
}

fn after() -> Value {
    json!({"name": "after", "in": "query", "schema": {"type": "string"}})
}

fn page(entry: &Value) -> Value {
    object(&json!({
        "object": {"const": "list"}, "data": {"type": "array", "items": entry}, "has_more": {"type": "boolean"},
        "first_id": {"type": ["string", "null"]}, "last_id": {"type": ["string", "null"]},
    }))
}
