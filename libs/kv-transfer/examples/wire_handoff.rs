//! What block bytes cost on their way between two pools of one host, beside a plain copy of the same bytes by the
//! same means: `tcp` against sockets of as many connections.
//!
//! `cargo run --release -p vlinders-kv-transfer --example wire_handoff [rounds]`

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use vlinders_kernel_api::KvMemory;
use vlinders_kv_transfer::conformance::PoolMemory;
use vlinders_kv_transfer::{
    Endpoint, EndpointConfig, KvTransport, Outcome, PullOrder, TcpOptions, TcpTransport,
};
use vlinders_types::{BlockId, RequestId, WorkerId};

const BLOCK_BYTES: usize = 2 << 20;
const BLOCKS: u32 = 128;
const CONNECTIONS: usize = 4;
type Fault = Box<dyn std::error::Error>;

fn main() -> Result<(), Fault> {
    let rounds: usize = std::env::args().nth(1).map_or(Ok(9), |rounds| rounds.parse())?;
    println!(
        "{BLOCKS} blocks of {} KiB, medians of {rounds}",
        BLOCK_BYTES / 1024
    );
    let memories = [(); 2].map(|()| Arc::new(PoolMemory::new(BLOCKS, BLOCK_BYTES)));
    for number in 0..BLOCKS {
        let bytes: Vec<u8> = (0..BLOCK_BYTES)
            .map(|at| at.to_le_bytes()[0] ^ number.to_le_bytes()[0])
            .collect();
        memories
            .iter()
            .for_each(|memory| memory.write_block(BlockId(number), &bytes));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let tcp = || TcpTransport::new(TcpOptions::new(([127, 0, 0, 1], 0).into()));
    let transports: [Arc<dyn KvTransport>; 2] = [tcp(), tcp()];
    let pair = Pair::new(&memories, &transports)?;
    let (mut raw, mut moved, mut whole, mut copied, mut summed) = (vec![], vec![], vec![], vec![], vec![]);
    for round in 0..rounds + 1 {
        let times = [
            raw_copy()?,
            runtime.block_on(pair.reads())?,
            runtime.block_on(pair.hand_off())?,
            memory_copy(&memories),
            checksums(&memories[0]),
        ];
        // The first round opens connections and touches memory for the first time.
        if round > 0 {
            for (kept, time) in [&mut raw, &mut moved, &mut whole, &mut copied, &mut summed]
                .into_iter()
                .zip(times)
            {
                kept.push(time);
            }
        }
    }
    let [raw, moved, whole, copied, summed] = [raw, moved, whole, copied, summed].map(median);
    println!("  memcpy, 1 thread        {}", rate(copied));
    println!("  checksums, 1 thread     {}", rate(summed));
    println!("  sockets, {CONNECTIONS} connections {}", rate(raw));
    println!(
        "  tcp, block bytes only   {}  {:.2} of sockets",
        rate(moved),
        ratio(raw, moved)
    );
    println!(
        "  tcp, whole hand-off     {}  {:.2} of sockets",
        rate(whole),
        ratio(raw, whole)
    );
    Ok(())
}

fn memory_copy(memories: &[Arc<PoolMemory>; 2]) -> Duration {
    let began_at = Instant::now();
    for block in (0..BLOCKS).map(BlockId) {
        memories[0].with_block(block, &mut |bytes| memories[1].write_block(block, bytes));
    }
    began_at.elapsed()
}

fn checksums(memory: &PoolMemory) -> Duration {
    let began_at = Instant::now();
    for block in (0..BLOCKS).map(BlockId) {
        memory.with_block(block, &mut |bytes| {
            std::hint::black_box(xxhash_rust::xxh3::xxh3_64(bytes));
        });
    }
    began_at.elapsed()
}

/// As many bytes over as many connections, block by block from and to memory of their own.
fn raw_copy() -> Result<Duration, Fault> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let mut pairs = Vec::new();
    for _ in 0..CONNECTIONS {
        let (out, (into, _)) = (TcpStream::connect(listener.local_addr()?)?, listener.accept()?);
        out.set_nodelay(true)?;
        pairs.push((
            out,
            into,
            vec![vec![1; BLOCK_BYTES]; BLOCKS as usize / CONNECTIONS],
        ));
    }
    let mut targets: Vec<_> = pairs.iter().map(|(_, _, blocks)| blocks.clone()).collect();
    let began_at = Instant::now();
    std::thread::scope(|scope| {
        for ((out, into, blocks), target) in pairs.iter_mut().zip(&mut targets) {
            scope.spawn(move || blocks.iter().try_for_each(|block| out.write_all(block)));
            scope.spawn(move || target.iter_mut().try_for_each(|block| into.read_exact(block)));
        }
    });
    Ok(began_at.elapsed())
}

/// Two endpoints over the same blocks.
struct Pair {
    source: Arc<Endpoint>,
    destination: Arc<Endpoint>,
}

impl Pair {
    fn new(memories: &[Arc<PoolMemory>; 2], transports: &[Arc<dyn KvTransport>; 2]) -> Result<Self, Fault> {
        let endpoint = |side: usize| {
            let incarnation = side as u64 + 1;
            let clock = Arc::new(|| 0);
            let mut config = EndpointConfig::new(WorkerId::new("worker"), incarnation, [1; 32], 1, clock);
            config.chunk_blocks = BLOCKS as usize;
            Endpoint::new(config, memories[side].clone(), vec![transports[side].clone()])
        };
        Ok(Self {
            source: endpoint(0)?,
            destination: endpoint(1)?,
        })
    }

    /// From the first READY's arrival to the last byte: what the transport itself takes.
    async fn reads(&self) -> Result<Duration, Fault> {
        Ok(self.run().await?.0)
    }

    async fn hand_off(&self) -> Result<Duration, Fault> {
        Ok(self.run().await?.1)
    }

    async fn run(&self) -> Result<(Duration, Duration), Fault> {
        let source = Arc::new(self.source.open(RequestId(1), 0, BLOCKS)?);
        let blocks: Vec<BlockId> = (0..BLOCKS).map(BlockId).collect();
        let order = PullOrder {
            peer: self.source.hello(),
            ticket: source.ticket(),
            request: RequestId(1),
            attempt: 0,
            first_needed_block: 0,
            destination: blocks.clone(),
        };
        let before = self.destination.counts().read_time;
        let began_at = Instant::now();
        source.ready(0, &blocks, Some(Bytes::new()))?;
        let mut sides = tokio::task::JoinSet::new();
        let destination = Arc::clone(&self.destination);
        sides.spawn(async move { assert_eq!(source.outcome().await, Outcome::Ok) });
        sides.spawn(async move { drop(destination.pull(order).await.expect("nothing disturbs it")) });
        while let Some(side) = sides.join_next().await {
            side?;
        }
        Ok((self.destination.counts().read_time - before, began_at.elapsed()))
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn ratio(limit: Duration, ours: Duration) -> f64 {
    limit.as_secs_f64() / ours.as_secs_f64()
}

fn rate(took: Duration) -> String {
    let bytes = f64::from(BLOCKS) * BLOCK_BYTES as f64;
    format!("{:5.2} GB/s", bytes / took.as_secs_f64() / 1e9)
}
