//! `tcp` does what every transport must do, in real time over the loopback interface.

use std::sync::Arc;
use std::time::Duration;

use vlinders_kv_transfer::conformance::TransportFixture;
use vlinders_kv_transfer::{KvTransport, TcpOptions, TcpTransport};

struct Tcp;

impl TransportFixture for Tcp {
    fn transport(&self) -> Arc<dyn KvTransport> {
        TcpTransport::new(TcpOptions::new(([127, 0, 0, 1], 0).into()))
    }

    fn lease(&self) -> Duration {
        // Longer than what the suite takes for at once, on a busy machine, and than the farewell.
        Duration::from_millis(1_200)
    }
}

mod real_time {
    use super::Tcp;
    vlinders_kv_transfer::transport_conformance!(#[tokio::test], Tcp);
}

/// The two sides on different threads.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn fifty_hand_offs_on_four_threads() {
    vlinders_kv_transfer::conformance::fifty_hand_offs_at_once(&Tcp).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn withdrawals_on_four_threads() {
    vlinders_kv_transfer::conformance::a_dropped_pull_releases_the_source(&Tcp).await;
    vlinders_kv_transfer::conformance::a_dropped_source_ends_the_pull(&Tcp).await;
    vlinders_kv_transfer::conformance::a_killed_source_ends_the_pull(&Tcp).await;
    vlinders_kv_transfer::conformance::a_corrupt_block_is_found(&Tcp).await;
}
