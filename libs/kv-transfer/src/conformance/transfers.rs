//! Blocks arrive, whole and in time.

use std::sync::Arc;

use bytes::Bytes;
use tokio::task::JoinSet;
use tokio::time::timeout;
use vlinders_types::{BlockId, RequestId};

use super::world::{BLOCK_BYTES, LAST, POOL_BLOCKS, World, bytes_of, last, scattered, until};
use super::{FaultyMemory, TransportFixture};
use crate::{Outcome, PullErrorKind, PullOrder, Source};

/// 1, 2 and 100 blocks, announced in chunks of all sizes, before and after the destination attaches.
///
/// # Panics
/// When the transport does not do what the name says; so do all functions here.
pub async fn bytes_arrive_equal(fixture: &dyn TransportFixture) {
    for (seed, count) in [
        (0, 1),
        (1, 1),
        (2, 2),
        (3, 2),
        (4, 100),
        (5, 100),
        (6, 100),
        (7, 100),
    ] {
        let world = World::new(fixture);
        let (blocks, destination) = (world.filled_blocks(seed, count), scattered(seed + 900, count));
        let source = world.open(blocks.len());
        let announce = async {
            let mut first_index = 0;
            let mut random = seed;
            while first_index < count {
                random = random.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
                let chunk = (random >> 16) % 40 + 1;
                let end = count.min(first_index + chunk);
                let is_last = end == count && seed % 2 == 0;
                let chunk = &blocks[first_index as usize..end as usize];
                source
                    .ready(first_index, chunk, if is_last { last() } else { None })
                    .expect("in order");
                first_index = end;
                tokio::task::yield_now().await;
            }
            if seed % 2 == 1 {
                source
                    .ready(count, &[], last())
                    .expect("the state may come alone");
            }
        };
        let pull = world.destination.pull(world.order(&source, &destination));
        let (outcome, pulled, ()) = tokio::join!(source.outcome(), pull, announce);
        assert_eq!((outcome, pulled), (Outcome::Ok, Ok(Bytes::from_static(LAST))));
        world.assert_arrived(&blocks, &destination);
        let moved = u64::from(count) * BLOCK_BYTES as u64;
        assert_eq!(world.destination.counts().pulled_bytes, moved);
        assert_eq!(world.source.counts().hand_offs["ok"], 1);
        assert_eq!(world.destination.counts().pulls["ok"], 1);
        world.assert_idle().await;
    }
}

/// Blocks are at the destination while later ones are still being computed.
pub async fn transfer_overlaps_compute(fixture: &dyn TransportFixture) {
    let world = World::new(fixture);
    let (blocks, destination) = (world.filled_blocks(1, 9), scattered(50, 9));
    let source = world.open(9);
    let compute = async {
        for (step, chunk) in (0_u32..).zip(blocks.chunks(3)) {
            let last = if step == 2 { last() } else { None };
            source.ready(step * 3, chunk, last).expect("in order");
            let here = u64::from(step + 1) * 3 * BLOCK_BYTES as u64;
            let arrived = until(|| world.destination.counts().pulled_bytes == here);
            timeout(world.lease, arrived)
                .await
                .expect("a chunk arrives before the next is computed");
        }
    };
    let pull = world.destination.pull(world.order(&source, &destination));
    let (outcome, pulled, ()) = tokio::join!(source.outcome(), pull, compute);
    assert_eq!((outcome, pulled.is_ok()), (Outcome::Ok, true));
    world.assert_arrived(&blocks, &destination);
    world.assert_idle().await;
}

/// What the destination has already is neither read nor written.
pub async fn blocks_before_the_first_needed_stay(fixture: &dyn TransportFixture) {
    let world = World::new(fixture);
    let (blocks, destination) = (world.filled_blocks(1, 40), scattered(50, 40));
    let source = world.open(40);
    source.ready(0, &blocks[..30], None).expect("in order");
    let order = world.order(&source, &destination[33..]);
    let pull = world.destination.pull(PullOrder {
        first_needed_block: 33,
        ..order
    });
    let finish = async { source.ready(30, &blocks[30..], last()).expect("in order") };
    let (outcome, pulled, ()) = tokio::join!(source.outcome(), pull, finish);
    assert_eq!((outcome, pulled.is_ok()), (Outcome::Ok, true));
    world.assert_arrived(&blocks[33..], &destination[33..]);
    for untouched in &destination[..33] {
        assert_eq!(bytes_of(&*world.destination_memory, *untouched), [0; BLOCK_BYTES]);
    }
    assert_eq!(world.destination.counts().pulled_bytes, 7 * BLOCK_BYTES as u64);
    world.assert_idle().await;
}

/// Only the last state travels.
pub async fn a_wholly_cached_sequence_moves_no_block(fixture: &dyn TransportFixture) {
    let world = World::new(fixture);
    let blocks = world.filled_blocks(1, 4);
    let source = world.open(4);
    let order = PullOrder {
        first_needed_block: 4,
        ..world.order(&source, &[])
    };
    source.ready(0, &blocks, last()).expect("in order");
    let (outcome, pulled) = tokio::join!(source.outcome(), world.destination.pull(order));
    assert_eq!((outcome, pulled), (Outcome::Ok, Ok(Bytes::from_static(LAST))));
    assert_eq!(world.destination.counts().pulled_bytes, 0);
    world.assert_idle().await;
}

/// One wrong bit is found by the destination, and both sides know how the hand-off ended.
pub async fn a_corrupt_block_is_found(fixture: &dyn TransportFixture) {
    // The last of few, so that the last state is there; and one of many, when the source's queue has filled up.
    for (count, spoiled, knows_last) in [(3, 2, true), (200, 100, false)] {
        let destination = scattered(50, count);
        let memory = fixture.memory(POOL_BLOCKS, BLOCK_BYTES);
        let memory = Arc::new(FaultyMemory::new(memory, destination[spoiled]));
        let world = World::with(fixture, memory, |source| source.chunk_blocks = 2);
        let blocks = world.filled_blocks(1, count);
        let source = world.open(blocks.len());
        source.ready(0, &blocks, last()).expect("in order");
        let pull = world.destination.pull(world.order(&source, &destination));
        let (outcome, pulled) = tokio::join!(source.outcome(), pull);
        assert_eq!(outcome, Outcome::BadChecksum);
        let error = pulled.expect_err("a block is corrupt");
        assert_eq!(
            (error.kind, error.quiesced, error.settled),
            (PullErrorKind::BadChecksum, true, true)
        );
        assert_eq!(error.last.is_some(), knows_last);
        world.assert_idle().await;
    }
}

/// Many at a time between the same two endpoints.
pub async fn fifty_hand_offs_at_once(fixture: &dyn TransportFixture) {
    let world = Arc::new(World::new(fixture));
    let mut sides = JoinSet::new();
    for number in 0..50_u32 {
        let blocks = world.filled_blocks(number * 20, 20);
        let destination = scattered(1_000 + number * 20, 20);
        let request = RequestId(u128::from(number));
        let source = world.source.open(request, 0, 20).expect("fifty fit");
        source.ready(0, &blocks[..10], None).expect("in order");
        let order = PullOrder {
            request,
            attempt: 0,
            ..world.order(&source, &destination)
        };
        sides.spawn(finish(source, blocks[10..].to_vec()));
        let (world, from) = (Arc::clone(&world), blocks);
        sides.spawn(async move {
            world.destination.pull(order).await.expect("nothing disturbs it");
            world.assert_arrived(&from, &destination);
        });
    }
    while let Some(side) = sides.join_next().await {
        side.expect("no side panics");
    }
    assert_eq!(world.source.counts().hand_offs["ok"], 50);
    world.assert_idle().await;
}

async fn finish(source: Source, rest: Vec<BlockId>) {
    source.ready(10, &rest, last()).expect("in order");
    assert_eq!(source.outcome().await, Outcome::Ok);
}
