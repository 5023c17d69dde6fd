//! Tool calls are found in a model's text, whole or in any pieces, and nothing of the text is lost.

use std::sync::Arc;

use proptest::prelude::*;
use vlinders_text::{ToolEvent, ToolFormat, ToolParser};

fn parser(format: ToolFormat) -> ToolParser {
    ToolParser::new(format, Arc::from(["look".to_owned(), "go-to.x_1".to_owned()]))
}

/// Everything found in these pieces, neighbours of one kind joined.
fn found(format: ToolFormat, pieces: &[&str]) -> Vec<ToolEvent> {
    let mut parser = parser(format);
    let mut events: Vec<ToolEvent> = pieces.iter().flat_map(|piece| parser.push(piece)).collect();
    events.extend(parser.finish());
    let mut joined: Vec<ToolEvent> = Vec::new();
    for event in events {
        match (joined.last_mut(), event) {
            (Some(ToolEvent::Content(last)), ToolEvent::Content(text)) => last.push_str(&text),
            (Some(ToolEvent::Arguments(last)), ToolEvent::Arguments(text)) => last.push_str(&text),
            (_, event) => joined.push(event),
        }
    }
    joined
}

/// Calls as name and arguments, and the content, whatever their order.
fn calls(format: ToolFormat, text: &str) -> (Vec<(String, String)>, String) {
    let (mut calls, mut content) = (Vec::new(), String::new());
    for event in found(format, &[text]) {
        match event {
            ToolEvent::Content(text) => content.push_str(&text),
            ToolEvent::Begin(name) => calls.push((name, String::new())),
            ToolEvent::Arguments(text) => calls
                .last_mut()
                .expect("arguments follow a name")
                .1
                .push_str(&text),
        }
    }
    (calls, content)
}

fn check(format: ToolFormat, text: &str, expected: &[(&str, &str)], content: &str) {
    let (calls, said) = calls(format, text);
    let calls: Vec<(&str, &str)> = calls
        .iter()
        .map(|(name, arguments)| (name.as_str(), arguments.as_str()))
        .collect();
    assert_eq!((calls.as_slice(), said.as_str()), (expected, content), "{text}");
}

#[test]
fn hermes_calls_stand_between_markers() {
    let check =
        |text: &str, calls: &[(&str, &str)], content: &str| check(ToolFormat::Hermes, text, calls, content);
    let one = "<tool_call>\n{\"name\": \"look\", \"arguments\": {\"a\": \"x}\\\"\"}}\n</tool_call>";
    let call = ("look", "{\"a\": \"x}\\\"\"}");
    check(one, &[call], "");
    check(&format!("I look.\n{one}\n{one}\n"), &[call, call], "I look.");
    check(&format!("{one} Done."), &[call], " Done.");
    check(
        "<tool_call>{\"arguments\": {\"a\": 1}, \"name\": \"look\"}</tool_call>",
        &[("look", "{\"a\": 1}")],
        "",
    );
    check(
        "<tool_call>{\"name\": \"look\"}</tool_call>",
        &[("look", "{}")],
        "",
    );
    // Two calls of which the first is not closed.
    check(
        "<tool_call>{\"name\": \"look\"}<tool_call>{\"name\": \"look\"}</tool_call>",
        &[("look", "{}"), ("look", "{}")],
        "",
    );
    // Cut at its limit: the arguments are told as far as they came.
    check(
        "<tool_call>{\"name\": \"look\", \"arguments\": {\"a\": \"x",
        &[("look", "{\"a\": \"x")],
        "",
    );
}

#[test]
fn what_is_no_call_is_content() {
    for text in [
        "no call",
        "<tool_call>",
        "<tool_call>look()</tool_call>",
        "<tool_call>{\"name\": \"other\", \"arguments\": {}}</tool_call>",
        "<tool_call>{\"name\": 1}</tool_call>",
        "<tool_call>{\"arguments\": {}}</tool_call>",
        "<tool_call>{\"name\": \"look\", \"arguments\": [1]}",
        "<tool_call>{\"name\": \"lo",
        "a <tool_ b < c",
        " \n",
    ] {
        check(ToolFormat::Hermes, text, &[], text);
    }
    for text in [
        "{\"name\": \"look\"}",
        "{\"answer\": 42}",
        "{",
        "look",
        "<|python_tag|>print(1)",
        " \n",
    ] {
        check(ToolFormat::Llama3Json, text, &[], text);
    }
    for text in [
        "[TOOL_CALLS]",
        "[TOOL_CALLS][]",
        "[TOOL_CALLS][{\"x\": 1}]",
        "[TOOL_CALLS]other[ARGS]{}",
        "[TOOL_CALLS]look {}x[",
        "[1]",
    ] {
        let call = text.contains("look");
        let calls: &[(&str, &str)] = if call { &[("look", "{}")] } else { &[] };
        check(ToolFormat::Mistral, text, calls, if call { "x[" } else { text });
    }
    for text in [
        "[1, 2]",
        "[look(1)]",
        "[other(a=1)]",
        "[look(a=1",
        "[see this](link)",
        "look(a=1)",
        "[",
        " ",
    ] {
        check(ToolFormat::Pythonic, text, &[], text);
    }
}

#[test]
fn a_call_that_breaks_off_after_it_was_begun_keeps_its_rest_as_content() {
    check(
        ToolFormat::Hermes,
        "<tool_call>{\"name\": \"look\", \"arguments\": {\"a\": oops}}</tool_call>",
        &[("look", "{\"a\": ")],
        "oops}}</tool_call>",
    );
    check(
        ToolFormat::Hermes,
        "<tool_call>{\"name\": \"look\", \"arguments\": {}, 5}",
        &[("look", "{}")],
        ", 5}",
    );
}

#[test]
fn llama_calls_are_the_answer_or_follow_a_tag() {
    let check = |text: &str, calls: &[(&str, &str)], content: &str| {
        check(ToolFormat::Llama3Json, text, calls, content)
    };
    let look = ("look", "{\"a\": 1}");
    check("\n{\"name\": \"look\", \"parameters\": {\"a\": 1}}", &[look], "");
    check(
        "<|python_tag|>{\"type\": \"function\", \"name\": \"look\", \"parameters\": {\"a\": 1}}",
        &[look],
        "",
    );
    check(
        "{\"name\": \"look\", \"parameters\": {\"a\": 1}}; {\"name\": \"go-to.x_1\", \"parameters\": {}}",
        &[look, ("go-to.x_1", "{}")],
        "",
    );
    check(
        "I look. <|python_tag|>{\"name\": \"look\", \"parameters\": {\"a\": 1}} so",
        &[look],
        "I look. so",
    );
}

#[test]
fn mistral_calls_are_a_list_or_names() {
    let check =
        |text: &str, calls: &[(&str, &str)], content: &str| check(ToolFormat::Mistral, text, calls, content);
    let (look, go) = (("look", "{\"a\": [1]}"), ("go-to.x_1", "{}"));
    check(
        "[TOOL_CALLS] [{\"name\": \"look\", \"arguments\": {\"a\": [1]}}, {\"name\": \"go-to.x_1\", \"arguments\": {}}]\n",
        &[look, go],
        "",
    );
    check(
        "Well.[TOOL_CALLS]look[ARGS]{\"a\": [1]}[TOOL_CALLS]go-to.x_1[CALL_ID]abc123DEF[ARGS]{}",
        &[look, go],
        "Well.",
    );
    check("[TOOL_CALLS]look{\"a\": [1]}", &[look], "");
    check("[TOOL_CALLS] look [ARGS] {\"a\": [1]} so", &[look], " so");
}

#[test]
fn pythonic_calls_become_json() {
    let check =
        |text: &str, calls: &[(&str, &str)], content: &str| check(ToolFormat::Pythonic, text, calls, content);
    check(
        "[look(a='x)]', b=[True, None]), go-to.x_1()]\n",
        &[("look", "{\"a\":\"x)]\",\"b\":[true,null]}"), ("go-to.x_1", "{}")],
        "",
    );
    check(
        "[look(a=1), nothing(b=2)] x",
        &[("look", "{\"a\":1}")],
        ", nothing(b=2)] x",
    );
    check("[look(a=1)] and more", &[("look", "{\"a\":1}")], " and more");
}

/// Pieces that make calls, near misses and nonsense of every format.
fn fragments() -> impl Strategy<Value = Vec<&'static str>> {
    let pieces = vec![
        "<tool_call>",
        "</tool_call>",
        "<tool",
        "[TOOL_CALLS]",
        "[ARGS]",
        "[CALL_ID]",
        "<|python_tag|>",
        "[",
        "]",
        "{",
        "}",
        "{\"name\": \"look\", \"arguments\": ",
        "{\"name\": \"look\", \"parameters\": ",
        "\"arguments\": {\"a\": 1}",
        "\"name\": \"look\"",
        "{\"a\": \"é\\\"x\"}",
        "{}",
        "look",
        "look(",
        "look(a=1)",
        "a='x\\'é'",
        ")",
        ",",
        ";",
        ":",
        "\"",
        " ",
        "\n",
        "x",
        "é",
        "null",
        "12",
    ];
    prop::collection::vec(prop::sample::select(pieces), 0..14)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn any_pieces_of_a_text_give_what_the_whole_gives(
        fragments in fragments(),
        cuts in prop::collection::vec(0_usize..120, 0..8),
    ) {
        let text = fragments.concat();
        for format in ToolFormat::ALL {
            let whole = found(format, &[&text]);
            let chars: Vec<String> = text.chars().map(String::from).collect();
            let chars: Vec<&str> = chars.iter().map(String::as_str).collect();
            prop_assert_eq!(&found(format, &chars), &whole, "{:?} {}", format, text);
            let mut ends: Vec<usize> = cuts.iter().copied().filter(|cut| text.is_char_boundary(*cut)).collect();
            ends.push(text.len());
            ends.sort_unstable();
            let mut start = 0;
            let mut pieces = Vec::new();
            for end in ends {
                pieces.push(&text[start..end]);
                start = end;
            }
            prop_assert_eq!(&found(format, &pieces), &whole, "{:?} {}", format, text);
        }
    }

    #[test]
    fn a_text_without_calls_comes_out_as_it_went_in(fragments in fragments()) {
        let text = fragments.concat();
        for format in ToolFormat::ALL {
            let (calls, content) = calls(format, &text);
            if calls.is_empty() {
                prop_assert_eq!(&content, &text, "{:?}", format);
            }
        }
    }

    #[test]
    fn any_text_is_read_without_a_panic(text: String) {
        for format in ToolFormat::ALL {
            found(format, &[&text]);
        }
    }
}
