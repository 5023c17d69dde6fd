//! Edges by name.

use vlinders_scheduler::{
    AdoptError, Event, NewSequence, Phase, PlanOutcome, PromptWish, Scheduler, SchedulerLimits, SubmitError,
};
use vlinders_types::{SampleResult, SequenceId, StepOutput};

use crate::world::{Spec, World, limits};

fn preempted(world: &World) -> Vec<SequenceId> {
    let id = |event: &Event| match event {
        Event::Preempted { id } => Some(*id),
        Event::Sampled { .. }
        | Event::Scored { .. }
        | Event::PromptDone { .. }
        | Event::Failed { .. }
        | Event::BlocksFilled { .. } => None,
    };
    world.events.iter().filter_map(id).collect()
}

fn cached_tokens(world: &World, wanted: SequenceId) -> u32 {
    let cached = |event: &Event| match event {
        Event::Sampled {
            id, cached_tokens, ..
        } if *id == wanted => Some(*cached_tokens),
        Event::Sampled { .. }
        | Event::Scored { .. }
        | Event::PromptDone { .. }
        | Event::Failed { .. }
        | Event::BlocksFilled { .. }
        | Event::Preempted { .. } => None,
    };
    world.events.iter().find_map(cached).expect("it drew")
}

#[test]
fn in_a_full_pool_the_younger_of_two_growing_sequences_gives_way() {
    let mut world = World::new(limits(), 8);
    let old = world.submit(Spec::new(0, 30, 90)).unwrap();
    let young = world.submit(Spec::new(1, 30, 90)).unwrap();
    world.run();
    assert!(!preempted(&world).is_empty() && !preempted(&world).contains(&old));
    assert!(world.done.contains_key(&old) && world.done.contains_key(&young));
    assert_eq!(
        world.scheduler.counts().preemptions,
        preempted(&world).len() as u64
    );
    world.scheduler.assert_settled();
}

#[test]
fn the_youngest_of_the_lowest_priority_is_preempted_first() {
    let mut world = World::new(limits(), 12);
    let mut submit = |priority: i32, kind: u32| {
        world
            .submit(Spec {
                priority,
                ..Spec::new(kind, 30, 60)
            })
            .unwrap()
    };
    let oldest = submit(0, 0);
    let (low_old, low_young, high) = (submit(-1, 1), submit(-1, 2), submit(1, 3));
    world.run();
    let order = preempted(&world);
    assert_eq!(order.first(), Some(&low_young), "{order:?}");
    assert!(!order.contains(&oldest) && !order.contains(&high), "{order:?}");
    assert!(order.iter().all(|id| [low_old, low_young].contains(id)));
    assert_eq!(world.done.len(), 4);
}

#[test]
fn a_preempted_sequence_goes_before_those_that_waited_longer() {
    let mut world = World::new(
        SchedulerLimits {
            max_running: 2,
            ..limits()
        },
        8,
    );
    for kind in 0..2 {
        world.submit(Spec::new(kind, 30, 80)).unwrap();
    }
    let waiting = world.submit(Spec::new(2, 30, 30)).unwrap();
    while world.scheduler.counts().preemptions == 0 {
        assert!(world.step());
    }
    let preempted = preempted(&world)[0];
    while matches!(world.scheduler.phase(preempted), Some(Phase::Waiting { .. })) {
        let is_waiting = matches!(world.scheduler.phase(waiting), Some(Phase::Waiting { .. }));
        assert!(is_waiting, "nobody overtakes it");
        assert!(world.step());
    }
    world.run();
    assert_eq!(world.done.len(), 3);
}

#[test]
fn one_sequence_may_use_the_whole_pool() {
    let mut world = World::new(limits(), 4);
    // The last token's keys and values are never needed: 65 tokens fit into 64 slots.
    world.submit(Spec::new(0, 50, 15)).unwrap();
    assert_eq!(
        world.submit(Spec::new(0, 50, 16)),
        Err(SubmitError::TooManyBlocks {
            needed_blocks: 5,
            pool_blocks: 4
        })
    );
    world.run();
    assert_eq!((world.done.len(), world.scheduler.counts().preemptions), (1, 0));
}

#[test]
fn what_could_never_finish_is_refused_with_numbers() {
    let mut world = World::new(
        SchedulerLimits {
            max_waiting: 1,
            max_context_tokens: 64,
            ..limits()
        },
        100,
    );
    assert_eq!(
        world.submit(Spec::new(0, 60, 5)),
        Err(SubmitError::TooLong {
            needed_tokens: 65,
            context_tokens: 64
        })
    );
    assert_eq!(
        world.submit(Spec::new(0, 10, 0)),
        Err(SubmitError::NothingToDraw {
            tokens: 10,
            max_total_tokens: 10
        })
    );
    assert_eq!(
        world.submit(Spec::new(0, 0, 5)),
        Err(SubmitError::PromptMissing {
            tokens: 0,
            prompt_tokens: 0
        })
    );
    world.submit(Spec::new(0, 60, 4)).unwrap();
    let full = world.submit(Spec::new(0, 60, 4)).unwrap_err();
    assert_eq!(full, SubmitError::QueueFull { max_waiting: 1 });
    assert!(full.is_retryable());
    let unfit = world.adopt(Spec::new(0, 60, 5)).unwrap_err();
    assert!(matches!(unfit, AdoptError::Unfit(SubmitError::TooLong { .. })) && !unfit.is_retryable());
}

#[test]
fn a_prompt_of_exactly_cached_blocks_computes_only_its_last_block() {
    let mut world = World::new(limits(), 16);
    let first = world.submit(Spec::new(0, 48, 2)).unwrap();
    world.run();
    let second = world.submit(Spec::new(0, 48, 2)).unwrap();
    assert_eq!(world.plan(), PlanOutcome::Ready);
    assert_eq!(
        (world.batch.rows[0].first_position, world.batch.tokens.len()),
        (32, 16)
    );
    world.apply();
    world.run();
    assert_eq!(
        (cached_tokens(&world, first), cached_tokens(&world, second)),
        (0, 32)
    );
    assert_eq!(world.done[&first], world.done[&second]);
    assert_eq!(
        world.scheduler.counts().cached_blocks,
        3,
        "the block computed twice is kept once"
    );
}

#[test]
fn a_prompt_one_longer_than_cached_blocks_computes_one_token() {
    let mut world = World::new(limits(), 16);
    world.submit(Spec::new(0, 48, 2)).unwrap();
    world.run();
    world.submit(Spec::new(0, 49, 2)).unwrap();
    assert_eq!(world.plan(), PlanOutcome::Ready);
    assert_eq!(
        (world.batch.rows[0].first_position, world.batch.tokens.len()),
        (48, 1)
    );
    world.apply();
    world.run();
}

#[test]
fn other_salts_find_nothing() {
    let mut world = World::new(limits(), 16);
    let mut scheduler = Scheduler::new(limits(), vlinders_kv_blocks::BlockPool::new(16), "model");
    std::mem::swap(&mut world.scheduler, &mut scheduler);
    let new = |id: u64, salt: &[u8]| NewSequence {
        id: SequenceId(id),
        tokens: vec![1; 40],
        prompt_tokens: 40,
        wish: PromptWish::default(),
        max_total_tokens: 41,
        min_total_tokens: 0,
        banned: [].into(),
        sampling: std::sync::Arc::default(),
        prefix_salt: salt.to_vec(),
        priority: 0,
    };
    for (id, salt, first_position) in [(1, b"a", 0), (2, b"b", 0), (3, b"a", 32)] {
        scheduler.submit(new(id, salt)).unwrap();
        assert_eq!(scheduler.plan(&mut world.batch), PlanOutcome::Ready);
        assert_eq!(
            world.batch.rows[0].first_position, first_position,
            "salt {salt:?}"
        );
        while !world.batch.rows.is_empty() {
            let output = world.engine.step(&world.batch);
            for event in scheduler.apply(&output) {
                if let Event::Sampled { id, last: true, .. } = event {
                    scheduler.finish(id).unwrap();
                }
            }
            let _ = scheduler.plan(&mut world.batch);
        }
    }
    scheduler.assert_settled();
}

#[test]
fn one_token_per_step_is_enough() {
    let mut world = World::new(
        SchedulerLimits {
            max_batch_tokens: 1,
            ..limits()
        },
        8,
    );
    for kind in 0..3 {
        world.submit(Spec::new(kind, 20, 5)).unwrap();
    }
    world.run();
    // Each prompt token and each drawn one but the last takes its step.
    assert_eq!((world.done.len(), world.steps), (3, 3 * 24));
}

#[test]
fn decode_rows_come_before_prompts_inside_the_budget() {
    let mut world = World::new(
        SchedulerLimits {
            max_batch_tokens: 20,
            prefill_chunk_tokens: 100,
            ..limits()
        },
        64,
    );
    let decoding = world.submit(Spec::new(0, 10, 20)).unwrap();
    assert!(world.step());
    let prefilling = world.submit(Spec::new(1, 50, 20)).unwrap();
    assert_eq!(world.plan(), PlanOutcome::Ready);
    let rows: Vec<_> = world
        .batch
        .rows
        .iter()
        .map(|row| (row.sequence, row.tokens.count))
        .collect();
    assert_eq!(rows, [(decoding, 1), (prefilling, 19)]);
    world.apply();
    world.run();
}

#[test]
fn a_higher_priority_is_admitted_first_and_equals_in_order() {
    let mut world = World::new(
        SchedulerLimits {
            max_running: 1,
            ..limits()
        },
        64,
    );
    let ids: Vec<_> = [0, 0, 5, -5, 5]
        .iter()
        .map(|priority| {
            world
                .submit(Spec {
                    priority: *priority,
                    ..Spec::new(0, 5, 1)
                })
                .unwrap()
        })
        .collect();
    world.run();
    let first_token = |event: &Event| match event {
        Event::Sampled { id, .. } => Some(*id),
        Event::Scored { .. }
        | Event::PromptDone { .. }
        | Event::Failed { .. }
        | Event::BlocksFilled { .. }
        | Event::Preempted { .. } => None,
    };
    let order: Vec<_> = world.events.iter().filter_map(first_token).collect();
    assert_eq!(order, [2, 4, 0, 1, 3].map(|index: usize| ids[index]));
}

#[test]
fn a_sequence_finished_between_plan_and_apply_leaves_no_trace() {
    let mut world = World::new(limits(), 4);
    let gone = world.submit(Spec::new(0, 40, 20)).unwrap();
    assert_eq!(world.plan(), PlanOutcome::Ready);
    world.finish(gone);
    assert_eq!(
        world.scheduler.counts().free_blocks,
        1,
        "the step still writes into its blocks"
    );
    let refused = world.adopt(Spec::new(1, 40, 20)).unwrap_err();
    assert!(
        matches!(
            refused,
            AdoptError::NoBlocks {
                available_blocks: 1,
                ..
            }
        ),
        "{refused:?}"
    );
    world.apply();
    assert!(world.events.is_empty());
    world.scheduler.assert_settled();
}

#[test]
fn a_slot_reused_between_plan_and_apply_does_not_get_the_other_ones_token() {
    let mut world = World::new(limits(), 16);
    let gone = world.submit(Spec::new(0, 5, 5)).unwrap();
    assert_eq!(world.plan(), PlanOutcome::Ready);
    world.finish(gone);
    let next = world.submit(Spec::new(1, 5, 5)).unwrap();
    world.apply();
    assert_eq!(world.live[&next].tokens.len(), 5);
    world.run();
    assert_eq!(world.done.len(), 1);
}

#[test]
fn a_preempted_sequence_finished_before_apply_is_not_spoken_of_again() {
    let mut world = World::new(limits(), 8);
    world.submit(Spec::new(0, 30, 90)).unwrap();
    let young = world.submit(Spec::new(1, 30, 90)).unwrap();
    while world.scheduler.counts().preemptions == 0 {
        assert_eq!(world.plan(), PlanOutcome::Ready);
        if world.scheduler.counts().preemptions == 0 {
            world.apply();
        }
    }
    assert!(matches!(
        world.scheduler.phase(young),
        Some(Phase::Waiting { .. })
    ));
    world.finish(young);
    world.apply();
    assert_eq!(preempted(&world), []);
    world.run();
}

#[test]
fn a_row_without_a_draw_ends_one_sequence_and_publishes_nothing() {
    let mut world = World::new(limits(), 16);
    let bad = world.submit(Spec::new(0, 32, 5)).unwrap();
    let good = world.submit(Spec::new(1, 20, 5)).unwrap();
    assert_eq!(world.scheduler.plan(&mut world.batch), PlanOutcome::Ready);
    let mut output: StepOutput = world.engine.step(&world.batch);
    output.samples[0] = SampleResult {
        sequence: bad,
        sampled: None,
    };
    let events = world.scheduler.apply(&output);
    assert_eq!(events[0], Event::Failed { id: bad });
    assert!(matches!(events[1], Event::Sampled { id, .. } if id == good));
    assert_eq!(world.scheduler.phase(bad), Some(Phase::Ended));
    world.scheduler.finish(bad).unwrap();
    assert_eq!(world.scheduler.counts().cached_blocks, 0);
    world.scheduler.finish(good).unwrap();
    assert_eq!(world.scheduler.counts().cached_blocks, 1);
    world.scheduler.assert_settled();
}

#[test]
fn a_failed_step_gives_back_the_blocks_of_those_that_left_meanwhile() {
    let mut world = World::new(limits(), 4);
    let gone = world.submit(Spec::new(0, 40, 5)).unwrap();
    assert_eq!(world.plan(), PlanOutcome::Ready);
    world.finish(gone);
    world.fail_step();
    world.scheduler.assert_settled();
}

#[test]
fn only_prompt_tokens_are_billed_as_cached() {
    let mut world = World::new(limits(), 16);
    world.submit(Spec::new(0, 60, 2)).unwrap();
    world.run();
    let again = world
        .submit(Spec {
            emitted: 25,
            ..Spec::new(0, 60, 2)
        })
        .unwrap();
    world.run();
    // 48 of its 60 tokens were found, but its prompt has only 35.
    assert_eq!(cached_tokens(&world, again), 35);
}

#[test]
fn nobody_is_admitted_into_the_room_that_others_need_to_grow() {
    let mut world = World::new(limits(), 8);
    world.submit(Spec::new(0, 30, 20)).unwrap();
    assert!(world.step());
    // Six blocks are free. Five for its prompt leave one, and both want one to grow.
    let next = world.submit(Spec::new(1, 80, 5)).unwrap();
    assert!(world.step());
    assert!(matches!(world.scheduler.phase(next), Some(Phase::Waiting { .. })));
    world.run();
    assert_eq!((world.done.len(), world.scheduler.counts().preemptions), (2, 0));
}

#[test]
fn a_failed_step_is_planned_again() {
    let mut world = World::new(limits(), 16);
    world.submit(Spec::new(0, 40, 5)).unwrap();
    assert_eq!(world.plan(), PlanOutcome::Ready);
    let rows = world.batch.rows.clone();
    world.fail_step();
    assert_eq!(world.plan(), PlanOutcome::Ready);
    assert_eq!(world.batch.rows, rows);
    world.apply();
    world.run();
    assert_eq!(world.done.len(), 1);
}

#[test]
fn a_sequence_that_reached_its_length_is_not_planned_even_if_nobody_finishes_it() {
    let mut world = World::new(limits(), 16);
    let id = world.submit(Spec::new(0, 4, 1)).unwrap();
    assert_eq!(world.scheduler.plan(&mut world.batch), PlanOutcome::Ready);
    let output = world.engine.step(&world.batch);
    let events = world.scheduler.apply(&output);
    assert!(matches!(
        events[..],
        [Event::Sampled {
            first: true,
            last: true,
            ..
        }]
    ));
    assert_eq!(world.scheduler.plan(&mut world.batch), PlanOutcome::Idle);
    assert_eq!(world.scheduler.counts().ended, 1);
    world.scheduler.finish(id).unwrap();
    world.scheduler.assert_settled();
}

#[test]
fn counts_follow_a_sequence_through_its_life() {
    let mut world = World::new(limits(), 16);
    world.submit(Spec::new(0, 40, 5)).unwrap();
    let counts = world.scheduler.counts();
    assert_eq!(
        (counts.waiting, counts.queued_tokens, counts.free_blocks),
        (1, 40, 16)
    );
    assert!(world.step());
    let counts = world.scheduler.counts();
    assert_eq!(
        (
            counts.waiting,
            counts.running,
            counts.queued_tokens,
            counts.free_blocks
        ),
        (0, 1, 8, 13)
    );
    assert!(world.step());
    assert_eq!(
        world.scheduler.counts().queued_tokens,
        0,
        "a drawn token is no prompt"
    );
    world.run();
}
