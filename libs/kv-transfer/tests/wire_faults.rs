//! What happens to `tcp` when the network between its peers misbehaves: a relay that spoils a byte, or stops in the
//! middle of a block.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use vlinders_kernel_api::KvMemory;
use vlinders_kv_transfer::conformance::PoolMemory;
use vlinders_kv_transfer::{
    Endpoint, EndpointConfig, Outcome, PullError, PullErrorKind, PullOrder, Source, TcpOptions, TcpTransport,
};
use vlinders_types::{BlockId, RequestId, WorkerId};

const BLOCKS: u32 = 8;
const BLOCK_BYTES: usize = 256 * 1024;
const LEASE: Duration = Duration::from_millis(1_500);
const REQUEST: RequestId = RequestId(1);

/// What the relay does to the first connection that has carried many bytes towards the destination.
#[derive(Clone, Copy)]
enum Fault {
    FlipsABit,
    Stops,
    Breaks,
}

/// Listens, and passes everything on to `target`, but for one fault.
fn relay(target: SocketAddr, fault: Fault) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let spent = Arc::new(AtomicBool::new(false));
    std::thread::spawn(move || {
        for near in listener.incoming().map_while(Result::ok) {
            let far = TcpStream::connect(target).expect("the source listens");
            let (back_far, back_near) = (
                far.try_clone().expect("descriptors"),
                near.try_clone().expect("descriptors"),
            );
            let spent = Arc::clone(&spent);
            std::thread::spawn(move || pass_on(near, far, None));
            std::thread::spawn(move || pass_on(back_far, back_near, Some((fault, &spent))));
        }
    });
    address
}

fn pass_on(mut from: TcpStream, mut to: TcpStream, fault: Option<(Fault, &AtomicBool)>) {
    let mut bytes = vec![0; 16 * 1024];
    let mut passed = 0;
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        passed += count;
        if let Some((fault, spent)) = fault
            && passed > BLOCK_BYTES / 2
            && !spent.swap(true, Ordering::Relaxed)
        {
            match fault {
                Fault::FlipsABit => bytes[count - 1] ^= 1,
                // Neither passes anything on nor closes.
                Fault::Stops => std::thread::park(),
                Fault::Breaks => break,
            }
        }
        if to.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    // Either may be gone already.
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}

fn endpoint(incarnation: u64) -> Arc<Endpoint> {
    let worker = WorkerId::new("worker");
    let mut config = EndpointConfig::new(worker, incarnation, [7; 32], 1, Arc::new(|| 0));
    config.lease = LEASE;
    let memory = PoolMemory::new(BLOCKS, BLOCK_BYTES);
    for block in (0..BLOCKS).map(BlockId) {
        memory.fill_block(block, &mut |bytes| bytes.fill(1));
    }
    let tcp = TcpTransport::new(TcpOptions::new(([127, 0, 0, 1], 0).into()));
    Endpoint::new(config, Arc::new(memory), vec![tcp]).expect("it can listen")
}

struct Run {
    destination: Arc<Endpoint>,
    pulled: Result<Bytes, PullError>,
    outcome: Outcome,
}

async fn hand_off_through(fault: Fault) -> Run {
    let (prefill, destination) = (endpoint(1), endpoint(2));
    let source: Source = prefill.open(REQUEST, 0, BLOCKS).expect("nothing is open");
    let blocks: Vec<BlockId> = (0..BLOCKS).map(BlockId).collect();
    source.ready(0, &blocks, Some(Bytes::new())).expect("in order");
    let mut peer = prefill.hello();
    let target = peer.transports[0].1.parse().expect("an address");
    peer.transports[0].1 = relay(target, fault).to_string();
    let order = PullOrder {
        peer,
        ticket: source.ticket(),
        request: REQUEST,
        attempt: 0,
        first_needed_block: 0,
        destination: blocks,
    };
    let (outcome, pulled) = tokio::join!(source.outcome(), destination.pull(order));
    Run {
        destination,
        pulled,
        outcome,
    }
}

#[tokio::test]
async fn a_bit_that_the_network_flips_is_found() {
    let run = hand_off_through(Fault::FlipsABit).await;
    let error = run.pulled.expect_err("a block is corrupt");
    assert_eq!((error.kind, error.settled), (PullErrorKind::BadChecksum, true));
    assert_eq!(run.outcome, Outcome::BadChecksum);
    run.destination.assert_idle();
}

/// The read hangs in the middle of a block: given up after a lease, and nothing writes into the block afterwards.
#[tokio::test]
async fn a_read_that_hangs_is_stopped_with_its_pull() {
    let began_at = Instant::now();
    let run = hand_off_through(Fault::Stops).await;
    let error = run.pulled.expect_err("a block does not come");
    assert_eq!(error.kind, PullErrorKind::Stalled);
    assert!(began_at.elapsed() >= LEASE);
    // Far less than the time after which a silent socket is given up.
    tokio::time::timeout(LEASE, run.destination.quiesced(REQUEST, 0))
        .await
        .expect("the read has ended");
    assert!(matches!(
        run.outcome,
        Outcome::Aborted | Outcome::Lost | Outcome::Expired
    ));
    run.destination.assert_idle();
}

#[tokio::test]
async fn a_data_connection_that_breaks_ends_the_pull() {
    let run = hand_off_through(Fault::Breaks).await;
    let error = run.pulled.expect_err("a block does not come");
    assert_eq!(error.kind, PullErrorKind::LinkLost);
    run.destination.quiesced(REQUEST, 0).await;
    run.destination.assert_idle();
}

#[tokio::test]
async fn listening_on_all_interfaces_at_once_is_refused() {
    let worker = WorkerId::new("worker");
    let config = EndpointConfig::new(worker, 1, [7; 32], 1, Arc::new(|| 0));
    let tcp = TcpTransport::new(TcpOptions::new(([0, 0, 0, 0], 0).into()));
    assert!(Endpoint::new(config, Arc::new(PoolMemory::new(1, 8)), vec![tcp]).is_err());
}
