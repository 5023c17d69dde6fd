//! The public shapes, byte for byte. `VLINDERS_RENEW=1` writes the files anew; review them as code.

use std::path::PathBuf;

use serde::Serialize;
use vlinders_openai_api::{
    ApiError, AssistantMessage, ChatAnswer, ChatChoice, ChatChunk, ChatChunkChoice, ChatLogprobs,
    CompletionAnswer, CompletionChoice, CompletionLogprobs, Delta, Envelope, FinishWord, ModelList,
    ModelObject, TextOffsets, TokenNames, ToolCall, ToolCallDelta, Usage,
};
use vlinders_types::{TokenCounts, TokenLogprob};

fn check(name: &str, value: &impl Serialize) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name);
    let text = serde_json::to_string_pretty(value).expect("shapes are JSON") + "\n";
    if std::env::var_os("VLINDERS_RENEW").is_some() {
        std::fs::write(&path, &text).expect("the golden folder is writable");
    }
    assert_eq!(
        std::fs::read_to_string(&path).expect("the golden file exists"),
        text,
        "{name}"
    );
}

fn envelope(id: &str) -> Envelope {
    Envelope {
        id: id.into(),
        created: 1_700_000_000,
        model: "my-alias".into(),
        system_fingerprint: "fp_test",
        service_tier: None,
    }
}

fn usage() -> Usage {
    TokenCounts {
        prompt: 9,
        cached: 4,
        completion: 2,
    }
    .into()
}

fn logprobs() -> Vec<TokenLogprob> {
    vec![
        TokenLogprob {
            id: 1,
            bytes: b" a".to_vec(),
            logprob: -0.1,
            top: vec![(1, b" a".to_vec(), -0.1)],
        },
        TokenLogprob {
            id: 2,
            bytes: vec![0xE2, 0x82],
            logprob: f32::NEG_INFINITY,
            top: vec![(3, b"b".to_vec(), -0.25)],
        },
    ]
}

#[test]
fn chat_answers_keep_their_shape() {
    let envelope = Envelope {
        service_tier: Some("default"),
        ..envelope("chatcmpl-1")
    };
    let said = ChatChoice {
        index: 0,
        message: AssistantMessage {
            content: Some("Hello"),
            ..AssistantMessage::default()
        },
        logprobs: Some(ChatLogprobs::new(&logprobs(), TokenNames::Texts)),
        finish_reason: FinishWord::Stop,
        token_ids: None,
    };
    let calls = [ToolCall {
        id: "call_1".into(),
        name: "look".into(),
        arguments: "{}".into(),
    }];
    let called = ChatChoice {
        index: 1,
        message: AssistantMessage {
            content: None,
            reasoning_content: Some("I must look."),
            tool_calls: &calls,
            ..AssistantMessage::default()
        },
        logprobs: None,
        finish_reason: FinishWord::ToolCalls,
        token_ids: Some(&[5, 6]),
    };
    check(
        "chat_answer.json",
        &ChatAnswer {
            envelope: &envelope,
            choices: &[said, called],
            usage: usage().with_reasoning(1),
            prompt_logprobs: None,
            prompt_token_ids: Some(&[1, 2]),
        },
    );
}

#[test]
fn chat_chunks_keep_their_shape() {
    let envelope = envelope("chatcmpl-1");
    let delta = |delta, finish_reason| {
        Some(ChatChunkChoice {
            index: 0,
            delta,
            logprobs: None,
            finish_reason,
            token_ids: None,
        })
    };
    let first = Delta {
        role: Some("assistant"),
        content: Some(""),
        ..Delta::default()
    };
    let thought = Delta {
        reasoning_content: Some("Hm"),
        ..Delta::default()
    };
    let call = |call| Delta {
        tool_calls: Some([call]),
        ..Delta::default()
    };
    let text = ChatChunkChoice {
        index: 1,
        delta: Delta {
            content: Some("Hi"),
            ..Delta::default()
        },
        logprobs: Some(ChatLogprobs::new(&logprobs()[..1], TokenNames::Texts)),
        finish_reason: None,
        token_ids: Some(&[7]),
    };
    let chunk = |choice, usage| ChatChunk {
        envelope: &envelope,
        choice,
        usage,
        prompt_token_ids: None,
    };
    let chunks = [
        chunk(delta(first, None), None),
        chunk(delta(thought, None), None),
        chunk(delta(call(ToolCallDelta::begin(0, "call_1", "look")), None), None),
        chunk(delta(call(ToolCallDelta::arguments(0, "{}")), None), None),
        chunk(Some(text), Some(None)),
        chunk(delta(Delta::default(), Some(FinishWord::Length)), Some(None)),
        chunk(None, Some(Some(usage()))),
    ];
    check("chat_chunks.json", &chunks);
}

#[test]
fn completion_answers_and_chunks_keep_their_shape() {
    let envelope = envelope("cmpl-1");
    let lists = CompletionLogprobs::new(&logprobs(), (2, TokenNames::Texts), &mut TextOffsets::default());
    let choice = |text, logprobs, finish_reason| CompletionChoice {
        index: 0,
        text,
        logprobs,
        prompt_logprobs: None,
        finish_reason,
        token_ids: None,
        prompt_token_ids: None,
    };
    let answer = |choices, usage| CompletionAnswer {
        envelope: &envelope,
        choices,
        usage,
    };
    let whole = [choice("Hello", Some(lists), Some(FinishWord::Stop))];
    let news = [choice("He", None, None)];
    let answers = [
        answer(&whole, Some(Some(usage()))),
        answer(&news, Some(None)),
        answer(&[], Some(Some(usage()))),
    ];
    check("completion_answers.json", &answers);
}

#[test]
fn models_and_errors_keep_their_shape() {
    check(
        "models.json",
        &ModelList::new(vec![ModelObject::new("vlinders-demo", 1_700_000_000, 4096)]),
    );
    let errors = [
        ApiError::invalid(
            "max_tokens",
            "9000 is more than this model allows (4096 left after your prompt)",
        ),
        ApiError::new(429, "queue_full", "the queue is full; try again soon").with_retry_after(1),
    ];
    check("errors.json", &errors.each_ref().map(ApiError::body));
}
