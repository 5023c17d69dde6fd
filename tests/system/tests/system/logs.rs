//! The log as collectors read it.

use anyhow::{Context, ensure};
use serde_json::{Map, Value};
use vlinders_system_tests::Server;

use crate::{CHAT, Checked, ask};

#[tokio::test]
async fn every_line_of_a_json_log_has_its_fields_and_none_tells_what_was_said() -> Checked {
    let server = Server::start(&["--log-format", "json", "--log-level", "trace"]).await?;
    let question = "What is Vlinders, dear zebra?";
    let whole = server.client.whole(CHAT, &ask(question)).await?;
    server.client.streamed(CHAT, &ask(question)).await?.complete()?;
    let refused = server.client.post(CHAT, &Value::Null).await?;
    ensure!(refused.status == 400, "{}", refused.body);
    server.client.get_text("/metrics").await?;
    let stopped = server.stop().await?;

    let mut requests = Vec::new();
    for line in stopped.log.lines() {
        let fields: Map<String, Value> = serde_json::from_str(line).with_context(|| line.to_owned())?;
        for name in ["@timestamp", "level", "message"] {
            ensure!(fields.get(name).is_some_and(Value::is_string), "{name}: {line}");
        }
        if fields["message"] == "request finished" {
            requests.push(fields);
        }
    }
    ensure!(requests.len() == 3, "{requests:?}");
    for (request, status) in requests.iter().zip([200, 200, 400]) {
        ensure!(request["status"] == status, "{request:?}");
        for name in ["request_id", "request_time", "route"] {
            ensure!(request[name].is_string(), "{name}: {request:?}");
        }
        ensure!(request["response_time"].as_f64() > Some(0.0), "{request:?}");
    }
    for name in ["prompt_tokens", "completion_tokens"] {
        ensure!(requests[0][name] == whole.counted(name)?, "{requests:?}");
    }
    for said in ["zebra", whole.text.trim()] {
        ensure!(!stopped.log.contains(said), "the log tells {said:?}");
    }
    Ok(())
}
