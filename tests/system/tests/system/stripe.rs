//! Usage goes to a meter through the program itself.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use vlinders_system_tests::{Server, run_to_end, until};

use crate::{CHAT, Checked, ask};

/// Values by identifier: a meter counts each once.
type Counted = Arc<Mutex<BTreeMap<String, u64>>>;

/// A meter that takes everything of this customer. It ends with its task.
async fn meter() -> anyhow::Result<(Counted, String, JoinHandle<()>)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = format!("http://{}", listener.local_addr()?);
    let counted = Counted::default();
    let taken = Arc::clone(&counted);
    #[expect(
        clippy::disallowed_methods,
        reason = "a test's own server, which ends with it"
    )]
    let serving = tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut text = String::new();
            let mut piece = [0; 4096];
            // One call is smaller than a segment, but for a stack that thinks otherwise.
            while !text.contains("timestamp=") {
                match socket.read(&mut piece).await {
                    Ok(count) if count > 0 => text.push_str(&String::from_utf8_lossy(&piece[..count])),
                    Ok(_) | Err(_) => break,
                }
            }
            let form = text.rsplit("\r\n\r\n").next().unwrap_or_default();
            let field = |name: &str| {
                let pairs = form.split('&').filter_map(|pair| pair.split_once('='));
                let found = pairs.into_iter().find(|(found, _)| *found == name);
                found.map(|(_, value)| value.to_owned()).unwrap_or_default()
            };
            let is_known = text
                .to_ascii_lowercase()
                .contains("authorization: bearer sk_test")
                && field("payload%5Bstripe_customer_id%5D") == "cus_1";
            if is_known && let Ok(value) = field("payload%5Bvalue%5D").parse() {
                let mut counted = taken.lock().unwrap_or_else(PoisonError::into_inner);
                counted.insert(field("identifier"), value);
            }
            let status = if is_known { "200 OK" } else { "401 Unauthorized" };
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 2\r\n\r\n{{}}");
            // Who left comes again.
            let _sent = socket.write_all(answer.as_bytes()).await;
        }
    });
    Ok((counted, address, serving))
}

#[tokio::test]
async fn what_a_customer_uses_reaches_its_meter_once() -> Checked {
    let (counted, address, serving) = meter().await?;
    let folder = tempfile::tempdir()?;
    let key = folder.path().join("key");
    std::fs::write(&key, "sk_test\n")?;
    let key = key.to_str().context("scratch folders have plain names")?;
    let server = Server::start(&[
        "--stripe-key-file",
        key,
        "--stripe-meter",
        "tokens",
        "--stripe-value",
        "tokens",
        "--stripe-every-s",
        "1",
        "--stripe-url",
        &address,
    ])
    .await?;
    let data = server.data();
    let data = data.to_str().context("scratch folders have plain names")?;
    let change = [
        "tenants",
        "change",
        "default",
        "--stripe-customer",
        "cus_1",
        "--json",
        "--data-dir",
        data,
    ];
    let changed = run_to_end(folder.path(), &change).await?;
    ensure!(
        changed.status.success() && changed.output.contains("cus_1"),
        "{changed:?}"
    );
    for _ in 0..3 {
        server.client.whole(CHAT, &ask("What is Vlinders?")).await?;
    }
    until(async || {
        let mut used = 0;
        let rows = server.usage().await?;
        ensure!(rows.len() == 3, "{} rows", rows.len());
        for row in &rows {
            used += row.number("prompt_tokens")? + row.number("completion_tokens")?;
        }
        let counted: u64 = counted
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .sum();
        ensure!(counted == used, "{counted} of {used} tokens");
        Ok(())
    })
    .await?;
    let metrics = server.metrics().await?;
    metrics.is_zero("vlinders_meter_backlog")?;
    let stopped = server.stop().await?;
    ensure!(!stopped.log.contains("sk_test"), "the key is in the log");
    serving.abort();
    Ok(())
}
