//! What this program itself costs, measured against a server that does nothing but write.

use std::fmt::Write;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::arguments::Arguments;
use crate::client::Network;
use crate::plan::Plan;
use crate::report::RoundReport;
use crate::round::Alarm;
use crate::session::carry_out;

const CHUNKS: usize = 128;
const STREAMS: u32 = 64;
/// What a good server of two cores delivers: the cost is told at these rates.
const CHUNKS_PER_S: u32 = 220_000;
const REQUESTS_PER_S: u32 = 6_000;
const MOST_REQUEST_BYTES: usize = 1 << 20;
/// In the body of a request whose stream shall keep its pace; without it, it comes as fast as it can.
const PACED: &[u8] = b"\"paced\":true";

/// Measures for some seconds.
///
/// # Errors
/// When there is no port or no thread to be had.
pub fn self_test() -> anyhow::Result<String> {
    let server = CannedServer::start().context("the trivial server does not start")?;
    let whole = measure(&server, &format!("--rate {REQUESTS_PER_S}"))?;
    let most_whole = measure(&server, "--concurrency 32 --prompts repeated")?;
    let streams = format!("--concurrency {STREAMS} --stream");
    let paced = measure(&server, &format!("{streams} --extra-body {{\"paced\":true}}"))?;
    let most_chunks = measure(&server, &streams)?;
    let mut told = String::from("against a trivial server in the same process, one thread each:\n");
    for (what, per_s, cores, most_per_s) in [
        (
            "whole answers",
            whole.throughput.requests_per_s,
            whole.generator.cores,
            most_whole.throughput.requests_per_s,
        ),
        (
            "stream chunks",
            paced.throughput.chunks_per_s,
            paced.generator.cores,
            most_chunks.throughput.chunks_per_s,
        ),
    ] {
        let _ = writeln!(
            told,
            "{what}: {per_s:>7.0}/s take {cores:.2} cores; {most_per_s:>7.0}/s as fast as the two can"
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
        let body = move || {
            // Nobody waits for a server that fails: the measurement tells it.
            let _ = runtime.block_on(serve(listener, stopped));
        };
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

async fn serve(listener: std::net::TcpListener, stopped: oneshot::Receiver<()>) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let (step, steps) = watch::channel(());
    let mut connections = JoinSet::new();
    let accepting = async {
        while let Ok((stream, _)) = listener.accept().await {
            connections.spawn(answer_all(stream, steps.clone()));
        }
    };
    tokio::select! {
        () = accepting => {}
        () = keep_pace(Alarm::exact()?, step) => {}
        _ = stopped => {}
    }
    Ok(())
}

/// A step at a time, at which every paced stream gets a chunk, as from a batch of an engine.
async fn keep_pace(mut alarm: Alarm, step: watch::Sender<()>) {
    let pause = Duration::from_secs_f64(f64::from(STREAMS) / f64::from(CHUNKS_PER_S));
    let mut due = Instant::now();
    loop {
        alarm.until(due).await;
        step.send_replace(());
        due += pause;
    }
}

/// Until the client closes the connection or sends nonsense.
async fn answer_all(mut stream: TcpStream, mut steps: watch::Receiver<()>) -> io::Result<()> {
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
        let has = |words: &[u8]| memchr::memmem::find(&request[..length], words).is_some();
        let (is_streamed, is_paced) = (has(b"\"stream\":true"), has(PACED));
        request.drain(..length);
        if !is_streamed {
            stream.write_all(&canned.whole).await?;
            continue;
        }
        stream.write_all(&canned.head).await?;
        for _ in 0..CHUNKS {
            if is_paced {
                steps.changed().await.map_err(io::Error::other)?;
            } else {
                // Every stream gets a chunk before one gets its next.
                tokio::task::yield_now().await;
            }
            stream.write_all(&canned.chunk).await?;
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
