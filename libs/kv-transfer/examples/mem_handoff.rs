//! What a hand-off by `mem` costs: one copy and two checksums per block.
//!
//! `cargo run --release -p vlinders-kv-transfer --example mem_handoff`

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use vlinders_kernel_api::{Dtype, KvLayout, KvMemory};
use vlinders_kv_transfer::conformance::PoolMemory;
use vlinders_kv_transfer::{Endpoint, EndpointConfig, MemTransport, Outcome, PullOrder};
use vlinders_types::{BLOCK_TOKENS, BlockId, RequestId, WorkerId};

const ROUNDS: usize = 11;
const PROMPT_TOKENS: u32 = 2_048;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let small = KvLayout {
        layers: 16,
        kv_heads: 8,
        head_dim: 64,
        dtype: Dtype::Bf16,
    };
    let large = KvLayout {
        layers: 32,
        kv_heads: 8,
        head_dim: 128,
        dtype: Dtype::Bf16,
    };
    for (name, layout) in [("1.24 B shape", small), ("8 B shape", large)] {
        let block_bytes = layout.block_bytes();
        let block_count = PROMPT_TOKENS / BLOCK_TOKENS;
        println!("{name}: {block_count} blocks of {} KiB", block_bytes / 1024);
        let memories = [(); 2].map(|()| Arc::new(PoolMemory::new(block_count, block_bytes)));
        for number in 0..block_count {
            let bytes: Vec<u8> = (0..block_bytes)
                .map(|at| at.to_le_bytes()[0] ^ number.to_le_bytes()[0])
                .collect();
            memories[0].write_block(BlockId(number), &bytes);
        }
        per_block(&memories[0], &memories[1], block_count);
        for (threads, runtime) in [
            (
                1,
                tokio::runtime::Builder::new_current_thread()
                    .enable_time()
                    .build()?,
            ),
            (
                2,
                tokio::runtime::Builder::new_multi_thread()
                    .worker_threads(2)
                    .enable_time()
                    .build()?,
            ),
        ] {
            let times = (0..ROUNDS).map(|_| runtime.block_on(hand_off(&memories, block_count)));
            let took = median(times.collect());
            let bytes = block_count as usize * block_bytes;
            println!(
                "  {PROMPT_TOKENS} tokens, {threads} thread(s): {took:?}, {}",
                rate(bytes, took)
            );
        }
    }
    Ok(())
}

/// The two parts by themselves, over the whole pool so that nothing is found in a cache.
fn per_block(from: &PoolMemory, to: &PoolMemory, block_count: u32) {
    let timed = |work: &dyn Fn(BlockId)| {
        let times = (0..ROUNDS).map(|_| {
            let began_at = Instant::now();
            (0..block_count).for_each(|number| work(BlockId(number)));
            began_at.elapsed() / block_count
        });
        median(times.collect())
    };
    let copy = timed(&|block| from.with_block(block, &mut |bytes| to.write_block(block, bytes)));
    let sum = timed(&|block| {
        from.with_block(block, &mut |bytes| {
            std::hint::black_box(xxhash_rust::xxh3::xxh3_64(bytes));
        });
    });
    let bytes = from.block_bytes();
    println!(
        "  per block: copy {copy:?} ({}), checksum {sum:?} ({})",
        rate(bytes, copy),
        rate(bytes, sum)
    );
}

async fn hand_off(memories: &[Arc<PoolMemory>; 2], block_count: u32) -> Duration {
    let mem = MemTransport::new();
    let endpoint = |incarnation: u8, memory: &Arc<PoolMemory>| {
        let (worker, clock) = (WorkerId::new("worker"), Arc::new(|| 0));
        let config = EndpointConfig::new(worker, incarnation.into(), [incarnation; 32], 1, clock);
        Endpoint::new(config, memory.clone(), vec![mem.clone()]).expect("mem always listens")
    };
    let (prefill, decode) = (endpoint(1, &memories[0]), endpoint(2, &memories[1]));
    let source = Arc::new(
        prefill
            .open(RequestId(1), 0, block_count)
            .expect("nothing is open"),
    );
    let blocks: Vec<BlockId> = (0..block_count).map(BlockId).collect();
    let order = PullOrder {
        peer: prefill.hello(),
        ticket: source.ticket(),
        request: RequestId(1),
        attempt: 0,
        first_needed_block: 0,
        destination: blocks.clone(),
    };
    let began_at = Instant::now();
    source.ready(0, &blocks, Some(Bytes::new())).expect("in order");
    let mut sides = tokio::task::JoinSet::new();
    sides.spawn(async move { assert_eq!(source.outcome().await, Outcome::Ok) });
    sides.spawn(async move { drop(decode.pull(order).await.expect("nothing disturbs it")) });
    while let Some(side) = sides.join_next().await {
        side.expect("no side panics");
    }
    began_at.elapsed()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn rate(bytes: usize, took: Duration) -> String {
    format!(
        "{:.1} GiB/s",
        bytes as f64 / took.as_secs_f64() / f64::from(1 << 30)
    )
}
