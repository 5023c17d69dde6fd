//! What a frontend needs to bring a stream over a lost message or a lost worker: batches again, attempts that give way
//! in silence, and a text without a seam.

use std::time::Duration;

use vlinders_types::{Cancel, Chunk, FinishReason, Request, StepBatch};
use vlinders_worker::Role;

use crate::world::{Shape, World};

/// Every batch until `handle` has ended.
async fn batches(world: &mut World, handle: u64) -> Vec<StepBatch> {
    let mut batches = Vec::new();
    let is_last = |batch: &StepBatch| {
        let mut chunks = batch.chunks.iter();
        chunks.any(|chunk| chunk.handle == handle && chunk.finish.is_some())
    };
    loop {
        let batch = world.next_batch().await;
        batches.push(batch);
        if batches.last().is_some_and(is_last) {
            return batches;
        }
    }
}

fn chunks(batches: Vec<StepBatch>) -> Vec<Chunk> {
    batches.into_iter().flat_map(|batch| batch.chunks).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn missed_batches_come_again_in_order_and_only_of_the_same_life() {
    let mut world = World::new(&[Shape::of(Role::Both)]).await;
    let mut request = world.request(2);
    request.stop.max_tokens = 20;
    world.send(&request).await;
    let sent = batches(&mut world, 2).await;
    // Its prompt takes more than one step, so the first says that it is taken.
    let tokens: Vec<usize> = sent.iter().map(|batch| batch.chunks[0].ids.len()).collect();
    assert_eq!(tokens, [vec![0], vec![1; 20]].concat());
    world.ask_again(1, 6).await;
    assert_eq!(batches(&mut world, 2).await, sent[5..]);
    world.ask_again(2, 1).await;
    world.ask_again(1, 22).await;
    assert_eq!(world.batch().await, None, "nobody has such batches");
    world.usage(1).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_superseded_attempt_ends_without_a_word_and_without_a_bill() {
    let slow = |role| Shape {
        step_us: 2_000,
        ..Shape::of(role)
    };
    let mut world = World::new(&[slow(Role::Prefill), slow(Role::Decode)]).await;
    let requests: Vec<Request> = (0..20)
        .map(|number| {
            let mut request = world.request(number);
            request.stop.max_tokens = 60;
            request
        })
        .collect();
    for request in &requests {
        world.send(request).await;
    }
    // Some give way in the queue, some in prefill, some between, some in decode; and one is long at its second attempt.
    for request in &requests {
        let again = Request {
            attempt: 1,
            ..request.clone()
        };
        world.send(&again).await;
        let cancel = Cancel {
            request_id: request.request_id,
            attempt: 0,
            superseded: true,
        };
        world.bury(&cancel).await;
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    let mut ends = Vec::new();
    while ends.len() < requests.len() {
        let ended = |chunk: Chunk| {
            chunk
                .finish
                .map(|finish| (chunk.handle, chunk.attempt, finish.reason))
        };
        let batch = world.next_batch().await;
        ends.extend(batch.chunks.into_iter().filter_map(ended));
    }
    ends.sort_unstable_by_key(|(handle, ..)| *handle);
    let expected: Vec<_> = (0..20).map(|handle| (handle, 1, FinishReason::Length)).collect();
    assert_eq!(ends, expected);
    let usage = world.usage(20).await;
    assert!(
        usage
            .iter()
            .all(|event| event.attempt == 1 && event.counts.completion == 60)
    );
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn text_and_stop_texts_have_no_seam_wherever_an_attempt_is_cut() {
    let mut world = World::new(&[Shape::of(Role::Prefill), Shape::of(Role::Decode)]).await;
    let mut plain = world.request(58);
    plain.stop.max_tokens = 48;
    world.send(&plain).await;
    let plain_text = world.collect(1).await.remove(&58).unwrap().text;
    // A stop text of a few letters from the middle of the answer; tokens are bytes, many of them no whole characters.
    let middle: String = plain_text.chars().skip(20).take(4).collect();
    let mut serial = 0;
    for stop in [Vec::new(), vec![middle, "\u{fffd}\u{fffd}\u{fffd}!".to_owned()]] {
        let mut asked = plain.clone();
        asked.stop.stop = stop;
        let mut fresh = |asked: &Request| {
            serial += 1;
            let mut request = asked.clone();
            request.request_id.0 += serial << 40;
            request
        };
        world.send(&fresh(&asked)).await;
        let mut whole = chunks(batches(&mut world, 58).await);
        whole.sort_by_key(|chunk| chunk.position);
        let text: String = whole.iter().map(|chunk| chunk.text.as_str()).collect();
        let ids: Vec<_> = whole.iter().flat_map(|chunk| chunk.ids.clone()).collect();
        assert!(plain_text.starts_with(&text) && whole.len() > 10);
        for cut in 1..whole.len() {
            let mut again = fresh(&asked);
            again.attempt = 1;
            again.emitted_ids = ids[..cut].to_vec();
            world.send(&again).await;
            let mut rest = chunks(batches(&mut world, 58).await);
            rest.sort_by_key(|chunk| chunk.position);
            let before = whole[..cut].iter().map(|chunk| chunk.text.as_str());
            let joined: String = before
                .chain(rest.iter().map(|chunk| chunk.text.as_str()))
                .collect();
            assert_eq!(joined, text, "cut after {cut} tokens");
            assert_eq!(
                rest.last().unwrap().finish.as_ref().unwrap().reason,
                whole.last().unwrap().finish.as_ref().unwrap().reason
            );
        }
    }
    let count = usize::try_from(serial).unwrap() + 1;
    world.usage(count).await;
    world.stop().await;
}
