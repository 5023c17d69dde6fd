//! Tools and reasoning: what is asked of the worker, and what its text becomes, whole and in pieces.

use serde_json::{Value, json};
use vlinders_types::{Constraint, FinishReason, Request};

use crate::support::{World, check_error, chunk, last, within};

fn tools() -> Value {
    let tool = |name: &str| {
        let parameters = json!({"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"]});
        json!({"type": "function", "function": {"name": name, "description": "d", "parameters": parameters}})
    };
    json!([tool("look"), tool("go")])
}

/// Asks, lets the worker say these pieces, and returns the message, or the deltas of a stream, with the finish reason.
pub(crate) async fn said(
    world: &World,
    extra: &Value,
    pieces: &[&str],
    reason: FinishReason,
) -> (Request, Value) {
    let worker = async {
        let request = world.take().await;
        let mut position = 0;
        for piece in pieces {
            // Several tokens at a time, and some without text.
            world.send(&request, vec![chunk(position, 2, piece)]).await;
            position += 2;
        }
        world.send(&request, vec![last(position, 0, "", reason)]).await;
        request
    };
    let (response, request) = within(async { tokio::join!(world.chat(extra).send(), worker) }).await;
    let text = within(response.expect("an answer").text()).await.expect("text");
    if extra["stream"] == true {
        let events = text
            .split("\n\n")
            .filter_map(|event| event.strip_prefix("data: "));
        let events = events.filter(|event| *event != "[DONE]");
        let choices = events.filter_map(|event| {
            let event: Value = serde_json::from_str(event).expect("events are JSON");
            event["choices"].get(0).cloned()
        });
        (request, choices.collect())
    } else {
        let body: Value = serde_json::from_str(&text).expect("answers are JSON");
        (request, body)
    }
}

pub(crate) const CALLS: [&str; 6] = [
    "I look.\n<tool",
    "_call>\n{\"name\": \"look\", \"arg",
    "uments\": {\"a\":",
    " 1}}\n</tool_call>\n<tool_call>{\"name\": \"go\", \"arguments\": {}}",
    "",
    "</tool_call>",
];

#[tokio::test]
async fn calls_come_whole() {
    let world = World::new().await;
    let (request, body) = said(&world, &json!({"tools": tools()}), &CALLS, FinishReason::Stop).await;
    assert_eq!(
        request.prompt_ids.len(),
        "look;go;<user>hi>".len(),
        "the template gets the tools"
    );
    assert_eq!(request.constraint, None, "the model decides");
    let choice = &body["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls");
    assert_eq!(choice["message"]["content"], "I look.");
    let calls = choice["message"]["tool_calls"].as_array().unwrap();
    assert_eq!(calls.len(), 2);
    assert_eq!(
        (&calls[0]["type"], &calls[0]["function"]["name"]),
        (&json!("function"), &json!("look"))
    );
    assert_eq!(calls[0]["function"]["arguments"], "{\"a\": 1}");
    assert_eq!(calls[1]["function"], json!({"name": "go", "arguments": "{}"}));
    assert_ne!(calls[0]["id"], calls[1]["id"]);
}

#[tokio::test]
async fn calls_are_streamed_as_a_beginning_and_pieces_of_arguments() {
    let world = World::new().await;
    let asked = json!({"tools": tools(), "stream": true});
    let (_, choices) = said(&world, &asked, &CALLS, FinishReason::Stop).await;
    let deltas: Vec<&Value> = choices
        .as_array()
        .unwrap()
        .iter()
        .map(|choice| &choice["delta"])
        .collect();
    assert_eq!(deltas[0], &json!({"role": "assistant", "content": ""}));
    assert_eq!(deltas[1], &json!({"content": "I look."}));
    // However many pieces the client got them in.
    let calls: Vec<&Value> = deltas
        .iter()
        .filter_map(|delta| delta["tool_calls"].get(0))
        .collect();
    for (index, name, arguments) in [(0, "look", "{\"a\": 1}"), (1, "go", "{}")] {
        let mut of_one = calls.iter().filter(|call| call["index"] == index);
        let first = of_one.next().unwrap();
        let id = first["id"].as_str().unwrap();
        let begun = json!({"name": name, "arguments": ""});
        assert_eq!(
            **first,
            json!({"index": index, "id": id, "type": "function", "function": begun})
        );
        let mut joined = String::new();
        for call in of_one {
            let piece = call["function"]["arguments"].as_str().unwrap();
            assert_eq!(**call, json!({"index": index, "function": {"arguments": piece}}));
            joined.push_str(piece);
        }
        assert_eq!(joined, arguments);
    }
    let end = choices.as_array().unwrap().last().unwrap();
    assert_eq!(
        (&end["delta"], &end["finish_reason"]),
        (&json!({}), &json!("tool_calls"))
    );
}

#[tokio::test]
async fn a_call_cut_at_its_limit_says_so() {
    let world = World::new().await;
    for is_streamed in [false, true] {
        let asked = json!({"tools": tools(), "stream": is_streamed});
        let (_, told) = said(&world, &asked, &CALLS[..3], FinishReason::Length).await;
        if is_streamed {
            let choices = told.as_array().unwrap();
            assert_eq!(choices.last().unwrap()["finish_reason"], "length");
        } else {
            let choice = &told["choices"][0];
            assert_eq!(choice["finish_reason"], "length");
            assert_eq!(
                choice["message"]["tool_calls"][0]["function"]["arguments"],
                "{\"a\":"
            );
        }
    }
}

#[tokio::test]
async fn what_is_no_call_stays_content() {
    let world = World::new().await;
    let broken = "<tool_call>{\"name\": \"unknown\", \"arguments\": {}}</tool_call>";
    let (_, body) = said(&world, &json!({"tools": tools()}), &[broken], FinishReason::Stop).await;
    let choice = &body["choices"][0];
    assert_eq!(
        (&choice["message"]["content"], &choice["finish_reason"]),
        (&json!(broken), &json!("stop"))
    );
    assert!(choice["message"].get("tool_calls").is_none());
    // Without tools, or with none to be called, markers are nothing special.
    for extra in [json!({}), json!({"tools": tools(), "tool_choice": "none"})] {
        let (request, body) = said(&world, &extra, &CALLS[1..], FinishReason::Stop).await;
        assert_eq!(request.prompt_ids.len(), "<user>hi>".len());
        assert_eq!(body["choices"][0]["message"]["content"], CALLS[1..].concat());
    }
}

#[tokio::test]
async fn without_parallel_calls_only_the_first_is_told() {
    let world = World::new().await;
    let asked = json!({"tools": tools(), "parallel_tool_calls": false});
    let (_, body) = said(&world, &asked, &CALLS, FinishReason::Stop).await;
    let calls = body["choices"][0]["message"]["tool_calls"].as_array().unwrap();
    assert_eq!(calls.len(), 1);
    assert_eq!(
        calls[0]["function"],
        json!({"name": "look", "arguments": "{\"a\": 1}"})
    );
}

fn function(function: &Value) -> Value {
    json!([{"type": "function", "function": function}])
}

fn named(name: &str) -> Value {
    json!({"type": "function", "function": {"name": name}})
}

pub(crate) async fn check_refused(cases: &[(Value, &str, &str)]) {
    let world = World::new().await;
    for (extra, param, code) in cases {
        let response = within(world.chat(extra).send()).await.expect("an answer");
        let error = check_error(response, 400, code).await;
        assert_eq!(error["param"], *param, "{error}");
    }
}

#[tokio::test]
async fn tools_out_of_their_limits_are_refused_by_name() {
    let with =
        |parameters: Value| json!({"tools": function(&json!({"name": "a", "parameters": parameters}))});
    let deep = (0..40).fold(json!({}), |inner, _| json!({"items": inner}));
    let wide = json!({"description": "x".repeat(70_000)});
    let (invalid, elsewhere) = ("invalid_value", "unsupported_parameter");
    check_refused(&[
        (json!({"tools": [{}]}), "tools[0].type", invalid),
        (
            json!({"tools": [{"type": "web_search"}]}),
            "tools[0].type",
            elsewhere,
        ),
        (
            json!({"tools": function(&json!({"name": "a b"}))}),
            "tools[0].function.name",
            invalid,
        ),
        (
            json!({"tools": function(&json!({"name": "a", "paramters": {}}))}),
            "tools[0].function.paramters",
            invalid,
        ),
        (
            json!({"tools": function(&json!({"name": "a", "strict": true}))}),
            "tools[0].function.strict",
            elsewhere,
        ),
        (with(json!([])), "tools[0].function.parameters", invalid),
        (with(deep), "tools[0].function.parameters", invalid),
        (with(wide), "tools", invalid),
        (
            json!({"tools": [named("a"), named("a")]}),
            "tools[1].function.name",
            invalid,
        ),
        (json!({"tools": vec![named("a"); 129]}), "tools", invalid),
    ])
    .await;
}

#[tokio::test]
async fn choices_of_tools_and_efforts_nobody_knows_are_refused_by_name() {
    let (invalid, elsewhere) = ("invalid_value", "unsupported_parameter");
    check_refused(&[
        (
            json!({"tools": tools(), "tool_choice": "required", "stop": ["x"]}),
            "stop",
            elsewhere,
        ),
        (
            json!({"tools": tools(), "tool_choice": named("look"), "ignore_eos": true}),
            "ignore_eos",
            elsewhere,
        ),
        (
            json!({"tools": tools(), "tool_choice": named("nobody")}),
            "tool_choice",
            invalid,
        ),
        (
            json!({"tools": tools(), "tool_choice": "sometimes"}),
            "tool_choice",
            invalid,
        ),
        (
            json!({"tools": tools(), "tool_choice": {"type": "allowed_tools"}}),
            "tool_choice",
            elsewhere,
        ),
        (json!({"tool_choice": "required"}), "tool_choice", invalid),
        (json!({"reasoning_effort": "much"}), "reasoning_effort", invalid),
        (json!({"verbosity": "low"}), "verbosity", elsewhere),
    ])
    .await;
}

#[tokio::test]
async fn reasoning_is_told_apart_counted_and_left_out_on_request() {
    let world = World::new().await;
    let thought = ["<thi", "nk>\nSo <tool_call> it", " is.\n</th", "ink>\n\nYes", "."];
    let (_, body) = said(&world, &json!({}), &thought, FinishReason::Stop).await;
    let message = &body["choices"][0]["message"];
    assert_eq!(
        (&message["reasoning_content"], &message["content"]),
        (&json!("So <tool_call> it is."), &json!("Yes."))
    );
    // The scripted tokens are not those of the text: their number is what counts here.
    assert!(body["usage"]["completion_tokens_details"]["reasoning_tokens"].is_u64());

    let (_, body) = said(
        &world,
        &json!({"include_reasoning": false}),
        &thought,
        FinishReason::Stop,
    )
    .await;
    let message = &body["choices"][0]["message"];
    assert_eq!(
        (message.get("reasoning_content"), &message["content"]),
        (None, &json!("Yes."))
    );

    let asked = json!({"stream": true, "reasoning_effort": "high"});
    let opened = ["So it", " is.\n</think>\n\nYes."];
    let (request, choices) = said(&world, &asked, &opened, FinishReason::Stop).await;
    assert!(
        request.prompt_ids.ends_with(b"<think>".map(u32::from).as_slice()),
        "the template is told"
    );
    let joined = |name: &str| -> String {
        let choices = choices.as_array().unwrap().iter();
        choices
            .filter_map(|choice| choice["delta"][name].as_str())
            .collect()
    };
    assert_eq!(
        (joined("reasoning_content"), joined("content")),
        ("So it is.".to_owned(), "Yes.".to_owned())
    );

    // Cut off while it thinks: none of it is content.
    let (_, body) = said(
        &world,
        &json!({"reasoning_effort": "low"}),
        &["So it"],
        FinishReason::Length,
    )
    .await;
    let message = &body["choices"][0]["message"];
    assert_eq!(
        (&message["reasoning_content"], &message["content"]),
        (&json!("So it"), &json!(""))
    );
}

/// Whatever a model that thinks writes: where a form is asked for, the form is all there is, from the first token on.
#[tokio::test]
async fn an_answer_of_a_given_form_holds_no_thoughts() {
    let world = World::new().await;
    for form in [
        json!({"guided_json": {}}),
        json!({"response_format": {"type": "json_object"}}),
        json!({"guided_choice": ["<think>a</think>b"]}),
    ] {
        let pieces = ["<think>a</th", "ink>b"];
        let (request, body) = said(&world, &form, &pieces, FinishReason::Stop).await;
        assert!(request.constraint.is_some(), "{form}");
        assert!(!request.prompt_ids.ends_with(b"<think>".map(u32::from).as_slice()));
        let message = &body["choices"][0]["message"];
        assert_eq!(message["content"], "<think>a</think>b", "{body}");
        assert!(message.get("reasoning_content").is_none(), "{body}");
    }
}

#[tokio::test]
async fn calls_follow_reasoning() {
    let world = World::new().await;
    let pieces = [
        "<think>Should I?</think>\n<tool",
        CALLS[1],
        CALLS[2],
        CALLS[3],
        CALLS[5],
    ];
    let (_, body) = said(&world, &json!({"tools": tools()}), &pieces, FinishReason::Stop).await;
    let message = &body["choices"][0]["message"];
    assert_eq!(
        (&message["reasoning_content"], &message["content"]),
        (&json!("Should I?"), &Value::Null)
    );
    assert_eq!(message["tool_calls"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn reasoning_tokens_are_counted_token_by_token() {
    let world = World::new().await;
    let text = "<think>ab</think>xyz";
    let worker = async {
        let request = world.take().await;
        let mut whole = last(0, 0, text, FinishReason::Stop);
        whole.ids = text.bytes().map(u32::from).collect();
        whole.finish.as_mut().unwrap().counts.completion = u32::try_from(text.len()).unwrap();
        world.send(&request, vec![whole]).await;
    };
    let asked = json!({});
    let (response, ()) = within(async { tokio::join!(world.chat(&asked).send(), worker) }).await;
    let body: Value = within(response.unwrap().json()).await.unwrap();
    let inside = "ab</think>".len() + 1;
    assert_eq!(
        body["usage"]["completion_tokens_details"]["reasoning_tokens"],
        inside
    );
}

#[tokio::test]
async fn lengths_and_texts_are_as_asked_for() {
    let world = World::new().await;
    let answer = |extra: Value| {
        let world = &world;
        async move { said(world, &extra, &["x"], FinishReason::Stop).await.0 }
    };
    let request = answer(json!({"truncate_prompt_tokens": 3, "include_stop_str_in_output": true})).await;
    assert_eq!(request.prompt_ids, b"hi>".map(u32::from));
    assert!(request.text.includes_stop);
    let long = json!([{"role": "user", "content": "a".repeat(200)}]);
    let request = answer(json!({"messages": long, "truncate_prompt_tokens": -1, "max_tokens": 10})).await;
    assert_eq!(request.prompt_ids.len(), 90);
    let request = answer(json!({"skip_special_tokens": false})).await;
    assert_eq!(request.text.special, vlinders_types::SpecialTokens::AllShown);

    let asked =
        json!({"stream": true, "stream_options": {"include_usage": true, "continuous_usage_stats": true}});
    let worker = async {
        let request = world.take().await;
        world.send(&request, vec![chunk(0, 1, "A")]).await;
        world
            .send(&request, vec![last(1, 1, "B", FinishReason::Stop)])
            .await;
    };
    let (response, ()) = within(async { tokio::join!(world.chat(&asked).send(), worker) }).await;
    let text = within(response.unwrap().text()).await.unwrap();
    let counts: Vec<u64> = text
        .split("\"completion_tokens\":")
        .skip(1)
        .filter_map(|rest| rest.split(',').next()?.parse().ok())
        .collect();
    assert_eq!(*counts.last().unwrap(), 2);
    assert!(
        counts.is_sorted() && counts.len() >= 4,
        "every chunk counts: {counts:?}"
    );
}

#[tokio::test]
async fn forced_calls_are_a_constraint_of_the_worker() {
    let world = World::new().await;
    for (choice, is_parallel, has_look) in [
        (json!("required"), true, true),
        (
            json!({"type": "function", "function": {"name": "go"}}),
            false,
            false,
        ),
    ] {
        let asked = json!({"tools": tools(), "tool_choice": choice});
        let (request, body) = said(&world, &asked, &CALLS, FinishReason::Stop).await;
        let Some(Constraint::Lark(lark)) = request.constraint else {
            panic!("a forced call is a grammar");
        };
        assert_eq!(lark.contains("{0,31}"), is_parallel, "{lark}");
        assert_eq!(lark.contains("look"), has_look, "{lark}");
        assert!(lark.contains("\\\"go\\\"") && lark.contains("%json"), "{lark}");
        assert_eq!(body["choices"][0]["finish_reason"], "tool_calls");
    }
}
