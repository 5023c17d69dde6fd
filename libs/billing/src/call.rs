//! One call of the API: a form, posted over a connection of its own. A few a minute need no pool.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, RETRY_AFTER};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::ApiAddress;

/// More than any answer of the API to a form has.
const ANSWER_BYTES: usize = 64 * 1024;

/// What became of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It was carried out, now or before.
    Done,
    /// It may be carried out later: nobody answered, there were too many calls, or something failed over there.
    Later {
        /// Fit for a log.
        why: String,
        /// When it should be tried again, if the API says so.
        after: Option<Duration>,
    },
    /// It will never be carried out as it is.
    Never {
        /// Fit for a log.
        why: String,
    },
}

/// Calls one API with one key.
pub(crate) struct Caller {
    address: ApiAddress,
    key: String,
    limit: Duration,
    seal: Option<TlsConnector>,
}

impl Caller {
    pub(crate) fn new(address: ApiAddress, key: String, limit: Duration) -> Self {
        let seal = address.is_sealed.then(|| {
            let mut roots = RootCertStore::empty();
            // What of them cannot be read is not trusted; without any every call fails and says so.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let config = ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .expect("the provider knows the usual versions")
                .with_root_certificates(roots)
                .with_no_client_auth();
            TlsConnector::from(Arc::new(config))
        });
        Self {
            address,
            key,
            limit,
            seal,
        }
    }

    /// Posts these fields. Calls with the same `id` are carried out once.
    pub(crate) async fn post(&self, path: &str, fields: &[(&str, &str)], id: &str) -> Outcome {
        let later = |why: String| Outcome::Later { why, after: None };
        match timeout(self.limit, self.try_post(path, fields, id)).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(why)) => later(why),
            Err(_late) => later(format!("no answer within {} s", self.limit.as_secs())),
        }
    }

    async fn try_post(&self, path: &str, fields: &[(&str, &str)], id: &str) -> Result<Outcome, String> {
        let body = form(fields);
        let request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(HOST, self.address.authority())
            .header(AUTHORIZATION, format!("Bearer {}", self.key))
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header("idempotency-key", id)
            .body(Full::new(Bytes::from(body)))
            // Not the error: it may show the key.
            .map_err(|_| "the key is no header value".to_owned())?;
        let place = (self.address.host.as_str(), self.address.port);
        let socket = TcpStream::connect(place)
            .await
            .map_err(|error| error.to_string())?;
        match &self.seal {
            None => send(socket, request).await,
            Some(seal) => {
                let name = ServerName::try_from(self.address.host.clone());
                let name = name.map_err(|error| error.to_string())?;
                let sealed = seal.connect(name, socket).await;
                send(sealed.map_err(|error| error.to_string())?, request).await
            }
        }
    }
}

fn form(fields: &[(&str, &str)]) -> String {
    let mut form = form_urlencoded::Serializer::new(String::new());
    form.extend_pairs(fields);
    form.finish()
}

async fn send<S>(socket: S, request: Request<Full<Bytes>>) -> Result<Outcome, String>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let text = |error: hyper::Error| error.to_string();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket))
        .await
        .map_err(text)?;
    let answered = async {
        let answer = sender.send_request(request).await.map_err(text)?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, ANSWER_BYTES).collect().await;
        let body = body.map_err(|error| error.to_string())?.to_bytes();
        let after = head.headers.get(RETRY_AFTER);
        let after = after.and_then(|value| value.to_str().ok()?.parse().ok());
        Ok(outcome(
            head.status.as_u16(),
            &body,
            after.map(Duration::from_secs),
        ))
    };
    // The connection does its work only while somebody waits for it.
    tokio::pin!(connection);
    tokio::pin!(answered);
    tokio::select! {
        answer = &mut answered => answer,
        ended = &mut connection => match ended {
            Ok(()) => answered.await,
            Err(error) => Err(text(error)),
        },
    }
}

fn outcome(status: u16, body: &[u8], after: Option<Duration>) -> Outcome {
    let error: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let code = error["error"]["code"].as_str().unwrap_or_default();
    // Letters of a code, and nothing else that a stranger could write into a log.
    let is_plain = |char: &char| char.is_ascii_alphanumeric() || *char == '_';
    let code: String = code.chars().filter(is_plain).take(60).collect();
    let why = format!("status {status} {code}").trim_end().to_owned();
    match status {
        200..=299 => Outcome::Done,
        400 if code == "duplicate_meter_event" => Outcome::Done,
        // A key that is wrong or may not do this is the operator's to change; the event is good.
        401 | 403 | 408 | 409 | 429 | 500.. => Outcome::Later { why, after },
        _ => Outcome::Never { why },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_pass_is_tried_again_and_what_cannot_is_not() {
        let error = |code: &str| format!("{{\"error\":{{\"code\":\"{code}\"}}}}");
        assert_eq!(outcome(200, b"", None), Outcome::Done);
        assert_eq!(
            outcome(400, error("duplicate_meter_event").as_bytes(), None),
            Outcome::Done
        );
        for status in [401, 403, 409, 429, 500, 503] {
            assert!(
                matches!(outcome(status, b"", None), Outcome::Later { .. }),
                "{status}"
            );
        }
        let told = outcome(400, error("resource_missing\\nforged line").as_bytes(), None);
        let why = "status 400 resource_missingforgedline".to_owned();
        assert_eq!(told, Outcome::Never { why });
    }
}
