//! The routes to what is kept for tenants.

use serde_json::{Map, Value, json};

use super::answers::{self, count, object, text};
use super::responses;
use crate::batches::{BATCH_ENDPOINTS, BATCH_WINDOW};

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
    let files = "/v1/files";
    let purpose = json!({"name": "purpose", "in": "query", "schema": {"enum": ["batch", "batch_output"]}});
    let asked = [limit(10_000), order(), after(), purpose];
    put(files, "get", ("Lists your files.", &page(&file())), &asked);
    put(
        files,
        "post",
        ("Keeps a file: the lines of a batch.", &file()),
        &[],
    );
    let one = "/v1/files/{id}";
    put(one, "get", ("Shows a file.", &file()), &[]);
    put(one, "delete", ("Deletes a file.", &deleted("file")), &[]);
    put(
        "/v1/files/{id}/content",
        "get",
        ("The content of a file.", &Value::Null),
        &[],
    );
    let batches = "/v1/batches";
    put(
        batches,
        "get",
        ("Lists your batches.", &page(&batch())),
        &[limit(100), after()],
    );
    put("/v1/batches/{id}", "get", ("Shows a batch.", &batch()), &[]);
    put(
        "/v1/batches/{id}/cancel",
        "post",
        ("Cancels a batch.", &batch()),
        &[],
    );
    paths[files]["post"]["requestBody"] = upload();
    let content = json!({"application/octet-stream": {"schema": {"type": "string"}}});
    paths["/v1/files/{id}/content"]["get"]["responses"]["200"]["content"] = content;
}

fn file() -> Value {
    object(&json!({
        "id": text(), "object": {"const": "file"}, "bytes": count(), "created_at": count(), "expires_at": count(),
        "filename": text(), "purpose": {"enum": ["batch", "batch_output"]}, "status": {"const": "processed"},
    }))
}

/// A batch as it stands.
pub(super) fn batch() -> Value {
    let time = json!({"type": ["integer", "null"], "minimum": 0});
    let name = json!({"type": ["string", "null"]});
    object(&json!({
        "id": text(), "object": {"const": "batch"}, "endpoint": {"enum": BATCH_ENDPOINTS},
        "errors": {"type": ["object", "null"]}, "input_file_id": text(), "completion_window": {"const": BATCH_WINDOW},
        "status": {"enum": ["validating", "in_progress", "finalizing", "completed", "failed", "expired", "cancelling",
            "cancelled"]},
        "output_file_id": name, "error_file_id": name, "created_at": count(), "in_progress_at": time,
        "expires_at": time, "finalizing_at": time, "completed_at": time, "failed_at": time, "expired_at": time,
        "cancelling_at": time, "cancelled_at": time, "metadata": {"type": ["object", "null"]},
        "request_counts": object(&json!({"total": count(), "completed": count(), "failed": count()})),
    }))
}

fn upload() -> Value {
    let fields = json!({"file": {"type": "string", "format": "binary", "minLength": 1}, "purpose": {"const": "batch"}});
    json!({"required": true, "content": {"multipart/form-data": {"schema": {"type": "object",
        "required": ["file", "purpose"], "properties": fields}}}})
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
