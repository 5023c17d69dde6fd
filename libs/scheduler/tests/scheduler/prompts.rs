//! Sequences that tell of their prompts: the world checks every score and sum against an undisturbed run.

use vlinders_scheduler::{
    AfterFirstToken, Event, FailedDestination, Phase, SchedulerLimits, ScoreWish, SubmitError,
};
use vlinders_types::{Pooling, SequenceId};

use crate::world::{Spec, World, limits};

fn cached(world: &World, of: SequenceId) -> u32 {
    let find = |event: &Event| match event {
        Event::PromptDone {
            id, cached_tokens, ..
        }
        | Event::Sampled {
            id, cached_tokens, ..
        } if *id == of => Some(*cached_tokens),
        Event::Sampled { .. }
        | Event::Scored { .. }
        | Event::PromptDone { .. }
        | Event::Failed { .. }
        | Event::BlocksFilled { .. }
        | Event::Preempted { .. } => None,
    };
    world.events.iter().find_map(find).expect("it told")
}

#[test]
fn a_prompt_is_scored_across_its_chunks_and_ends_without_a_token() {
    for chunk in [1, 5, 16, 32, 1000] {
        let limits = SchedulerLimits {
            prefill_chunk_tokens: chunk,
            ..limits()
        };
        let mut world = World::new(limits, 16);
        let id = world.submit(Spec::scored(0, 70, 1)).unwrap();
        world.run();
        assert!(world.done.contains_key(&id), "chunks of {chunk}");
        world.scheduler.assert_settled();
    }
}

#[test]
fn what_must_be_told_is_not_taken_from_the_cache_and_what_need_not_is() {
    let mut world = World::new(limits(), 32);
    let first = world.submit(Spec::new(0, 100, 1)).unwrap();
    world.run();
    let ask = |world: &mut World, spec: Spec| {
        let id = world.submit(spec).unwrap();
        world.run();
        cached(world, id)
    };
    assert_eq!(cached(&world, first), 0);
    assert_eq!(ask(&mut world, Spec::scored(0, 100, 1)), 0);
    // Position 81 is scored after token 80, which begins a block.
    assert_eq!(ask(&mut world, Spec::scored(0, 100, 81)), 80);
    assert_eq!(ask(&mut world, Spec::scored(0, 100, 80)), 64);
    assert_eq!(ask(&mut world, Spec::scored(0, 100, 100)), 96);
    assert_eq!(ask(&mut world, Spec::pooled(0, 100, Pooling::Mean)), 0);
    assert_eq!(ask(&mut world, Spec::pooled(0, 100, Pooling::LastToken)), 96);
    let mut drawn = Spec::new(0, 100, 3);
    drawn.wish.scores = Some(ScoreWish { first: 1, top: 0 });
    assert_eq!(ask(&mut world, drawn), 0);
    assert_eq!(
        ask(&mut world, Spec::new(0, 100, 1)),
        96,
        "their own blocks are cached"
    );
}

#[test]
fn a_preempted_prompt_goes_on_where_it_was_told() {
    for slow in [
        Spec::scored(1, 112, 1),
        Spec::scored(1, 112, 60),
        Spec::pooled(1, 112, Pooling::Mean),
    ] {
        let limits = SchedulerLimits {
            prefill_chunk_tokens: 1,
            ..limits()
        };
        let mut world = World::new(limits, 12);
        // It grows until the pool is empty while the other is in the middle of its prompt.
        let grows = world.submit(Spec::new(0, 3, 120)).unwrap();
        assert!(world.step());
        let slow = world.submit(slow).unwrap();
        world.run();
        assert!(world.events.contains(&Event::Preempted { id: slow }));
        assert!([grows, slow].iter().all(|id| world.done.contains_key(id)));
    }
}

#[test]
fn what_draws_nothing_is_never_held_for_a_hand_off() {
    let limits = SchedulerLimits {
        after_first_token: AfterFirstToken::Hold,
        ..limits()
    };
    let mut world = World::new(limits, 16);
    let scored = world.submit(Spec::scored(0, 40, 1)).unwrap();
    world.run();
    let is_filled = |event: &Event| matches!(event, Event::BlocksFilled { .. });
    assert!(world.done.contains_key(&scored) && !world.events.iter().any(is_filled));
}

#[test]
fn decode_scores_only_what_prefill_did_not_come_to_tell() {
    for with_token in [false, true] {
        let mut world = World::new(limits(), 16);
        let mut spec = Spec::new(0, 40, 4);
        spec.wish.scores = Some(ScoreWish { first: 1, top: 0 });
        let id = world.adopt(spec).unwrap();
        world.kv_fails(id, with_token, FailedDestination::Quiet);
        world.run();
        let is_scored = |event: &Event| matches!(event, Event::Scored { .. });
        assert_eq!(world.events.iter().any(is_scored), !with_token);
        assert!(world.done.contains_key(&id));
    }
}

#[test]
fn a_prompt_that_fills_the_context_or_the_pool_fits_when_nothing_is_drawn() {
    let limits = SchedulerLimits {
        max_context_tokens: 64,
        ..limits()
    };
    let mut world = World::new(limits, 4);
    let full = world.submit(Spec::scored(0, 64, 1)).unwrap();
    world.run();
    assert!(world.done.contains_key(&full));
    let refused = world.submit(Spec::scored(0, 65, 1));
    assert!(matches!(refused, Err(SubmitError::TooLong { .. })), "{refused:?}");
    let ended = |phase| matches!(phase, Phase::Ended);
    assert!(world.in_phase(ended).is_empty());
}
