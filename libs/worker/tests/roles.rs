//! Workers in every layout give the same tokens, one end and one usage event per request, and leave nothing behind.

mod choices;
mod leaving;
mod prompts;
mod seams;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use vlinders_service_kit::Metrics;
use vlinders_types::{FaultKind, FinishReason, Request};
use vlinders_worker::Role;
use world::{END, Received, Shape, World};

const REQUESTS: u32 = 60;

async fn run(shapes: &[Shape]) -> BTreeMap<u64, Received> {
    run_counted(shapes).await.0
}

/// The answers, and the metrics after them.
async fn run_counted(shapes: &[Shape]) -> (BTreeMap<u64, Received>, Metrics) {
    let mut world = World::new(shapes).await;
    for number in 0..REQUESTS {
        let request = world.request(u64::from(number));
        world.send(&request).await;
    }
    let received = world.collect(REQUESTS as usize).await;
    let mut usage = world.usage(REQUESTS as usize).await;
    usage.sort_by_key(|event| event.request_id.0 & 0xFFFF);
    for (event, (handle, received)) in usage.iter().zip(&received) {
        let finish = received
            .finish
            .as_ref()
            .expect("every collected stream has ended");
        assert_eq!(event.counts, finish.counts, "request {handle}");
        assert_eq!(
            event.counts.completion as usize,
            received.ids.len(),
            "billed is delivered"
        );
        assert_eq!(event.finish, finish.reason);
    }
    let metrics = world.metrics.clone();
    world.stop().await;
    (received, metrics)
}

/// The sum of a counter over all its labels that contain `label`.
fn counted(metrics: &Metrics, name: &str, label: &str) -> f64 {
    let text = metrics.encode();
    let lines = text
        .lines()
        .filter(|line| line.starts_with(name) && line.contains(label));
    lines
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}

fn tokens(received: &BTreeMap<u64, Received>) -> Vec<(u64, &[u32], &str)> {
    received
        .iter()
        .map(|(handle, one)| (*handle, one.ids.as_slice(), one.text.as_str()))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_layout_gives_the_same_tokens() {
    let expected = run(&[Shape::of(Role::Both)]).await;
    assert!(
        expected
            .values()
            .all(|one| one.finish.as_ref().unwrap().reason == FinishReason::Length)
    );

    let split = run(&[Shape::of(Role::Prefill), Shape::of(Role::Decode)]).await;
    assert_eq!(tokens(&split), tokens(&expected), "prefill and decode");

    let two_each = [Role::Prefill, Role::Decode, Role::Prefill, Role::Decode].map(Shape::of);
    assert_eq!(tokens(&run(&two_each).await), tokens(&expected), "two of each");

    let uncached = [Role::Prefill, Role::Decode].map(|role| Shape {
        caching: false,
        ..Shape::of(role)
    });
    assert_eq!(
        tokens(&run(&uncached).await),
        tokens(&expected),
        "without the prefix cache"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn tiny_pools_preempt_and_refuse_but_change_no_token() {
    let expected = run(&[Shape::of(Role::Both)]).await;
    // 16 blocks are 256 tokens: one long sequence, or a few short ones.
    let tiny = |role| Shape {
        blocks: 16,
        max_running: 8,
        ..Shape::of(role)
    };
    let (both, metrics) = run_counted(&[tiny(Role::Both)]).await;
    assert_eq!(tokens(&both), tokens(&expected), "both");
    assert!(
        counted(&metrics, "vlinders_preemptions_total", "") > 0.0,
        "the pool is small enough to preempt"
    );
    assert_eq!(
        tokens(&run(&[tiny(Role::Prefill), tiny(Role::Decode)]).await),
        tokens(&expected),
        "split"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_blocks_are_computed_again_and_change_no_token() {
    let expected = run(&[Shape::of(Role::Both)]).await;
    let damaged = Shape {
        damage_every: 5,
        caching: false,
        ..Shape::of(Role::Decode)
    };
    let (received, metrics) = run_counted(&[Shape::of(Role::Prefill), damaged]).await;
    assert_eq!(tokens(&received), tokens(&expected));
    assert!(
        counted(&metrics, "vlinders_hand_offs_total", "bad_checksum") > 5.0,
        "blocks were damaged"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_request_ends_at_once_with_one_usage_event() {
    let slow = |role| Shape {
        step_us: 2_000,
        ..Shape::of(role)
    };
    let mut world = World::new(&[slow(Role::Prefill), slow(Role::Decode)]).await;
    let requests: Vec<Request> = (0..40)
        .map(|number| {
            let mut request = world.request(number);
            request.stop.max_tokens = 800;
            request
        })
        .collect();
    for request in &requests {
        world.send(request).await;
    }
    // Some are cancelled in the queue, some in prefill, some between, some in decode.
    for request in &requests {
        world.cancel(request).await;
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    let received = world.collect(40).await;
    assert!(
        received
            .values()
            .all(|one| one.finish.as_ref().unwrap().reason == FinishReason::Cancelled)
    );
    let usage = world.usage(40).await;
    assert!(usage.iter().all(|event| event.finish == FinishReason::Cancelled));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancellation_that_overtakes_its_request_still_ends_it() {
    let mut world = World::new(&[Shape::of(Role::Prefill), Shape::of(Role::Decode)]).await;
    let request = world.request(2);
    world.cancel(&request).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    world.send(&request).await;
    let received = world.collect(1).await;
    let finish = received[&2].finish.as_ref().unwrap();
    assert_eq!(
        (finish.reason, finish.counts.completion),
        (FinishReason::Cancelled, 0)
    );
    assert_eq!(world.usage(1).await.len(), 1);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_served_is_answered_and_nothing_else_suffers() {
    let mut world = World::new(&[Shape::of(Role::Prefill), Shape::of(Role::Decode)]).await;
    let mut late = world.request(1);
    (late.created_ms, late.deadline_ms) = (0, 1);
    let mut endless = world.request(2);
    endless.prompt_ids = vec![1; 5_000];
    let fine = world.request(3);
    world.send_raw(b"\xff not a request").await;
    for request in [&late, &endless, &fine] {
        world.send(request).await;
    }
    let received = world.collect(3).await;
    let fault = |handle: u64| {
        received[&handle]
            .finish
            .as_ref()
            .unwrap()
            .fault
            .as_ref()
            .map(|fault| fault.kind)
    };
    assert_eq!(fault(1), Some(FaultKind::Deadline));
    assert_eq!(fault(2), Some(FaultKind::Invalid));
    assert_eq!(fault(3), None);
    assert_eq!(world.usage(3).await.len(), 3);
    let letters = world
        .bus
        .pending(vlinders_bus::StreamName::DeadLetters)
        .await
        .unwrap();
    assert_eq!(letters, 1, "the unreadable request is kept for people to look at");
    let buried = counted(&world.metrics, "vlinders_dead_letters_total", "unreadable");
    assert!((buried - 1.0).abs() < f64::EPSILON, "{buried}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_attempt_goes_on_where_the_first_one_stopped() {
    let mut world = World::new(&[Shape::of(Role::Prefill), Shape::of(Role::Decode)]).await;
    let mut request = world.request(42);
    request.stop.max_tokens = 40;
    world.send(&request).await;
    let whole = world.collect(1).await.remove(&42).unwrap();

    for emitted in [1, 7, 39] {
        let mut again = world.request(42);
        again.request_id.0 += emitted as u128;
        again.stop.max_tokens = 40;
        again.attempt = 1;
        again.emitted_ids = whole.ids[..emitted].to_vec();
        world.send(&again).await;
        let rest = world.collect_from(emitted).await;
        assert_eq!(rest, whole.ids[emitted..], "after {emitted} tokens");
    }
    // With all of them emitted only the last word is missing.
    let mut again = world.request(42);
    again.request_id.0 += 1 << 40;
    again.stop.max_tokens = 40;
    again.attempt = 1;
    again.emitted_ids.clone_from(&whole.ids);
    world.send(&again).await;
    assert!(world.collect_from(40).await.is_empty());
    let usage = world.usage(5).await;
    assert!(
        usage
            .iter()
            .all(|event| event.finish == FinishReason::Length && event.counts.completion == 40)
    );
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_stays_with_the_decode_worker_that_has_its_blocks() {
    let mut shapes = vec![Shape::of(Role::Prefill)];
    shapes.resize_with(6, || Shape::of(Role::Decode));
    let mut world = World::new(&shapes).await;
    let mut homes = BTreeSet::new();
    for talk in 0..6u32 {
        let mut prompt: Vec<u32> = (0..40).map(|index| (index * 11 + talk) % 256).collect();
        let mut writers = BTreeSet::new();
        for turn in 0..5 {
            let number = u64::from(talk * 100 + turn);
            let mut request = world.request(number);
            (request.prompt_ids, request.stop.max_tokens) = (prompt.clone(), 20);
            world.send(&request).await;
            let answer = world.collect(1).await.remove(&number).expect("one was sent");
            writers.extend(world.usage(1).await.into_iter().map(|event| event.writer));
            prompt.extend(answer.ids);
            prompt.extend((0..9).map(|index| (index * 5 + turn) % 256));
        }
        assert_eq!(writers.len(), 1, "conversation {talk} moved: {writers:?}");
        homes.extend(writers);
    }
    assert!(
        homes.len() > 1,
        "all conversations crowd at one worker: {homes:?}"
    );
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stop_rules_hold_in_every_role() {
    for roles in [vec![Role::Both], vec![Role::Prefill, Role::Decode]] {
        let shapes: Vec<Shape> = roles.into_iter().map(Shape::of).collect();
        let mut world = World::new(&shapes).await;
        let mut plain = world.request(50);
        plain.sampling.temperature = 0.0;
        world.send(&plain).await;
        let plain = world.collect(1).await.remove(&50).unwrap();
        // The third token of the same request as a stop token: it ends there, and the token itself is delivered.
        let mut stopped = world.request(50);
        stopped.request_id.0 += 1 << 40;
        stopped.sampling.temperature = 0.0;
        stopped.stop.stop_token_ids = vec![plain.ids[2]];
        world.send(&stopped).await;
        let stopped = world.collect(1).await.remove(&50).unwrap();
        let first = plain.ids.iter().position(|id| *id == plain.ids[2]).unwrap();
        assert_eq!(stopped.ids, plain.ids[..=first]);
        assert_eq!(stopped.finish.unwrap().reason, FinishReason::Stop);
        assert!(!plain.ids.contains(&END));
        world.usage(2).await;
        world.stop().await;
    }
}

/// The same bans at every place where a token is drawn, whoever goes on with the sequence.
#[tokio::test(flavor = "multi_thread")]
async fn bad_words_and_allowed_tokens_hold_in_every_layout_and_attempt() {
    let mut found: Vec<Vec<Vec<u32>>> = Vec::new();
    for roles in [vec![Role::Both], vec![Role::Prefill, Role::Decode]] {
        let shapes: Vec<Shape> = roles.into_iter().map(Shape::of).collect();
        let mut world = World::new(&shapes).await;
        let mut asked = world.request(50);
        asked.stop.max_tokens = 40;
        world.send(&asked).await;
        let plain = world.collect(1).await.remove(&50).unwrap().ids;

        // A single token, and pairs of neighbours of which each may come alone.
        let bad = vec![vec![plain[0]], plain[4..6].to_vec(), plain[9..12].to_vec()];
        asked.request_id.0 += 1 << 40;
        asked.sampling.bad_words.clone_from(&bad);
        world.send(&asked).await;
        let clean = world.collect(1).await.remove(&50).unwrap().ids;
        for word in &bad {
            assert!(plain.windows(word.len()).any(|run| run == word), "it would come");
            assert!(!clean.windows(word.len()).any(|run| run == word), "{word:?}");
        }
        // Cut at any place, a second attempt goes on as the first would have.
        for emitted in [1, 5, 10, 39] {
            asked.request_id.0 += 1 << 40;
            asked.attempt = 1;
            asked.emitted_ids = clean[..emitted].to_vec();
            world.send(&asked).await;
            assert_eq!(
                world.collect_from(emitted).await,
                clean[emitted..],
                "after {emitted} tokens"
            );
        }

        let mut few = world.request(50);
        few.request_id.0 += 99 << 40;
        few.stop.max_tokens = 40;
        few.sampling.allowed_token_ids = vec![7, 65, 66, 200];
        world.send(&few).await;
        let few = world.collect(1).await.remove(&50).unwrap().ids;
        assert!(
            few.len() == 40 && few.iter().all(|id| [7, 65, 66, 200].contains(id)),
            "{few:?}"
        );
        world.usage(7).await;
        world.stop().await;
        found.push(vec![plain, clean, few]);
    }
    assert_eq!(found[0], found[1], "the layouts agree");
}
