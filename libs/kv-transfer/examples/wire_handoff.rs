//! What block bytes cost on their way between two pools of one host, beside a plain copy of the same bytes by the
//! same means: `shm` against `memcpy`, `tcp` against sockets of as many connections.
//!
//! `cargo run --release -p vlinders-kv-transfer --example wire_handoff [rounds]`
//!
//! With the feature `nixl`, inside `tests/nixl-env`, also `nixl` over plain TCP and over shared memory.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use vlinders_kernel_api::KvMemory;
use vlinders_kernel_shared_memory::SharedPool;
use vlinders_kv_transfer::{
    Endpoint, EndpointConfig, KvTransport, Outcome, PullOrder, ShmOptions, ShmTransport, TcpOptions,
    TcpTransport,
};
use vlinders_types::{BlockId, RequestId, WorkerId};

const BLOCK_BYTES: usize = 2 << 20;
const BLOCKS: u32 = 128;
const CONNECTIONS: usize = 4;
type Fault = Box<dyn std::error::Error>;

/// Times of one kind, one per round.
type Times = Vec<Duration>;

fn main() -> Result<(), Fault> {
    let rounds: usize = std::env::args().nth(1).map_or(Ok(9), |rounds| rounds.parse())?;
    println!(
        "{BLOCKS} blocks of {} KiB, medians of {rounds}",
        BLOCK_BYTES / 1024
    );
    let memories = filled_pools()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let folder = tempfile::tempdir()?;
    let tcp = || TcpTransport::new(TcpOptions::new(([127, 0, 0, 1], 0).into()));
    let shm = || ShmTransport::new(ShmOptions::new(folder.path().to_owned()));
    let by_tcp = Pair::new(&memories, [tcp(), tcp()])?;
    let by_shm = Pair::new(&memories, [shm()?, shm()?])?;
    let mut plain = Sockets::new()?;
    let mut kept: [Times; 7] = Default::default();
    for round in 0..=rounds {
        let sockets = plain.copy();
        let tcp = runtime.block_on(by_tcp.run())?;
        let memcpy = memory_copy(&memories);
        let shm = runtime.block_on(by_shm.run())?;
        let times = [
            sockets,
            tcp.0,
            tcp.1,
            memcpy,
            shm.0,
            shm.1,
            checksums(&memories[0]),
        ];
        if round == 0 {
            // Connections are opened and memory is mapped: the price of the first hand-off between two peers.
            println!(
                "  first shm hand-off      {}  {:.2} of memcpy",
                rate(shm.0),
                ratio(memcpy, shm.0)
            );
            continue;
        }
        for (kept, time) in kept.iter_mut().zip(times) {
            kept.push(time);
        }
    }
    let [sockets, tcp, tcp_all, memcpy, shm, shm_all, sums] = kept.map(median);
    println!("  checksums, 1 thread     {}", rate(sums));
    println!("  memcpy, 1 thread        {}", rate(memcpy));
    println!(
        "  shm, block bytes only   {}  {:.2} of memcpy",
        rate(shm),
        ratio(memcpy, shm)
    );
    println!(
        "  shm, whole hand-off     {}  {:.2} of memcpy",
        rate(shm_all),
        ratio(memcpy, shm_all)
    );
    println!("  sockets, {CONNECTIONS} connections  {}", rate(sockets));
    println!(
        "  tcp, block bytes only   {}  {:.2} of sockets",
        rate(tcp),
        ratio(sockets, tcp)
    );
    println!(
        "  tcp, whole hand-off     {}  {:.2} of sockets",
        rate(tcp_all),
        ratio(sockets, tcp_all)
    );
    #[cfg(feature = "nixl")]
    nixl::compare(&runtime, rounds)?;
    Ok(())
}

/// `nixl` beside a plain copy by the same means. Last: it keeps threads of its own.
#[cfg(feature = "nixl")]
mod nixl {
    use vlinders_kv_transfer::{NixlLanes, NixlOptions, NixlTransport};

    use super::*;

    pub(super) fn compare(runtime: &tokio::runtime::Runtime, rounds: usize) -> Result<(), Fault> {
        for (lanes, name) in [(NixlLanes::Tcp, "tcp"), (NixlLanes::SharedMemory, "shm")] {
            let memories = filled_pools()?;
            let nixl = || {
                let mut options = NixlOptions::new(([127, 0, 0, 1], 0).into());
                (options.lanes, options.device) = (lanes, Some("lo".to_owned()));
                NixlTransport::new(options)
            };
            let pair = Pair::new(&memories, [nixl()?, nixl()?])?;
            let mut plain = Sockets::new()?;
            let mut kept: [Times; 4] = Default::default();
            for round in 0..=rounds {
                let sockets = plain.copy();
                let memcpy = memory_copy(&memories);
                let (bytes, all) = runtime.block_on(pair.run())?;
                // The first one connects.
                if round > 0 {
                    for (kept, time) in kept.iter_mut().zip([sockets, memcpy, bytes, all]) {
                        kept.push(time);
                    }
                }
            }
            let [sockets, memcpy, bytes, all] = kept.map(median);
            for (what, time) in [("bytes only", bytes), ("hand-off", all)] {
                println!(
                    "  nixl over {name}, {what:10}  {}  {:.2} of sockets, {:.2} of memcpy",
                    rate(time),
                    ratio(sockets, time),
                    ratio(memcpy, time)
                );
            }
        }
        Ok(())
    }
}

/// Two pools, every page of them written.
fn filled_pools() -> Result<[Arc<SharedPool>; 2], Fault> {
    let pool = || SharedPool::new(BLOCKS, BLOCK_BYTES).map(Arc::new);
    let memories = [pool()?, pool()?];
    for number in 0..BLOCKS {
        let bytes: Vec<u8> = (0..BLOCK_BYTES)
            .map(|at| at.to_le_bytes()[0] ^ number.to_le_bytes()[0])
            .collect();
        memories
            .iter()
            .for_each(|memory| memory.write_block(BlockId(number), &bytes));
    }
    Ok(memories)
}

fn memory_copy(memories: &[Arc<SharedPool>; 2]) -> Duration {
    let began_at = Instant::now();
    for block in (0..BLOCKS).map(BlockId) {
        memories[0].with_block(block, &mut |bytes| memories[1].write_block(block, bytes));
    }
    began_at.elapsed()
}

fn checksums(memory: &SharedPool) -> Duration {
    let began_at = Instant::now();
    for block in (0..BLOCKS).map(BlockId) {
        memory.with_block(block, &mut |bytes| {
            std::hint::black_box(xxhash_rust::xxh3::xxh3_64(bytes));
        });
    }
    began_at.elapsed()
}

/// Plain connections, each with blocks of its own at both ends.
struct Sockets(Vec<RawPair>);

struct RawPair {
    out: TcpStream,
    into: TcpStream,
    blocks: Vec<Vec<u8>>,
    targets: Vec<Vec<u8>>,
}

impl Sockets {
    fn new() -> Result<Self, Fault> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let mut pairs = Vec::new();
        for _ in 0..CONNECTIONS {
            let out = TcpStream::connect(listener.local_addr()?)?;
            out.set_nodelay(true)?;
            pairs.push(RawPair {
                out,
                into: listener.accept()?.0,
                blocks: vec![vec![1; BLOCK_BYTES]; BLOCKS as usize / CONNECTIONS],
                targets: vec![vec![2; BLOCK_BYTES]; BLOCKS as usize / CONNECTIONS],
            });
        }
        Ok(Self(pairs))
    }

    /// As many bytes as a hand-off, block by block.
    fn copy(&mut self) -> Duration {
        let began_at = Instant::now();
        std::thread::scope(|scope| {
            for pair in &mut self.0 {
                let (out, into) = (&mut pair.out, &mut pair.into);
                let (blocks, targets) = (&pair.blocks, &mut pair.targets);
                scope.spawn(move || blocks.iter().try_for_each(|block| out.write_all(block)));
                scope.spawn(move || targets.iter_mut().try_for_each(|block| into.read_exact(block)));
            }
        });
        began_at.elapsed()
    }
}

/// Two endpoints over the same blocks.
struct Pair {
    source: Arc<Endpoint>,
    destination: Arc<Endpoint>,
}

impl Pair {
    fn new<T: KvTransport + 'static>(
        memories: &[Arc<SharedPool>; 2],
        transports: [Arc<T>; 2],
    ) -> Result<Self, Fault> {
        let endpoint = |side: usize| {
            let incarnation = side as u64 + 1;
            let clock = Arc::new(|| 0);
            let mut config = EndpointConfig::new(WorkerId::new("worker"), incarnation, [1; 32], 1, clock);
            // One chunk: the bytes then travel while nobody computes checksums.
            config.chunk_blocks = BLOCKS as usize;
            let transport: Arc<dyn KvTransport> = transports[side].clone();
            Endpoint::new(config, memories[side].clone(), vec![transport])
        };
        Ok(Self {
            source: endpoint(0)?,
            destination: endpoint(1)?,
        })
    }

    /// How long the block bytes were on their way, and how long everything took.
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
