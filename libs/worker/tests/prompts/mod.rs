//! Requests that ask for something of their prompts: the same numbers in every layout, before the first token, one end and
//! one bill each.

use std::collections::BTreeMap;

use vlinders_types::{FaultKind, FinishReason, Pooling, Request, StopRules, Task};
use vlinders_worker::Role;

use crate::world::{Received, Shape, World};

const REQUESTS: u64 = 40;

/// Scores and tokens, scores alone, scores of the end, vectors of both kinds.
fn request(world: &World, number: u64) -> Request {
    let mut request = world.request(number);
    let prompt_tokens = u32::try_from(request.prompt_ids.len()).expect("small");
    let alone = |request: &mut Request, task| {
        request.task = task;
        request.stop = StopRules::default();
    };
    match number % 5 {
        0 => request.prompt_logprobs = Some(2),
        1 => {
            request.prompt_logprobs = Some(20);
            alone(&mut request, Task::Score { first: 1 });
        }
        2 => {
            request.prompt_logprobs = Some(0);
            let first = prompt_tokens.saturating_sub(3).max(1);
            alone(&mut request, Task::Score { first });
        }
        3 => alone(
            &mut request,
            Task::Embed {
                pooling: Pooling::Mean,
                dimensions: Some(5),
            },
        ),
        _ => alone(
            &mut request,
            Task::Embed {
                pooling: Pooling::LastToken,
                dimensions: None,
            },
        ),
    }
    request
}

fn check(request: &Request, received: &Received) {
    let finish = received.finish.as_ref().expect("it has ended");
    let prompt = request.prompt_ids.len();
    let scored = match (request.task, request.prompt_logprobs) {
        (_, None) => 0,
        (Task::Score { first }, Some(_)) => prompt - first as usize,
        (Task::Generate | Task::Embed { .. }, Some(_)) => prompt - 1,
    };
    assert_eq!(received.scores.len(), scored, "request {}", request.handle);
    let top = usize::from(request.prompt_logprobs.unwrap_or(0));
    assert!(received.scores.iter().all(|score| score.top.len() == top));
    let (length, reason) = match request.task {
        Task::Generate => (0, finish.reason),
        Task::Score { .. } => (0, FinishReason::Length),
        Task::Embed { dimensions, .. } => (dimensions.unwrap_or(8), FinishReason::Stop),
    };
    assert_eq!(
        (received.embedding.len(), finish.reason),
        (length as usize, reason)
    );
    assert_eq!(finish.counts.completion as usize, received.ids.len());
    assert_eq!(request.task.draws(), !received.ids.is_empty());
    let square: f32 = received.embedding.iter().map(|element| element * element).sum();
    assert!(length == 0 || (square - 1.0).abs() < 1e-5);
}

async fn run(shapes: &[Shape]) -> BTreeMap<u64, Received> {
    let mut world = World::new(shapes).await;
    let requests: Vec<Request> = (0..REQUESTS).map(|number| request(&world, number)).collect();
    for request in &requests {
        world.send(request).await;
    }
    let mut received = world.collect(requests.len()).await;
    for request in &requests {
        check(request, &received[&request.handle]);
    }
    let usage = world.usage(requests.len()).await;
    for event in usage {
        let one = &received[&u64::try_from(event.request_id.0 & 0xFFFF).expect("16 bits")];
        assert_eq!(
            Some(event.counts),
            one.finish.as_ref().map(|finish| finish.counts)
        );
    }
    world.stop().await;
    for one in received.values_mut() {
        // What the cache held differs between the layouts.
        one.finish = None;
    }
    received
}

#[tokio::test(flavor = "multi_thread")]
async fn every_layout_tells_the_same_of_prompts() {
    let expected = run(&[Shape::of(Role::Both)]).await;
    let split = [Role::Prefill, Role::Decode].map(Shape::of);
    assert_eq!(run(&split).await, expected, "prefill and decode");
    let uncached = split.clone().map(|shape| Shape {
        caching: false,
        ..shape
    });
    assert_eq!(run(&uncached).await, expected, "without the prefix cache");
    let tiny = Shape {
        blocks: 16,
        max_running: 8,
        ..Shape::of(Role::Both)
    };
    assert_eq!(run(&[tiny]).await, expected, "in a tiny pool");
    let damaged = Shape {
        damage_every: 3,
        caching: false,
        ..Shape::of(Role::Decode)
    };
    assert_eq!(
        run(&[Shape::of(Role::Prefill), damaged]).await,
        expected,
        "with damaged blocks"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prompt_longer_than_the_context_is_refused_also_when_nothing_is_drawn() {
    let mut world = World::new(&[Shape::of(Role::Prefill)]).await;
    let mut requests = [1, 3].map(|number| request(&world, number));
    for (request, length) in requests.iter_mut().zip([1024, 1025]) {
        request.prompt_ids = (0..length).map(|index| index % 256).collect();
        world.send(request).await;
    }
    let received = world.collect(2).await;
    assert_eq!(received[&1].scores.len(), 1023);
    let fault = received[&3].finish.as_ref().unwrap().fault.as_ref();
    assert_eq!(fault.unwrap().kind, FaultKind::Invalid);
    world.usage(2).await;
    world.stop().await;
}
