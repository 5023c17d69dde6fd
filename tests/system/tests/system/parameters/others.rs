//! The parameters of the other endpoints, and of other dialects.

#![expect(
    clippy::too_many_lines,
    reason = "tables of parameters, one row after the other"
)]

use serde_json::{Value, json};
use vlinders_system_tests::Answer;

use super::{Row, another_text, changes_nothing, counted, look, row, text, tools};

/// The Messages API. Where tokens are only counted, nothing is drawn.
pub(super) fn messages(long: &Value, is_counted: bool) -> Vec<Row> {
    let used: fn(&Answer, &Answer) -> bool = |without, with| {
        let read = |answer: &Answer| {
            let counted = answer.body["input_tokens"].as_u64();
            counted.or(answer.body["usage"]["input_tokens"].as_u64())
        };
        read(without).is_some() && read(without) != read(with)
    };
    let drawn: fn(&Answer, &Answer) -> bool = if is_counted { changes_nothing } else { another_text };
    let hot = || json!({"temperature": 1.0});
    let stopped: fn(&Answer, &Answer) -> bool = if is_counted {
        changes_nothing
    } else {
        |_, with| with.body["stop_reason"] == "stop_sequence" && with.body["stop_sequence"] == " server"
    };
    let cut: fn(&Answer, &Answer) -> bool = if is_counted {
        changes_nothing
    } else {
        |_, with| with.body["stop_reason"] == "max_tokens" && with.body["usage"]["output_tokens"] == 2
    };
    let streamed: fn(&Answer, &Answer) -> bool = if is_counted {
        changes_nothing
    } else {
        |_, with| with.text.contains("event: message_stop")
    };
    let tool = json!([{"name": "look", "input_schema": look()}]);
    let called: fn(&Answer, &Answer) -> bool = if is_counted {
        |_, _| true
    } else {
        |without, with| {
            let kind = |answer: &Answer| answer.body["content"][0]["type"].clone();
            kind(without) == "text" && kind(with) == "tool_use"
        }
    };
    vec![
        row(
            "messages",
            json!({}),
            json!([{"role": "user", "content": "Hello"}]),
            json!([]),
            used,
        ),
        row("system", json!({}), json!("Be brief."), json!(5), used),
        row("max_tokens", json!({}), json!(2), json!(-1), cut),
        row("stop_sequences", json!({}), json!([" server"]), json!(5), stopped),
        row("stream", json!({}), json!(true), json!("x"), streamed),
        row(
            "temperature",
            json!({}),
            json!(1),
            json!(3),
            if is_counted { drawn } else { |_, _| true },
        ),
        // Beside heat, only the likeliest token is left.
        row(
            "top_p",
            hot(),
            json!(0),
            json!(3),
            if is_counted { drawn } else { |_, _| true },
        ),
        row(
            "top_k",
            hot(),
            json!(1),
            json!(1.5),
            if is_counted { drawn } else { |_, _| true },
        ),
        row(
            "metadata",
            json!({}),
            json!({"user_id": "u"}),
            json!({"user_id": long}),
            changes_nothing,
        ),
        row(
            "service_tier",
            json!({}),
            json!("auto"),
            json!("gold"),
            changes_nothing,
        ),
        row(
            "tools",
            json!({}),
            tool.clone(),
            json!([{"name": "a b", "input_schema": {}}]),
            used,
        ),
        row(
            "tool_choice",
            json!({"tools": tool, "max_tokens": 100}),
            json!({"type": "any"}),
            json!({"type": "x"}),
            called,
        ),
        row(
            "thinking",
            json!({}),
            json!({"type": "disabled"}),
            json!({"type": "x"}),
            changes_nothing,
        ),
        row(
            "cache_control",
            json!({}),
            json!({"type": "ephemeral"}),
            json!({"type": "x"}),
            changes_nothing,
        ),
    ]
}

pub(super) fn responses(long: &Value) -> Vec<Row> {
    let read: fn(&Answer, &Answer) -> bool =
        |without, with| counted(without, "input_tokens") != counted(with, "input_tokens");
    let tool = json!([{"type": "function", "name": "look", "parameters": look()}]);
    vec![
        row("store", json!({}), json!(true), json!("x"), |_, with| {
            with.body["store"] == true
        }),
        row(
            "include",
            json!({"max_output_tokens": 16}),
            json!(["message.output_text.logprobs"]),
            json!(["reasoning.encrypted_content"]),
            |without, with| {
                let told = |answer: &Answer| {
                    let part = &answer.body["output"][0]["content"][0];
                    part["logprobs"].as_array().map(Vec::len)
                };
                (told(without), told(with)) == (Some(0), Some(16))
            },
        ),
        row(
            "top_logprobs",
            json!({"max_output_tokens": 16, "include": ["message.output_text.logprobs"]}),
            json!(3),
            json!(21),
            |_, with| {
                let token = &with.body["output"][0]["content"][0]["logprobs"][0];
                token["top_logprobs"].as_array().map(Vec::len) == Some(3)
            },
        ),
        // What it goes on from is told by the tests of what is kept.
        row(
            "previous_response_id",
            json!({}),
            Value::Null,
            json!(5),
            changes_nothing,
        ),
        row("input", json!({}), json!("Hello"), json!([]), another_text),
        row("instructions", json!({}), json!("Be brief."), json!(5), read),
        row("max_output_tokens", json!({}), json!(16), json!(-1), |_, with| {
            with.body["status"] == "incomplete" && counted(with, "output_tokens") == 16
        }),
        row("temperature", json!({}), json!(2), json!(3), |_, _| true),
        row("top_p", json!({"temperature": 2}), json!(0), json!(3), |_, _| {
            true
        }),
        row("stream", json!({}), json!(true), json!("x"), |_, with| {
            with.text.contains("event: response.completed")
        }),
        row(
            "metadata",
            json!({}),
            json!({"a": "b"}),
            json!({"a": 1}),
            |without, with| {
                without.body["metadata"] == json!({}) && with.body["metadata"] == json!({"a": "b"})
            },
        ),
        row("user", json!({}), json!("u"), long.clone(), changes_nothing),
        row(
            "safety_identifier",
            json!({}),
            json!("u"),
            long.clone(),
            changes_nothing,
        ),
        row(
            "prompt_cache_key",
            json!({}),
            json!("k"),
            long.clone(),
            changes_nothing,
        ),
        row(
            "service_tier",
            json!({}),
            json!("auto"),
            json!("gold"),
            changes_nothing,
        ),
        row(
            "parallel_tool_calls",
            json!({"tools": tool, "tool_choice": "required"}),
            json!(false),
            json!("x"),
            |_, with| with.body["output"].as_array().map(Vec::len) == Some(1),
        ),
        row(
            "tools",
            json!({}),
            tool.clone(),
            json!([{"type": "web_search"}]),
            read,
        ),
        row(
            "tool_choice",
            json!({"tools": tool, "max_output_tokens": 100}),
            json!("required"),
            json!("x"),
            |_, with| with.body["output"][0]["type"] == "function_call",
        ),
        row(
            "text",
            json!({}),
            json!({"format": {"type": "json_schema", "name": "a", "schema": {"enum": [1, 2]}}}),
            json!({"format": {"type": "x"}}),
            |_, with| matches!(text(with), "1" | "2"),
        ),
        row(
            "reasoning",
            json!({}),
            json!({"effort": "none"}),
            json!({"effort": "x"}),
            changes_nothing,
        ),
    ]
}

pub(super) fn embeddings() -> Vec<Row> {
    vec![
        row(
            "input",
            json!({}),
            json!("The butterfly"),
            json!([]),
            |without, with| without.body["data"] != with.body["data"],
        ),
        row("dimensions", json!({}), json!(2), json!(0), |_, with| {
            with.body["data"][0]["embedding"].as_array().map(Vec::len) == Some(2)
        }),
        row(
            "encoding_format",
            json!({}),
            json!("base64"),
            json!("x"),
            |without, with| {
                without.body["data"][0]["embedding"].is_array()
                    && with.body["data"][0]["embedding"].is_string()
            },
        ),
    ]
}

pub(super) fn decisions() -> Vec<Row> {
    let told: fn(&Answer, &Answer) -> bool =
        |without, with| without.body["probabilities"] != with.body["probabilities"];
    vec![
        row("input", json!({}), json!("The butterfly is"), json!(5), told),
        row(
            "messages",
            json!({"input": null, "messages": [{"role": "user", "content": "What?"}]}),
            json!([{"role": "user", "content": "Hello"}]),
            json!([]),
            told,
        ),
        row(
            "labels",
            json!({}),
            json!([" yes", " no", " perhaps"]),
            json!([" yes"]),
            told,
        ),
        row("calibrate", json!({}), json!(true), json!("x"), told),
        row(
            "chat_template_kwargs",
            json!({"input": null, "messages": [{"role": "user", "content": "Hello"}]}),
            json!({"enable_thinking": true}),
            json!({"x": 1}),
            changes_nothing,
        ),
    ]
}

pub(super) fn tokenize() -> Vec<Row> {
    let count: fn(&Answer, &Answer) -> bool = |without, with| without.body["count"] != with.body["count"];
    let spoken =
        || json!([{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Vlinders is"}]);
    let chat = || json!({"prompt": null, "messages": spoken()});
    vec![
        row("prompt", json!({}), json!("The butterfly"), json!(5), count),
        row(
            "messages",
            json!({"prompt": null, "messages": [{"role": "user", "content": "Hello"}]}),
            spoken(),
            json!([]),
            count,
        ),
        // The model's tokenizer adds nothing to a text.
        row(
            "add_special_tokens",
            json!({}),
            json!(false),
            json!("x"),
            changes_nothing,
        ),
        row(
            "return_token_strs",
            json!({}),
            json!(true),
            json!("x"),
            |without, with| {
                without.body["token_strs"].is_null()
                    && with.body["token_strs"].as_array().map(Vec::len)
                        == with.body["tokens"].as_array().map(Vec::len)
            },
        ),
        row("add_generation_prompt", chat(), json!(false), json!("x"), count),
        row(
            "continue_final_message",
            json!({"prompt": null, "messages": spoken(), "add_generation_prompt": false}),
            json!(true),
            json!("x"),
            count,
        ),
        row(
            "chat_template_kwargs",
            chat(),
            json!({"enable_thinking": true}),
            json!({"x": 1}),
            changes_nothing,
        ),
        row("tools", chat(), tools(), json!([{"type": "x"}]), count),
    ]
}
