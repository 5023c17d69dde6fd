//! What a span costs the thread that records it, beside what it costs when there is no endpoint.
//!
//! `cargo bench -p vlinders-service-kit --bench spans`

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a program for people at a terminal"
)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use vlinders_service_kit::{Fact, Metrics, SpanKind, Tasks, TraceContext, Tracer, Traces, TracesConfig};

const SPANS: usize = 100_000;
const TURNS: usize = 9;

/// Nanoseconds of one span with the attributes that a worker gives its spans.
fn nanoseconds(tracer: &Tracer, parent: TraceContext) -> f64 {
    let began = Instant::now();
    for number in 0..SPANS {
        let mut span = tracer.span(black_box(Some(parent)), "decode", SpanKind::Internal);
        span.set("request_id", Fact::Shown(&number));
        span.set("attempt", 0_u32);
        span.set("worker", "decode-0");
        span.set("gen_ai.request.model", "some-organisation/some-model-8b");
        span.set("gen_ai.usage.input_tokens", 1024_u32);
        span.set("gen_ai.usage.output_tokens", 256_u32);
        span.end();
    }
    began.elapsed().as_nanos() as f64 / SPANS as f64
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

#[tokio::main]
async fn main() {
    let config = |queue_spans| TracesConfig {
        queue_spans,
        // Nobody listens: what is measured is the recording.
        batch_interval: Duration::from_secs(600),
        batch_spans: usize::MAX,
        flush_limit: Duration::ZERO,
        ..TracesConfig::new("http://127.0.0.1:1")
    };
    let parent = TraceContext::parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01").unwrap();
    let (mut off, mut recorded, mut dropped) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..TURNS {
        let tasks = Tasks::new();
        let on = |queue| Traces::start(config(queue), &tasks, &Metrics::default()).unwrap();
        off.push(nanoseconds(&Traces::off().tracer("off", "off"), parent));
        recorded.push(nanoseconds(&on(SPANS).tracer("on", "on"), parent));
        dropped.push(nanoseconds(&on(1).tracer("full", "full"), parent));
        tasks.stop(Duration::from_secs(10)).await.unwrap();
    }
    println!("nanoseconds a span, medians of {TURNS}");
    println!("without an endpoint {:>8.1}", median(off));
    println!("recorded            {:>8.1}", median(recorded));
    println!("dropped, queue full {:>8.1}", median(dropped));
}
