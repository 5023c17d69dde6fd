//! The port on which a process without a public one says how it fares.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;

use crate::{Metrics, Stage, Tasks};

/// What is in the way, in a few words that everybody may read; nothing when all is well.
pub type Probe = Arc<dyn Fn() -> Option<&'static str> + Send + Sync>;

/// What the port tells.
#[derive(Clone)]
pub struct HealthParts {
    /// Shown at `/metrics`.
    pub metrics: Metrics,
    /// Whether new work may come: the process's own state, never that of what others share with it.
    pub ready: Probe,
    /// Whether the process must be started again.
    pub live: Probe,
    /// Shown at `/version`.
    pub version: &'static str,
}

/// Serves `/health`, `/live`, `/ready`, `/metrics` and `/version` until the last stage of `tasks` stops, so that the end
/// can be watched.
///
/// # Errors
/// When the listener has no address.
pub fn serve_health(listener: TcpListener, parts: HealthParts, tasks: &Tasks) -> std::io::Result<SocketAddr> {
    let address = listener.local_addr()?;
    let router = Router::new()
        .route("/health", get(health))
        .route("/live", get(live))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .route("/version", get(version))
        .with_state(parts);
    let stopping = tasks.stopping(Stage::Store);
    tasks.spawn(Stage::Store, "health-port", async move {
        let serving = axum::serve(listener, router);
        tokio::select! {
            biased;
            () = stopping.cancelled() => {}
            served = serving.into_future() => {
                if let Err(error) = served {
                    tracing::error!(%error, "the health port ended");
                }
            }
        }
    });
    Ok(address)
}

fn json(status: StatusCode, text: String) -> Response {
    (status, [(CONTENT_TYPE, "application/json")], text).into_response()
}

fn told(well: &str, ill: &str, obstacle: Option<&'static str>) -> Response {
    match obstacle {
        None => json(StatusCode::OK, format!("{{\"status\":\"{well}\"}}")),
        Some(reason) => json(
            StatusCode::SERVICE_UNAVAILABLE,
            format!("{{\"status\":\"{ill}\",\"reason\":\"{reason}\"}}"),
        ),
    }
}

async fn health(State(parts): State<HealthParts>) -> Response {
    told("healthy", "unhealthy", (parts.live)())
}

async fn live(State(parts): State<HealthParts>) -> Response {
    told("alive", "not alive", (parts.live)())
}

async fn ready(State(parts): State<HealthParts>) -> Response {
    told("ready", "not ready", (parts.ready)())
}

async fn metrics(State(parts): State<HealthParts>) -> Response {
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(CONTENT_TYPE, content_type)], parts.metrics.encode()).into_response()
}

async fn version(State(parts): State<HealthParts>) -> Response {
    json(StatusCode::OK, format!("{{\"version\":\"{}\"}}", parts.version))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    async fn ask(address: SocketAddr, path: &str) -> String {
        let mut socket = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn the_port_tells_how_the_process_fares_and_ends_with_it() {
        let (tasks, busy) = (Tasks::new(), Arc::new(AtomicBool::new(true)));
        let is_busy = Arc::clone(&busy);
        let parts = HealthParts {
            metrics: Metrics::default(),
            ready: Arc::new(move || is_busy.load(Ordering::Relaxed).then_some("starting")),
            live: Arc::new(|| None),
            version: "1.2.3",
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        parts.metrics.counter("seen", "Seen", &[]).inc();
        let address = serve_health(listener, parts, &tasks).unwrap();
        let answer = ask(address, "/ready").await;
        assert!(
            answer.starts_with("HTTP/1.1 503") && answer.contains("\"reason\":\"starting\""),
            "{answer}"
        );
        busy.store(false, Ordering::Relaxed);
        for (path, word) in [
            ("/ready", "ready"),
            ("/live", "alive"),
            ("/health", "healthy"),
            ("/metrics", "vlinders_seen_total"),
            ("/version", "1.2.3"),
        ] {
            let answer = ask(address, path).await;
            assert!(
                answer.starts_with("HTTP/1.1 200") && answer.contains(word),
                "{answer}"
            );
        }
        tasks.stop(Duration::from_secs(5)).await.unwrap();
        assert!(TcpStream::connect(address).await.is_err());
    }
}
