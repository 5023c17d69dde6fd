//! Sides that withdraw, vanish or repeat themselves.

use std::time::Duration;

use tokio::time::{sleep, timeout};
use vlinders_types::BlockId;

use super::TransportFixture;
use super::raw::RawDestination;
use super::world::{ATTEMPT, REQUEST, World, kind_of, last, scattered, until};
use crate::{BlockRead, DestinationMemory, Frame, Gate, Outcome, PullErrorKind, ReleaseOutcome, SourcePhase};

/// The source's worker dies in the middle: the pull ends at once.
///
/// # Panics
/// When the transport does not do what the name says; so do all functions here.
pub async fn a_killed_source_ends_the_pull(fixture: &dyn TransportFixture) {
    let mut world = World::new(fixture);
    let blocks = world.filled_blocks(1, 3);
    let source = world.open(3);
    source.ready(0, &blocks[..1], None).expect("in order");
    let order = world.order(&source, &scattered(0, 3));
    let destination = std::sync::Arc::clone(&world.destination);
    let stranger = world.stranger(fixture);
    let source_endpoint = std::mem::replace(&mut world.source, stranger);
    let pull = destination.pull(order.clone());
    let kill = async {
        let arrived = until(|| destination.counts().pulled_bytes > 0);
        let driven = async { tokio::join!(source.outcome(), arrived) };
        // Driven until the first block has arrived, never to the end.
        assert!(timeout(world.lease / 3, driven).await.is_err());
        drop(source_endpoint);
        drop(source);
    };
    let (pulled, ()) = tokio::join!(timeout(world.lease, pull), kill);
    let kind = kind_of(pulled.expect("it ends inside a lease"));
    assert!(
        matches!(kind, PullErrorKind::Aborted | PullErrorKind::LinkLost),
        "{kind:?}"
    );
    assert_eq!(kind_of(destination.pull(order).await), PullErrorKind::Unreachable);
    world.assert_idle().await;
}

/// The destination's worker dies in the middle, without a word: the source learns of it from the link.
pub async fn a_killed_destination_frees_the_source(fixture: &dyn TransportFixture) {
    let world = World::new(fixture);
    let source = world.open(3);
    let raw = RawDestination::attached(fixture, &world, &source, 3).await;
    let kill = async {
        sleep(Duration::from_millis(50)).await;
        drop(raw);
    };
    let (outcome, ()) = tokio::join!(timeout(world.lease, source.outcome()), kill);
    assert_eq!(outcome, Ok(Outcome::Lost));
    world.assert_idle().await;
}

/// The source withdraws: the pull ends at once, and its blocks may be used again.
pub async fn a_source_that_withdraws_ends_the_pull(fixture: &dyn TransportFixture) {
    let world = World::new(fixture);
    let source = world.open(3);
    let abort = async {
        sleep(Duration::from_millis(50)).await;
        source.abort();
    };
    let pull = timeout(
        world.lease,
        world.destination.pull(world.order(&source, &scattered(0, 3))),
    );
    let (outcome, pulled, ()) = tokio::join!(source.outcome(), pull, abort);
    let error = pulled
        .expect("it ends inside a lease")
        .expect_err("the source withdrew");
    assert_eq!(
        (error.kind, error.quiesced, error.settled),
        (PullErrorKind::Aborted, true, false)
    );
    assert_eq!(outcome, Outcome::Aborted);
    world.assert_idle().await;
}

/// The engine announces blocks of a hand-off that has ended meanwhile.
pub async fn a_late_ready_changes_nothing(fixture: &dyn TransportFixture) {
    let world = World::new(fixture);
    let blocks = world.filled_blocks(1, 3);
    let source = world.open(3);
    source.ready(0, &blocks[..1], None).expect("in order");
    source.abort();
    source
        .ready(1, &blocks[1..], last())
        .expect("a late READY is no fault");
    let pull = world.destination.pull(world.order(&source, &scattered(0, 3)));
    let (outcome, pulled) = tokio::join!(source.outcome(), pull);
    assert_eq!(outcome, Outcome::Aborted);
    assert!(matches!(kind_of(pulled), PullErrorKind::Refused(_)));
    source.ready(3, &[], last()).expect("nor is one after the end");
    world.assert_idle().await;
}

/// The destination's caller leaves in the middle: the source is free at once.
pub async fn a_dropped_pull_releases_the_source(fixture: &dyn TransportFixture) {
    let world = World::new(fixture);
    let blocks = world.filled_blocks(1, 3);
    let source = world.open(3);
    source.ready(0, &blocks[..2], None).expect("in order");
    let pull = world.destination.pull(world.order(&source, &scattered(0, 3)));
    let leave = async { assert!(timeout(Duration::from_millis(100), pull).await.is_err()) };
    let (outcome, ()) = tokio::join!(timeout(world.lease, source.outcome()), leave);
    assert_eq!(outcome, Ok(Outcome::Aborted));
    world.destination.quiesced(REQUEST, ATTEMPT).await;
    assert_eq!(world.destination.counts().pulls["dropped"], 1);
    world.assert_idle().await;
}

/// The source's handle is dropped in the middle: the same as withdrawing.
pub async fn a_dropped_source_ends_the_pull(fixture: &dyn TransportFixture) {
    let world = World::new(fixture);
    let source = world.open(3);
    let pull = timeout(
        world.lease,
        world.destination.pull(world.order(&source, &scattered(0, 3))),
    );
    let leave = async {
        assert!(
            timeout(Duration::from_millis(100), source.outcome())
                .await
                .is_err()
        );
        drop(source);
    };
    let (pulled, ()) = tokio::join!(pull, leave);
    assert_eq!(
        kind_of(pulled.expect("it ends inside a lease")),
        PullErrorKind::Aborted
    );
    world.source.quiesced(REQUEST, ATTEMPT).await;
    world.assert_idle().await;
}

/// The driver is only a future: dropped in the middle again and again, it loses nothing.
pub async fn a_dropped_outcome_can_be_awaited_again(fixture: &dyn TransportFixture) {
    let world = World::new(fixture);
    let (blocks, destination) = (world.filled_blocks(1, 100), scattered(500, 100));
    let source = world.open(100);
    source.ready(0, &blocks, last()).expect("in order");
    let pull = world.destination.pull(world.order(&source, &destination));
    let drive = async {
        loop {
            // One poll of the driver at a time, then it is dropped where it stands.
            let outcome = tokio::select! {
                biased;
                outcome = source.outcome() => Some(outcome),
                () = tokio::task::yield_now() => None,
            };
            if let Some(outcome) = outcome {
                return outcome;
            }
        }
    };
    let (outcome, pulled) = tokio::join!(drive, pull);
    assert_eq!((outcome, pulled.is_ok()), (Outcome::Ok, true));
    world.assert_arrived(&blocks, &destination);
    world.assert_idle().await;
}

/// RELEASE twice, also with another outcome: the first one counts.
pub async fn a_release_counts_once(fixture: &dyn TransportFixture) {
    let world = World::new(fixture);
    let blocks = world.filled_blocks(1, 3);
    let source = world.open(3);
    source.ready(0, &blocks, last()).expect("in order");
    let mut raw = RawDestination::attached(fixture, &world, &source, 3).await;
    let release = async {
        assert!(matches!(raw.recv().await, Some(Frame::Ready(_))));
        for outcome in [ReleaseOutcome::Ok, ReleaseOutcome::Ok, ReleaseOutcome::Abort] {
            raw.release(ATTEMPT, outcome);
        }
        assert!(matches!(raw.recv().await, Some(Frame::Settled { won: true, .. })));
        raw
    };
    let (outcome, raw) = tokio::join!(source.outcome(), release);
    assert_eq!(outcome, Outcome::Ok);
    assert_eq!(world.source.counts().hand_offs["ok"], 1);
    drop(raw);
    world.assert_idle().await;
}

/// RELEASE is compare-and-set: of another attempt it changes nothing, and neither does an "ok" before the end.
pub async fn a_release_of_another_attempt_does_not_count(fixture: &dyn TransportFixture) {
    let world = World::new(fixture);
    let blocks = world.filled_blocks(1, 3);
    let source = world.open(3);
    source.ready(0, &blocks[..2], None).expect("in order");
    let mut raw = RawDestination::attached(fixture, &world, &source, 3).await;
    let release = async {
        assert!(matches!(raw.recv().await, Some(Frame::Ready(_))));
        raw.release(ATTEMPT + 1, ReleaseOutcome::Abort);
        assert!(matches!(
            raw.recv().await,
            Some(Frame::Settled { won: false, .. })
        ));
        raw.release(ATTEMPT, ReleaseOutcome::Ok);
        assert!(matches!(
            raw.recv().await,
            Some(Frame::Settled { won: false, .. })
        ));
        assert!(matches!(source.phase(), SourcePhase::Sending(_)));
        raw.release(ATTEMPT, ReleaseOutcome::Abort);
        assert!(matches!(raw.recv().await, Some(Frame::Settled { won: true, .. })));
    };
    let (outcome, ()) = tokio::join!(source.outcome(), release);
    assert_eq!(outcome, Outcome::Aborted);
    drop(raw);
    world.assert_idle().await;
}

/// An attached destination reads its own sequence and nothing else of the pool.
pub async fn blocks_that_were_not_announced_cannot_be_read(fixture: &dyn TransportFixture) {
    let world = World::new(fixture);
    let blocks = world.filled_blocks(1, 3);
    let source = world.open(3);
    source.ready(0, &blocks[..2], None).expect("in order");
    let other = scattered(9, 1)[0];
    for (index, block) in [(0, blocks[1]), (0, other), (2, blocks[2]), (u32::MAX, other)] {
        let source = world.open(3);
        source.ready(0, &blocks[..2], None).expect("in order");
        let mut raw = RawDestination::attached(fixture, &world, &source, 3).await;
        let gate = Gate::open();
        let into = DestinationMemory::new(world.destination_memory.clone(), gate.clone());
        let read = BlockRead {
            index,
            source: block,
            destination: BlockId(0),
        };
        let refused = async {
            // By now the link has all it needs to read what was announced.
            assert!(matches!(raw.recv().await, Some(Frame::Ready(_))));
            assert!(raw.link.read_blocks(&[read], &into).await.is_err(), "{read:?}");
            drop(raw);
        };
        let (_, ()) = tokio::join!(source.outcome(), refused);
        gate.close();
        gate.drained().await;
    }
    drop(source);
    world.assert_idle().await;
}
