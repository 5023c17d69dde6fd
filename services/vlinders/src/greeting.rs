//! What a process says on standard output once it is ready, so that scripts can wait for it.

use std::io::Write;
use std::net::SocketAddr;

/// Where a frontend listens, with a line to paste.
pub(crate) fn greet_clients(address: SocketAddr, models: &[String]) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    let names = models.join(", ");
    let first = models.first().map_or("", String::as_str);
    writeln!(
        out,
        "vlinders is listening on http://{address} and serves {names}. Try:"
    )?;
    writeln!(
        out,
        "curl http://{address}/v1/chat/completions -H 'content-type: application/json' \
         -d '{{\"model\":\"{first}\",\"messages\":[{{\"role\":\"user\",\"content\":\"What is Vlinders?\"}}]}}'"
    )?;
    out.flush()?;
    Ok(())
}

/// That a process without clients is ready.
pub(crate) fn greet_operators(who: &str, health: SocketAddr) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "vlinders {who} is ready; health on http://{health}")?;
    out.flush()?;
    Ok(())
}
