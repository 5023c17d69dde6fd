//! Sources in processes of their own, which are killed, stopped and started again.
#![cfg(target_os = "linux")]

mod peer;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use peer::{BLOCKS, LEASE, Peer, REQUEST, Way, endpoint, filling};
use vlinders_kernel_api::KvMemory;
use vlinders_kv_transfer::{PullErrorKind, Refusal};
use vlinders_types::BlockId;

/// Not a test of its own: what the other process runs.
#[test]
fn the_peer_process() {
    peer::run_if_asked();
}

const ANYWHERE: ([u8; 4], u16) = ([127, 0, 0, 1], 0);

/// Both ways; the folder lives as long as the result.
fn ways() -> (tempfile::TempDir, [Way; 2]) {
    let folder = tempfile::tempdir().expect("a folder");
    let shm = Way::Shm(folder.path().to_owned());
    (folder, [Way::Tcp(SocketAddr::from(ANYWHERE)), shm])
}

#[tokio::test]
async fn blocks_of_two_mebibytes_arrive_from_another_process() {
    let (_folder, ways) = ways();
    for way in ways {
        let peer = Peer::start(&way, 1, BLOCKS);
        let (destination, memory) = endpoint(&way, 2);
        let last = destination.pull(peer.order()).await.expect("nothing disturbs it");
        assert_eq!(last, "the end");
        for index in 0..BLOCKS {
            memory.with_block(BlockId(BLOCKS - 1 - index), &mut |bytes| {
                assert!(bytes.iter().all(|byte| *byte == filling(index)), "block {index}");
            });
        }
        destination.assert_idle();
    }
}

#[tokio::test]
async fn a_killed_source_is_found_out_at_once() {
    let (_folder, ways) = ways();
    for way in ways {
        let mut peer = Peer::start(&way, 1, BLOCKS / 2);
        let (destination, _) = endpoint(&way, 2);
        let order = peer.order();
        let kill = async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            peer.kill();
            Instant::now()
        };
        let (pulled, killed_at) = tokio::join!(destination.pull(order.clone()), kill);
        let error = pulled.expect_err("the source is dead");
        assert_eq!((error.kind, error.quiesced), (PullErrorKind::LinkLost, true));
        assert!(killed_at.elapsed() < LEASE / 2, "it is not waited for");
        let again = destination.pull(order).await.expect_err("nobody is there");
        assert_eq!(again.kind, PullErrorKind::Unreachable);
        destination.assert_idle();
    }
}

#[tokio::test]
async fn a_stopped_source_ends_the_pull_after_a_lease() {
    let (_folder, ways) = ways();
    for way in ways {
        let peer = Peer::start(&way, 1, BLOCKS / 2);
        let (destination, _) = endpoint(&way, 2);
        let stop = async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            peer.signal("STOP");
            Instant::now()
        };
        let (pulled, stopped_at) = tokio::join!(destination.pull(peer.order()), stop);
        let kind = pulled.expect_err("the source does not move").kind;
        let took = stopped_at.elapsed();
        assert_eq!(kind, PullErrorKind::Stalled);
        assert!(took > LEASE / 2 && took < LEASE * 2, "{took:?}");
        // The blocks are free although the source may move again.
        tokio::time::timeout(LEASE, destination.quiesced(REQUEST, 0))
            .await
            .expect("no read is left behind");
        destination.assert_idle();
    }
}

#[tokio::test]
async fn a_source_stopped_from_the_start_ends_the_pull_too() {
    let (_folder, ways) = ways();
    for way in ways {
        let peer = Peer::start(&way, 1, BLOCKS);
        let (destination, _) = endpoint(&way, 2);
        peer.signal("STOP");
        // The system accepts the connection in its name.
        let error = destination
            .pull(peer.order())
            .await
            .expect_err("the source does not move");
        assert_eq!((error.kind, error.quiesced), (PullErrorKind::Stalled, true));
        destination.assert_idle();
    }
}

#[tokio::test]
async fn a_source_started_again_refuses_what_was_meant_for_its_earlier_life() {
    let way = Way::Tcp(SocketAddr::from(ANYWHERE));
    let mut first = Peer::start(&way, 1, BLOCKS);
    let address: SocketAddr = first.hello.transports[0].1.parse().expect("an address");
    let (destination, _) = endpoint(&way, 2);
    // So that data connections to the first life are there to be mistaken.
    destination
        .pull(first.order())
        .await
        .expect("nothing disturbs it");
    first.kill();
    let second = Peer::start(&Way::Tcp(address), 3, BLOCKS);
    assert_eq!(second.hello.transports, first.hello.transports);
    let error = destination.pull(first.order()).await.expect_err("it has gone");
    assert_eq!(error.kind, PullErrorKind::Refused(Refusal::Incarnation));
    destination
        .pull(second.order())
        .await
        .expect("the second life is served");
    destination.assert_idle();
}
