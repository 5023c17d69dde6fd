//! Workers that are asked to leave while they work: nothing waits for somebody's patience to end, no client gets an error,
//! and every request is billed once.

#![expect(
    clippy::unwrap_used,
    reason = "a failed step of a test ends it, here as in the test itself"
)]

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::Notify;
use vlinders_bus::{StreamName, Subject};
use vlinders_types::{Chunk, FaultKind, Finish, FinishReason, Pool, Presence, Request, TokenId, WorkerId};
use vlinders_wire::subjects;
use vlinders_worker::{Parting, Role};

use crate::world::{Shape, World};

const REQUESTS: u64 = 24;

fn slow(role: Role) -> Shape {
    Shape {
        step_us: 3_000,
        caching: false,
        ..Shape::of(role)
    }
}

/// Long ones, so that a worker that leaves has something to let go of.
fn requests(world: &World) -> Vec<Request> {
    let longer = |number| {
        let mut request = world.request(number);
        request.stop.max_tokens += 60;
        request
    };
    (0..REQUESTS).map(longer).collect()
}

/// One request as its frontend sees it.
struct Open {
    request: Request,
    ids: Vec<TokenId>,
    early: BTreeMap<usize, Chunk>,
    end: Option<FinishReason>,
}

impl Open {
    fn new(request: &Request) -> Self {
        Self {
            request: request.clone(),
            ids: Vec::new(),
            early: BTreeMap::new(),
            end: None,
        }
    }

    /// True when it must be sent again.
    fn take(&mut self, chunk: Chunk) -> bool {
        if chunk.attempt < self.request.attempt {
            return false;
        }
        self.early.insert(chunk.position as usize, chunk);
        let mut is_handed_back = false;
        while let Some(chunk) = self.early.remove(&self.ids.len()) {
            self.ids.extend(chunk.ids);
            self.end = chunk.finish.map(|finish| finish.reason);
            is_handed_back |= chunk.handed_back;
            if self.end.is_some() || is_handed_back {
                break;
            }
        }
        if is_handed_back {
            self.early.clear();
            self.request.attempt += 1;
            self.request.emitted_ids.clone_from(&self.ids);
        }
        is_handed_back
    }
}

/// Sends all requests and sees them to their ends. What is handed back goes into the queue again, as a frontend does it.
/// `heard` is told when something came from `watched`. The answers, and how many hand-backs there were.
async fn answers(
    world: &mut World,
    watched: &WorkerId,
    heard: &Notify,
) -> (BTreeMap<u64, Vec<TokenId>>, usize) {
    let mut all: BTreeMap<u64, Open> = BTreeMap::new();
    for request in requests(world) {
        world.send(&request).await;
        all.insert(request.handle, Open::new(&request));
    }
    let mut handed_back = 0;
    while all.values().any(|one| one.end.is_none()) {
        let batch = world.next_batch().await;
        if batch.worker == *watched {
            heard.notify_one();
        }
        for chunk in batch.chunks {
            let one = all.get_mut(&chunk.handle).unwrap();
            if one.take(chunk) {
                handed_back += 1;
                world.send(&one.request).await;
            }
        }
    }
    assert!(all.values().all(|one| one.end == Some(FinishReason::Length)));
    let ids = all.into_iter().map(|(handle, one)| (handle, one.ids));
    (ids.collect(), handed_back)
}

async fn undisturbed() -> BTreeMap<u64, Vec<TokenId>> {
    let mut world = World::new(&[Shape::of(Role::Both)]).await;
    let (name, _) = world.worker(0);
    let (ids, handed_back) = answers(&mut world, &name, &Notify::new()).await;
    assert_eq!((ids.len() as u64, handed_back), (REQUESTS, 0));
    world.usage(ids.len()).await;
    world.stop().await;
    ids
}

/// The first worker leaves once something of it was heard.
async fn one_leaves(shapes: &[Shape]) {
    let mut world = World::new(shapes).await;
    let ((name, tasks), heard) = (world.worker(0), Notify::new());
    let leaving = async {
        heard.notified().await;
        tasks.stop(Duration::from_secs(30)).await.unwrap();
    };
    let asking = async {
        let answers = answers(&mut world, &name, &heard).await;
        // On a busy machine it may not have had a part in any.
        heard.notify_one();
        answers
    };
    let ((ids, handed_back), ()) = tokio::join!(asking, leaving);
    assert_eq!(ids, undisturbed().await);
    for bill in world.usage(ids.len()).await {
        let answer = &ids[&u64::try_from(bill.request_id.0 & 0xFFFF).unwrap()];
        assert_eq!(
            (bill.counts.completion as usize, bill.finish),
            (answer.len(), FinishReason::Length)
        );
    }
    let told = crate::counted(&world.metrics, "vlinders_requests_handed_back_total", "");
    assert_eq!(told, handed_back as f64);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prefill_worker_that_leaves_gives_back_what_it_has_not_begun_and_finishes_the_rest() {
    let shapes = [Role::Prefill, Role::Prefill, Role::Decode].map(slow);
    one_leaves(&shapes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prefill_worker_without_time_to_leave_gives_back_everything() {
    let at_once = Shape {
        drain_ms: 0,
        ..slow(Role::Prefill)
    };
    one_leaves(&[at_once, slow(Role::Prefill), slow(Role::Decode)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decode_worker_whose_time_is_up_hands_its_sequences_back() {
    for drain_ms in [0, 50] {
        let leaving = Shape {
            drain_ms,
            ..slow(Role::Decode)
        };
        one_leaves(&[leaving, slow(Role::Decode), slow(Role::Prefill)]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_does_both_hands_back_what_runs_and_gives_back_what_waits() {
    let leaving = Shape {
        drain_ms: 0,
        max_running: 16,
        blocks: 64,
        ..slow(Role::Both)
    };
    one_leaves(&[leaving, slow(Role::Both)]).await;
}

/// The end of the only request.
async fn end(world: &mut World) -> Finish {
    loop {
        let batch = world.next_batch().await;
        if let Some(finish) = batch.chunks.into_iter().find_map(|chunk| chunk.finish) {
            return finish;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_says_at_once_that_it_leaves_and_last_of_all_that_it_has_left() {
    let mut world = World::new(&[slow(Role::Decode), slow(Role::Prefill)]).await;
    let (name, tasks) = world.worker(0);
    let subject = Subject::new(subjects::beacon_subject(Pool::Decode, &name));
    let mut beacons = world.bus.subscribe(&subject).await.unwrap();
    let mut request = world.request(2);
    request.stop.max_tokens = 200;
    world.send(&request).await;
    while world.next_batch().await.worker != name {}
    let listening = async {
        let mut told = Vec::new();
        while told.last() != Some(&Presence::Left) {
            let beacon = beacons.next().await.unwrap();
            let beacon = vlinders_wire::decode_beacon(&beacon.payload).unwrap();
            if told.last() != Some(&beacon.presence) {
                told.push(beacon.presence);
            }
        }
        told
    };
    let (told, stopped) = tokio::join!(listening, tasks.stop(Duration::from_secs(30)));
    stopped.unwrap();
    assert!(told.ends_with(&[Presence::Draining, Presence::Left]), "{told:?}");
    // What it had begun it has finished before.
    assert_eq!(end(&mut world).await.reason, FinishReason::Length);
    assert_eq!(world.bus.pending(StreamName::Requests).await.unwrap(), 0);
    world.usage(1).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_no_others_are_what_still_runs_ends_with_an_error_and_a_bill() {
    let alone = Shape {
        drain_ms: 0,
        parting: Parting::End,
        ..slow(Role::Both)
    };
    let mut world = World::new(&[alone]).await;
    let mut request = world.request(2);
    request.stop.max_tokens = 500;
    world.send(&request).await;
    world.next_batch().await;
    let (_, tasks) = world.worker(0);
    tasks.stop(Duration::from_secs(30)).await.unwrap();
    assert_eq!(end(&mut world).await.fault.unwrap().kind, FaultKind::Overloaded);
    assert_eq!(world.usage(1).await[0].finish, FinishReason::Error);
    world.stop().await;
}
