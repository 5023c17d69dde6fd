//! What a bus carries: messages the size of a step's tokens to one listener, and requests through the queue.
//!
//! `cargo run --release -p vlinders-bus --example nats_throughput -- nats://127.0.0.1:4222`
//!
//! Both are measured over the server and inside this process in turn, three times; the ratio says more than the
//! figures. Each request costs a stored message, its part of a fetch, and an acknowledgement the server confirms.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::join_all;
use vlinders_bus::{
    Bus, BusError, ConsumerSpec, InProcessBus, InProcessLimits, NatsBus, NatsOptions, NatsStorage,
    StreamName, StreamRules, Subject,
};

const ROUNDS: usize = 3;
/// Tokens of one step for one frontend, and the bytes of each with its envelope.
const STEP_TOKENS: usize = 64;
const TOKEN_BYTES: usize = 36;
const STEPS: usize = 50_000;
/// Steps the sender may be ahead of the listener.
const AHEAD: usize = 1024;
const REQUESTS: usize = 5_000;
const REQUEST_BYTES: usize = 2_000;
const PRODUCERS: usize = 64;
const WORKERS: usize = 4;
const FREE_SLOTS: usize = 16;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let server = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "nats://127.0.0.1:4222".to_owned());
    for round in 1..=ROUNDS {
        let local: Arc<dyn Bus> = Arc::new(InProcessBus::new(InProcessLimits::default()));
        let local_steps = steps(&*local, &*local).await?;
        let local_requests = requests(&*local).await?;
        let (sender, listener) = (connect(&server).await?, connect(&server).await?);
        let nats_steps = steps(&sender, &listener).await?;
        let nats_requests = requests(&sender).await?;
        let tokens = STEP_TOKENS as f64 * nats_steps / 1e6;
        println!(
            "round {round}: steps/s {nats_steps:.0} ({tokens:.2} M tokens/s), in process {local_steps:.0}, \
             ratio {:.3}",
            nats_steps / local_steps
        );
        println!(
            "round {round}: requests/s {nats_requests:.0}, in process {local_requests:.0}, ratio {:.3}, alone \
             {:.2} ms",
            nats_requests / local_requests,
            alone(&sender).await?.as_secs_f64() * 1e3
        );
        sender.close().await;
        listener.close().await;
    }
    Ok(())
}

async fn connect(server: &str) -> Result<NatsBus, Box<dyn std::error::Error>> {
    let bus = NatsBus::connect(NatsOptions {
        request_storage: NatsStorage::Memory,
        ..NatsOptions::new(vec![server.to_owned()])
    });
    Ok(bus.await?)
}

/// Steps per second from a sender to a listener that acknowledges by reading.
async fn steps(sender: &dyn Bus, listener: &dyn Bus) -> Result<f64, BusError> {
    let subject = Subject::new("vl.tok.frontend");
    let mut arrivals = listener.subscribe(&subject).await?;
    // The interest must be known before the first step.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let payload = Bytes::from(vec![7; STEP_TOKENS * TOKEN_BYTES]);
    let room = tokio::sync::Semaphore::new(AHEAD);
    let began = Instant::now();
    let send = async {
        for _ in 0..STEPS {
            room.acquire().await.expect("never closed").forget();
            sender.publish(&subject, payload.clone()).await?;
        }
        Ok::<(), BusError>(())
    };
    let read = async {
        for _ in 0..STEPS {
            arrivals.next().await.expect("the bus is open");
            room.add_permits(1);
        }
    };
    let (sent, ()) = tokio::join!(send, read);
    sent?;
    assert_eq!(arrivals.lost(), 0, "the listener keeps up");
    Ok(STEPS as f64 / began.elapsed().as_secs_f64())
}

fn spec() -> ConsumerSpec {
    ConsumerSpec {
        stream: StreamName::Requests,
        filter: Subject::new("vl.req.>"),
        name: "all".to_owned(),
        ack_wait: Duration::from_secs(10),
        max_deliver: 3,
    }
}

async fn put(bus: &dyn Bus, id: String) -> Result<(), BusError> {
    let (subject, payload) = (
        Subject::new("vl.req.model.default"),
        Bytes::from(vec![7; REQUEST_BYTES]),
    );
    bus.enqueue(StreamName::Requests, &subject, &id, payload).await?;
    Ok(())
}

/// Takes requests with free slots until as many are done as were put.
async fn work(bus: &dyn Bus, done: &AtomicUsize) -> Result<(), BusError> {
    let consumer = bus.consumer(spec()).await?;
    while done.load(Ordering::SeqCst) < REQUESTS {
        let taken = consumer.fetch(FREE_SLOTS, Duration::from_millis(200)).await?;
        let acks = join_all(taken.iter().map(|delivery| delivery.control.ack())).await;
        acks.into_iter().collect::<Result<Vec<()>, BusError>>()?;
        done.fetch_add(taken.len(), Ordering::SeqCst);
    }
    Ok(())
}

/// Part of ids that no earlier round or run has used.
fn run_number() -> u128 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_nanos())
}

/// Requests per second, put, taken and acknowledged.
async fn requests(bus: &dyn Bus) -> Result<f64, BusError> {
    bus.ensure_stream(
        StreamName::Requests,
        StreamRules {
            max_messages: 1_000_000,
            max_age: Duration::from_secs(600),
            dedup_window: Duration::from_secs(120),
        },
    )
    .await?;
    let run = run_number();
    let done = AtomicUsize::new(0);
    let produce = |producer: usize| async move {
        for number in (producer..REQUESTS).step_by(PRODUCERS) {
            put(bus, format!("{run}.{number}")).await?;
        }
        Ok::<(), BusError>(())
    };
    let began = Instant::now();
    let (put, worked) = tokio::join!(
        join_all((0..PRODUCERS).map(produce)),
        join_all((0..WORKERS).map(|_| work(bus, &done)))
    );
    put.into_iter()
        .chain(worked)
        .collect::<Result<Vec<()>, BusError>>()?;
    Ok(REQUESTS as f64 / began.elapsed().as_secs_f64())
}

/// From putting a request to having it, when nothing else is on the way: the median.
async fn alone(bus: &dyn Bus) -> Result<Duration, BusError> {
    let consumer = bus.consumer(spec()).await?;
    let run = run_number();
    let mut times = Vec::new();
    for number in 0..200 {
        let began = Instant::now();
        let (taken, put) = tokio::join!(consumer.fetch(1, Duration::from_secs(5)), async {
            // The worker waits already.
            tokio::time::sleep(Duration::from_millis(2)).await;
            let put_at = began.elapsed();
            put(bus, format!("{run}.{number}")).await.map(|()| put_at)
        });
        let (taken, put_at) = (taken?, put?);
        if let Some(delivery) = taken.first() {
            times.push(began.elapsed().saturating_sub(put_at));
            delivery.control.ack().await?;
        }
    }
    times.sort();
    Ok(times.get(times.len() / 2).copied().unwrap_or_default())
}
