//! Who is not let in.

use tokio::time::timeout;
use vlinders_types::Ticket;

use super::TransportFixture;
use super::raw::RawDestination;
use super::world::{ATTEMPT, BLOCK_BYTES, POOL_BLOCKS, REQUEST, World, kind_of, last, scattered};
use crate::{Frame, HelloFrame, OpenError, Outcome, PullErrorKind, PullOrder, Refusal, SourcePhase};

/// A guessed MAC, another number, another request, another block count.
///
/// # Panics
/// When the transport does not do what the name says; so do all functions here.
pub async fn a_forged_ticket_is_refused(fixture: &dyn TransportFixture) {
    let world = World::new(fixture);
    let source = world.open(3);
    let honest = world.order(&source, &scattered(0, 3));
    let ticket = honest.ticket;
    let forgeries = [
        PullOrder {
            ticket: Ticket {
                mac: [0; 16],
                ..ticket
            },
            ..honest.clone()
        },
        PullOrder {
            ticket: Ticket {
                number: ticket.number + 1,
                ..ticket
            },
            ..honest.clone()
        },
        PullOrder {
            ticket: Ticket {
                expires_ms: u64::MAX,
                ..ticket
            },
            ..honest.clone()
        },
        PullOrder {
            attempt: ATTEMPT + 1,
            ..honest.clone()
        },
        PullOrder {
            destination: scattered(0, 2),
            ..honest.clone()
        },
    ];
    for order in forgeries {
        let kind = kind_of(world.destination.pull(order).await);
        assert_eq!(kind, PullErrorKind::Refused(Refusal::TicketForged));
    }
    assert!(
        matches!(source.phase(), SourcePhase::Offered(_)),
        "the honest destination still may come"
    );
    assert_eq!(world.source.counts().refused, 5);
    drop(source);
    world.assert_idle().await;
}

/// A genuine ticket of another endpoint.
pub async fn a_foreign_ticket_is_refused(fixture: &dyn TransportFixture) {
    let world = World::new(fixture);
    let stranger = world.stranger(fixture);
    let (ours, theirs) = (
        world.open(3),
        stranger.open(REQUEST, ATTEMPT, 3).expect("nothing is open"),
    );
    assert_eq!(ours.ticket().number, theirs.ticket().number);
    let order = PullOrder {
        ticket: theirs.ticket(),
        ..world.order(&ours, &scattered(0, 3))
    };
    let kind = kind_of(world.destination.pull(order).await);
    assert_eq!(kind, PullErrorKind::Refused(Refusal::TicketForged));
    drop((ours, theirs));
    world.assert_idle().await;
}

/// A second use, while the first goes on and after it.
pub async fn a_ticket_is_good_for_one_use(fixture: &dyn TransportFixture) {
    let world = World::new(fixture);
    let blocks = world.filled_blocks(1, 3);
    let source = world.open(3);
    let order = world.order(&source, &scattered(0, 3));
    let spent = PullErrorKind::Refused(Refusal::TicketSpent);
    let second = async {
        source.ready(0, &blocks[..1], None).expect("in order");
        let attached = super::world::until(|| matches!(source.phase(), SourcePhase::Sending(_)));
        timeout(world.lease, attached).await.expect("the first attaches");
        assert_eq!(kind_of(world.destination.pull(order.clone()).await), spent);
        source.ready(1, &blocks[1..], last()).expect("in order");
    };
    let (outcome, pulled, ()) = tokio::join!(source.outcome(), world.destination.pull(order.clone()), second);
    assert_eq!((outcome, pulled.is_ok()), (Outcome::Ok, true));
    assert_eq!(kind_of(world.destination.pull(order.clone()).await), spent);
    world.assert_idle().await;
}

/// A genuine ticket whose time is over.
pub async fn an_expired_ticket_is_refused(fixture: &dyn TransportFixture) {
    let world = World::new(fixture);
    let source = world.open(3);
    let order = world.order(&source, &scattered(0, 3));
    world.pass_unix_time(world.lease + std::time::Duration::from_millis(1));
    let kind = kind_of(world.destination.pull(order).await);
    assert_eq!(kind, PullErrorKind::Refused(Refusal::TicketExpired));
    drop(source);
    world.assert_idle().await;
}

/// Both sides look: the destination at the offer, the source at the HELLO.
pub async fn another_layout_is_refused(fixture: &dyn TransportFixture) {
    let memory = fixture.memory(POOL_BLOCKS, BLOCK_BYTES);
    let world = World::with(fixture, memory, |source| source.layout_hash += 1);
    let source = world.open(3);
    let pull = world.destination.pull(world.order(&source, &scattered(0, 3)));
    assert_eq!(kind_of(pull.await), PullErrorKind::Refused(Refusal::Layout));
    let hello = RawDestination::hello(&world);
    let strangers = [
        (HelloFrame { protocol: 2, ..hello }, Refusal::Protocol),
        (
            HelloFrame {
                peer_incarnation: 12,
                ..hello
            },
            Refusal::Incarnation,
        ),
        (
            HelloFrame {
                layout_hash: 0,
                ..hello
            },
            Refusal::Layout,
        ),
        (
            HelloFrame {
                block_bytes: 1,
                ..hello
            },
            Refusal::BlockBytes,
        ),
    ];
    for (hello, refusal) in strangers {
        let mut raw = RawDestination::connect(fixture, &world).await;
        raw.send(Frame::Hello(hello));
        assert_eq!(raw.recv().await, Some(Frame::Refuse(refusal)));
        assert_eq!(raw.recv().await, None, "the source closes the link");
    }
    drop(source);
    world.assert_idle().await;
}

/// The offer was made by an earlier life of the peer.
pub async fn a_source_of_another_life_is_refused(fixture: &dyn TransportFixture) {
    let world = World::new(fixture);
    let source = world.open(3);
    let mut order = world.order(&source, &scattered(0, 3));
    order.peer.incarnation -= 1;
    let kind = kind_of(world.destination.pull(order).await);
    let refused = PullErrorKind::Refused(Refusal::Incarnation);
    assert!(kind == refused || kind == PullErrorKind::Unreachable, "{kind:?}");
    drop(source);
    world.assert_idle().await;
}

/// ATTACH before HELLO, HELLO twice, RELEASE before ATTACH, and nonsense after it.
pub async fn frames_out_of_order_are_refused(fixture: &dyn TransportFixture) {
    let world = World::new(fixture);
    let source = world.open(3);
    let hello = Frame::Hello(RawDestination::hello(&world));
    let attach = Frame::Attach(RawDestination::attach(&source, 3));
    let malformed = Some(Frame::Refuse(Refusal::Malformed));

    let mut raw = RawDestination::connect(fixture, &world).await;
    raw.send(attach.clone());
    assert_eq!(raw.recv().await, malformed);

    let mut raw = RawDestination::connect(fixture, &world).await;
    raw.send(hello.clone());
    assert!(matches!(raw.recv().await, Some(Frame::Hello(_))));
    raw.send(hello);
    assert_eq!(raw.recv().await, malformed);

    let mut raw = RawDestination::attached(fixture, &world, &source, 3).await;
    raw.send(attach);
    let outcome = timeout(world.lease, source.outcome()).await;
    assert_eq!(
        outcome,
        Ok(Outcome::Lost),
        "who breaks the protocol loses the link"
    );
    drop(raw);
    world.assert_idle().await;
}

/// The limit is refused at, not grown over, and a finished hand-off makes room.
pub async fn too_many_hand_offs_are_refused(fixture: &dyn TransportFixture) {
    let memory = fixture.memory(POOL_BLOCKS, BLOCK_BYTES);
    let world = World::with(fixture, memory, |source| source.max_hand_offs = 2);
    let (first, _second) = (world.open(1), world.open(1));
    let third = world.source.open(REQUEST, ATTEMPT, 1);
    assert_eq!(third.err(), Some(OpenError::Full { limit: 2 }));
    first.abort();
    assert_eq!(first.outcome().await, Outcome::Aborted);
    assert!(world.source.open(REQUEST, ATTEMPT, 1).is_ok());
    let too_long = world.source.open(REQUEST, ATTEMPT, POOL_BLOCKS + 1);
    assert!(matches!(too_long.err(), Some(OpenError::BlockCount { .. })));
}
