//! Sides that fall silent, or are never done.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::TransportFixture;
use super::raw::RawDestination;
use super::world::{ATTEMPT, LIMIT_LEASES, World, kind_of, last, scattered};
use crate::{Frame, Outcome, PullErrorKind, ReleaseOutcome, SourceEnd, SourcePhase};

/// A source whose driver stands still sends nothing: the pull ends after one lease.
///
/// # Panics
/// When the transport does not do what the name says; so do all functions here.
pub async fn a_stalled_source_ends_the_pull(fixture: &dyn TransportFixture) {
    let world = World::new(fixture);
    let source = world.open(3);
    let began_at = Instant::now();
    let pulled = world
        .destination
        .pull(world.order(&source, &scattered(0, 3)))
        .await;
    let error = pulled.expect_err("nobody drives the source");
    assert_eq!(
        (error.kind, error.quiesced, error.settled),
        (PullErrorKind::Stalled, true, false)
    );
    assert!(began_at.elapsed() >= world.lease);
    // It gave up towards the source, so the blocks are free as soon as the source looks.
    assert_eq!(source.outcome().await, Outcome::Aborted);
    world.assert_idle().await;
}

/// A source that computes for longer than a lease is waited for: both sides keep the hand-off alive.
pub async fn a_slow_source_is_waited_for(fixture: &dyn TransportFixture) {
    let world = World::new(fixture);
    let (blocks, destination) = (world.filled_blocks(1, 2), scattered(50, 2));
    let source = world.open(2);
    let compute = async {
        for (first_index, last) in [(0, None), (1, last())] {
            sleep(world.lease * 3).await;
            source
                .ready(first_index, &blocks[first_index as usize..][..1], last)
                .expect("in order");
        }
    };
    let pull = world.destination.pull(world.order(&source, &destination));
    let (outcome, pulled, ()) = tokio::join!(source.outcome(), pull, compute);
    assert_eq!((outcome, pulled.is_ok()), (Outcome::Ok, true));
    world.assert_arrived(&blocks, &destination);
    world.assert_idle().await;
}

/// But not for ever: an engine that hangs while its endpoint lives holds nobody's blocks beyond the limit.
pub async fn a_source_that_never_gets_ready_hits_the_limit(fixture: &dyn TransportFixture) {
    let world = World::new(fixture);
    let began_at = Instant::now();
    let source = world.open(2);
    let pull = world.destination.pull(world.order(&source, &scattered(50, 2)));
    let (outcome, pulled) = tokio::join!(source.outcome(), pull);
    let (kind, took) = (kind_of(pulled), began_at.elapsed());
    assert!(
        matches!(kind, PullErrorKind::Stalled | PullErrorKind::Aborted),
        "{kind:?}"
    );
    assert!(
        matches!(outcome, Outcome::Aborted | Outcome::Expired),
        "{outcome:?}"
    );
    assert!(
        took >= world.lease * LIMIT_LEASES && took < world.lease * (LIMIT_LEASES + 1),
        "{took:?}"
    );
    world.assert_idle().await;
}

/// The source keeps its blocks for a whole lease of silence, and not longer.
pub async fn a_silent_destination_expires(fixture: &dyn TransportFixture) {
    let world = World::new(fixture);
    let blocks = world.filled_blocks(1, 3);
    let source = world.open(3);
    source.ready(0, &blocks, last()).expect("in order");
    let mut raw = RawDestination::attached(fixture, &world, &source, 3).await;
    let began_at = Instant::now();
    // Signs of life keep it: three times two thirds of a lease.
    let number = source.ticket().number;
    let mut alive = Duration::ZERO;
    for _ in 0..3 {
        assert!(
            timeout(world.lease * 2 / 3, source.outcome()).await.is_err(),
            "it is kept alive"
        );
        alive = began_at.elapsed();
        raw.send(Frame::Heartbeat { number });
    }
    assert!(matches!(source.phase(), SourcePhase::Sending(_)));
    assert_eq!(source.outcome().await, Outcome::Expired);
    assert!(
        began_at.elapsed() >= alive + world.lease,
        "blocks were freed inside the lease"
    );
    // A RELEASE that comes too late does not win.
    raw.release(ATTEMPT, ReleaseOutcome::Ok);
    assert_eq!(source.phase(), SourcePhase::Ended(SourceEnd::Expired));
    drop(raw);
    world.assert_idle().await;
}

/// A ticket nobody redeems does not hold blocks for ever.
pub async fn an_offer_nobody_takes_expires(fixture: &dyn TransportFixture) {
    let world = World::new(fixture);
    let began_at = Instant::now();
    let source = world.open(3);
    assert_eq!(source.outcome().await, Outcome::Expired);
    assert!(began_at.elapsed() >= world.lease);
    assert_eq!(
        source.outcome().await,
        Outcome::Expired,
        "asked again it says the same"
    );
    assert_eq!(world.source.counts().hand_offs["expired"], 1);
    world.assert_idle().await;
}

/// A destination that is alive and never done holds nobody's blocks beyond the limit either.
pub async fn a_destination_that_never_finishes_hits_the_limit(fixture: &dyn TransportFixture) {
    let world = World::new(fixture);
    let blocks = world.filled_blocks(1, 3);
    let began_at = Instant::now();
    let source = world.open(3);
    source.ready(0, &blocks, last()).expect("in order");
    let mut raw = RawDestination::attached(fixture, &world, &source, 3).await;
    let number = source.ticket().number;
    let linger = async {
        while raw.link.send(Frame::Heartbeat { number }).is_ok() {
            sleep(world.lease / 6).await;
        }
    };
    let outcome = tokio::select! {
        outcome = source.outcome() => outcome,
        () = linger => unreachable!("the link stays open"),
    };
    let took = began_at.elapsed();
    assert_eq!(outcome, Outcome::Expired);
    assert!(
        took >= world.lease * LIMIT_LEASES && took < world.lease * (LIMIT_LEASES + 1),
        "{took:?}"
    );
    drop(raw);
    world.assert_idle().await;
}
