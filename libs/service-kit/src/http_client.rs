//! One HTTP request on a connection of its own, for what asks at most once a second.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper::header::{HOST, HeaderValue};
use hyper::{Request, Response, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Answers to what is asked here are some bytes long.
const ANSWER_BYTES: usize = 64 * 1024;
const HTTP_PORT: u16 = 80;

/// Why there is no answer.
pub(crate) type ExchangeError = Box<dyn std::error::Error + Send + Sync>;

/// Sends a request to the host its address names, and reads the whole answer. Without a limit of time.
///
/// # Errors
/// When the address names no host, nobody listens there, or what comes back is no HTTP or too long.
pub(crate) async fn exchange(request: Request<Bytes>) -> Result<Response<Bytes>, ExchangeError> {
    let (mut head, body) = request.into_parts();
    let authority = head.uri.authority().ok_or("the address has no host")?;
    let host = authority.host().trim_matches(['[', ']']);
    let stream = TcpStream::connect((host, authority.port_u16().unwrap_or(HTTP_PORT))).await?;
    head.headers
        .insert(HOST, HeaderValue::from_str(authority.as_str())?);
    // To the server itself, the path alone is named.
    let path = head.uri.path_and_query().cloned();
    head.uri = path.map_or_else(|| Uri::from_static("/"), Uri::from);
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let answer = async move {
        let answer = sender
            .send_request(Request::from_parts(head, Full::new(body)))
            .await?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, ANSWER_BYTES).collect().await?.to_bytes();
        Ok(Response::from_parts(head, body))
    };
    tokio::pin!(answer);
    tokio::select! {
        biased;
        answer = &mut answer => return answer,
        // The connection does the sending and the reading; when it has ended, what it read is still there.
        ended = connection => ended?,
    }
    answer.await
}

/// What a process answers at `url`, such as `http://127.0.0.1:8000/ready`: the status, and the body as text.
///
/// # Errors
/// What is in the way, in a few words: the address is none, nobody listens, or no answer comes within `timeout`.
pub async fn ask_process(url: &str, timeout: Duration) -> Result<(u16, String), String> {
    let uri: Uri = url.parse().map_err(|error| format!("is no address: {error}"))?;
    if uri.scheme_str() != Some("http") || uri.host().is_none() {
        return Err("is no address such as http://127.0.0.1:8000/ready".to_owned());
    }
    let mut request = Request::new(Bytes::new());
    *request.uri_mut() = uri;
    let answer = tokio::time::timeout(timeout, exchange(request)).await;
    let answer = answer.map_err(|_elapsed| format!("does not answer within {} ms", timeout.as_millis()))?;
    let answer = answer.map_err(|error| format!("does not answer: {error}"))?;
    let body = String::from_utf8_lossy(answer.body()).into_owned();
    Ok((answer.status().as_u16(), body))
}
