//! What is sent, and where.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};

use crate::server::{Reply, Seen, Server};

fn answering() -> Server {
    Server::new(|seen| {
        if seen.body["stream"] == true {
            Reply::stream(seen, &[Duration::ZERO; 2])
        } else {
            Reply::chat(seen, 2)
        }
    })
}

fn prompts(seen: &[Seen]) -> Vec<String> {
    let content = |seen: &Seen| {
        seen.body["messages"][0]["content"]
            .as_str()
            .expect("a text")
            .to_owned()
    };
    seen.iter().map(content).collect()
}

#[tokio::test(start_paused = true)]
async fn the_model_is_asked_for_and_the_words_are_measured() {
    let server = answering();
    let words =
        "--prompt-tokens 100 --requests 3 --concurrency 1 --ignore-eos --output-tokens 9 --temperature 0.5";
    let report = server.run(words).await.unwrap();
    let report = serde_json::to_value(&report).unwrap();
    let settings = &report["settings"];
    assert_eq!(settings["model"], "first");
    // This server's model: each word a token, and three for the template.
    assert_eq!(
        (&settings["tokens_per_word"], &settings["template_tokens"]),
        (&json!(1.0), &json!(3.0))
    );
    let seen = server.seen();
    assert_eq!(seen.len(), 5, "two to measure, three measured");
    assert_eq!(
        (&seen[0].body["max_tokens"], &seen[0].body["ignore_eos"]),
        (&json!(1), &Value::Null)
    );
    for (asked, prompt) in seen[2..].iter().zip(prompts(&seen[2..])) {
        assert_eq!(prompt.split(' ').count(), 97);
        assert_eq!(asked.path, "/v1/chat/completions");
        let expected = json!({
            "model": "first", "temperature": 0.5, "ignore_eos": true,
            "messages": [{"role": "user", "content": prompt}], "max_tokens": 9, "min_tokens": 9,
        });
        assert_eq!(asked.body, expected);
    }
    assert_eq!(report["rounds"][0]["tokens"]["input_mean"], 100.0);
}

#[tokio::test(start_paused = true)]
async fn several_addresses_are_used_in_turn_with_the_key() {
    let server = answering();
    let words = "--url http://a:1 --url http://b:2/base/v1 --api-key k --requests 10 --concurrency 3";
    server.round(words).await;
    let seen = server.seen();
    let of = |host: &str| seen.iter().filter(|seen| seen.host == host).collect::<Vec<_>>();
    assert_eq!((of("a:1").len(), of("b:2").len()), (5, 5));
    assert!(
        of("b:2")
            .iter()
            .all(|seen| seen.path == "/base/v1/chat/completions")
    );
    assert!(seen.iter().all(|seen| seen.connected_to == seen.host), "{seen:?}");
    assert!(
        seen.iter()
            .all(|seen| seen.authorization.as_deref() == Some("Bearer k"))
    );
}

#[tokio::test(start_paused = true)]
async fn unique_prompts_are_never_repeated_not_even_by_a_later_step() {
    let server = answering();
    let words = "--model m --tokens-per-word 1 --steps 1,2 --requests 20 --prompts unique";
    let report = server.run(words).await.unwrap();
    assert_eq!(
        serde_json::to_value(&report).unwrap()["rounds"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    let sent = prompts(&server.seen());
    assert_eq!(sent.len(), 40);
    assert_eq!(sent.iter().collect::<BTreeSet<_>>().len(), 40);
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_asks_the_same_at_the_same_times() {
    let words = "--rate 50 --duration 2s --prompt-tokens uniform:5-50 --output-tokens lognormal:20,1";
    let run = async |seed: u64| {
        let server = answering();
        server.round(&format!("{words} --seed {seed}")).await;
        server
            .seen()
            .into_iter()
            .map(|seen| (seen.at.as_millis(), seen.body.to_string()))
            .collect::<Vec<_>>()
    };
    assert_eq!(run(1).await, run(1).await);
    assert_ne!(run(1).await, run(2).await);
}

#[tokio::test(start_paused = true)]
async fn completions_ask_with_a_prompt() {
    let server = Server::new(|seen| {
        let usage = crate::server::usage(seen, 1);
        Reply::whole(&json!({"choices": [{"text": "x", "finish_reason": "length"}], "usage": usage}))
    });
    let round = server
        .round("--endpoint completions --prompts repeated --requests 4")
        .await;
    assert_eq!(round["requests"]["completed"], 4);
    let seen = server.seen();
    assert!(
        seen.iter()
            .all(|it| it.path == "/v1/completions" && it.body == seen[0].body)
    );
    assert_eq!(seen[0].body["prompt"].as_str().unwrap().split(' ').count(), 128);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_cannot_be_asked_is_told_in_one_line() {
    let refusing = Server::new(|_| Reply::refusal(401, "no key"));
    let error = refusing.run("--requests 1").await.unwrap_err();
    assert_eq!(
        format!("{error:#}"),
        "measuring how many tokens words are (--tokens-per-word avoids it): \
         http://127.0.0.1:8000/v1/chat/completions: status 401: no key"
    );
    let closed = Server::with(|_| Reply::refusal(500, ""), usize::MAX, true);
    let error = closed.run("--requests 1").await.unwrap_err();
    let told = "http://127.0.0.1:8000/v1/models: cannot connect: refused by script";
    assert_eq!(error.to_string(), told);
}
