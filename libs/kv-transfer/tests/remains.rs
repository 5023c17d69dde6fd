//! After hand-offs nothing remains: no descriptor, thread or mapping. One test, since it counts for the whole process.
#![cfg(target_os = "linux")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use vlinders_kernel_api::KvMemory;
use vlinders_kernel_shared_memory::SharedPool;
use vlinders_kv_transfer::conformance::{self, TransportFixture};
use vlinders_kv_transfer::{KvTransport, ShmOptions, ShmTransport, TcpOptions, TcpTransport};

struct Tcp;

impl TransportFixture for Tcp {
    fn transport(&self) -> Arc<dyn KvTransport> {
        TcpTransport::new(TcpOptions::new(([127, 0, 0, 1], 0).into()))
    }

    fn lease(&self) -> Duration {
        Duration::from_secs(3)
    }
}

struct Shm(tempfile::TempDir);

impl TransportFixture for Shm {
    fn transport(&self) -> Arc<dyn KvTransport> {
        ShmTransport::new(ShmOptions::new(self.0.path().to_owned())).expect("a host")
    }

    fn memory(&self, block_count: u32, block_bytes: usize) -> Arc<dyn KvMemory> {
        Arc::new(SharedPool::new(block_count, block_bytes).expect("memory"))
    }

    fn lease(&self) -> Duration {
        Duration::from_secs(3)
    }
}

/// Descriptors, threads, and mappings of pools.
fn held() -> (usize, usize, usize) {
    let entries = |folder| std::fs::read_dir(folder).expect("proc is mounted").count();
    let maps = std::fs::read_to_string("/proc/self/maps").expect("proc is mounted");
    let pools = maps.lines().filter(|line| line.contains("vlinders-kv")).count();
    (entries("/proc/self/fd"), entries("/proc/self/task"), pools)
}

fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().expect("a runtime")
}

fn run(fixture: &dyn TransportFixture) {
    runtime().block_on(async {
        conformance::fifty_hand_offs_at_once(fixture).await;
        conformance::a_corrupt_block_is_found(fixture).await;
        conformance::a_dropped_pull_releases_the_source(fixture).await;
        conformance::a_killed_destination_frees_the_source(fixture).await;
        conformance::frames_out_of_order_are_refused(fixture).await;
    });
}

#[test]
fn nothing_remains_after_hand_offs() {
    // The first runtime of a process opens what serves all later ones.
    drop(runtime());
    let before = held();
    for _ in 0..3 {
        run(&Tcp);
        let shm = Shm(tempfile::tempdir().expect("a folder"));
        run(&shm);
        let sockets = std::fs::read_dir(shm.0.path()).expect("a folder").count();
        assert_eq!(sockets, 0, "sockets left in the folder");
    }
    // Threads that have just been told to end need a moment.
    let began_at = Instant::now();
    while held() != before && began_at.elapsed() < Duration::from_secs(10) {
        std::thread::park_timeout(Duration::from_millis(10));
    }
    assert_eq!(held(), before, "descriptors, threads, mappings");
}
