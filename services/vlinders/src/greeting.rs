//! What a process says on standard output once it is ready, so that scripts can wait for it. Where logs are JSON it is
//! JSON too: collectors read both outputs of a container as one.

use std::io::Write;
use std::net::SocketAddr;

use serde_json::json;
use vlinders_service_kit::{Clock, LogFormat, SystemClock, rfc3339};

/// Where a frontend listens, with a line to paste.
pub(crate) fn greet_clients(format: LogFormat, address: SocketAddr, models: &[String]) -> anyhow::Result<()> {
    let names = models.join(", ");
    let first = models.first().map_or("", String::as_str);
    let listening = format!("vlinders is listening on http://{address} and serves {names}");
    match format {
        LogFormat::Text => say(
            format,
            &format!(
                "{listening}. Try:\n\
                 curl http://{address}/v1/chat/completions -H 'content-type: application/json' \
                 -d '{{\"model\":\"{first}\",\"messages\":[{{\"role\":\"user\",\"content\":\"What is Vlinders?\"}}]}}'"
            ),
        ),
        LogFormat::Json => say(format, &listening),
    }
}

/// That a process without clients is ready.
pub(crate) fn greet_operators(format: LogFormat, who: &str, health: SocketAddr) -> anyhow::Result<()> {
    say(
        format,
        &format!("vlinders {who} is ready; health on http://{health}"),
    )
}

fn say(format: LogFormat, text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match format {
        LogFormat::Text => writeln!(out, "{text}")?,
        LogFormat::Json => writeln!(out, "{}", json_line(text, SystemClock.now_ms()))?,
    }
    out.flush()?;
    Ok(())
}

/// With the fields that every line of the log has.
fn json_line(text: &str, now_ms: u64) -> String {
    json!({"@timestamp": rfc3339(now_ms), "level": "INFO", "message": text, "target": "vlinders"}).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collector_reads_the_greeting_as_a_line_of_the_log() {
        let line = json_line("ready \"here\"", 1_700_000_000_000);
        let read: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(read["message"], "ready \"here\"");
        assert_eq!(read["@timestamp"], "2023-11-14T22:13:20.000Z");
        assert_eq!(read["level"], "INFO");
    }
}
