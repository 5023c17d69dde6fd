//! What each parameter may hold, as JSON Schema. Ranges come from [`LIMITS`]; a test holds the names against the tables
//! that bodies are checked with.

use serde_json::{Value, json};

use crate::batches::{BATCH_ENDPOINTS, BATCH_WINDOW, EXPIRY_S};
use crate::chat::REASONING_EFFORTS;
use crate::names::Endpoint;
use crate::{LIMITS, NumberRange, WholeRange};

/// What is asked of `/v1/usage`, in its query.
pub(super) fn usage() -> Value {
    // Until the year 10000.
    let seconds = json!({"type": "integer", "minimum": 0, "maximum": 253_402_300_800_u64});
    let in_query = |name: &str, about: &str, schema: &Value| json!({"name": name, "in": "query", "required": false, "description": about, "schema": schema});
    json!([
        in_query("start", "Ended at or after this, seconds since 1970.", &seconds),
        in_query("end", "Ended before this, seconds since 1970.", &seconds),
        in_query(
            "bucket",
            "How long each line is.",
            &json!({"enum": ["hour", "day"], "default": "hour"})
        ),
        in_query("model", "Only of this model.", &json!({"type": "string"})),
        in_query(
            "scope",
            "Whose; a tenant's needs a key for usage.",
            &json!({"enum": ["key", "tenant"], "default": "key"})
        ),
    ])
}

/// The schema of a parameter that works at this endpoint. None: nobody has described it.
pub(super) fn schema(endpoint: Endpoint, name: &str) -> Option<Value> {
    let own = match endpoint {
        Endpoint::Chat => chat(name),
        Endpoint::Completion => completion(name),
        Endpoint::Tokenize => tokenize(name),
        Endpoint::Detokenize => detokenize(name),
        Endpoint::Messages => messages(name),
        Endpoint::Responses => responses(name),
        Endpoint::Embeddings => embeddings(name),
        Endpoint::Decisions => decisions(name),
        Endpoint::Batches => return batches(name),
    };
    own.or_else(|| sampling(name))
        .or_else(|| constraint(name))
        .or_else(|| common(name))
}

/// Parameters without which there is no request.
pub(super) const fn required(endpoint: Endpoint) -> &'static [&'static str] {
    match endpoint {
        Endpoint::Chat => &["model", "messages"],
        Endpoint::Completion => &["model", "prompt"],
        Endpoint::Tokenize => &["model"],
        Endpoint::Detokenize => &["model", "tokens"],
        Endpoint::Messages => &["model", "messages", "max_tokens"],
        Endpoint::Responses | Endpoint::Embeddings => &["model", "input"],
        Endpoint::Decisions => &["model", "labels"],
        Endpoint::Batches => &["input_file_id", "endpoint", "completion_window"],
    }
}

fn chat(name: &str) -> Option<Value> {
    Some(match name {
        "messages" => list(&message(), 1, LIMITS.messages),
        "logprobs" => json!({"type": "boolean"}),
        "tools" => list(&function_tool(), 0, LIMITS.tools),
        "tool_choice" => tool_choice(),
        "functions" => list(&function(), 0, LIMITS.tools),
        "function_call" => json!({"anyOf": [{"enum": ["auto", "none"]}, {"type": "object",
            "additionalProperties": false, "required": ["name"], "properties": {"name": {"type": "string"}}}]}),
        "parallel_tool_calls" | "add_generation_prompt" | "continue_final_message" | "include_reasoning" => {
            json!({"type": "boolean"})
        }
        "chat_template_kwargs" => json!({"type": "object", "maxProperties": LIMITS.template_arguments}),
        "reasoning_effort" => json!({"enum": REASONING_EFFORTS}),
        _ => return None,
    })
}

fn completion(name: &str) -> Option<Value> {
    Some(match name {
        "prompt" => prompts(LIMITS.prompts),
        "echo" => json!({"type": "boolean"}),
        "logprobs" => whole(LIMITS.top_logprobs),
        _ => return None,
    })
}

fn tokenize(name: &str) -> Option<Value> {
    match name {
        "prompt" => Some(json!({"type": "string"})),
        "add_special_tokens" | "return_token_strs" => Some(json!({"type": "boolean"})),
        _ => chat(name),
    }
}

fn batches(name: &str) -> Option<Value> {
    Some(match name {
        "input_file_id" => json!({"type": "string", "minLength": 1, "maxLength": LIMITS.name_bytes}),
        "endpoint" => json!({"enum": BATCH_ENDPOINTS}),
        "completion_window" => json!({"const": BATCH_WINDOW}),
        "metadata" => json!({"type": "object", "maxProperties": LIMITS.metadata_entries,
            "propertyNames": label(), "additionalProperties": label()}),
        "output_expires_after" => expiry(),
        _ => return None,
    })
}

/// How long files are kept.
pub(super) fn expiry() -> Value {
    let (least, most) = EXPIRY_S;
    json!({"type": "object", "required": ["anchor", "seconds"], "additionalProperties": false, "properties": {
        "anchor": {"const": "created_at"}, "seconds": {"type": "integer", "minimum": least, "maximum": most}}})
}

fn detokenize(name: &str) -> Option<Value> {
    (name == "tokens").then(|| list(&token(), 0, LIMITS.prompt_tokens))
}

fn messages(name: &str) -> Option<Value> {
    let text = json!({"type": "object", "required": ["type", "text"],
        "properties": {"type": {"const": "text"}, "text": {"type": "string"}, "citations": {"type": "null"}}});
    Some(match name {
        "messages" => {
            let content = json!({"anyOf": [{"type": "string"}, list(&text, 0, LIMITS.content_parts)]});
            let turn = json!({"type": "object", "additionalProperties": false, "required": ["role", "content"],
                "properties": {"role": {"enum": ["user", "assistant"]}, "content": content}});
            list(&turn, 1, LIMITS.messages)
        }
        "system" => json!({"anyOf": [{"type": "string"}, list(&text, 0, LIMITS.content_parts)]}),
        "max_tokens" => whole(LIMITS.max_tokens),
        "stop_sequences" => list(&stop_text(), 0, LIMITS.stop_strings),
        "metadata" => json!({"type": "object", "additionalProperties": false,
            "properties": {"user_id": or_null(label())}}),
        "service_tier" => json!({"enum": ["auto", "standard_only"]}),
        "tools" => {
            let tool = json!({"type": "object", "required": ["name", "input_schema"], "additionalProperties": false,
                "properties": {"type": {"enum": ["custom", null]}, "name": {"type": "string"},
                    "description": {"type": ["string", "null"]}, "input_schema": {"type": "object"},
                    "strict": {"type": ["boolean", "null"]}, "cache_control": or_null(cache_hint()), "eager_input_streaming": {}}});
            list(&tool, 0, LIMITS.tool_calls)
        }
        "tool_choice" => json!({"type": "object", "required": ["type"], "additionalProperties": false,
            "properties": {"type": {"enum": ["auto", "any", "tool", "none"]}, "name": {"type": "string"},
                "disable_parallel_tool_use": {"type": ["boolean", "null"]}}}),
        "thinking" => json!({"type": "object", "required": ["type"], "additionalProperties": false,
            "properties": {"type": {"enum": ["enabled", "adaptive", "disabled"]},
                "budget_tokens": {"type": "integer", "minimum": 1024, "maximum": LIMITS.max_tokens.max}}}),
        "cache_control" => cache_hint(),
        _ => return None,
    })
}

fn responses(name: &str) -> Option<Value> {
    Some(match name {
        "store" => json!({"type": "boolean"}),
        "previous_response_id" => label(),
        "input" => {
            let content = json!({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "object",
                "required": ["type", "text"],
                "properties": {"type": {"enum": ["input_text", "output_text"]}, "text": {"type": "string"}}}}]});
            let item = json!({"type": "object", "required": ["role", "content"],
                "properties": {"type": {"const": "message"}, "content": content,
                    "role": {"enum": ["user", "assistant", "system", "developer"]}}});
            json!({"anyOf": [{"type": "string"}, list(&item, 1, LIMITS.messages)]})
        }
        "instructions" => json!({"type": "string"}),
        "include" => list(
            &json!({"enum": ["message.output_text.logprobs"]}),
            0,
            LIMITS.metadata_entries,
        ),
        "max_output_tokens" => whole(LIMITS.max_tokens),
        "parallel_tool_calls" => json!({"type": "boolean"}),
        "tools" => {
            let tool = json!({"type": "object", "required": ["type", "name"], "additionalProperties": false,
                "properties": {"type": {"const": "function"}, "name": {"type": "string"},
                    "description": {"type": ["string", "null"]}, "parameters": {"type": ["object", "null"]},
                    "strict": {"type": ["boolean", "null"]}}});
            list(&tool, 0, LIMITS.tool_calls)
        }
        "tool_choice" => json!({"anyOf": [{"enum": ["auto", "none", "required"]},
            {"type": "object", "required": ["type", "name"],
                "properties": {"type": {"const": "function"}, "name": {"type": "string"}}}]}),
        "text" => json!({"type": "object", "additionalProperties": false, "properties": {
            "format": {"type": "object", "required": ["type"],
                "properties": {"type": {"enum": ["text", "json_object", "json_schema"]}}}}}),
        "reasoning" => json!({"type": "object", "additionalProperties": false,
            "properties": {"effort": {"type": ["string", "null"]}}}),
        _ => return None,
    })
}

fn embeddings(name: &str) -> Option<Value> {
    Some(match name {
        "input" => prompts(LIMITS.inputs),
        "dimensions" => whole(LIMITS.dimensions),
        "encoding_format" => json!({"enum": ["float", "base64"]}),
        _ => return None,
    })
}

fn decisions(name: &str) -> Option<Value> {
    Some(match name {
        "input" => prompts(1),
        "labels" => {
            let label = json!({"type": "string", "minLength": 1, "maxLength": LIMITS.name_bytes});
            let mut labels = list(&label, 2, LIMITS.labels);
            labels["uniqueItems"] = true.into();
            labels
        }
        "calibrate" => json!({"type": "boolean"}),
        _ => return chat(name),
    })
}

/// Texts or tokens: one, or so many.
fn prompts(most: usize) -> Value {
    let text = json!({"type": "string", "minLength": 1});
    let tokens = list(&token(), 1, LIMITS.prompt_tokens);
    let several = list(&json!({"anyOf": [text, tokens]}), 1, most);
    json!({"anyOf": [text, tokens, several]})
}

fn sampling(name: &str) -> Option<Value> {
    Some(match name {
        "temperature" => number(LIMITS.temperature),
        "top_p" => number(LIMITS.top_p),
        "top_k" => whole(LIMITS.top_k),
        "min_p" => number(LIMITS.min_p),
        "presence_penalty" | "frequency_penalty" => number(LIMITS.penalty),
        "repetition_penalty" => number(LIMITS.repetition_penalty),
        "seed" => json!({"type": "integer", "minimum": i64::MIN, "maximum": u64::MAX}),
        "logit_bias" => json!({"type": "object", "maxProperties": LIMITS.logit_bias_entries,
            "propertyNames": {"pattern": "^[0-9]+$"}, "additionalProperties": number(LIMITS.logit_bias)}),
        "top_logprobs" => whole(LIMITS.top_logprobs),
        "n" | "best_of" => whole(LIMITS.choices),
        // None are enough where the prompt's tokens are told.
        "max_tokens" | "max_completion_tokens" => whole(WholeRange {
            min: 0,
            ..LIMITS.max_tokens
        }),
        "min_tokens" => whole(LIMITS.min_tokens),
        "stop" => json!({"anyOf": [stop_text(), list(&stop_text(), 0, LIMITS.stop_strings)]}),
        "stop_token_ids" => list(&token(), 0, LIMITS.stop_token_ids),
        "allowed_token_ids" => list(&token(), 0, LIMITS.allowed_token_ids),
        "bad_words" => list(
            &json!({"type": "string", "pattern": "\\S", "maxLength": LIMITS.bad_word_bytes}),
            0,
            LIMITS.bad_words,
        ),
        "ignore_eos" => json!({"type": "boolean"}),
        _ => return None,
    })
}

/// What the text must be like. A schema in a request is the client's; the parser says what is wrong with it.
fn constraint(name: &str) -> Option<Value> {
    Some(match name {
        "response_format" => json!({"type": "object", "required": ["type"]}),
        "structured_outputs" => json!({"type": "object"}),
        "guided_json" | "json_schema" => json!({"type": ["object", "string", "boolean"]}),
        "guided_choice" => json!({"type": "array", "minItems": 1, "items": {"type": "string"}}),
        "guided_regex" | "guided_grammar" | "regex" | "ebnf" | "grammar" => json!({"type": "string"}),
        "guided_decoding_backend" | "guided_whitespace_pattern" => json!({"type": "string"}),
        _ => return None,
    })
}

fn common(name: &str) -> Option<Value> {
    Some(match name {
        "model" => json!({"type": "string", "minLength": 1, "maxLength": LIMITS.name_bytes}),
        "user" | "safety_identifier" | "cache_salt" | "prompt_cache_key" => label(),
        "stream" => json!({"type": "boolean"}),
        "stream_options" => json!({"type": "object", "additionalProperties": false,
            "properties": {"include_usage": {"type": ["boolean", "null"]},
                "continuous_usage_stats": {"type": ["boolean", "null"]}}}),
        "metadata" => json!({"type": "object", "maxProperties": LIMITS.metadata_entries,
            "propertyNames": {"maxLength": LIMITS.name_bytes},
            "additionalProperties": {"type": "string", "maxLength": 2 * LIMITS.name_bytes}}),
        "service_tier" => json!({"enum": ["auto", "default"]}),
        "priority" => whole(LIMITS.priority),
        "prompt_logprobs" => whole(LIMITS.top_logprobs),
        "truncate_prompt_tokens" => whole(LIMITS.truncation),
        "include_stop_str_in_output"
        | "skip_special_tokens"
        | "add_special_tokens"
        | "return_token_ids"
        | "return_tokens_as_token_ids" => {
            json!({"type": "boolean"})
        }
        _ => return None,
    })
}

fn message() -> Value {
    let part = json!({"type": "object", "required": ["type", "text"],
        "properties": {"type": {"const": "text"}, "text": {"type": "string"}}});
    let content = json!({"anyOf": [{"type": "string"}, list(&part, 0, LIMITS.content_parts)]});
    let call = json!({"type": "object", "additionalProperties": false, "required": ["id", "function"],
        "properties": {"id": {"type": "string"}, "type": {"enum": ["function", null]},
            "index": {"type": ["integer", "null"]}, "function": {"type": "object",
            "additionalProperties": false, "required": ["name"],
            "properties": {"name": {"type": "string"}, "arguments": {"type": ["string", "object", "null"]}}}}});
    let calls = list(&call, 1, LIMITS.tool_calls);
    let said = |roles: &[&str], required: &[&str], content: &Value, calls: Value| {
        json!({"type": "object", "additionalProperties": false, "required": required, "properties": {
            "role": {"enum": roles}, "content": content, "name": or_null(label()), "tool_call_id": or_null(label()),
            "tool_calls": calls, "reasoning_content": {"type": ["string", "null"]},
            "reasoning": {"type": ["string", "null"]}, "refusal": {"type": ["string", "null"]},
            "annotations": {"type": ["array", "null"]}, "audio": {"type": "null"}, "function_call": {"type": "null"},
        }})
    };
    let null = json!({"type": "null"});
    json!({"anyOf": [
        said(&["system", "developer", "user", "assistant"], &["role", "content"], &content, null.clone()),
        said(&["assistant"], &["role", "tool_calls"], &or_null(content.clone()), calls),
        json!({"allOf": [
            said(&["tool"], &["role", "content", "tool_call_id"], &content, null.clone()),
            {"properties": {"tool_call_id": label()}},
        ]}),
        json!({"allOf": [
            said(&["function"], &["role", "content", "name"], &content, null),
            {"properties": {"name": label()}},
        ]}),
    ]})
}

fn cache_hint() -> Value {
    json!({"type": "object", "additionalProperties": false, "required": ["type"],
        "properties": {"type": {"const": "ephemeral"}, "ttl": {"type": ["string", "null"]}}})
}

fn function() -> Value {
    json!({"type": "object", "required": ["name"], "properties": {
        "name": {"type": "string"}, "description": {"type": ["string", "null"]},
        "parameters": {"type": ["object", "null"]}, "strict": {"type": ["boolean", "null"]}}})
}

fn function_tool() -> Value {
    json!({"type": "object", "required": ["type", "function"],
        "properties": {"type": {"const": "function"}, "function": function()}})
}

fn tool_choice() -> Value {
    let function =
        json!({"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}});
    json!({"anyOf": [{"enum": ["auto", "none", "required"]}, {"type": "object", "required": ["type", "function"],
        "properties": {"type": {"const": "function"}, "function": function}}]})
}

fn number(range: NumberRange) -> Value {
    json!({"type": "number", "minimum": range.min, "maximum": range.max})
}

fn whole(range: WholeRange) -> Value {
    json!({"type": "integer", "minimum": range.min, "maximum": range.max})
}

fn list(entry: &Value, least: usize, most: usize) -> Value {
    json!({"type": "array", "items": entry, "minItems": least, "maxItems": most})
}

fn token() -> Value {
    json!({"type": "integer", "minimum": 0, "maximum": u32::MAX})
}

fn label() -> Value {
    json!({"type": "string", "maxLength": LIMITS.name_bytes})
}

fn stop_text() -> Value {
    json!({"type": "string", "minLength": 1, "maxLength": LIMITS.stop_bytes})
}

/// A parameter that may be left out may also be null.
pub(super) fn or_null(schema: Value) -> Value {
    if schema.as_object().is_some_and(serde_json::Map::is_empty) {
        return schema;
    }
    json!({"anyOf": [schema, {"type": "null"}]})
}
