//! What a frontend answers while it waits for the servers it needs: that it lives, and that it is not ready.

use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use vlinders_openai_api::ApiError;

use crate::http::{error_response, health, json_response};

/// How long answers that are on their way may take once the waiting is over.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// Answers on `listener` as long as `awaited` takes, then gives it back for [`crate::start`] with the outcome. Requests
/// are refused with 503 and a word to come again.
///
/// # Errors
/// When the listener cannot be listened on.
pub async fn wait_on<T>(
    listener: TcpListener,
    awaited: impl Future<Output = T>,
) -> std::io::Result<(TcpListener, T)> {
    let listener = listener.into_std()?;
    let door = TcpListener::from_std(listener.try_clone()?)?;
    let over = CancellationToken::new();
    let closing = over.clone().cancelled_owned();
    let serving = axum::serve(door, router())
        .with_graceful_shutdown(closing)
        .into_future();
    tokio::pin!(serving);
    let outcome = tokio::select! {
        outcome = awaited => outcome,
        // It ends only when it is told to.
        ended = &mut serving => return Err(ended.err().unwrap_or_else(|| std::io::ErrorKind::Other.into())),
    };
    over.cancel();
    if tokio::time::timeout(LAST_ANSWERS, serving).await.is_err() {
        tracing::debug!("a client of the waiting room was cut off");
    }
    Ok((TcpListener::from_std(listener)?, outcome))
}

fn router() -> Router {
    Router::new()
        .route("/health", get(health::health))
        .route("/live", get(health::live))
        .route("/version", get(health::version))
        .route("/ready", get(not_ready))
        .fallback(come_again)
}

async fn not_ready() -> Response {
    let body = json!({"status": "not ready", "reason": "starting"});
    json_response(StatusCode::SERVICE_UNAVAILABLE, &body)
}

async fn come_again() -> Response {
    let error = ApiError::new(503, "starting", "this server is starting; try again in a moment");
    error_response(&ApiError {
        retry_after_s: Some(1),
        ..error
    })
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn whoever_comes_early_is_told_and_the_listener_comes_back() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let early = async move {
            let mut kept = TcpStream::connect(address).await.unwrap();
            for (path, status, word) in [
                ("/live", 200, "alive"),
                ("/ready", 503, "starting"),
                ("/v1/models", 503, "\"code\":\"starting\""),
            ] {
                let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
                kept.write_all(request.as_bytes()).await.unwrap();
                let mut answer = vec![0; 4096];
                let length = kept.read(&mut answer).await.unwrap();
                let answer = String::from_utf8_lossy(&answer[..length]).into_owned();
                let begin = format!("HTTP/1.1 {status}");
                assert!(answer.starts_with(&begin) && answer.contains(word), "{answer}");
            }
            kept
        };
        let (listener, mut kept) = wait_on(listener, early).await.unwrap();
        assert_eq!(
            kept.read(&mut [0; 16]).await.unwrap(),
            0,
            "the idle connection is closed"
        );
        let (late, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        late.unwrap();
        accepted.unwrap();
    }
}
