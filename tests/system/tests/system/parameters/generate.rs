//! The parameters of the endpoints that draw tokens.

#![expect(
    clippy::too_many_lines,
    reason = "tables of parameters, one row after the other"
)]

use serde_json::{Value, json};
use vlinders_system_tests::Answer;

use super::{Row, another_prompt, another_text, changes_nothing, counted, finish, row, text, tools};

/// How tokens are drawn, at both endpoints. The base of every request is greedy.
pub(super) fn drawing() -> Vec<Row> {
    let hot = || json!({"temperature": 2, "seed": 5, "max_tokens": 30});
    let long = || json!({"ignore_eos": true, "max_tokens": 120});
    let too_high = || json!(7.5);
    vec![
        row(
            "temperature",
            json!({"seed": 5}),
            json!(2),
            too_high(),
            another_text,
        ),
        // Without these the heat shows; with them only the likeliest token is left.
        row("top_p", hot(), json!(0), too_high(), another_text),
        row("top_k", hot(), json!(1), json!(1.5), another_text),
        row("min_p", hot(), json!(1), too_high(), another_text),
        row("seed", hot(), json!(6), json!("x"), another_text),
        row("presence_penalty", long(), json!(2), too_high(), another_text),
        row("frequency_penalty", long(), json!(2), too_high(), another_text),
        row("repetition_penalty", long(), json!(1.8), json!(0), another_text),
        row(
            "logit_bias",
            json!({"max_tokens": 3}),
            json!({"696": 100}),
            json!({"696": 101}),
            |_, with| text(with) == "HelloHelloHello",
        ),
        row("n", json!({}), json!(3), json!(9), |without, with| {
            let choices = |answer: &Answer| answer.body["choices"].as_array().map(Vec::len);
            (choices(without), choices(with)) == (Some(1), Some(3))
        }),
        row(
            "prompt_logprobs",
            json!({}),
            json!(2),
            json!(21),
            |without, with| {
                let told = |answer: &Answer| answer.text.contains("\"prompt_logprobs\":[");
                !told(without) && told(with)
            },
        ),
    ]
}

/// Log-probabilities are asked for by a flag in a conversation and by a number behind a text.
pub(super) fn logprobs(value: Value) -> Row {
    row(
        "logprobs",
        json!({"max_tokens": 3}),
        value,
        json!("x"),
        |without, with| {
            let told = |answer: &Answer| !answer.body["choices"][0]["logprobs"].is_null();
            !told(without) && told(with)
        },
    )
}

/// What follows the model's own end is written with it.
fn special(mut beside: Value) -> Row {
    beside["ignore_eos"] = true.into();
    beside["max_tokens"] = 100.into();
    row(
        "skip_special_tokens",
        beside,
        json!(false),
        json!("x"),
        |without, with| !text(without).contains("<|end|>") && text(with).contains("<|end|>"),
    )
}

/// Where an answer ends, and what of it is told.
pub(super) fn ends() -> Vec<Row> {
    fn has(count: u64) -> impl Fn(&Answer) -> bool {
        move |answer| counted(answer, "completion_tokens") == count && finish(answer) == "length"
    }
    vec![
        row("max_tokens", json!({}), json!(3), json!(-1), |_, with| {
            has(3)(with)
        }),
        row(
            "max_completion_tokens",
            json!({"max_tokens": null}),
            json!(3),
            json!(-1),
            |_, with| has(3)(with),
        ),
        row(
            "min_tokens",
            json!({"stop": ["."], "max_tokens": 60}),
            json!(55),
            json!(-1),
            |without, with| {
                counted(without, "completion_tokens") < 55 && counted(with, "completion_tokens") >= 55
            },
        ),
        row(
            "stop",
            json!({}),
            json!([" server"]),
            json!(["a", "b", "c", "d", "e"]),
            |without, with| {
                text(without).contains(" server")
                    && text(without).starts_with(text(with))
                    && finish(with) == "stop"
                    && !text(with).contains(" server")
            },
        ),
        row(
            "include_stop_str_in_output",
            json!({"stop": [" server"]}),
            json!(true),
            json!("x"),
            |without, with| !text(without).contains(" server") && text(with).ends_with(" server"),
        ),
        row(
            "ignore_eos",
            json!({"max_tokens": 100}),
            json!(true),
            json!("x"),
            |without, with| finish(without) == "stop" && has(100)(with),
        ),
        row(
            "stop_token_ids",
            json!({}),
            json!([439]),
            json!([-1]),
            |without, with| {
                counted(without, "completion_tokens") > 10
                    && counted(with, "completion_tokens") < 10
                    && finish(with) == "stop"
            },
        ),
        row(
            "truncate_prompt_tokens",
            json!({}),
            json!(2),
            json!(0),
            |without, with| counted(without, "prompt_tokens") > 2 && counted(with, "prompt_tokens") == 2,
        ),
        row("stream", json!({}), json!(true), json!("x"), |without, with| {
            !without.text.contains("data:") && with.text.trim_end().ends_with("data: [DONE]")
        }),
        row(
            "stream_options",
            json!({"stream": true}),
            json!({"include_usage": true}),
            json!(5),
            |without, with| {
                !without.text.contains("\"usage\"")
                    && with.text.contains("\"usage\":null")
                    && with.text.contains("\"choices\":[],\"usage\":{")
            },
        ),
    ]
}

/// The form of an answer.
/// Which tokens may be drawn, and how they are told.
pub(super) fn vocabulary(logprobs: &Value) -> Vec<Row> {
    vec![
        // `Hello` and nothing else.
        row(
            "allowed_token_ids",
            json!({"max_tokens": 2}),
            json!([696]),
            json!([999_999]),
            |without, with| text(without) != "HelloHello" && text(with) == "HelloHello",
        ),
        row(
            "bad_words",
            json!({}),
            json!(["server", "Vlinders"]),
            json!([" "]),
            |without, with| {
                let says = |answer| text(answer).contains("server") || text(answer).contains("Vlinders");
                says(without) && !says(with)
            },
        ),
        row(
            "return_token_ids",
            json!({"max_tokens": 3}),
            json!(true),
            json!("x"),
            |without, with| {
                let told = |answer: &Answer| {
                    let choice = &answer.body["choices"][0];
                    let prompt = answer.text.contains("\"prompt_token_ids\":[");
                    choice["token_ids"].as_array().map(Vec::len) == Some(3) && prompt
                };
                !told(without) && told(with)
            },
        ),
        row(
            "return_tokens_as_token_ids",
            json!({"logprobs": logprobs, "max_tokens": 3}),
            json!(true),
            json!("x"),
            |without, with| !without.text.contains("\"token_id:") && with.text.contains("\"token_id:"),
        ),
    ]
}

pub(super) fn forms() -> Vec<Row> {
    let is_yes: fn(&Answer, &Answer) -> bool = |without, with| text(without) != "yes" && text(with) == "yes";
    let number: fn(&Answer, &Answer) -> bool = |_, with| matches!(text(with), "1" | "2");
    let schema = json!({"enum": [1, 2]});
    vec![
        row(
            "response_format",
            json!({}),
            json!({"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}),
            json!({"type": "x"}),
            number,
        ),
        row(
            "structured_outputs",
            json!({}),
            json!({"json": schema}),
            json!({"x": 1}),
            number,
        ),
        row("guided_json", json!({}), schema, json!(5), number),
        row("guided_regex", json!({}), json!("yes"), json!("("), is_yes),
        row("guided_choice", json!({}), json!(["yes"]), json!([]), is_yes),
        row(
            "guided_grammar",
            json!({}),
            json!("root ::= \"yes\""),
            json!("x"),
            is_yes,
        ),
    ]
}

/// Whose request it is, and how it goes into the queue.
pub(super) fn belonging(long: &Value) -> Vec<Row> {
    vec![
        row("user", json!({}), json!("u"), long.clone(), changes_nothing),
        row(
            "safety_identifier",
            json!({}),
            json!("u"),
            long.clone(),
            changes_nothing,
        ),
        row(
            "metadata",
            json!({}),
            json!({"a": "b"}),
            json!({"a": 1}),
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
            "cache_salt",
            json!({}),
            json!("salt"),
            long.clone(),
            changes_nothing,
        ),
        // Its place in the queue is told by the queue's own tests.
        row("priority", json!({}), json!(5), json!(100_000), changes_nothing),
    ]
}

pub(super) fn chat() -> Vec<Row> {
    let forced = || json!({"tools": tools(), "tool_choice": "required", "max_tokens": 100});
    let spoken =
        json!([{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Vlinders is"}]);
    vec![
        logprobs(json!(true)),
        special(json!({})),
        row(
            "messages",
            json!({}),
            json!([{"role": "user", "content": "Hello"}]),
            json!([]),
            another_text,
        ),
        row(
            "top_logprobs",
            json!({"logprobs": true, "max_tokens": 3}),
            json!(2),
            json!(21),
            |without, with| {
                let rivals = |answer: &Answer| {
                    answer.body["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
                        .as_array()
                        .map(Vec::len)
                };
                (rivals(without), rivals(with)) == (Some(0), Some(2))
            },
        ),
        row(
            "add_generation_prompt",
            json!({}),
            json!(false),
            json!("x"),
            another_prompt,
        ),
        row(
            "continue_final_message",
            json!({"messages": spoken, "add_generation_prompt": false}),
            json!(true),
            json!("x"),
            another_prompt,
        ),
        // The model's template reads none of them.
        row(
            "chat_template_kwargs",
            json!({}),
            json!({"enable_thinking": true}),
            json!({"x": 1}),
            changes_nothing,
        ),
        // The model's tokenizer adds nothing to a text.
        row(
            "add_special_tokens",
            json!({}),
            json!(true),
            json!("x"),
            changes_nothing,
        ),
        row(
            "tools",
            json!({}),
            tools(),
            json!([{"type": "x"}]),
            another_prompt,
        ),
        row(
            "tool_choice",
            json!({"tools": tools(), "max_tokens": 100}),
            json!("required"),
            json!("x"),
            |without, with| {
                let called = |answer: &Answer| !answer.body["choices"][0]["message"]["tool_calls"].is_null();
                !called(without) && called(with) && finish(with) == "tool_calls"
            },
        ),
        row(
            "parallel_tool_calls",
            forced(),
            json!(false),
            json!("x"),
            |_, with| {
                with.body["choices"][0]["message"]["tool_calls"]
                    .as_array()
                    .map(Vec::len)
                    == Some(1)
            },
        ),
        row(
            "functions",
            json!({}),
            json!([{"name": "look", "parameters": {"type": "object"}}]),
            json!([{"name": "a b"}]),
            another_prompt,
        ),
        row(
            "function_call",
            json!({"functions": [{"name": "look", "parameters": {"type": "object", "properties": {"a": {"enum": [1]}},
                "required": ["a"], "additionalProperties": false}}], "max_tokens": 100}),
            json!({"name": "look"}),
            json!("look"),
            |without, with| {
                let call = |answer: &Answer| answer.body["choices"][0]["message"]["function_call"].clone();
                call(without).is_null() && call(with)["name"] == "look" && finish(with) == "function_call"
            },
        ),
        // The model does not reason: none is what it does anyway.
        row(
            "reasoning_effort",
            json!({}),
            json!("none"),
            json!("high"),
            changes_nothing,
        ),
        row(
            "include_reasoning",
            json!({}),
            json!(false),
            json!("x"),
            changes_nothing,
        ),
    ]
}

pub(super) fn completion() -> Vec<Row> {
    vec![
        logprobs(json!(1)),
        // A conversation, as its template writes it.
        special(json!({"prompt": [1, 4, 337, 292, 383, 38, 7, 5]})),
        row(
            "prompt",
            json!({}),
            json!("The butterfly"),
            json!([]),
            another_text,
        ),
        row(
            "best_of",
            json!({"temperature": 1, "seed": 3}),
            json!(4),
            json!(9),
            |without, with| {
                // Four were computed and billed, one is told.
                with.body["choices"].as_array().map(Vec::len) == Some(1)
                    && counted(with, "completion_tokens") > counted(without, "completion_tokens")
            },
        ),
        row("echo", json!({}), json!(true), json!("x"), |without, with| {
            !text(without).starts_with("What is") && text(with).starts_with("What is")
        }),
        row(
            "add_special_tokens",
            json!({}),
            json!(false),
            json!("x"),
            changes_nothing,
        ),
    ]
}

pub(super) fn service_tier() -> Row {
    row(
        "service_tier",
        json!({}),
        json!("auto"),
        json!("gold"),
        |without, with| {
            !without.text.contains("\"service_tier\":\"default\"")
                && with.text.contains("\"service_tier\":\"default\"")
        },
    )
}
