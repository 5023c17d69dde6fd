//! The same request gives the same tokens, whoever else runs and however the parts are laid out. Equal means: the same
//! text, the same token bytes and the same log-probabilities to the last digit.

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use vlinders_system_tests::{EventStream, Reply, Server};

use crate::{CHAT, COMPLETIONS, Checked, ask, ask_for};

/// Requests whose answers are compared: greedy and seeded, short and longer than a chunk of prefill.
fn subjects() -> Vec<(&'static str, Value)> {
    let greedy = ask_for("What is Vlinders?", 90);
    let mut seeded = ask_for("Tell me about prefill and decode", 90);
    for (name, value) in [
        ("temperature", json!(1)),
        ("top_p", json!(1)),
        ("seed", json!(7)),
        ("top_logprobs", json!(3)),
    ] {
        seeded[name] = value;
    }
    let mut penalized = seeded.clone();
    for (name, value) in [
        ("frequency_penalty", json!(0.7)),
        ("repetition_penalty", json!(1.2)),
        ("top_k", json!(40)),
    ] {
        penalized[name] = value;
    }
    let long = "Every request leaves exactly one usage record, whatever its end. ".repeat(16);
    let long = json!({
        "model": "vlinders-demo", "prompt": long, "temperature": 0.8, "seed": 11, "max_tokens": 60,
        "ignore_eos": true, "logprobs": 2,
    });
    vec![
        (CHAT, greedy),
        (CHAT, seeded),
        (CHAT, penalized),
        (COMPLETIONS, long),
    ]
}

/// What of a reply must be the same.
fn content(reply: &Reply) -> (&str, &[Value], &[String]) {
    (&reply.text, &reply.tokens, &reply.finish_reasons)
}

async fn replies(server: &Server) -> anyhow::Result<Vec<Reply>> {
    let mut replies = Vec::new();
    for (path, body) in subjects() {
        replies.push(server.client.whole(path, &body).await?);
    }
    Ok(replies)
}

/// Each request by itself on a server as it comes, with these further arguments.
async fn alone(arguments: &[&str]) -> anyhow::Result<Vec<Reply>> {
    let server = Server::start(arguments).await?;
    let found = replies(&server).await?;
    server.stop().await?;
    Ok(found)
}

fn equal(found: &[Reply], expected: &[Reply]) -> anyhow::Result<()> {
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        found.complete()?;
        ensure!(
            content(found) == content(expected),
            "answer {index} differs:\n{}\n{}",
            found.text,
            expected.text
        );
    }
    ensure!(
        found.len() == expected.len(),
        "{} answers of {}",
        found.len(),
        expected.len()
    );
    Ok(())
}

/// Starts 32 long answers and waits until each is under way.
async fn company(server: &Server) -> anyhow::Result<Vec<EventStream>> {
    let mut streams = Vec::new();
    for seed in 0..32 {
        let mut body = ask_for("Tell me everything about Vlinders", 1900);
        body["temperature"] = 1.into();
        body["seed"] = seed.into();
        let mut stream = server.client.stream(CHAT, &body).await?;
        stream.first_text().await?;
        streams.push(stream);
    }
    Ok(streams)
}

async fn in_a_full_batch(arguments: &[&str]) -> Checked {
    let expected = alone(arguments).await?;
    let server = Server::start(arguments).await?;
    let streams = company(&server).await?;
    let found = replies(&server).await?;
    let running = server.metrics().await?.sum("vlinders_requests_in_flight")?;
    ensure!(running == 32.0, "only {running} others still ran");
    drop(streams);
    equal(&found, &expected)?;
    server.stop().await?;
    Ok(())
}

#[tokio::test]
async fn alone_or_with_thirty_two_others() -> Checked {
    in_a_full_batch(&[]).await
}

#[tokio::test]
async fn alone_or_with_thirty_two_others_in_one_role() -> Checked {
    in_a_full_batch(&["--role", "both"]).await
}

#[tokio::test]
async fn alone_or_with_thirty_two_others_on_the_simulated_engine() -> Checked {
    in_a_full_batch(&["--backend", "sim", "--sim-step-us", "500"]).await
}

/// Eight copies of each request at once on 32 blocks: most of them are put back and computed again.
async fn after_a_preemption(arguments: &[&str]) -> Checked {
    let expected = alone(&[]).await?;
    let server = Server::start(&[&["--kv-memory-mib", "1"], arguments].concat()).await?;
    let mut crowd = JoinSet::new();
    for copy in 0..8 {
        for (index, (path, mut body)) in subjects().into_iter().enumerate() {
            // Copies must not share their blocks.
            body["cache_salt"] = format!("copy {copy}").into();
            let client = server.client.clone();
            crowd.spawn(async move { (index, client.whole(path, &body).await) });
        }
    }
    while let Some(ended) = crowd.join_next().await {
        let (index, found) = ended?;
        equal(&[found?], &expected[index..=index])?;
    }
    let samples = server.metrics().await?;
    let preemptions = samples.sum("vlinders_preemptions_total")?;
    println!("{preemptions} preemptions");
    ensure!(preemptions > 0.0, "nobody was preempted");
    server.stop().await?;
    Ok(())
}

#[tokio::test]
async fn undisturbed_or_after_a_preemption() -> Checked {
    after_a_preemption(&[]).await
}

#[tokio::test]
async fn undisturbed_or_after_a_preemption_in_one_role() -> Checked {
    after_a_preemption(&["--role", "both"]).await
}

#[tokio::test]
async fn undisturbed_or_after_a_preemption_without_the_prefix_cache() -> Checked {
    after_a_preemption(&["--enable-prefix-caching", "false"]).await
}

#[tokio::test]
async fn with_and_without_the_prefix_cache() -> Checked {
    for role in ["split", "both"] {
        let expected = alone(&["--role", role, "--enable-prefix-caching", "false"]).await?;
        let server = Server::start(&["--role", role, "--enable-prefix-caching", "true"]).await?;
        let (first, second) = (replies(&server).await?, replies(&server).await?);
        equal(&first, &expected)?;
        equal(&second, &expected)?;
        let details = |reply: &Reply| {
            reply
                .usage
                .as_ref()
                .map(|usage| usage["prompt_tokens_details"]["cached_tokens"].clone())
        };
        let cached = second
            .last()
            .and_then(details)
            .context("the answer has no usage")?;
        ensure!(
            cached.as_u64() > Some(0),
            "role {role}: nothing came from the cache"
        );
        for reply in &expected {
            ensure!(details(reply) == Some(json!(0)), "role {role}: {:?}", reply.usage);
        }
        server.stop().await?;
    }
    Ok(())
}

#[tokio::test]
async fn through_two_roles_or_one() -> Checked {
    for backend in ["cpu", "sim", "reference"] {
        let server = Server::start(&["--backend", backend, "--role", "split"]).await?;
        let found = replies(&server).await?;
        let handed = server
            .metrics()
            .await?
            .sum_where("vlinders_hand_offs_total", "outcome=\"ok\"");
        ensure!(handed >= 4.0, "{backend}: only {handed} hand-offs");
        equal(&found, &alone(&["--backend", backend, "--role", "both"]).await?)?;
        server.stop().await?;
    }
    Ok(())
}

#[tokio::test]
async fn on_one_thread_or_several() -> Checked {
    let expected = alone(&["--threads", "1"]).await?;
    for threads in ["2", "3"] {
        equal(&alone(&["--threads", threads]).await?, &expected)?;
    }
    Ok(())
}

#[tokio::test]
async fn in_chunks_of_any_size() -> Checked {
    let expected = alone(&[]).await?;
    for tokens in ["16", "100", "512"] {
        equal(&alone(&["--prefill-chunk-tokens", tokens]).await?, &expected)?;
    }
    Ok(())
}

#[tokio::test]
async fn streamed_or_whole() -> Checked {
    let server = Server::start(&[]).await?;
    let mut streamed = Vec::new();
    for (path, body) in subjects() {
        streamed.push(server.client.streamed(path, &body).await?);
    }
    equal(&streamed, &replies(&server).await?)?;
    server.stop().await?;
    Ok(())
}

#[tokio::test]
async fn a_request_without_a_seed_is_drawn_anew() -> Checked {
    let server = Server::start(&[]).await?;
    let mut body = ask("What is Vlinders?");
    for (name, value) in [
        ("temperature", json!(2)),
        ("top_p", json!(1)),
        ("max_tokens", json!(60)),
        ("ignore_eos", json!(true)),
    ] {
        body[name] = value;
    }
    let first = server.client.whole(CHAT, &body).await?;
    let second = server.client.whole(CHAT, &body).await?;
    ensure!(first.text != second.text, "{}", first.text);
    server.stop().await?;
    Ok(())
}
