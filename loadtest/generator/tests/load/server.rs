//! A server in this process that answers by script, and runs of the program against it.

use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use clap::Parser;
use futures::stream;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use vlinders_loadtest::arguments::Arguments;
use vlinders_loadtest::plan::Plan;
use vlinders_loadtest::target::Target;
use vlinders_loadtest::{Alarm, Connect, Connecting, Report, StopSignal, Stream, carry_out};

/// More than any answer here.
const PIPE_BYTES: usize = 1 << 16;
/// Tokens of a prompt beside its words: the template of this server's model.
const TEMPLATE_TOKENS: usize = 3;

/// A request as the server saw it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// How many completions were asked for before.
    pub(crate) index: usize,
    /// When it came, from the server's start.
    pub(crate) at: Duration,
    /// The target that the connection was made to.
    pub(crate) connected_to: String,
    pub(crate) host: String,
    pub(crate) path: String,
    pub(crate) authorization: Option<String>,
    pub(crate) body: Value,
}

/// What the server does with a request.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    /// Before its head.
    pub(crate) delay: Duration,
    /// Each after its time.
    pub(crate) pieces: Vec<(Duration, String)>,
    /// Whether the connection breaks after the pieces.
    pub(crate) breaks: bool,
}

/// Answers by script. Its connections are pipes.
#[derive(Clone)]
pub(crate) struct Server {
    inner: Arc<Inner>,
}

struct Inner {
    start: Instant,
    script: Box<dyn Fn(&Seen) -> Reply + Send + Sync>,
    seen: Mutex<Vec<Seen>>,
    connections: Mutex<JoinSet<()>>,
    /// Requests that a connection serves. At the next one it closes.
    requests_per_connection: usize,
    refuses: bool,
}

impl Server {
    pub(crate) fn new(script: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        Self::with(script, usize::MAX, false)
    }

    /// A server that closes its connections after so many requests, or takes none.
    pub(crate) fn with(
        script: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
        requests_per_connection: usize,
        refuses: bool,
    ) -> Self {
        let inner = Inner {
            start: Instant::now(),
            script: Box::new(script),
            seen: Mutex::default(),
            connections: Mutex::default(),
            requests_per_connection,
            refuses,
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// The completions that were asked for.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.lock().clone()
    }

    /// Runs the program with these words.
    pub(crate) async fn run(&self, words: &str) -> anyhow::Result<Report> {
        let (_stop, stops) = watch::channel(false);
        self.run_until(words, stops).await
    }

    pub(crate) async fn run_until(&self, words: &str, stops: StopSignal) -> anyhow::Result<Report> {
        self.run_with(words, Alarm::runtime(), stops).await
    }

    pub(crate) async fn run_with(
        &self,
        words: &str,
        alarm: Alarm,
        stops: StopSignal,
    ) -> anyhow::Result<Report> {
        let words = words.split_ascii_whitespace();
        let mut words: Vec<&str> = ["vlinders-loadtest", "--quiet"]
            .into_iter()
            .chain(words)
            .collect();
        if !words.contains(&"--seed") {
            words.extend(["--seed", "1"]);
        }
        let plan = Plan::check(Arguments::try_parse_from(words).expect("a right command line"))?;
        carry_out(plan, Arc::new(self.clone()), alarm, stops).await
    }

    /// The only round of such a run, as JSON.
    pub(crate) async fn round(&self, words: &str) -> Value {
        let words = format!("--model m --tokens-per-word 1 {words}");
        let report = self.run(&words).await.expect("nothing to ask before");
        serde_json::to_value(&report).expect("reports are JSON")["rounds"][0].clone()
    }

    async fn answer(
        self,
        connected_to: String,
        request: Request<Incoming>,
    ) -> Response<BoxBody<Bytes, io::Error>> {
        let header = |name: &str| {
            let value = request.headers().get(name)?;
            Some(value.to_str().expect("a readable header").to_owned())
        };
        let (host, authorization) = (header("host").expect("a host"), header("authorization"));
        let path = request.uri().path().to_owned();
        let body = request
            .into_body()
            .collect()
            .await
            .expect("a whole body")
            .to_bytes();
        if path.ends_with("/models") {
            return respond(Reply::whole(
                &json!({"data": [{"id": "first"}, {"id": "second"}]}),
            ))
            .await;
        }
        let body = serde_json::from_slice(&body).expect("a JSON body");
        let reply = {
            let mut all = self.lock();
            let seen = Seen {
                index: all.len(),
                at: self.inner.start.elapsed(),
                connected_to,
                host,
                path,
                authorization,
                body,
            };
            let reply = (self.inner.script)(&seen);
            all.push(seen);
            reply
        };
        respond(reply).await
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Seen>> {
        self.inner.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connect for Server {
    fn connect<'a>(&'a self, target: &'a Target) -> Connecting<'a> {
        Box::pin(async move {
            if self.inner.refuses {
                return Err(io::Error::new(
                    io::ErrorKind::ConnectionRefused,
                    "refused by script",
                ));
            }
            let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
            let (server, name) = (self.clone(), target.authority());
            let (asked, mut asks) = watch::channel(0_usize);
            let connection = async move {
                let service = service_fn(|request| {
                    let (server, name) = (server.clone(), name.clone());
                    asked.send_modify(|asked| *asked += 1);
                    let has_closed = *asked.borrow() > server.inner.requests_per_connection;
                    async move {
                        if has_closed {
                            std::future::pending::<()>().await;
                        }
                        Ok::<_, Infallible>(server.answer(name, request).await)
                    }
                });
                let most = server.inner.requests_per_connection;
                tokio::select! {
                    // The client closing a connection is no fault of the server.
                    _ = http1::Builder::new().serve_connection(TokioIo::new(ours), service) => {}
                    _ = asks.wait_for(|asked| *asked > most) => {}
                }
            };
            let mut connections = self.inner.connections.lock().expect("not poisoned");
            connections.spawn(connection);
            Ok(Box::new(theirs) as Box<dyn Stream>)
        })
    }
}

impl Reply {
    /// A JSON answer at once.
    pub(crate) fn whole(body: &Value) -> Self {
        Self {
            status: 200,
            delay: Duration::ZERO,
            pieces: vec![(Duration::ZERO, body.to_string())],
            breaks: false,
        }
    }

    /// A whole chat answer of so many tokens, with its usage.
    pub(crate) fn chat(seen: &Seen, output_tokens: u64) -> Self {
        Self::whole(&json!({
            "choices": [{"message": {"content": "words"}, "finish_reason": "length"}],
            "usage": usage(seen, output_tokens),
        }))
    }

    /// A stream with a token after each of these times.
    pub(crate) fn stream(seen: &Seen, times: &[Duration]) -> Self {
        let event = |choice: Value| format!("data: {}\n\n", json!({"choices": [choice], "usage": null}));
        let mut pieces = vec![(
            Duration::ZERO,
            event(json!({"delta": {"role": "assistant", "content": ""}, "finish_reason": null})),
        )];
        let token = event(json!({"delta": {"content": "a"}, "finish_reason": null}));
        pieces.extend(times.iter().map(|time| (*time, token.clone())));
        let last = event(json!({"delta": {}, "finish_reason": "length"}));
        let usage = json!({"choices": [], "usage": usage(seen, times.len() as u64)});
        pieces.push((Duration::ZERO, format!("{last}data: {usage}\n\ndata: [DONE]\n\n")));
        Self {
            status: 200,
            delay: Duration::ZERO,
            pieces,
            breaks: false,
        }
    }

    pub(crate) fn refusal(status: u16, message: &str) -> Self {
        Self {
            status,
            ..Self::whole(&json!({"error": {"message": message, "type": "x", "code": null}}))
        }
    }

    pub(crate) fn after(self, delay: Duration) -> Self {
        Self { delay, ..self }
    }
}

/// Every word of the prompt is a token.
pub(crate) fn usage(seen: &Seen, output_tokens: u64) -> Value {
    let content = &seen.body["messages"][0]["content"];
    let prompt = content.as_str().or(seen.body["prompt"].as_str());
    let words = prompt.expect("a prompt").split(' ').count();
    let prompt_tokens = (words + TEMPLATE_TOKENS) as u64;
    json!({
        "prompt_tokens": prompt_tokens,
        "completion_tokens": output_tokens,
        "total_tokens": prompt_tokens + output_tokens,
    })
}

async fn respond(reply: Reply) -> Response<BoxBody<Bytes, io::Error>> {
    sleep(reply.delay).await;
    let pieces = reply.pieces.into_iter().map(Some).chain([None]);
    let body = stream::unfold((pieces, reply.breaks), |(mut pieces, breaks)| async move {
        match pieces.next()? {
            Some((time, text)) => {
                sleep(time).await;
                Some((Ok(Frame::data(Bytes::from(text))), (pieces, breaks)))
            }
            None if breaks => Some((Err(io::Error::other("broken by script")), (pieces, breaks))),
            None => None,
        }
    });
    let mut response = Response::new(BoxBody::new(StreamBody::new(body)));
    *response.status_mut() = StatusCode::from_u16(reply.status).expect("a status");
    response
}
