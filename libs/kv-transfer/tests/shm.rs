//! `shm` does what every transport must do, in real time over a socket in a folder of its own.
#![cfg(target_os = "linux")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use vlinders_kernel_api::KvMemory;
use vlinders_kernel_shared_memory::SharedPool;
use vlinders_kv_transfer::conformance::TransportFixture;
use vlinders_kv_transfer::{KvTransport, ShmOptions, ShmTransport};

struct Shm(tempfile::TempDir);

impl Shm {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }
}

fn transport(directory: &Path) -> Arc<ShmTransport> {
    ShmTransport::new(ShmOptions::new(directory.to_owned())).expect("a host")
}

impl TransportFixture for Shm {
    fn transport(&self) -> Arc<dyn KvTransport> {
        transport(self.0.path())
    }

    fn memory(&self, block_count: u32, block_bytes: usize) -> Arc<dyn KvMemory> {
        Arc::new(SharedPool::new(block_count, block_bytes).expect("memory"))
    }

    fn lease(&self) -> Duration {
        // Longer than what the suite takes for at once, on a busy machine, and than the farewell.
        Duration::from_millis(1_200)
    }
}

mod real_time {
    use super::Shm;
    vlinders_kv_transfer::transport_conformance!(#[tokio::test], Shm::new());
}

/// The two sides on different threads.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn fifty_hand_offs_on_four_threads() {
    vlinders_kv_transfer::conformance::fifty_hand_offs_at_once(&Shm::new()).await;
}
