//! Futures are dropped, sides withdraw and bytes go wrong at every possible moment: both sides stay consistent.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use vlinders_kernel_api::KvMemory;
use vlinders_kv_transfer::conformance::{FaultyMemory, PoolMemory};
use vlinders_kv_transfer::{
    Endpoint, EndpointConfig, MemTransport, Outcome, PullError, PullErrorKind, PullOrder, Source,
};
use vlinders_types::{BlockId, RequestId, WorkerId};

const REQUEST: RequestId = RequestId(1);
const BLOCKS: u32 = 12;
const BLOCK_BYTES: usize = 64;

/// When things go wrong, counted in polls; `None` is never.
#[derive(Clone, Debug)]
struct Faults {
    /// Blocks per READY.
    chunk_blocks: usize,
    /// Blocks per call of `ready`, and polls between two calls.
    step_blocks: u32,
    step_polls: usize,
    pull_dropped_at: Option<usize>,
    outcome_dropped_at: Option<usize>,
    source_dropped_at: Option<usize>,
    source_aborts_at: Option<usize>,
    spoiled: Option<u32>,
}

fn faults() -> impl Strategy<Value = Faults> {
    // From 1: a pull that is never polled does nothing at all, and the offer expires.
    let moment = || prop::option::weighted(0.3, 1..60_usize);
    let spoiled = prop::option::weighted(0.2, 0..BLOCKS);
    let steps = (1..8_usize, 1..=BLOCKS, 0..6_usize);
    (steps, moment(), moment(), moment(), moment(), spoiled).prop_map(
        |((chunk_blocks, step_blocks, step_polls), pull, outcome, source, aborts, spoiled)| Faults {
            chunk_blocks,
            step_blocks,
            step_polls,
            pull_dropped_at: pull,
            outcome_dropped_at: outcome,
            source_dropped_at: source,
            source_aborts_at: aborts,
            spoiled,
        },
    )
}

struct World {
    source: Arc<Endpoint>,
    destination: Arc<Endpoint>,
    source_memory: Arc<dyn KvMemory>,
    destination_memory: Arc<dyn KvMemory>,
}

fn world(faults: &Faults) -> World {
    let mem = MemTransport::new();
    let endpoint = |incarnation, memory: &Arc<dyn KvMemory>| {
        let worker = WorkerId::new("worker");
        let mut config = EndpointConfig::new(worker, incarnation, [1; 32], 5, Arc::new(|| 0));
        config.chunk_blocks = faults.chunk_blocks;
        Endpoint::new(config, Arc::clone(memory), vec![mem.clone()]).expect("mem always listens")
    };
    let source_memory: Arc<dyn KvMemory> = Arc::new(PoolMemory::new(BLOCKS, BLOCK_BYTES));
    for number in 0..BLOCKS {
        let byte = u8::try_from(number).expect("few") + 1;
        source_memory.write_block(BlockId(number), &[byte; BLOCK_BYTES]);
    }
    let mut destination_memory: Arc<dyn KvMemory> = Arc::new(PoolMemory::new(BLOCKS, BLOCK_BYTES));
    if let Some(spoiled) = faults.spoiled {
        destination_memory = Arc::new(FaultyMemory::new(destination_memory, BlockId(spoiled)));
    }
    World {
        source: endpoint(1, &source_memory),
        destination: endpoint(2, &destination_memory),
        source_memory,
        destination_memory,
    }
}

/// Runs `work` until it is done or was polled so many times; then it is dropped where it stands.
async fn at_most<Output>(polls: Option<usize>, work: impl Future<Output = Output>) -> Option<Output> {
    let mut work = pin!(work);
    let mut left = polls;
    poll_fn(move |context| {
        if left == Some(0) {
            return Poll::Ready(None);
        }
        left = left.map(|left| left - 1);
        let polled = work.as_mut().poll(context).map(Some);
        if polled.is_pending() && left.is_some() {
            // Counted in polls, so they have to come.
            context.waker().wake_by_ref();
        }
        polled
    })
    .await
}

async fn pass(polls: usize) {
    for _ in 0..polls {
        tokio::task::yield_now().await;
    }
}

async fn compute(faults: &Faults, source: &Source) {
    let blocks: Vec<BlockId> = (0..BLOCKS).map(BlockId).collect();
    let mut first_index = 0;
    while first_index < BLOCKS {
        let end = BLOCKS.min(first_index + faults.step_blocks);
        let last = (end == BLOCKS).then(|| Bytes::from_static(b"last"));
        source
            .ready(first_index, &blocks[first_index as usize..end as usize], last)
            .expect("in order");
        first_index = end;
        pass(faults.step_polls).await;
    }
}

/// The prefill side; `None` when its handle was dropped.
async fn prefill(faults: &Faults, source: Source) -> Option<Outcome> {
    let driven = async {
        if faults.outcome_dropped_at.is_some()
            && let Some(outcome) = at_most(faults.outcome_dropped_at, source.outcome()).await
        {
            return outcome;
        }
        source.outcome().await
    };
    let aborted = async {
        if let Some(polls) = faults.source_aborts_at {
            pass(polls).await;
            source.abort();
        }
    };
    let all = async { tokio::join!(driven, aborted, compute(faults, &source)).0 };
    at_most(faults.source_dropped_at, all).await
}

fn check(
    faults: &Faults,
    world: &World,
    outcome: Option<Outcome>,
    pulled: Option<&Result<Bytes, PullError>>,
) -> Result<(), TestCaseError> {
    if let Some(Ok(last)) = pulled {
        prop_assert_eq!(&last[..], b"last");
        prop_assert!(
            outcome.is_none_or(|outcome| outcome == Outcome::Ok),
            "{:?}",
            outcome
        );
        for block in (0..BLOCKS).map(BlockId) {
            let mut same = false;
            world.source_memory.with_block(block, &mut |sent| {
                world
                    .destination_memory
                    .with_block(block, &mut |here| same = sent == here);
            });
            prop_assert!(same, "{:?}", block);
        }
    }
    if let Some(Err(error)) = pulled {
        prop_assert!(error.quiesced, "a read by mem leaves nothing behind");
        if error.settled {
            prop_assert_eq!(error.kind, PullErrorKind::BadChecksum);
            prop_assert!(outcome.is_none_or(|outcome| outcome == Outcome::BadChecksum));
        }
    }
    match outcome {
        // A pull may be dropped while it waits for the answer to its RELEASE.
        Some(Outcome::Ok) => prop_assert!(pulled.is_none_or(Result::is_ok), "{:?}", pulled),
        Some(Outcome::BadChecksum) => prop_assert!(faults.spoiled.is_some()),
        Some(Outcome::Expired | Outcome::Lost) => prop_assert!(false, "both sides live: {outcome:?}"),
        Some(Outcome::Aborted) | None => {}
    }
    let undisturbed = [
        faults.pull_dropped_at,
        faults.source_dropped_at,
        faults.source_aborts_at,
    ];
    if undisturbed.iter().all(Option::is_none) && faults.spoiled.is_none() {
        prop_assert_eq!(outcome, Some(Outcome::Ok));
    }
    Ok(())
}

async fn run(faults: Faults) -> Result<(), TestCaseError> {
    let world = world(&faults);
    let source = world.source.open(REQUEST, 0, BLOCKS).expect("nothing is open");
    let order = PullOrder {
        peer: world.source.hello(),
        ticket: source.ticket(),
        request: REQUEST,
        attempt: 0,
        first_needed_block: 0,
        destination: (0..BLOCKS).map(BlockId).collect(),
    };
    let pull = at_most(faults.pull_dropped_at, world.destination.pull(order));
    let both = async { tokio::join!(prefill(&faults, source), pull) };
    let both = tokio::time::timeout(Duration::from_secs(3600), both).await;
    let (outcome, pulled) = both.expect("everything ends in bounded time");
    check(&faults, &world, outcome, pulled.as_ref())?;
    world.source.assert_idle();
    world.destination.assert_idle();
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn both_sides_stay_consistent_whatever_is_dropped_when(faults in faults()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.unwrap().block_on(run(faults))?;
    }
}
