//! Sources of `nixl` in processes of their own, killed or stopped while they are being read. Needs the library:
//! `tests/nixl-env` installs it and names the command.
#![cfg(all(feature = "nixl", target_os = "linux"))]

mod peer;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use peer::{BLOCK_BYTES, BLOCKS, NIXL_LEASE as LEASE, Peer, REQUEST, Way, endpoint, endpoint_over, filling};
use tokio::time::timeout;
use vlinders_kernel_api::KvMemory;
use vlinders_kernel_shared_memory::SharedPool;
use vlinders_kv_transfer::{
    BlockRead, DestinationMemory, Door, Endpoint, Frame, KvTransport, Link, LinkClosed, Listener,
    PullErrorKind, TransportError,
};
use vlinders_types::{BlockId, Hello};

/// Not a test of its own: what the other process runs.
#[test]
fn the_peer_process() {
    peer::run_if_asked();
}

/// Stops its peer before the second chunk is read, so that the read begins and does not end.
struct StopsItsPeer {
    nixl: Arc<dyn KvTransport>,
    peer: u32,
}

struct StoppingLink {
    nixl: Box<dyn Link>,
    peer: u32,
    chunks: AtomicU32,
}

#[async_trait]
impl KvTransport for StopsItsPeer {
    fn name(&self) -> &'static str {
        self.nixl.name()
    }

    fn listen(&self, door: Door) -> Result<Listener, TransportError> {
        self.nixl.listen(door)
    }

    async fn connect(&self, peer: &Hello, address: &str) -> Result<Box<dyn Link>, TransportError> {
        Ok(Box::new(StoppingLink {
            nixl: self.nixl.connect(peer, address).await?,
            peer: self.peer,
            chunks: AtomicU32::new(0),
        }))
    }
}

#[async_trait]
impl Link for StoppingLink {
    fn send(&mut self, frame: Frame) -> Result<(), LinkClosed> {
        self.nixl.send(frame)
    }

    async fn recv(&mut self) -> Option<Frame> {
        self.nixl.recv().await
    }

    async fn read_blocks(&mut self, reads: &[BlockRead], into: &DestinationMemory) -> Result<(), LinkClosed> {
        if self.chunks.fetch_add(1, Ordering::Relaxed) == 1 {
            peer::send(self.peer, "STOP");
            while !is_stopped(self.peer) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        self.nixl.read_blocks(reads, into).await
    }
}

/// All of its threads.
fn is_stopped(process: u32) -> bool {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).expect("it is there");
    tasks.flatten().all(|task| {
        let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T'))
    })
}

/// A peer that will be stopped in the middle, and who reads it.
fn stopping() -> (Peer, Arc<Endpoint>, Arc<SharedPool>) {
    let peer = Peer::start(&Way::Nixl, 1, BLOCKS);
    let transport = StopsItsPeer {
        nixl: Way::Nixl.transport(),
        peer: peer.id(),
    };
    let (destination, memory) = endpoint_over(&Way::Nixl, Arc::new(transport), 2);
    (peer, destination, memory)
}

/// Until the peer is stopped while a read from it is under way.
async fn reading(destination: &Endpoint, peer: u32) {
    let stopped = async {
        while destination.counts().pulled_bytes == 0 || !is_stopped(peer) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(LEASE * 4, stopped).await.expect("it is stopped");
    // Time for the post; one that has not happened by then never happens, and nothing is quarantined.
    tokio::time::sleep(LEASE / 8).await;
}

/// Nothing writes into the destination blocks any more, within `limit`.
async fn quiesces(destination: &Endpoint, limit: Duration) -> bool {
    timeout(limit, destination.quiesced(REQUEST, 0)).await.is_ok()
}

fn sum(memory: &SharedPool, block: u32) -> u64 {
    let mut sum = 0;
    memory.with_block(BlockId(block), &mut |bytes| {
        sum = xxhash_rust::xxh3::xxh3_64(bytes)
    });
    sum
}

fn is_filled(memory: &SharedPool, index: u32) -> bool {
    let mut filled = false;
    memory.with_block(BlockId(BLOCKS - 1 - index), &mut |bytes| {
        filled = bytes == vec![filling(index); BLOCK_BYTES];
    });
    filled
}

#[tokio::test]
#[ignore = "needs NIXL: tests/nixl-env"]
async fn blocks_of_two_mebibytes_arrive_from_another_process() {
    let peer = Peer::start(&Way::Nixl, 1, BLOCKS);
    let (destination, memory) = endpoint(&Way::Nixl, 2);
    let last = destination.pull(peer.order()).await.expect("nothing disturbs it");
    assert_eq!(last, "the end");
    assert!((0..BLOCKS).all(|index| is_filled(&memory, index)));
    destination.assert_idle();
}

#[tokio::test]
#[ignore = "needs NIXL: tests/nixl-env"]
async fn a_source_killed_between_reads_is_found_out_at_once() {
    let mut peer = Peer::start(&Way::Nixl, 1, BLOCKS / 2);
    let (destination, _) = endpoint(&Way::Nixl, 2);
    let order = peer.order();
    let kill = async {
        let arrived = async {
            while destination.counts().pulled_bytes == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(LEASE * 4, arrived)
            .await
            .expect("the first blocks arrive");
        peer.kill();
        Instant::now()
    };
    let (pulled, killed_at) = tokio::join!(destination.pull(order.clone()), kill);
    assert_eq!(
        pulled.expect_err("the source is dead").kind,
        PullErrorKind::LinkLost
    );
    assert!(killed_at.elapsed() < LEASE, "it is not waited for");
    assert!(quiesces(&destination, LEASE * 10).await);
    let again = destination.pull(order).await.expect_err("nobody is there");
    assert_eq!(again.kind, PullErrorKind::Unreachable);
    destination.assert_idle();
}

/// The read is given up after a lease. Its blocks are taken until the source moves again and the read ends, one way or
/// the other; then nothing changes them any more.
#[tokio::test]
#[ignore = "needs NIXL: tests/nixl-env"]
async fn a_read_from_a_stopped_source_keeps_its_blocks_until_it_has_ended() {
    let (mut peer, destination, memory) = stopping();
    let error = destination
        .pull(peer.order())
        .await
        .expect_err("the source does not move");
    assert_eq!((error.kind, error.quiesced), (PullErrorKind::Stalled, false));
    assert_eq!(destination.open_hand_offs().quarantined, 1);
    assert!(
        !quiesces(&destination, LEASE).await,
        "the read is still under way"
    );
    assert!(!(8..16).all(|index| is_filled(&memory, index)));
    peer.signal("CONT");
    assert!(quiesces(&destination, LEASE * 10).await);
    let sums = || (0..BLOCKS).map(|block| sum(&memory, block)).collect::<Vec<_>>();
    let at_the_end = sums();
    peer.kill();
    assert_eq!(sums(), at_the_end);
    destination.assert_idle();
}

#[tokio::test]
#[ignore = "needs NIXL: tests/nixl-env"]
async fn a_dropped_pull_keeps_its_blocks_until_its_read_has_ended() {
    let (peer, destination, _) = stopping();
    {
        let pull = destination.pull(peer.order());
        tokio::select! {
            pulled = pull => panic!("the source does not move: {pulled:?}"),
            () = reading(&destination, peer.id()) => {}
        }
    }
    assert_eq!(destination.open_hand_offs().quarantined, 1);
    assert!(
        !quiesces(&destination, LEASE / 2).await,
        "the read is still under way"
    );
    peer.signal("CONT");
    assert!(quiesces(&destination, LEASE * 10).await);
    destination.assert_idle();
}

/// A source that dies under a read: the read ends, and its blocks are free again. The next life is read.
#[tokio::test]
#[ignore = "needs NIXL: tests/nixl-env"]
async fn a_source_killed_under_a_read_frees_the_destinations_blocks() {
    let (mut peer, destination, memory) = stopping();
    let order = peer.order();
    let kill = async {
        reading(&destination, peer.id()).await;
        peer.kill();
    };
    let (pulled, ()) = tokio::join!(destination.pull(order), kill);
    let kind = pulled.expect_err("the source is dead").kind;
    assert!(
        matches!(kind, PullErrorKind::LinkLost | PullErrorKind::Stalled),
        "{kind:?}"
    );
    assert!(quiesces(&destination, LEASE * 20).await);
    destination.assert_idle();
    let next = Peer::start(&Way::Nixl, 3, BLOCKS);
    let (fresh, fresh_memory) = endpoint(&Way::Nixl, 4);
    fresh.pull(next.order()).await.expect("nothing disturbs it");
    assert!((0..BLOCKS).all(|index| is_filled(&fresh_memory, index)));
    drop(memory);
}
