//! What this program itself costs, measured against a server that does nothing but write.

use std::fmt::Write;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use clap::Parser;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;

use crate::arguments::Arguments;
use crate::client::Network;
use crate::plan::Plan;
use crate::report::RoundReport;
use crate::round::Alarm;
use crate::session::carry_out;

const CHUNKS: usize = 128;
/// The rates for which the share of a core is told: what a good server of two cores delivers.
const USUAL_CHUNKS_PER_S: f64 = 220_000.0;
const USUAL_REQUESTS_PER_S: f64 = 6_000.0;
const MOST_REQUEST_BYTES: usize = 1 << 20;

/// Measures for some seconds.
///
/// # Errors
/// When there is no port or no thread to be had.
pub fn self_test() -> anyhow::Result<String> {
    let server = CannedServer::start().context("the trivial server does not start")?;
    let whole = measure(&server, "--concurrency 32 --prompts repeated")?;
    let streamed = measure(&server, "--concurrency 64 --stream")?;
    let mut told =
        String::from("vlinders-loadtest against a trivial server in the same process, one thread each:\n");
    for (what, per_s, usual, round) in [
        (
            "whole answers",
            whole.throughput.requests_per_s,
            USUAL_REQUESTS_PER_S,
            &whole,
        ),
        (
            "stream chunks",
            streamed.throughput.chunks_per_s,
            USUAL_CHUNKS_PER_S,
            &streamed,
        ),
    ] {
        let cost_s = round.generator.cores / per_s;
        let _ = writeln!(
            told,
            "{what}: {per_s:.0}/s; each costs the generator {:.2} µs of CPU, so {usual:.0}/s take {:.2} cores",
            1e6 * cost_s,
            usual * cost_s
        );
    }
    Ok(told)
}

fn measure(server: &CannedServer, flags: &str) -> anyhow::Result<RoundReport> {
    let fixed = "--model canned --tokens-per-word 1 --duration 2s --warm-up 500ms --quiet";
    let url = format!("http://{}", server.address);
    let words = ["vlinders-loadtest", "--url", &url].into_iter();
    let words = words.chain(fixed.split(' ')).chain(flags.split(' '));
    let plan = Plan::check(Arguments::try_parse_from(words)?)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (_stop, stops) = watch::channel(false);
    let report = runtime.block_on(async {
        let alarm = Alarm::exact()?;
        carry_out(plan, Arc::new(Network::plain()), alarm, stops).await
    })?;
    anyhow::ensure!(!report.is_failure(), "no request was answered");
    let round = report.rounds.into_iter().next();
    round.context("there is one round")
}

/// A server on a thread of its own. It stops when dropped.
struct CannedServer {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl CannedServer {
    fn start() -> io::Result<Self> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (stop, stopped) = oneshot::channel();
        let body = move || runtime.block_on(serve(listener, stopped));
        let thread = std::thread::Builder::new()
            .name("canned server".to_owned())
            .spawn(body)?;
        Ok(Self {
            address,
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for CannedServer {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn serve(listener: std::net::TcpListener, stopped: oneshot::Receiver<()>) {
    let Ok(listener) = TcpListener::from_std(listener) else {
        return;
    };
    let mut connections = JoinSet::new();
    let accepting = async {
        while let Ok((stream, _)) = listener.accept().await {
            connections.spawn(answer_all(stream));
        }
    };
    tokio::select! {
        () = accepting => {}
        _ = stopped => {}
    }
}

/// Until the client closes the connection or sends nonsense.
async fn answer_all(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let canned = Canned::new();
    let mut request = Vec::new();
    loop {
        let length = loop {
            if let Some(length) = request_length(&request) {
                break length;
            }
            if request.len() > MOST_REQUEST_BYTES || stream.read_buf(&mut request).await? == 0 {
                return Ok(());
            }
        };
        let is_streamed = memchr::memmem::find(&request[..length], b"\"stream\":true").is_some();
        request.drain(..length);
        if !is_streamed {
            stream.write_all(&canned.whole).await?;
            continue;
        }
        stream.write_all(&canned.head).await?;
        for _ in 0..CHUNKS {
            stream.write_all(&canned.chunk).await?;
            // Every stream gets a chunk before one gets its next, as from a batch of an engine.
            tokio::task::yield_now().await;
        }
        stream.write_all(&canned.end).await?;
    }
}

/// Bytes of the first request, when it is here as a whole.
fn request_length(bytes: &[u8]) -> Option<usize> {
    let head = memchr::memmem::find(bytes, b"\r\n\r\n")? + 4;
    let lower = bytes[..head].to_ascii_lowercase();
    let name = b"content-length: ";
    let body = match memchr::memmem::find(&lower, name) {
        Some(start) => {
            let digits = lower[start + name.len()..]
                .iter()
                .take_while(|byte| byte.is_ascii_digit());
            digits.fold(0, |length, digit| 10 * length + usize::from(digit - b'0'))
        }
        None => 0,
    };
    (bytes.len() >= head + body).then_some(head + body)
}

/// What is written, made once.
struct Canned {
    whole: Vec<u8>,
    head: Vec<u8>,
    chunk: Vec<u8>,
    end: Vec<u8>,
}

impl Canned {
    fn new() -> Self {
        let common = "\"id\":\"chatcmpl-0123456789abcdef0123456789abcdef\",\"created\":1700000000,\"model\":\"canned\"";
        let usage = "{\"prompt_tokens\":128,\"completion_tokens\":128,\"total_tokens\":256}";
        let body = format!(
            "{{{common},\"object\":\"chat.completion\",\"choices\":[{{\"index\":0,\"message\":{{\"role\":\"assistant\",\
             \"content\":\"{}\"}},\"finish_reason\":\"length\"}}],\"usage\":{usage}}}",
            "word ".repeat(CHUNKS)
        );
        let event = |delta: &str, finish: &str| {
            format!(
                "data: {{{common},\"object\":\"chat.completion.chunk\",\"choices\":[{{\"index\":0,\"delta\":{delta},\
                 \"logprobs\":null,\"finish_reason\":{finish}}}],\"usage\":null}}\n\n"
            )
        };
        let last = format!(
            "{}data: {{{common},\"choices\":[],\"usage\":{usage}}}\n\ndata: [DONE]\n\n",
            event("{}", "\"length\"")
        );
        Self {
            whole: format!(
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            )
            .into_bytes(),
            head: b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
                .to_vec(),
            chunk: http_chunk(&event("{\"content\":\" word\"}", "null")),
            end: [http_chunk(&last), http_chunk("")].concat(),
        }
    }
}

fn http_chunk(text: &str) -> Vec<u8> {
    format!("{:x}\r\n{text}\r\n", text.len()).into_bytes()
}
