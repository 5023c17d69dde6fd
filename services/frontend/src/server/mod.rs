//! Accepting connections and keeping them within limits.

mod connection;
mod head_scan;
mod socket;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use vlinders_service_kit::{Stage, Tasks};

use crate::app::App;
use connection::ConnectionServer;

/// After a failed accept, mostly for lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// The answer on a connection too many.
const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\n\
connection: close\r\ncontent-length: 119\r\n\r\n{\"error\":{\"message\":\"too many connections; try again soon\",\
\"type\":\"overloaded_error\",\"param\":null,\"code\":\"overloaded\"}}";

/// What the socket and the routes tell each other about a connection.
#[derive(Debug, Default)]
pub(crate) struct ConnectionFacts {
    has_both_lengths: AtomicBool,
    lingers: AtomicBool,
    is_stopping: AtomicBool,
}

impl ConnectionFacts {
    /// A request gave its length in two ways, so that two readers may see its end in two places.
    pub(crate) fn has_both_lengths(&self) -> bool {
        self.has_both_lengths.load(Ordering::Relaxed)
    }

    /// An answer was given before the request was read: read on for a while before closing, or the answer is lost.
    pub(crate) fn linger(&self) {
        self.lingers.store(true, Ordering::Relaxed);
    }

    /// The process stops: nobody is waited for long.
    fn stop(&self) {
        self.is_stopping.store(true, Ordering::Relaxed);
    }

    fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::Relaxed)
    }
}

/// Serves these routes until the tasks stop.
pub(crate) fn spawn(app: Arc<App>, (router, listener): (Router, TcpListener), tasks: &Tasks) {
    let server = Arc::new(ConnectionServer::new(app, router, tasks.clone()));
    tasks.spawn(
        Stage::Intake,
        "frontend-accept",
        accept(server, listener, tasks.clone()),
    );
}

async fn accept(server: Arc<ConnectionServer>, listener: TcpListener, tasks: Tasks) {
    let stopping = tasks.stopping(Stage::Intake);
    let places = Arc::new(Semaphore::new(server.app.config.connections));
    loop {
        let accepted: std::io::Result<(TcpStream, SocketAddr)> = tokio::select! {
            biased;
            () = stopping.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let (socket, _peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "connection not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            // Best effort: the kernel's buffer takes so few bytes at once, or the client sees a closed connection.
            let _sent = socket.try_write(FULL);
            continue;
        };
        let server = Arc::clone(&server);
        tasks.spawn(Stage::Work, "frontend-connection", async move {
            let _place = place;
            server.serve(socket).await;
        });
    }
}

#[cfg(test)]
mod tests {
    use super::FULL;

    #[test]
    fn the_fixed_answer_announces_its_length() {
        let text = std::str::from_utf8(FULL).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(
            head.ends_with(&format!("content-length: {}", body.len())),
            "{}",
            body.len()
        );
        serde_json::from_str::<serde_json::Value>(body).unwrap();
    }
}
