//! Tools offered as functions, and tokens told by their ids.

use serde_json::{Value, json};
use vlinders_types::FinishReason;

use crate::support::World;
use crate::tools::{CALLS, check_refused, said};

/// The older way to say it: one call at most, told as the call of a function.
#[tokio::test]
async fn functions_are_tools_that_are_told_as_functions() {
    let world = World::new().await;
    let functions = json!([{"name": "look"}, {"name": "go", "parameters": {"type": "object"}}]);
    let asked = json!({"functions": functions});
    let (request, body) = said(&world, &asked, &CALLS, FinishReason::Stop).await;
    assert!(
        request
            .prompt_ids
            .starts_with(b"look;go;".map(u32::from).as_slice())
    );
    let choice = &body["choices"][0];
    assert_eq!(choice["finish_reason"], "function_call");
    assert_eq!(
        choice["message"]["function_call"],
        json!({"name": "look", "arguments": "{\"a\": 1}"})
    );
    assert!(choice["message"].get("tool_calls").is_none(), "{body}");

    let streamed = json!({"functions": functions, "stream": true});
    let (_, choices) = said(&world, &streamed, &CALLS, FinishReason::Stop).await;
    let deltas = choices.as_array().unwrap().iter();
    let calls: Vec<&Value> = deltas
        .filter_map(|choice| choice["delta"].get("function_call"))
        .collect();
    assert_eq!(calls[0], &json!({"name": "look", "arguments": ""}));
    let arguments: String = calls
        .iter()
        .filter_map(|call| call["arguments"].as_str())
        .collect();
    assert_eq!(arguments, "{\"a\": 1}");
    assert_eq!(
        choices.as_array().unwrap().last().unwrap()["finish_reason"],
        "function_call"
    );

    let forced = json!({"functions": functions, "function_call": {"name": "go"}});
    let (request, _) = said(&world, &forced, &["x"], FinishReason::Stop).await;
    assert!(matches!(
        request.constraint,
        Some(vlinders_types::Constraint::Lark(_))
    ));
    let none = json!({"functions": functions, "function_call": "none"});
    let (request, body) = said(&world, &none, &CALLS, FinishReason::Stop).await;
    assert!(
        request.constraint.is_none() && body["choices"][0]["finish_reason"] == "stop",
        "{body}"
    );
}

#[tokio::test]
async fn functions_out_of_their_limits_are_refused_by_name() {
    let functions = json!([{"name": "look"}]);
    check_refused(&[
        (
            json!({"functions": [{"name": "a b"}]}),
            "functions[0].name",
            "invalid_value",
        ),
        (
            json!({"functions": [{"name": "a"}, {"name": "a"}]}),
            "functions[1].name",
            "invalid_value",
        ),
        (
            json!({"functions": functions, "tools": []}),
            "tools",
            "invalid_value",
        ),
        (
            json!({"functions": functions, "function_call": {"name": "x"}}),
            "function_call",
            "invalid_value",
        ),
        (
            json!({"function_call": {"name": "x"}}),
            "function_call",
            "invalid_value",
        ),
        (
            json!({"functions": functions, "function_call": "required"}),
            "function_call",
            "invalid_value",
        ),
    ])
    .await;
}

#[tokio::test]
async fn tokens_are_told_by_their_ids() {
    let world = World::new().await;
    let asked = json!({"return_token_ids": true, "max_tokens": 9});
    let (request, body) = said(&world, &asked, &["a", "b"], FinishReason::Stop).await;
    assert_eq!(body["prompt_token_ids"], json!(request.prompt_ids));
    let sent = body["choices"][0]["token_ids"].clone();
    assert_eq!(sent.as_array().map(Vec::len), Some(4), "{body}");

    let asked = json!({"return_token_ids": true, "stream": true});
    let (_, choices) = said(&world, &asked, &["a", "", "b"], FinishReason::Stop).await;
    let told: Vec<&Value> = choices
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|choice| choice["token_ids"].as_array())
        .flatten()
        .collect();
    // Each once, also those that have no text.
    assert_eq!(told.len(), 6, "{choices}");

    let (_, body) = said(&world, &json!({}), &["a"], FinishReason::Stop).await;
    assert!(body.get("prompt_token_ids").is_none() && body["choices"][0].get("token_ids").is_none());
}
