//! What clients ask for. Each answer is the same whenever it is asked, to the last digit of its log-probabilities.

use serde_json::{Value, json};
use vlinders_system_tests::Subject;

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";

/// A greedy chat with log-probabilities.
fn chat(question: &str, tokens: u32) -> Value {
    json!({
        "model": "vlinders-demo", "messages": [{"role": "user", "content": question}], "temperature": 0,
        "max_tokens": tokens, "ignore_eos": true, "logprobs": true,
    })
}

fn with(mut body: Value, entries: &[(&str, Value)]) -> Value {
    for (name, value) in entries {
        body[*name] = value.clone();
    }
    body
}

/// Drawn from a seed.
fn seeded(body: Value, seed: u32) -> Value {
    with(
        body,
        &[
            ("temperature", json!(1)),
            ("top_p", json!(1)),
            ("seed", json!(seed)),
        ],
    )
}

/// A prompt of several chunks.
fn long_prompt(words: &str) -> String {
    format!("{words} Every request leaves exactly one usage record, whatever its end. ").repeat(14)
}

/// Words of these requests, which no log may hold.
pub(crate) const WORDS: [&str; 4] = [
    "capital of Peru",
    "exactly one usage record",
    "What is Vlinders",
    "everything about",
];

/// Of all kinds, most of them short.
pub(crate) fn mixed() -> Vec<Subject> {
    let chats = [
        chat("What is Vlinders?", 90),
        with(chat("How do I start it?", 200), &[("ignore_eos", json!(false))]),
        seeded(chat("Tell me about prefill and decode", 60), 7),
        with(
            seeded(chat("Tell me about prefill and decode", 80), 8),
            &[
                ("top_logprobs", json!(3)),
                ("frequency_penalty", json!(0.7)),
                ("repetition_penalty", json!(1.2)),
                ("top_k", json!(40)),
            ],
        ),
        chat("What is the capital of Peru?", 1),
        with(chat("What is Vlinders?", 120), &[("stop", json!(["ing"]))]),
    ];
    let completions = [
        json!({"prompt": long_prompt("One."), "temperature": 0.8, "seed": 11, "max_tokens": 40}),
        json!({"prompt": long_prompt("Two."), "temperature": 0, "max_tokens": 2}),
    ];
    let chats = chats.into_iter().map(|body| Subject { path: CHAT, body });
    let completions = completions.into_iter().map(|body| Subject {
        path: COMPLETIONS,
        body: with(
            body,
            &[
                ("model", json!("vlinders-demo")),
                ("ignore_eos", json!(true)),
                ("logprobs", json!(2)),
            ],
        ),
    });
    chats.chain(completions).collect()
}

/// Answers that take a while, greedy and seeded, of short and long prompts.
pub(crate) fn lengthy() -> Vec<Subject> {
    const TOKENS: u32 = 400;
    [
        chat("What is Vlinders?", TOKENS),
        seeded(chat("Tell me everything about Vlinders", TOKENS), 3),
        seeded(chat(&long_prompt("Explain this."), TOKENS), 4),
        chat(&long_prompt("And what is this?"), TOKENS),
    ]
    .map(|body| Subject { path: CHAT, body })
    .into()
}

/// Nearly all work is in the prompt, and no two share a beginning.
pub(crate) fn long_prompts() -> Vec<Subject> {
    ["Alpha", "Beta", "Gamma", "Delta", "Epsilon", "Zeta"]
        .map(|word| Subject {
            path: CHAT,
            body: with(chat(&long_prompt(word), 8), &[("cache_salt", json!(word))]),
        })
        .into()
}
