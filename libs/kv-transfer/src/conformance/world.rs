//! Two endpoints with their pools, as the demands need them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;
use vlinders_kernel_api::KvMemory;
use vlinders_types::{BlockId, RequestId, WorkerId};

use super::TransportFixture;
use crate::{Endpoint, EndpointConfig, PullError, PullErrorKind, PullOrder, Source};

pub(super) const POOL_BLOCKS: u32 = 4096;
pub(super) const BLOCK_BYTES: usize = 520;
pub(super) const REQUEST: RequestId = RequestId(7);
pub(super) const ATTEMPT: u32 = 1;
pub(super) const LAST: &[u8] = b"token 0 and the like";
/// Leases a hand-off may take.
pub(super) const LIMIT_LEASES: u32 = 10;
const START_MS: u64 = 1_700_000_000_000;

/// A source and a destination that reach one another.
pub(super) struct World {
    pub(super) source: Arc<Endpoint>,
    pub(super) destination: Arc<Endpoint>,
    pub(super) source_memory: Arc<dyn KvMemory>,
    pub(super) destination_memory: Arc<dyn KvMemory>,
    pub(super) lease: Duration,
    now_ms: Arc<AtomicU64>,
}

impl World {
    pub(super) fn new(fixture: &dyn TransportFixture) -> Self {
        Self::with(fixture, fixture.memory(POOL_BLOCKS, BLOCK_BYTES), |_| {})
    }

    /// The destination has its own memory; the source's settings are changed.
    pub(super) fn with(
        fixture: &dyn TransportFixture,
        destination_memory: Arc<dyn KvMemory>,
        change_source: impl FnOnce(&mut EndpointConfig),
    ) -> Self {
        let now_ms = Arc::new(AtomicU64::new(START_MS));
        let source_memory = fixture.memory(POOL_BLOCKS, BLOCK_BYTES);
        let mut source = config("prefill-0", 11, fixture, &now_ms);
        change_source(&mut source);
        let destination = config("decode-0", 22, fixture, &now_ms);
        Self {
            lease: source.lease,
            source: endpoint(source, &source_memory, fixture),
            destination: endpoint(destination, &destination_memory, fixture),
            source_memory,
            destination_memory,
            now_ms,
        }
    }

    /// A third endpoint, of another life.
    pub(super) fn stranger(&self, fixture: &dyn TransportFixture) -> Arc<Endpoint> {
        let memory = fixture.memory(POOL_BLOCKS, BLOCK_BYTES);
        endpoint(config("prefill-1", 33, fixture, &self.now_ms), &memory, fixture)
    }

    /// Blocks of the source from `seed` on, scattered over the pool and filled with bytes of their own.
    pub(super) fn filled_blocks(&self, seed: u32, count: u32) -> Vec<BlockId> {
        let blocks = scattered(seed, count);
        for block in &blocks {
            let mut bytes = vec![0; BLOCK_BYTES];
            let mut state = u64::from(block.0) << 32 | u64::from(seed);
            for byte in &mut bytes {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                *byte = state.to_be_bytes()[0];
            }
            self.source_memory.write_block(*block, &bytes);
        }
        blocks
    }

    pub(super) fn open(&self, block_count: usize) -> Source {
        let block_count = u32::try_from(block_count).expect("small");
        self.source
            .open(REQUEST, ATTEMPT, block_count)
            .expect("nothing else is open")
    }

    /// Takes over everything from `source`.
    pub(super) fn order(&self, source: &Source, destination: &[BlockId]) -> PullOrder {
        PullOrder {
            peer: self.source.hello(),
            ticket: source.ticket(),
            request: REQUEST,
            attempt: ATTEMPT,
            first_needed_block: 0,
            destination: destination.to_vec(),
        }
    }

    /// # Panics
    /// When a block's bytes differ.
    pub(super) fn assert_arrived(&self, source: &[BlockId], destination: &[BlockId]) {
        assert_eq!(source.len(), destination.len());
        for (from, to) in source.iter().zip(destination) {
            let sent = bytes_of(&*self.source_memory, *from);
            assert_eq!(
                bytes_of(&*self.destination_memory, *to),
                sent,
                "{from:?} -> {to:?}"
            );
        }
    }

    /// Lets the clock that tickets are checked against go on. Waits go by tokio's own time.
    pub(super) fn pass_unix_time(&self, time: Duration) {
        let ms = u64::try_from(time.as_millis()).expect("short");
        self.now_ms.fetch_add(ms, Ordering::Relaxed);
    }

    /// # Panics
    /// When something is still open at either endpoint within a lease.
    pub(super) async fn assert_idle(&self) {
        let endpoints = [&self.source, &self.destination];
        let idle = || {
            endpoints
                .iter()
                .all(|endpoint| endpoint.open_hand_offs() == Default::default())
        };
        // A link over a network ends a little after its last frame.
        let _ = timeout(self.lease, until(idle)).await;
        self.source.assert_idle();
        self.destination.assert_idle();
    }
}

/// Waits until `holds`; give it a limit.
pub(super) async fn until(holds: impl Fn() -> bool) {
    while !holds() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

pub(super) fn last() -> Option<Bytes> {
    Some(Bytes::from_static(LAST))
}

pub(super) fn kind_of(pulled: Result<Bytes, PullError>) -> PullErrorKind {
    pulled.expect_err("this pull cannot succeed").kind
}

/// `count` different blocks in no particular order.
pub(super) fn scattered(seed: u32, count: u32) -> Vec<BlockId> {
    // An odd factor permutes a pool whose size is a power of two.
    (0..count)
        .map(|index| BlockId((seed + index).wrapping_mul(1_237) % POOL_BLOCKS))
        .collect()
}

pub(super) fn bytes_of(memory: &dyn KvMemory, block: BlockId) -> Vec<u8> {
    let mut bytes = Vec::new();
    memory.with_block(block, &mut |seen| bytes.extend_from_slice(seen));
    bytes
}

fn config(
    worker: &str,
    incarnation: u64,
    fixture: &dyn TransportFixture,
    now_ms: &Arc<AtomicU64>,
) -> EndpointConfig {
    let now_ms = Arc::clone(now_ms);
    let clock = Arc::new(move || now_ms.load(Ordering::Relaxed));
    let key = [u8::try_from(incarnation).expect("small"); 32];
    let mut config = EndpointConfig::new(WorkerId::new(worker), incarnation, key, 99, clock);
    config.lease = fixture.lease();
    config.chunk_blocks = 16;
    config.limit = fixture.lease() * LIMIT_LEASES;
    config
}

fn endpoint(
    config: EndpointConfig,
    memory: &Arc<dyn KvMemory>,
    fixture: &dyn TransportFixture,
) -> Arc<Endpoint> {
    Endpoint::new(config, Arc::clone(memory), vec![fixture.transport()]).expect("the transport can listen")
}
