//! One request, from the time it is due to the end of its answer.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{HOST, HeaderMap, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use tokio::time::{Instant, timeout};

use super::link::Link;
use super::network::Connect;
use crate::answer::{Counted, Fault, StreamReader, Streamed, one_line, read_whole, refusal_text};
use crate::outcome::{Failure, Outcome, Success};
use crate::request::Delivery;
use crate::target::Target;

/// How long a server may take to close a stream after its last event.
const PARTING: Duration = Duration::from_secs(1);
/// A whole answer longer than this is no answer.
const MOST_BYTES: usize = 64 << 20;
/// After a failed connection: a closed loop would otherwise do nothing but fail.
const PAUSE: Duration = Duration::from_millis(100);

/// What every request of a run shares.
pub(crate) struct Client {
    pub(crate) connect: Arc<dyn Connect>,
    /// At least one.
    pub(crate) targets: Vec<Target>,
    /// The endpoint's path after the target's base.
    pub(crate) path: &'static str,
    pub(crate) headers: HeaderMap,
    pub(crate) delivery: Delivery,
    pub(crate) lists_tokens: bool,
    pub(crate) timeout: Duration,
    /// Chunks with content that have come, of all requests so far.
    pub(crate) chunks: AtomicU64,
}

/// A request to send.
#[derive(Debug)]
pub(crate) struct Order {
    /// Index among the client's targets.
    pub(crate) target: usize,
    pub(crate) body: Bytes,
    pub(crate) due: Instant,
}

/// A request that has ended, and its connection when it can serve again.
pub(crate) struct Asked {
    pub(crate) target: usize,
    pub(crate) outcome: Outcome,
    pub(crate) link: Option<Link>,
}

impl Client {
    /// Sends a request and reads its answer, on the given connection if the server has not closed it.
    pub(crate) async fn ask(&self, order: Order, mut link: Option<Link>) -> Asked {
        let sent = Instant::now();
        let answered = timeout(self.timeout, self.answer(order.target, order.body, &mut link)).await;
        let result = match answered {
            Ok(answered) => answered.map(|answered| answered.since(order.due)),
            Err(_elapsed) => {
                // Half an answer is on it.
                link = None;
                Err(Failure::Timeout)
            }
        };
        if let Err(Failure::Connect(_)) = &result {
            tokio::time::sleep(PAUSE).await;
        }
        Asked {
            target: order.target,
            outcome: Outcome {
                due: order.due,
                send_lag: sent - order.due,
                result,
            },
            link,
        }
    }

    /// Asks the first target for something that is no completion.
    ///
    /// # Errors
    /// Also when the status is not 200.
    pub(crate) async fn get(&self, path: &str) -> Result<Bytes, Failure> {
        let exchange = async {
            let target = &self.targets[0];
            let request = self.request(target, Method::GET, path, Bytes::new());
            let (mut link, answer) = self.head(target, None, request).await?;
            self.whole(&mut link, answer).await
        };
        timeout(self.timeout, exchange)
            .await
            .unwrap_or(Err(Failure::Timeout))
    }

    async fn answer(&self, target: usize, body: Bytes, kept: &mut Option<Link>) -> Result<Answered, Failure> {
        let target = &self.targets[target];
        let request = self.request(target, Method::POST, self.path, body);
        let (mut link, answer) = self.head(target, kept.take(), request).await?;
        if self.delivery == Delivery::Streamed && answer.status() == StatusCode::OK {
            let streamed = self.stream(link, answer.into_body(), kept).await?;
            return Ok(Answered {
                first: streamed.first,
                gaps_us: streamed.gaps_us,
                end: streamed.end,
                counted: streamed.counted,
            });
        }
        let whole = self.whole(&mut link, answer).await;
        let end = Instant::now();
        if whole.is_ok() || matches!(whole, Err(Failure::Status(..))) {
            link.is_used = true;
            *kept = Some(link);
        }
        Ok(Answered {
            first: None,
            gaps_us: Vec::new(),
            end,
            counted: read_whole(&whole?).map_err(Failure::Answer)?,
        })
    }

    /// Sends, and waits for the head of the answer. A kept connection that turns out to be closed is replaced once:
    /// every client has to do that.
    async fn head(
        &self,
        target: &Target,
        kept: Option<Link>,
        request: Request<Full<Bytes>>,
    ) -> Result<(Link, Response<Incoming>), Failure> {
        if let Some(mut link) = kept {
            match link.send(request.clone()).await {
                Ok(answer) => return Ok((link, answer)),
                Err(error) if link.is_used && (error.is_incomplete_message() || error.is_canceled()) => {}
                Err(error) => return Err(disconnected(&error)),
            }
        }
        let stream = self.connect.connect(target).await;
        let stream = stream.map_err(|error| Failure::Connect(error.to_string()))?;
        let link = Link::over(stream).await;
        let mut link = link.map_err(|error| Failure::Connect(error.to_string()))?;
        let answer = link.send(request).await.map_err(|error| disconnected(&error))?;
        Ok((link, answer))
    }

    fn request(&self, target: &Target, method: Method, path: &str, body: Bytes) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        let uri = format!("{}{path}", target.base);
        *request.uri_mut() = uri.parse().expect("a checked base and a path of ours");
        *request.headers_mut() = self.headers.clone();
        let host = HeaderValue::from_str(&target.authority()).expect("a checked host");
        request.headers_mut().insert(HOST, host);
        request
    }

    async fn stream(
        &self,
        mut link: Link,
        mut body: Incoming,
        kept: &mut Option<Link>,
    ) -> Result<Streamed, Failure> {
        let mut reader = StreamReader::new(Instant::now(), self.lists_tokens);
        while !reader.is_done() && !reader.is_broken() {
            let piece = link.next_piece(&mut body).await;
            let Some(piece) = piece.map_err(|error| disconnected(&error))? else {
                break;
            };
            let chunks = reader.take(&piece, Instant::now());
            self.chunks.fetch_add(chunks, Ordering::Relaxed);
        }
        let streamed = reader.finish().map_err(Failure::Answer)?;
        // What follows the last event is the end of the body. Without it the connection cannot serve again.
        let ended = timeout(PARTING, async {
            while let Ok(Some(_)) = link.next_piece(&mut body).await {}
        });
        if ended.await.is_ok() {
            link.is_used = true;
            *kept = Some(link);
        }
        Ok(streamed)
    }

    /// The whole body.
    async fn whole(&self, link: &mut Link, answer: Response<Incoming>) -> Result<Bytes, Failure> {
        let (status, mut body) = (answer.status(), answer.into_body());
        let mut whole = BytesMut::new();
        while let Some(piece) = link
            .next_piece(&mut body)
            .await
            .map_err(|error| disconnected(&error))?
        {
            whole.extend_from_slice(&piece);
            if whole.len() > MOST_BYTES {
                let text = format!("it is longer than {MOST_BYTES} bytes");
                return Err(Failure::Answer(Fault::Malformed(text)));
            }
        }
        if status != StatusCode::OK {
            return Err(Failure::Status(status.as_u16(), refusal_text(&whole)));
        }
        Ok(whole.freeze())
    }
}

/// An answer with its points in time.
struct Answered {
    first: Option<Instant>,
    gaps_us: Vec<u32>,
    end: Instant,
    counted: Counted,
}

impl Answered {
    fn since(self, due: Instant) -> Success {
        Success {
            ttft: self.first.map(|first| first - due),
            gaps_us: self.gaps_us,
            e2e: self.end - due,
            counted: self.counted,
        }
    }
}

/// The whole chain of causes.
fn disconnected(error: &hyper::Error) -> Failure {
    let cause = error.source().map(|cause| format!(": {cause}"));
    Failure::Disconnected(one_line(&format!("{error}{}", cause.unwrap_or_default())))
}
