//! Several choices for one prompt: sequences of their own that share its blocks, and one bill for it.

use vlinders_types::{Request, RequestId, TokenId};
use vlinders_worker::Role;

use crate::world::{Shape, World};

/// Four whole blocks and a bit.
const PROMPT: u32 = 70;

#[tokio::test(flavor = "multi_thread")]
async fn a_later_choice_finds_the_prompts_blocks_and_does_not_bill_them() {
    for shapes in [
        &[Shape::of(Role::Both)][..],
        &[Shape::of(Role::Prefill), Shape::of(Role::Decode)],
    ] {
        let mut world = World::new(shapes).await;
        let mut first = world.request(1);
        first.prompt_ids = (0..PROMPT).map(|token: TokenId| token % 200).collect();
        first.stop.max_tokens = 20;
        world.send(&first).await;
        // Before its first token a worker says that it has taken the request.
        while world
            .next_batch()
            .await
            .chunks
            .iter()
            .all(|chunk| chunk.ids.is_empty())
        {}
        for index in 1..3_u32 {
            let choice = Request {
                request_id: RequestId(first.request_id.of_choice(index).0 + 100),
                handle: 1 + u64::from(index),
                bills_prompt: false,
                ..first.clone()
            };
            world.send(&choice).await;
        }
        // The first one's first chunk was read above.
        let mut ended = 0;
        while ended < 3 {
            for chunk in world.next_batch().await.chunks {
                let Some(finish) = chunk.finish else { continue };
                ended += 1;
                let cached = if chunk.handle == 1 { 0 } else { 64 };
                assert_eq!((finish.counts.prompt, finish.counts.cached), (PROMPT, cached));
            }
        }
        let billed: Vec<(u32, u32)> = {
            let mut events = world.usage(3).await;
            events.sort_by_key(|event| event.request_id);
            events
                .iter()
                .map(|event| (event.counts.prompt, event.counts.completion))
                .collect()
        };
        assert_eq!(billed, [(PROMPT, 20), (0, 20), (0, 20)]);
        world.stop().await;
    }
}
