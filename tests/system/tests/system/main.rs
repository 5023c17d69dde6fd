//! Whole-system tests: one file for each topic. Every test starts servers of its own and stops them.

mod abuse;
mod answers;
mod bad_requests;
mod bad_start;
mod batches;
mod bombs;
mod choices;
mod crowd;
mod equality;
mod keys;
mod ledger_cli;
mod limits;
mod logs;
mod own_models;
mod parameters;
mod pits;
mod scoring;
mod sdk;
mod settings;
mod start;
mod statuses;
mod stop;
mod stripe;
mod structured;

use serde_json::{Value, json};

/// Tests end with the first thing that is not as it should be.
type Checked = anyhow::Result<()>;

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";

/// A greedy chat request.
fn ask(question: &str) -> Value {
    json!({
        "model": "vlinders-demo",
        "messages": [{"role": "user", "content": question}],
        "temperature": 0,
    })
}

/// A chat request of exactly this many tokens, each with its log-probability.
fn ask_for(question: &str, tokens: u32) -> Value {
    let mut body = ask(question);
    body["max_tokens"] = tokens.into();
    body["ignore_eos"] = true.into();
    body["logprobs"] = true.into();
    body
}
