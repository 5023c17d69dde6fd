//! Clients that mean harm: exact refusals, bounded memory, and neighbours who notice nothing.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use vlinders_system_tests::{Client, PATIENCE, Reply, Server, until};

use crate::{CHAT, Checked, ask, ask_for};

/// What all of it may cost in memory.
const MEMORY_BYTES: u64 = 64 << 20;
const MIB: usize = 1 << 20;
/// The longest neighbour may be silent while somebody misbehaves.
const SILENCE: Duration = Duration::from_secs(2);

/// Sends bytes as they are and reads the answer until the server closes.
async fn raw(server: &Server, pieces: &[Vec<u8>]) -> anyhow::Result<String> {
    let address = server.url().trim_start_matches("http://");
    let mut socket = TcpStream::connect(address).await?;
    socket.set_nodelay(true)?;
    let (mut reading, mut writing) = socket.split();
    let mut answer = Vec::new();
    let write = async {
        for piece in pieces {
            // A refused client may find the door closed: its answer counts.
            if writing.write_all(piece).await.is_err() {
                break;
            }
        }
    };
    let read = reading.read_to_end(&mut answer);
    let ((), read) = tokio::time::timeout(PATIENCE, async { tokio::join!(write, read) })
        .await
        .context("the server neither answers nor closes")?;
    if answer.is_empty() {
        read?;
    }
    Ok(String::from_utf8(answer)?)
}

fn head(more: &str) -> Vec<u8> {
    format!("POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nconnection: close\r\n{more}\r\n\r\n")
        .into_bytes()
}

/// The status of a raw answer and the body's error code.
fn status_and_code(answer: &str) -> anyhow::Result<(u16, String)> {
    let status = answer
        .split(' ')
        .nth(1)
        .with_context(|| format!("no answer: {answer:?}"))?;
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    let body: Value = serde_json::from_str(body).unwrap_or(Value::Null);
    Ok((
        status.parse()?,
        body["error"]["code"].as_str().unwrap_or_default().to_owned(),
    ))
}

/// Streams the same request again and again; every stream must be like the first and never pause.
async fn neighbour(client: Client, mut stop: tokio::sync::oneshot::Receiver<()>) -> anyhow::Result<usize> {
    let mut expected: Option<Reply> = None;
    let mut streams = 0;
    while stop.try_recv().is_err() {
        let mut stream = client.stream(CHAT, &ask_for("What is Vlinders?", 200)).await?;
        while tokio::time::timeout(SILENCE, stream.advance())
            .await
            .context("a neighbour waits")??
        {}
        stream.reply.complete()?;
        let said = stream.reply.clone();
        let expected = expected.get_or_insert_with(|| said.clone());
        ensure!(
            said.text == expected.text && said.tokens == expected.tokens,
            "a neighbour was answered otherwise"
        );
        streams += 1;
    }
    Ok(streams)
}

/// Runs some abuse beside a neighbour, and looks at the memory it took.
async fn beside_a_neighbour<F>(abuse: F) -> Checked
where
    F: AsyncFnOnce(&Server) -> Checked,
{
    let server = Server::start(&[]).await?;
    let (stop, stopped) = tokio::sync::oneshot::channel();
    server.client.whole(CHAT, &ask("What is Vlinders?")).await?;
    let mut neighbours = JoinSet::new();
    neighbours.spawn(neighbour(server.client.clone(), stopped));
    let before = server.facts().resident_bytes()?;
    abuse(&server).await?;
    let grown = server.facts().peak_bytes()?.saturating_sub(before);
    // The neighbour may have failed already: it tells so below.
    let _ = stop.send(());
    let streams = neighbours.join_next().await.context("there is a neighbour")???;
    println!("grew by {} KiB, {streams} streams beside it", grown >> 10);
    ensure!(grown < MEMORY_BYTES, "memory grew by {} MiB", grown >> 20);
    until(async || server.metrics().await?.settled()).await?;
    server.stop().await?;
    Ok(())
}

#[tokio::test]
async fn a_billion_choices_are_refused() -> Checked {
    beside_a_neighbour(async |server| {
        for name in ["n", "max_tokens", "top_logprobs", "top_k", "min_tokens"] {
            let mut body = ask("Hello");
            body["logprobs"] = true.into();
            body[name] = 10_000_000_000_u64.into();
            let answer = server.client.post(CHAT, &body).await?;
            ensure!(
                answer.status == 400 && answer.body["error"]["param"] == name,
                "{}",
                answer.body
            );
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn ten_mebibytes_of_stop_texts_are_refused() -> Checked {
    beside_a_neighbour(async |server| {
        let stops = vec!["x"; 10 * MIB / 4 - 100];
        let answers = [
            ("stop", json!(stops)),
            ("stop", Value::from("x".repeat(10 * MIB - 1000))),
            ("stop_token_ids", json!(vec![7; 4 * MIB])),
            (
                "logit_bias",
                (0..500_000)
                    .map(|id| (id.to_string(), json!(1)))
                    .collect::<serde_json::Map<_, _>>()
                    .into(),
            ),
        ];
        for (name, value) in answers {
            let mut body = ask("Hello");
            body[name] = value;
            let answer = server.client.post(CHAT, &body).await?;
            ensure!(
                answer.status == 400 && answer.body["error"]["param"] == name,
                "{name}: {}",
                answer.body
            );
            ensure!(
                answer.body.to_string().len() < 1000,
                "{name}: the error is as long as the input"
            );
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn lists_a_hundred_thousand_deep_are_refused() -> Checked {
    beside_a_neighbour(async |server| {
        for open in ["[", "{\"a\":", "[{\"a\":"] {
            let body = format!("{{\"messages\":{}", open.repeat(100_000)).into_bytes();
            let length = format!("content-length: {}", body.len());
            let answer = raw(server, &[head(&length), body]).await?;
            let found = status_and_code(&answer)?;
            ensure!(found == (400, "invalid_json".to_owned()), "{found:?}");
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_body_in_chunks_of_one_byte_is_read() -> Checked {
    beside_a_neighbour(async |server| {
        let mut body = ask("What is Vlinders?");
        body["user"] = "x".repeat(250).into();
        body["metadata"] = (0..16)
            .map(|key| (key.to_string(), Value::from("x".repeat(500))))
            .collect::<serde_json::Map<_, _>>()
            .into();
        let chunks = body
            .to_string()
            .into_bytes()
            .into_iter()
            .map(|byte| vec![b'1', b'\r', b'\n', byte, b'\r', b'\n']);
        let mut pieces = vec![head("transfer-encoding: chunked")];
        pieces.extend(chunks);
        pieces.push(b"0\r\n\r\n".to_vec());
        let answer = raw(server, &pieces).await?;
        ensure!(answer.starts_with("HTTP/1.1 200 "), "{answer}");

        // A mebibyte of them, sent at once.
        let flood = [
            head("transfer-encoding: chunked"),
            b"1\r\n \r\n".repeat(MIB),
            b"0\r\n\r\n".to_vec(),
        ];
        let found = status_and_code(&raw(server, &flood).await?)?;
        ensure!(found == (400, "invalid_json".to_owned()), "{found:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_body_with_two_lengths_is_refused() -> Checked {
    beside_a_neighbour(async |server| {
        let body = ask("Hello").to_string();
        let both = format!("content-length: {}\r\ntransfer-encoding: chunked", body.len());
        let chunked = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len()).into_bytes();
        let found = status_and_code(&raw(server, &[head(&both), chunked]).await?)?;
        ensure!(found == (400, "ambiguous_length".to_owned()), "{found:?}");
        let two = format!("content-length: {}\r\ncontent-length: 5", body.len());
        let answer = raw(server, &[head(&two), body.into_bytes()]).await?;
        ensure!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn many_large_bodies_at_once_are_bounded() -> Checked {
    let server = Server::start(&[]).await?;
    let before = server.facts().resident_bytes()?;
    let mut body = ask("Hello");
    body["stop"] = "x".repeat(9 * MIB).into();
    // Written out once and before anybody connects: who connects and is silent for long is cut off.
    let body = serde_json::to_vec(&body)?;
    let mut crowd = JoinSet::new();
    for _ in 0..40 {
        let (client, body) = (server.client.clone(), body.clone());
        let headers = [("content-type", "application/json")];
        crowd.spawn(async move { client.send("POST", CHAT, &headers, body).await });
    }
    while let Some(answer) = crowd.join_next().await {
        let answer = answer??;
        let code = answer.body["error"]["code"].as_str().unwrap_or_default();
        ensure!(
            [(400, "invalid_value"), (503, "overloaded")].contains(&(answer.status, code)),
            "{} {}",
            answer.status,
            answer.body
        );
    }
    let grown = server.facts().peak_bytes()?.saturating_sub(before);
    println!("grew by {} MiB", grown >> 20);
    // 256 MiB of bodies are allowed at once, and each grows by doubling.
    ensure!(grown < 640 << 20, "memory grew by {} MiB", grown >> 20);
    until(async || server.metrics().await?.settled()).await?;
    server.stop().await?;
    Ok(())
}
