//! `mem` does what every transport must do.

use std::sync::Arc;

use vlinders_kv_transfer::conformance::TransportFixture;
use vlinders_kv_transfer::{KvTransport, MemTransport};

struct Mem(Arc<MemTransport>);

impl TransportFixture for Mem {
    fn transport(&self) -> Arc<dyn KvTransport> {
        self.0.clone()
    }
}

mod paused {
    use super::{Mem, MemTransport};
    vlinders_kv_transfer::transport_conformance!(#[tokio::test(start_paused = true)], Mem(MemTransport::new()));
}

/// The two sides on different threads.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn fifty_hand_offs_on_four_threads() {
    vlinders_kv_transfer::conformance::fifty_hand_offs_at_once(&Mem(MemTransport::new())).await;
}
