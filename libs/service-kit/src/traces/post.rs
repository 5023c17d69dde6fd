//! One HTTP request to the collector, on a connection of its own: there is one a second at most.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use http_body_util::{BodyExt, Full, Limited};
use hyper::Uri;
use hyper::client::conn::http1;
use hyper::header::{HOST, HeaderValue};
use hyper_util::rt::TokioIo;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use tokio::net::TcpStream;

/// A collector's answer is some bytes long.
const ANSWER_BYTES: usize = 64 * 1024;
const HTTP_PORT: u16 = 80;

/// Posts to one collector. It starts no task and keeps no connection.
#[derive(Debug)]
pub(super) struct Post {
    timeout: Duration,
    /// Why the last request was not answered: the exporter says only that it was not.
    fault: Mutex<Option<String>>,
}

impl Post {
    pub(super) fn new(timeout: Duration) -> Self {
        Self {
            timeout,
            fault: Mutex::default(),
        }
    }

    /// Why the last request was not answered, once.
    pub(super) fn take_fault(&self) -> Option<String> {
        self.fault().take()
    }

    fn fault(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl HttpClient for Post {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let answer = match tokio::time::timeout(self.timeout, exchange(request)).await {
            Ok(answer) => answer,
            Err(_elapsed) => Err(format!("no answer within {} ms", self.timeout.as_millis()).into()),
        };
        *self.fault() = answer.as_ref().err().map(ToString::to_string);
        answer
    }
}

async fn exchange(request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
    let (mut head, body) = request.into_parts();
    let authority = head.uri.authority().ok_or("the endpoint has no host")?;
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
