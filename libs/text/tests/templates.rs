//! Chat templates render as Python renders them. `make_goldens.py` wrote what is expected.

#![allow(clippy::unwrap_used, reason = "test code")]

mod small;

use std::sync::Arc;

use serde_json::{Map, Value, json};
use small::{byte_level, byte_level_json, load};
use vlinders_text::{ChatInput, ModelText, TextError};

fn file(name: &str) -> String {
    std::fs::read_to_string(format!("{}/tests/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn with_template(template: &Value) -> Arc<ModelText> {
    let config = json!({"bos_token": "<s>", "eos_token": "</s>", "chat_template": template});
    load(&byte_level_json(), &config)
}

fn render(template: &str, input: &ChatInput) -> Result<String, TextError> {
    with_template(&json!(template)).render_chat(input)
}

fn user(content: &str) -> Value {
    json!({"role": "user", "content": content})
}

fn input_of(cases: &Value, case: &Value) -> ChatInput {
    let tools = case["tools"].as_array();
    ChatInput {
        messages: case["messages"].as_array().unwrap().clone(),
        tools: tools.map(|names| {
            names
                .iter()
                .map(|name| cases["tools"][name.as_str().unwrap()].clone())
                .collect()
        }),
        add_generation_prompt: case["add_generation_prompt"].as_bool().unwrap_or(false),
        kwargs: case["kwargs"].as_object().cloned().unwrap_or_default(),
        now_ms: cases["now_ms"].as_u64().unwrap(),
        ..ChatInput::default()
    }
}

#[test]
fn every_template_and_case_renders_as_python_renders_it() {
    let cases: Value = serde_json::from_str(&file("cases.json")).unwrap();
    let goldens: Value = serde_json::from_str(&file("goldens.json")).unwrap();
    let mut faults = Vec::new();
    for (name, expected) in goldens["rendered"].as_object().unwrap() {
        let model = with_template(&json!(file(&format!("templates/{name}.jinja"))));
        for (case, expected) in expected.as_object().unwrap() {
            let result = match model.render_chat(&input_of(&cases, &cases["cases"][case])) {
                Ok(text) => json!({"text": text}),
                Err(TextError::Template { message }) => json!({"raised": message}),
                Err(error) => json!({"error": format!("{error:?}")}),
            };
            if result != *expected {
                faults.push(format!("{name} {case}\n  ours   {result}\n  python {expected}"));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn json_is_written_as_python_writes_it() {
    let cases: Value = serde_json::from_str(&file("cases.json")).unwrap();
    let goldens: Value = serde_json::from_str(&file("goldens.json")).unwrap();
    for (case, expected) in cases["json"]
        .as_array()
        .unwrap()
        .iter()
        .zip(goldens["json"].as_array().unwrap())
    {
        let options = case["options"].as_object().cloned().unwrap_or_default();
        let options: Vec<String> = options
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let template = format!("{{{{ value | tojson({}) }}}}", options.join(", "));
        let kwargs = Map::from_iter([("value".to_owned(), case["value"].clone())]);
        let input = ChatInput {
            messages: vec![user("")],
            kwargs,
            ..ChatInput::default()
        };
        assert_eq!(render(&template, &input).unwrap(), expected.as_str().unwrap());
    }
}

#[test]
fn dates_are_written_as_python_writes_them() {
    let goldens: Value = serde_json::from_str(&file("goldens.json")).unwrap();
    let model = with_template(&json!("{{ strftime_now(format) }}"));
    for golden in goldens["strftime"].as_array().unwrap() {
        let kwargs = Map::from_iter([("format".to_owned(), golden[1].clone())]);
        let input = ChatInput {
            kwargs,
            now_ms: golden[0].as_u64().unwrap(),
            ..ChatInput::default()
        };
        assert_eq!(
            model.render_chat(&input).unwrap(),
            golden[2].as_str().unwrap(),
            "{golden}"
        );
    }
}

#[test]
fn a_model_without_template_says_where_to_go() {
    let error = byte_level().render_chat(&ChatInput::default()).unwrap_err();
    assert!(error.to_string().contains("/v1/completions") && error.is_callers_fault());
}

#[test]
fn the_templates_own_words_reach_the_caller() {
    let template = "{% if messages %}{{ raise_exception('Only ' ~ messages|length ~ ' here') }}{% endif %}";
    let input = ChatInput {
        messages: vec![user("a")],
        ..ChatInput::default()
    };
    let error = render(template, &input).unwrap_err();
    assert!(
        matches!(&error, TextError::Template { message } if message == "Only 1 here"),
        "{error:?}"
    );
    let inside_a_macro = "{% macro m() %}{{ raise_exception('deep') }}{% endmacro %}{{ m() }}";
    let error = render(inside_a_macro, &input).unwrap_err();
    assert!(
        matches!(&error, TextError::Template { message } if message == "deep"),
        "{error:?}"
    );
}

#[test]
fn other_failures_say_where_without_quoting_the_messages() {
    let input = ChatInput {
        messages: vec![user("private words")],
        ..ChatInput::default()
    };
    for (template, reason) in [
        ("{{ messages[0].content.nothing.more }}", "undefined"),
        ("\n{{ messages[0].content.unknown_method() }}", "unknown_method"),
        ("{{ messages[0].content + 1 }}", "invalid operation"),
        ("{{ [1].index(messages[0].content) }}", "line 1"),
    ] {
        let error = render(template, &input).unwrap_err();
        assert!(
            matches!(&error, TextError::TemplateFault { reason: found } if found.contains(reason)),
            "{error:?}"
        );
        assert!(
            !format!("{error:?} {error:#}").contains("private"),
            "prompt text is not for the log: {error:?}"
        );
    }
}

#[test]
fn an_endless_template_ends() {
    let template =
        "{% for a in range(9999) %}{% for b in range(9999) %}{% set c = a + b %}{% endfor %}{% endfor %}";
    let error = render(template, &ChatInput::default()).unwrap_err();
    assert!(matches!(error, TextError::TemplateFuel), "{error:?}");
}

#[test]
fn a_thousand_messages_are_within_the_fuel() {
    let messages = (0..1000)
        .map(|index| json!({"role": if index % 2 == 0 { "user" } else { "assistant" }, "content": "x"}));
    let input = ChatInput {
        messages: messages.collect(),
        ..ChatInput::default()
    };
    for name in ["qwen3", "mistral", "llama31"] {
        render(&file(&format!("templates/{name}.jinja")), &input).unwrap();
    }
}

#[test]
fn the_template_for_tools_is_chosen_when_there_are_tools() {
    let model = with_template(&json!([
        {"name": "default", "template": "plain"}, {"name": "tool_use", "template": "with {{ tools | length }} tools"}
    ]));
    let rendered = |tools: Option<Vec<Value>>| {
        model
            .render_chat(&ChatInput {
                tools,
                ..ChatInput::default()
            })
            .unwrap()
    };
    assert_eq!(rendered(None), "plain");
    assert_eq!(rendered(Some(Vec::new())), "plain");
    assert_eq!(rendered(Some(vec![json!({})])), "with 1 tools");
}

#[test]
fn the_last_message_is_left_open_to_be_continued() {
    let chatml = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</{{ m.role }}>{% endfor %}";
    let trimming = "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}</{{ m.role }}>{% endfor %}";
    let messages = vec![user("a"), json!({"role": "assistant", "content": " Once upon "})];
    let input = ChatInput {
        messages,
        continue_final_message: true,
        ..ChatInput::default()
    };
    assert_eq!(
        render(chatml, &input).unwrap(),
        "<user>a</user><assistant> Once upon "
    );
    assert_eq!(
        render(trimming, &input).unwrap(),
        "<user>a</user><assistant>Once upon"
    );

    let both = ChatInput {
        add_generation_prompt: true,
        ..input.clone()
    };
    let none = ChatInput {
        messages: Vec::new(),
        ..input.clone()
    };
    let empty = ChatInput {
        messages: vec![json!({"role": "assistant", "content": null})],
        ..input.clone()
    };
    for input in [both, none, empty] {
        assert!(matches!(render(chatml, &input), Err(TextError::Messages(_))));
    }
    assert!(matches!(render("nothing", &input), Err(TextError::Messages(_))));
}

#[test]
fn content_parts_reach_templates_that_know_only_text() {
    let parts = json!([{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]);
    let input = ChatInput {
        messages: vec![json!({"role": "user", "content": parts})],
        ..ChatInput::default()
    };
    let text_only = "{% for m in messages %}{{ m.content | trim }}{% endfor %}";
    assert_eq!(render(text_only, &input).unwrap(), "one\ntwo");
    let printed = "{% for m in messages %}{{ m.content }}{% endfor %}";
    assert_eq!(render(printed, &input).unwrap(), "one\ntwo");
    let either = "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}\
                  {% for p in m.content %}[{{ p.text }}]{% endfor %}{% endif %}{% endfor %}";
    assert_eq!(render(either, &input).unwrap(), "[one][two]");
}

#[test]
fn the_callers_variables_cannot_replace_ours() {
    let kwargs =
        json!({"messages": "x", "bos_token": "y", "strftime_now": "z", "mine": 1, "documents": ["d"]});
    let input = ChatInput {
        kwargs: kwargs.as_object().unwrap().clone(),
        ..ChatInput::default()
    };
    let template =
        "{{ messages | length }} {{ bos_token }} {{ strftime_now('%Y') }} {{ mine }} {{ documents[0] }}";
    assert_eq!(render(template, &input).unwrap(), "0 <s> 1970 1 d");
}
