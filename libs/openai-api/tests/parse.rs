//! What is accepted, what is refused, and in which words.

use proptest::prelude::*;
use serde_json::{Value, json};
use vlinders_openai_api::{ApiError, Choices, LIMITS, Prompt, UnknownFields, parse_chat, parse_completion};

fn chat(extra: &Value) -> Result<vlinders_openai_api::ChatRequest, ApiError> {
    parse_chat(
        with(
            extra,
            json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]}),
        )
        .as_bytes(),
        UnknownFields::Refuse,
    )
}

fn completion(extra: &Value) -> Result<vlinders_openai_api::CompletionRequest, ApiError> {
    parse_completion(
        with(extra, json!({"model": "m", "prompt": "hi"})).as_bytes(),
        UnknownFields::Refuse,
    )
}

fn with(extra: &Value, mut base: Value) -> String {
    for (key, value) in extra.as_object().expect("an object") {
        base[key] = value.clone();
    }
    base.to_string()
}

fn chat_error(extra: &Value) -> ApiError {
    let error = chat(extra).expect_err(&extra.to_string());
    assert_eq!(error.status, 400);
    error
}

#[test]
fn everything_that_works_is_read() {
    let request = chat(&json!({
        "temperature": 0.5, "top_p": 0.9, "top_k": -1, "min_p": 0.1, "seed": -1, "stop": "a",
        "stop_token_ids": [7], "ignore_eos": true, "min_tokens": 1, "max_tokens": 9, "max_completion_tokens": 9,
        "presence_penalty": 1, "frequency_penalty": -1, "repetition_penalty": 1.1,
        "logit_bias": {"9": -100, "3": 1.5}, "logprobs": true, "top_logprobs": 20, "stream": true,
        "stream_options": {"include_usage": true}, "user": "u", "metadata": {"a": "b"}, "priority": -3,
        "cache_salt": "s", "service_tier": "auto", "chat_template_kwargs": {"enable_thinking": false}, "n": 1,
    }))
    .unwrap();
    let options = &request.options;
    assert_eq!(
        (options.top_k, options.seed, options.max_tokens),
        (Some(0), Some(u64::MAX), Some(9))
    );
    assert_eq!(options.logit_bias, [(3, 1.5), (9, -100.0)]);
    assert_eq!(
        (options.logprobs, options.priority, options.include_usage),
        (Some(20), -3, true)
    );
    assert!(request.add_generation_prompt && !request.continue_final_message);
    let sampling = options.sampling(&vlinders_types::SamplingParams::default(), 5);
    assert_eq!((sampling.temperature, sampling.seed), (0.5, u64::MAX));
}

#[test]
fn null_is_the_same_as_leaving_it_out() {
    let nulls = json!({"temperature": null, "stop": null, "logit_bias": null, "logprobs": null, "seed": null,
        "stream_options": null, "n": null, "max_tokens": null, "tools": null});
    assert_eq!(chat(&nulls).unwrap(), chat(&json!({})).unwrap());
}

fn check_refusals(refusals: &[(Value, &str)]) {
    for (extra, text) in refusals {
        let error = chat_error(extra);
        assert_eq!(error.message, *text);
        let param = error.param.expect("every one is about a field");
        assert!(text.starts_with(&format!("{param}:")), "{param}");
    }
}

#[test]
fn values_out_of_range_are_named_with_their_range() {
    check_refusals(&[
        (
            json!({"temperature": 2.5}),
            "temperature: 2.5 is out of range (0 to 2)",
        ),
        (
            json!({"n": 1_000_000_000}),
            "n: 1000000000 is out of range (1 to 8)",
        ),
        (
            json!({"n": 1e300}),
            "n: 170141183460469231731687303715884105727 is out of range (1 to 8)",
        ),
        (
            json!({"max_tokens": 0}),
            "max_tokens: 0 is out of range (1 to 1048576)",
        ),
        (
            json!({"max_tokens": 1.5}),
            "max_tokens: 1.5 is not a whole number",
        ),
        (
            json!({"max_tokens": 5, "max_completion_tokens": 6}),
            "max_completion_tokens: 6 contradicts max_tokens (5); give one of them",
        ),
        (
            json!({"min_tokens": 6, "max_tokens": 5}),
            "min_tokens: 6 is more than max_tokens (5)",
        ),
        (
            json!({"top_logprobs": 21, "logprobs": true}),
            "top_logprobs: 21 is out of range (0 to 20)",
        ),
        (
            json!({"top_logprobs": 2}),
            "top_logprobs: needs logprobs set to true",
        ),
        (
            json!({"stop": ["a", "b", "c", "d", "e"]}),
            "stop: more than 4 entries",
        ),
        (json!({"stop": ""}), "stop: a stop string must not be empty"),
        (
            json!({"stop": ["x".repeat(257)]}),
            "stop[0]: a stop string of 257 bytes is longer than 256",
        ),
        (
            json!({"logit_bias": {"x": 1}}),
            "logit_bias: \"x\" is not a token id",
        ),
        (
            json!({"logit_bias": {"1": 101}}),
            "logit_bias: 101 is out of range (-100 to 100)",
        ),
        (
            json!({"logit_bias": {"1": 1, "01": 1}}),
            "logit_bias: token 1 is named twice",
        ),
        (
            json!({"stop_token_ids": [-1]}),
            "stop_token_ids[0]: -1 is not a token id",
        ),
        (
            json!({"temperature": "hot"}),
            "temperature: invalid type: string \"hot\", expected a number",
        ),
    ]);
}

#[test]
fn fields_that_contradict_each_other_are_named() {
    check_refusals(&[
        (
            json!({"max_tokens": -1}),
            "max_tokens: -1 is out of range (1 to 1048576)",
        ),
        (
            json!({"stream_options": {"include_usage": true}}),
            "stream_options: is only for streams; set stream to true",
        ),
        (
            json!({"messages": []}),
            "messages: at least one message is required",
        ),
        (
            json!({"messages": [{"role": "user"}]}),
            "messages[0]: `content` may be null only in an assistant's message with `tool_calls`",
        ),
        (json!({"model": ""}), "model: this field is required"),
        (
            json!({"chat_template_kwargs": {"messages": []}}),
            "chat_template_kwargs.messages: is not offered; known are enable_thinking, thinking, thinking_budget, date_string",
        ),
        (
            json!({"continue_final_message": true, "add_generation_prompt": true}),
            "continue_final_message: contradicts add_generation_prompt; set one of them",
        ),
    ]);
}

#[test]
fn known_parameters_that_are_not_offered_are_refused_by_name() {
    for (name, value) in [
        ("verbosity", json!("low")),
        ("guided_whitespace_pattern", json!(" ")),
        ("audio", json!({})),
        ("modalities", json!(["text"])),
        ("prediction", json!({})),
        ("web_search_options", json!({})),
        ("store", json!(true)),
        ("chat_template", json!("{{ x }}")),
        ("service_tier", json!("flex")),
        ("prompt", json!("x")),
    ] {
        let error = chat_error(&json!({name: value}));
        assert_eq!(
            (error.param.as_deref(), error.code),
            (Some(name), Some("unsupported_parameter")),
            "{error}"
        );
    }
    for (name, value) in [("suffix", json!("x")), ("messages", json!([]))] {
        assert_eq!(
            completion(&json!({name: value})).unwrap_err().param.as_deref(),
            Some(name)
        );
    }
}

#[test]
fn choices_are_told_and_computed() {
    let choices = |value: &Value| completion(value).map(|request| request.options.choices);
    let of = |told, computed| Ok(Choices { told, computed });
    for (value, expected) in [
        (json!({}), of(1, 1)),
        (json!({"n": 3}), of(3, 3)),
        (json!({"best_of": 4}), of(1, 4)),
        (json!({"n": 2, "best_of": 2, "stream": true}), of(2, 2)),
    ] {
        assert_eq!(choices(&value), expected);
    }
    for (value, text) in [
        (json!({"n": 3, "best_of": 2}), "best_of: 2 is less than n (3)"),
        (
            json!({"best_of": 2, "stream": true}),
            "best_of: the best answers are known only when all are complete; leave out best_of or stream",
        ),
        (json!({"n": 9}), "n: 9 is out of range (1 to 8)"),
        (json!({"best_of": 0}), "best_of: 0 is out of range (1 to 8)"),
        (
            json!({"n": 8, "prompt": vec!["a"; 17]}),
            "prompt: 136 answers, prompts times choices, are more than 128",
        ),
    ] {
        assert_eq!(choices(&value).unwrap_err().message, text);
    }
    assert_eq!(
        chat(&json!({"n": 8})).unwrap().options.choices,
        Choices { told: 8, computed: 8 }
    );
    assert_eq!(
        chat_error(&json!({"best_of": 2})).param.as_deref(),
        Some("best_of")
    );
}

#[test]
fn prompts_may_be_text_or_tokens_or_a_list_of_either() {
    let (text, tokens) = (Prompt::Text("a".into()), Prompt::Tokens(vec![1, 2]));
    for (value, prompts) in [
        (json!("a"), vec![text.clone()]),
        (json!(["a"]), vec![text.clone()]),
        (json!([1, 2]), vec![tokens.clone()]),
        (json!([[1, 2]]), vec![tokens.clone()]),
        (json!(["a", "a"]), vec![text.clone(), text]),
        (json!([[1, 2], [1, 2]]), vec![tokens.clone(), tokens]),
    ] {
        assert_eq!(completion(&json!({"prompt": value})).unwrap().prompts, prompts);
    }
    for (value, text) in [
        (json!(["a", ""]), "prompt: must not be empty"),
        (json!(["a", 1]), "prompt: token ids and whole prompts are mixed"),
        (json!(vec!["a"; 65]), "prompt: more than 64 prompts"),
        (json!([]), "prompt: must not be empty"),
        (json!([[]]), "prompt: must not be empty"),
        (json!(""), "prompt: must not be empty"),
        (json!([1, -2]), "prompt[1]: -2 is not a token id"),
        (
            json!([1, "a"]),
            "prompt[1]: invalid type: string \"a\", expected a whole number",
        ),
    ] {
        assert_eq!(completion(&json!({"prompt": value})).unwrap_err().message, text);
    }
}

#[test]
fn completions_count_their_logprobs() {
    assert_eq!(
        completion(&json!({"logprobs": 5})).unwrap().options.logprobs,
        Some(5)
    );
    assert_eq!(
        completion(&json!({"logprobs": 21})).unwrap_err().param.as_deref(),
        Some("logprobs")
    );
    assert!(completion(&json!({"logprobs": true})).is_err());
    let echoed = json!({"logprobs": 1, "echo": true, "max_tokens": 0});
    assert_eq!(completion(&echoed).unwrap().options.max_tokens, Some(0));
    let scored = json!({"prompt_logprobs": 20, "max_tokens": 0});
    assert_eq!(completion(&scored).unwrap().options.prompt_logprobs, Some(20));
    for (body, param) in [
        (json!({"max_tokens": 0}), "max_tokens"),
        (json!({"max_tokens": 0, "echo": true, "n": 2}), "n"),
        (json!({"logprobs": 1, "echo": true, "n": 2, "stream": true}), "n"),
        (json!({"prompt_logprobs": -1}), "prompt_logprobs"),
        (json!({"prompt_logprobs": 21}), "prompt_logprobs"),
        (json!({"prompt_logprobs": 1, "stream": true}), "prompt_logprobs"),
    ] {
        assert_eq!(
            completion(&body).unwrap_err().param.as_deref(),
            Some(param),
            "{body}"
        );
    }
    assert!(completion(&json!({"echo": true})).unwrap().echo);
}

#[test]
fn bodies_that_are_no_object_are_refused() {
    for (body, code) in [
        ("", "invalid_json"),
        ("{", "invalid_json"),
        ("[]", "invalid_value"),
        ("1", "invalid_value"),
        ("{} {}", "invalid_json"),
        ("{\"temperature\":NaN}", "invalid_json"),
        ("{\"temperature\":1e999}", "invalid_json"),
        ("\u{feff}{}", "invalid_json"),
    ] {
        let error = parse_chat(body.as_bytes(), UnknownFields::Refuse).unwrap_err();
        assert_eq!((error.status, error.code), (400, Some(code)), "{body} {error}");
    }
}

#[test]
fn abuse_is_refused_before_it_costs_anything() {
    let deep = format!(r#"{{"model":{}1{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(
        parse_chat(deep.as_bytes(), UnknownFields::Refuse)
            .unwrap_err()
            .code,
        Some("invalid_json")
    );
    let stops = format!(r#"{{"stop":[{}"a"]}}"#, r#""aaaaaaaa","#.repeat(900_000));
    let error = parse_chat(stops.as_bytes(), UnknownFields::Refuse).unwrap_err();
    assert_eq!(error.message, "stop: more than 4 entries");
    let long = format!(r#"{{"model":"{}"}}"#, "a".repeat(5_000_000));
    let error = parse_chat(long.as_bytes(), UnknownFields::Refuse).unwrap_err();
    assert!(
        error.message.len() < 2 * LIMITS.error_bytes,
        "{}",
        error.message.len()
    );
    let long = format!(r#"{{"temperature":"{}"}}"#, "a".repeat(5_000_000));
    let error = parse_chat(long.as_bytes(), UnknownFields::Refuse).unwrap_err();
    assert!(
        error.message.len() < 2 * LIMITS.error_bytes,
        "{}",
        error.message.len()
    );
}

proptest! {
    #[test]
    fn any_bytes_are_a_request_or_an_error(body: Vec<u8>) {
        let _ = parse_chat(&body, UnknownFields::Ignore);
        let _ = parse_completion(&body, UnknownFields::Refuse);
    }

    #[test]
    fn any_value_of_any_parameter_is_a_request_or_a_clean_400(name in "[a-z_]{1,12}|temperature|n|stop|logit_bias|prompt|messages|seed", value in any_json()) {
        for result in [chat(&json!({name.as_str(): value})).err(), completion(&json!({name.as_str(): value})).err()] {
            prop_assert!(result.is_none_or(|error| error.status == 400));
        }
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(".{0,4}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}
