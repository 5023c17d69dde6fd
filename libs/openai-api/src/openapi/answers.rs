//! What answers hold, as JSON Schema.

use serde_json::{Value, json};

pub(super) fn object(properties: &Value) -> Value {
    let names: Vec<_> = properties
        .as_object()
        .map_or_else(Vec::new, |fields| fields.keys().cloned().collect());
    json!({"type": "object", "required": names, "properties": properties})
}

pub(super) fn count() -> Value {
    json!({"type": "integer", "minimum": 0})
}

pub(super) fn text() -> Value {
    json!({"type": "string"})
}

fn text_or_null() -> Value {
    json!({"type": ["string", "null"]})
}

/// The error of every route but those of the Messages API.
pub(super) fn error() -> Value {
    let fields = json!({"message": text(), "type": text(), "param": text_or_null(), "code": text_or_null()});
    let mut told = object(&fields);
    told["additionalProperties"] = false.into();
    object(&json!({"error": told}))
}

/// The error of the Messages API.
pub(super) fn messages_error() -> Value {
    let told = object(&json!({"type": text(), "message": text()}));
    object(&json!({"type": {"const": "error"}, "error": told, "request_id": text()}))
}

fn usage() -> Value {
    object(&json!({
        "prompt_tokens": count(), "completion_tokens": count(), "total_tokens": count(),
        "prompt_tokens_details": object(&json!({"cached_tokens": count()})),
    }))
}

fn envelope(name: &str, choice: &Value) -> Value {
    object(&json!({
        "id": text(), "object": {"const": name}, "created": count(), "model": text(), "system_fingerprint": text(),
        "choices": {"type": "array", "items": choice, "minItems": 1}, "usage": usage(),
    }))
}

pub(super) fn chat() -> Value {
    let message = object(&json!({"role": {"const": "assistant"}, "content": text_or_null()}));
    let choice = object(&json!({
        "index": count(), "message": message, "logprobs": {"type": ["object", "null"]},
        "finish_reason": {"enum": ["stop", "length", "tool_calls"]},
    }));
    envelope("chat.completion", &choice)
}

pub(super) fn completion() -> Value {
    let choice = object(&json!({
        "index": count(), "text": text(), "logprobs": {"type": ["object", "null"]},
        "finish_reason": {"enum": ["stop", "length"]},
    }));
    envelope("text_completion", &choice)
}

pub(super) fn messages() -> Value {
    let block = object(&json!({"type": {"enum": ["text", "thinking", "tool_use"]}}));
    let usage = object(&json!({
        "input_tokens": count(), "output_tokens": count(), "cache_read_input_tokens": count(),
        "cache_creation_input_tokens": count(),
    }));
    object(&json!({
        "id": text(), "type": {"const": "message"}, "role": {"const": "assistant"}, "model": text(),
        "content": {"type": "array", "items": block}, "usage": usage, "stop_sequence": text_or_null(),
        "stop_reason": {"enum": ["end_turn", "max_tokens", "stop_sequence", "tool_use"]},
    }))
}

pub(super) fn responses() -> Value {
    let item = object(&json!({"id": text(), "type": {"enum": ["message", "reasoning", "function_call"]}}));
    let usage = object(&json!({"input_tokens": count(), "output_tokens": count(), "total_tokens": count()}));
    object(&json!({
        "id": text(), "object": {"const": "response"}, "created_at": count(), "model": text(),
        "status": {"enum": ["completed", "incomplete", "failed"]}, "output": {"type": "array", "items": item},
        "usage": usage, "error": {"type": ["object", "null"]}, "metadata": {"type": "object"},
    }))
}

pub(super) fn embeddings() -> Value {
    let vector = json!({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "number"}}]});
    let entry = object(&json!({"object": {"const": "embedding"}, "index": count(), "embedding": vector}));
    object(&json!({
        "object": {"const": "list"}, "data": {"type": "array", "items": entry}, "model": text(),
        "usage": object(&json!({"prompt_tokens": count(), "total_tokens": count()})),
    }))
}

pub(super) fn decision() -> Value {
    let share = object(&json!({
        "label": text(), "logprob": {"type": "number", "maximum": 0},
        "probability": {"type": "number", "minimum": 0, "maximum": 1},
    }));
    object(&json!({
        "id": text(), "object": {"const": "decision"}, "created": count(), "model": text(), "label": text(),
        "probabilities": {"type": "array", "items": share}, "usage": {"type": "object"},
    }))
}

pub(super) fn counted() -> Value {
    object(&json!({"input_tokens": count()}))
}

pub(super) fn tokenized() -> Value {
    object(&json!({
        "count": count(), "max_model_len": count(), "tokens": {"type": "array", "items": count()},
        "token_strs": {"type": ["array", "null"], "items": text()},
    }))
}

pub(super) fn detokenized() -> Value {
    object(&json!({"prompt": text()}))
}

pub(super) fn model() -> Value {
    object(&json!({
        "id": text(), "object": {"const": "model"}, "created": count(), "owned_by": text(),
        "max_model_len": count(),
    }))
}

pub(super) fn model_list() -> Value {
    object(&json!({"object": {"const": "list"}, "data": {"type": "array", "items": model()}}))
}

pub(super) fn state() -> Value {
    object(&json!({"status": text()}))
}

pub(super) fn version() -> Value {
    object(&json!({"version": text()}))
}

pub(super) fn used() -> Value {
    let nanos = json!({"type": ["integer", "null"], "minimum": 0});
    let counts = json!({
        "requests": count(), "prompt_tokens": count(), "cached_tokens": count(), "completion_tokens": count(),
        "nanos": nanos,
    });
    let mut line = counts.clone();
    line["start"] = count();
    line["model"] = text();
    line["class"] = json!({"enum": ["standard", "batch", "cached"]});
    object(&json!({
        "object": {"const": "usage"}, "start": count(), "end": count(), "bucket": {"enum": ["hour", "day"]},
        "scope": {"enum": ["key", "tenant"]}, "currency": text_or_null(),
        "data": {"type": "array", "items": object(&line)}, "total": object(&counts),
    }))
}
