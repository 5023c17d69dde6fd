//! One connection: HTTP/1.1 or HTTP/2 over plain TCP, whichever the client speaks.

use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use vlinders_openai_api::LIMITS;
use vlinders_service_kit::{Stage, Tasks};

use super::ConnectionFacts;
use super::socket::{LimitedSocket, SocketLimits};
use crate::app::App;

/// Larger heads are refused without an answer's shape; up to here they are refused with it.
const HEAD_BUFFER_BYTES: usize = 4 * LIMITS.header_bytes;
/// Header fields of a request.
const HEADER_FIELDS: usize = 256;
/// Streams that a client may open and reset before they are even looked at.
const PENDING_RESETS: usize = 32;
/// Streams that may fail by the client's fault before the connection is closed.
const STREAM_ERRORS: usize = 128;
/// Bytes written to an HTTP/2 stream and not yet sent.
const SEND_BUFFER_BYTES: usize = 64 * 1024;
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves connections, all alike.
pub(super) struct ConnectionServer {
    pub(super) app: Arc<App>,
    router: Router,
    builder: auto::Builder<StreamTasks>,
    stopping: CancellationToken,
}

impl ConnectionServer {
    pub(super) fn new(app: Arc<App>, router: Router, tasks: Tasks) -> Self {
        let stopping = tasks.stopping(Stage::Intake);
        let mut builder = auto::Builder::new(StreamTasks(tasks));
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(app.config.head_deadline)
            .max_buf_size(HEAD_BUFFER_BYTES)
            .max_headers(HEADER_FIELDS);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_header_list_size(u32::try_from(LIMITS.header_bytes).unwrap_or(u32::MAX))
            .max_concurrent_streams(app.config.streams_per_connection)
            .max_pending_accept_reset_streams(PENDING_RESETS)
            .max_local_error_reset_streams(STREAM_ERRORS)
            .max_send_buf_size(SEND_BUFFER_BYTES)
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT);
        Self {
            router,
            app,
            builder,
            stopping,
        }
    }

    /// Serves one connection to its end. Once the process stops, running requests are finished and no new ones read.
    pub(super) async fn serve(&self, socket: TcpStream) {
        let _shown = Shown::new(&self.app);
        if let Err(error) = socket.set_nodelay(true) {
            tracing::debug!(%error, "connection was gone at once");
            return;
        }
        let facts = Arc::new(ConnectionFacts::default());
        let limits = SocketLimits {
            first_byte: self.app.config.head_deadline,
            stalled_client: self.app.config.stalled_client,
            linger: self.app.config.body_deadline,
        };
        let socket = TokioIo::new(LimitedSocket::new(socket, Arc::clone(&facts), limits));
        let service = service_fn(|request| answer(self.router.clone(), Arc::clone(&facts), request));
        let mut connection = pin!(self.builder.serve_connection(socket, service));
        let ended = tokio::select! {
            biased;
            ended = connection.as_mut() => ended,
            () = self.stopping.cancelled() => {
                facts.stop();
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            // Clients leave in many ways; none of them is news.
            tracing::debug!(%error, "connection ended early");
        }
    }
}

async fn answer(
    router: Router,
    facts: Arc<ConnectionFacts>,
    request: hyper::Request<Incoming>,
) -> Result<Response, Infallible> {
    let mut request: Request = request.map(Body::new);
    request.extensions_mut().insert(facts);
    router.oneshot(request).await
}

/// Runs the streams of HTTP/2 connections as tasks that are stopped with the others.
#[derive(Clone)]
struct StreamTasks(Tasks);

impl<F> hyper::rt::Executor<F> for StreamTasks
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, future: F) {
        self.0.spawn(Stage::Work, "frontend-stream", future);
    }
}

/// Counts a connection while it is open.
struct Shown<'a>(&'a App);

impl<'a> Shown<'a> {
    fn new(app: &'a App) -> Self {
        app.metrics.connections.inc();
        Self(app)
    }
}

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        self.0.metrics.connections.dec();
    }
}
