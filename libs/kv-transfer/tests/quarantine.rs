//! Blocks stay taken while somebody may still touch them: the destination's by a read that was given up, the
//! source's by a read that was let in before the end.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::timeout;
use vlinders_kv_transfer::conformance::PoolMemory;
use vlinders_kv_transfer::{
    Attach, BlockRead, DestinationMemory, Door, Endpoint, EndpointConfig, Frame, HelloFrame, KvTransport,
    Link, LinkClosed, Listener, MemTransport, Outcome, PROTOCOL, PullErrorKind, PullOrder, Source,
    TransportError, WritePass,
};
use vlinders_types::{BlockId, Hello, RequestId, WorkerId};

/// `mem`, but reads begin and never end by themselves, like those of a stopped peer.
struct LateTransport {
    mem: Arc<MemTransport>,
    writing: Arc<Mutex<Vec<WritePass>>>,
}

struct LateLink {
    mem: Box<dyn Link>,
    writing: Arc<Mutex<Vec<WritePass>>>,
}

#[async_trait]
impl KvTransport for LateTransport {
    fn name(&self) -> &'static str {
        "mem"
    }

    fn listen(&self, door: Door) -> Result<Listener, TransportError> {
        self.mem.listen(door)
    }

    async fn connect(&self, peer: &Hello, address: &str) -> Result<Box<dyn Link>, TransportError> {
        let mem = self.mem.connect(peer, address).await?;
        Ok(Box::new(LateLink {
            mem,
            writing: Arc::clone(&self.writing),
        }))
    }
}

#[async_trait]
impl Link for LateLink {
    fn send(&mut self, frame: Frame) -> Result<(), LinkClosed> {
        self.mem.send(frame)
    }

    async fn recv(&mut self) -> Option<Frame> {
        self.mem.recv().await
    }

    async fn read_blocks(&mut self, reads: &[BlockRead], into: &DestinationMemory) -> Result<(), LinkClosed> {
        for _ in reads {
            self.writing
                .lock()
                .expect("nothing panics while it is held")
                .push(into.begin()?);
        }
        std::future::pending().await
    }
}

const REQUEST: RequestId = RequestId(1);

struct World {
    destination: Arc<Endpoint>,
    source: Source,
    order: PullOrder,
    writing: Arc<Mutex<Vec<WritePass>>>,
    _source_endpoint: Arc<Endpoint>,
}

fn world() -> World {
    let writing = Arc::default();
    let transport = Arc::new(LateTransport {
        mem: MemTransport::new(),
        writing: Arc::clone(&writing),
    });
    let endpoint = |incarnation| {
        let worker = WorkerId::new("worker");
        let config = EndpointConfig::new(worker, incarnation, [1; 32], 5, Arc::new(|| 0));
        Endpoint::new(config, Arc::new(PoolMemory::new(8, 64)), vec![transport.clone()])
            .expect("mem always listens")
    };
    let (source_endpoint, destination) = (endpoint(1), endpoint(2));
    let source = source_endpoint.open(REQUEST, 0, 2).expect("nothing is open");
    source
        .ready(0, &[BlockId(1), BlockId(2)], None)
        .expect("in order");
    let order = PullOrder {
        peer: source_endpoint.hello(),
        ticket: source.ticket(),
        request: REQUEST,
        attempt: 0,
        first_needed_block: 0,
        destination: vec![BlockId(3), BlockId(4)],
    };
    World {
        destination,
        source,
        order,
        writing,
        _source_endpoint: source_endpoint,
    }
}

/// Only the last write that ends makes the blocks free.
async fn check_quarantine(world: &World) {
    let quiesced = || timeout(Duration::from_secs(3600), world.destination.quiesced(REQUEST, 0));
    assert_eq!(world.destination.open_hand_offs().quarantined, 1);
    assert!(quiesced().await.is_err());
    let (first, second) = {
        let mut writing = world.writing.lock().expect("nothing panics while it is held");
        (writing.pop(), writing.pop())
    };
    drop(first);
    assert!(quiesced().await.is_err());
    drop(second);
    assert!(quiesced().await.is_ok());
    world.destination.assert_idle();
}

#[tokio::test(start_paused = true)]
async fn a_read_that_stalls_leaves_its_blocks_in_quarantine() {
    let world = world();
    let (outcome, pulled) = tokio::join!(
        world.source.outcome(),
        world.destination.pull(world.order.clone())
    );
    let error = pulled.unwrap_err();
    assert_eq!((error.kind, error.quiesced), (PullErrorKind::Stalled, false));
    assert!(matches!(outcome, Outcome::Aborted | Outcome::Expired));
    check_quarantine(&world).await;
}

#[tokio::test(start_paused = true)]
async fn a_dropped_pull_leaves_its_blocks_in_quarantine() {
    let world = world();
    let pull = timeout(
        Duration::from_secs(1),
        world.destination.pull(world.order.clone()),
    );
    let (outcome, pulled) = tokio::join!(world.source.outcome(), pull);
    assert!(pulled.is_err());
    assert_eq!(outcome, Outcome::Aborted);
    check_quarantine(&world).await;
}

/// Keeps the door, so that the test is the transport.
#[derive(Default)]
struct OpenDoor(Mutex<Option<Door>>);

#[async_trait]
impl KvTransport for OpenDoor {
    fn name(&self) -> &'static str {
        "door"
    }

    fn listen(&self, door: Door) -> Result<Listener, TransportError> {
        *self.0.lock().expect("nothing panics while it is held") = Some(door);
        Ok(Listener {
            address: String::new(),
            guard: Box::new(()),
        })
    }

    async fn connect(&self, _peer: &Hello, _address: &str) -> Result<Box<dyn Link>, TransportError> {
        Err(TransportError::Unreachable {
            transport: self.name(),
        })
    }
}

#[tokio::test(start_paused = true)]
async fn source_blocks_stay_taken_while_a_read_runs() {
    for drop_the_source in [false, true] {
        let transport = Arc::new(OpenDoor::default());
        let config = EndpointConfig::new(WorkerId::new("worker"), 1, [1; 32], 5, Arc::new(|| 0));
        let endpoint =
            Endpoint::new(config, Arc::new(PoolMemory::new(8, 64)), vec![transport.clone()]).unwrap();
        let source = endpoint.open(REQUEST, 0, 1).unwrap();
        source.ready(0, &[BlockId(5)], None).unwrap();
        let door = transport.0.lock().unwrap().clone().unwrap();
        let (mut session, _frames) = door.accept().unwrap();
        let hello = HelloFrame {
            protocol: PROTOCOL,
            incarnation: 2,
            peer_incarnation: 1,
            layout_hash: 5,
            block_bytes: 64,
        };
        let attach = Attach {
            ticket: source.ticket(),
            request: REQUEST,
            attempt: 0,
            block_count: 1,
            first_needed_block: 0,
        };
        session.receive(Frame::Hello(hello)).unwrap();
        session.receive(Frame::Attach(attach)).unwrap();
        let reading = session.admit(0, BlockId(5)).unwrap();
        let free = if drop_the_source {
            drop(source);
            let endpoint = Arc::clone(&endpoint);
            Box::pin(async move { endpoint.quiesced(REQUEST, 0).await }) as Pin<Box<dyn Future<Output = ()>>>
        } else {
            Box::pin(async move { assert_eq!(source.outcome().await, Outcome::Expired) })
        };
        let mut free = free;
        assert!(
            timeout(Duration::from_secs(3600), &mut free).await.is_err(),
            "freed under a read"
        );
        assert!(
            session.admit(0, BlockId(5)).is_err(),
            "no read begins after the end"
        );
        drop(reading);
        assert!(timeout(Duration::from_secs(1), free).await.is_ok());
        endpoint.assert_idle();
    }
}
