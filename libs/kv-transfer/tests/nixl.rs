//! `nixl` does what every transport must do, over plain TCP and over the memory of one host. Needs the library:
//! `tests/nixl-env` installs it and names the command.
#![cfg(all(feature = "nixl", target_os = "linux"))]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use vlinders_kernel_api::KvMemory;
use vlinders_kernel_shared_memory::SharedPool;
use vlinders_kv_transfer::conformance::{FaultyMemory, TransportFixture};
use vlinders_kv_transfer::{
    Endpoint, EndpointConfig, KvTransport, NixlLanes, NixlOptions, NixlTransport, Outcome, PullErrorKind,
    PullOrder,
};
use vlinders_types::{BlockId, RequestId, WorkerId};

struct Nixl(NixlLanes);

const TCP: Nixl = Nixl(NixlLanes::Tcp);
const SHARED_MEMORY: Nixl = Nixl(NixlLanes::SharedMemory);

impl TransportFixture for Nixl {
    fn transport(&self) -> Arc<dyn KvTransport> {
        let mut options = NixlOptions::new(([127, 0, 0, 1], 0).into());
        options.lanes = self.0;
        options.device = Some("lo".to_owned());
        NixlTransport::new(options).expect("tests/nixl-env has set up the library")
    }

    fn memory(&self, block_count: u32, block_bytes: usize) -> Arc<dyn KvMemory> {
        Arc::new(SharedPool::new(block_count, block_bytes).expect("memory"))
    }

    fn lease(&self) -> Duration {
        // Connecting two agents takes a while.
        Duration::from_secs(5)
    }
}

mod over_tcp {
    use super::TCP;
    vlinders_kv_transfer::transport_conformance!(
        #[tokio::test]
        #[ignore = "needs NIXL: tests/nixl-env"],
        TCP
    );
}

mod over_shared_memory {
    use super::SHARED_MEMORY;
    vlinders_kv_transfer::transport_conformance!(
        #[tokio::test]
        #[ignore = "needs NIXL: tests/nixl-env"],
        SHARED_MEMORY
    );
}

/// The two sides on different threads.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "needs NIXL: tests/nixl-env"]
async fn fifty_hand_offs_on_four_threads() {
    for lanes in [TCP, SHARED_MEMORY] {
        vlinders_kv_transfer::conformance::fifty_hand_offs_at_once(&lanes).await;
    }
}

/// The source's bytes are not those it has announced.
#[tokio::test]
#[ignore = "needs NIXL: tests/nixl-env"]
async fn a_block_that_changed_after_it_was_announced_is_found() {
    for lanes in [TCP, SHARED_MEMORY] {
        let endpoint = |incarnation: u64, spoiled: u32| {
            let worker = WorkerId::new("worker");
            let config = EndpointConfig::new(worker, incarnation, [1; 32], 1, Arc::new(|| 0));
            // Announced is what the spoiled view shows, read is what lies there.
            let memory = FaultyMemory::new(lanes.memory(8, 64 << 10), BlockId(spoiled));
            Endpoint::new(config, Arc::new(memory), vec![lanes.transport()]).expect("it can listen")
        };
        let (prefill, decode) = (endpoint(1, 3), endpoint(2, u32::MAX));
        let source = prefill.open(RequestId(1), 0, 4).expect("nothing is open");
        let blocks = [5, 2, 3, 7].map(BlockId);
        source.ready(0, &blocks, Some(Bytes::new())).expect("in order");
        let order = PullOrder {
            peer: prefill.hello(),
            ticket: source.ticket(),
            request: RequestId(1),
            attempt: 0,
            first_needed_block: 0,
            destination: [0, 1, 2, 3].map(BlockId).to_vec(),
        };
        let (outcome, pulled) = tokio::join!(source.outcome(), decode.pull(order));
        let error = pulled.expect_err("a block is corrupt");
        assert_eq!((error.kind, error.quiesced), (PullErrorKind::BadChecksum, true));
        assert_eq!(outcome, Outcome::BadChecksum);
        decode.assert_idle();
    }
}
