//! Both ends of a hand-off: holding after the first token, and adopting what was computed elsewhere.

use vlinders_scheduler::{
    AdoptError, AfterFirstToken, CallError, Event, FailedDestination, Phase, SchedulerLimits,
};
use vlinders_types::SequenceId;

use crate::world::{Spec, World, limits};

fn holding_limits() -> SchedulerLimits {
    SchedulerLimits {
        after_first_token: AfterFirstToken::Hold,
        ..limits()
    }
}

#[test]
fn blocks_are_reported_as_they_fill_and_the_last_one_with_the_first_token() {
    let mut world = World::new(
        SchedulerLimits {
            prefill_chunk_tokens: 20,
            ..holding_limits()
        },
        16,
    );
    let id = world.submit(Spec::new(0, 50, 5)).unwrap();
    world.run();
    let ranges: Vec<_> = world
        .events
        .iter()
        .map(|event| match event {
            Event::BlocksFilled {
                first_block_index,
                blocks,
                last,
                ..
            } => Some((*first_block_index, blocks.len(), *last)),
            Event::Sampled { .. } => None,
            Event::Scored { .. }
            | Event::PromptDone { .. }
            | Event::Failed { .. }
            | Event::Preempted { .. } => panic!("not here"),
        })
        .collect();
    assert_eq!(
        ranges,
        [Some((0, 1, false)), Some((1, 1, false)), None, Some((2, 2, true))]
    );
    assert_eq!(world.scheduler.phase(id), Some(Phase::Holding));
    assert!(!world.step(), "what holds is not planned");
    world.finish(id);
    world.scheduler.assert_settled();
}

#[test]
fn cached_blocks_are_reported_with_the_first_range() {
    let mut world = World::new(
        SchedulerLimits {
            prefill_chunk_tokens: 16,
            ..holding_limits()
        },
        32,
    );
    let first = world.submit(Spec::new(0, 50, 5)).unwrap();
    world.run();
    world.finish(first);
    world.events.clear();
    let second = world.submit(Spec::new(0, 50, 5)).unwrap();
    assert!(world.step());
    assert!(matches!(
        &world.events[..],
        [Event::Sampled { cached_tokens: 48, .. }, Event::BlocksFilled { first_block_index: 0, blocks, last: true, .. }]
            if blocks.len() == 4
    ));
    world.finish(second);
}

#[test]
fn a_resumed_sequence_goes_on_to_its_end() {
    let mut world = World::new(holding_limits(), 16);
    let id = world.submit(Spec::new(0, 20, 30)).unwrap();
    world.run();
    world.scheduler.resume(id).unwrap();
    world.run();
    assert!(world.done.contains_key(&id));
    world.scheduler.assert_settled();
}

#[test]
fn what_is_bound_for_hand_off_is_not_preempted_and_others_wait_for_it() {
    let mut world = World::new(holding_limits(), 6);
    let resumed = world.submit(Spec::new(0, 15, 60)).unwrap();
    world.run();
    world.scheduler.resume(resumed).unwrap();
    let bound = world.submit(Spec::new(1, 50, 5)).unwrap();
    while world.step() {}
    assert_eq!(world.scheduler.phase(bound), Some(Phase::Holding));
    assert_eq!(world.scheduler.counts().preemptions, 0);
    assert!(world.live[&resumed].tokens.len() < 75, "it has no room to grow");
    world.finish(bound);
    world.run();
    assert!(world.done.contains_key(&resumed));
}

#[test]
fn an_adopted_sequence_goes_on_from_the_blocks_that_arrived() {
    let mut world = World::new(limits(), 16);
    let id = world.adopt(Spec::new(0, 40, 20)).unwrap();
    assert!(!world.step(), "nothing to do before its KV is here");
    world.kv_arrives(id);
    assert_eq!(world.scheduler.counts().queued_tokens, 0);
    world.run();
    assert!(world.done.contains_key(&id));
    // 19 tokens were drawn here, each in a step with one row.
    assert_eq!(world.steps, 19);
}

#[test]
fn adopted_blocks_are_found_by_those_that_come_later() {
    let mut world = World::new(limits(), 16);
    let first = world.adopt(Spec::new(0, 32, 5)).unwrap();
    world.kv_arrives(first);
    let second = world.adopt(Spec::new(0, 32, 5)).unwrap();
    assert_eq!(
        world.first_needed_block(second),
        2,
        "nothing needs to be transferred"
    );
    world.kv_arrives(second);
    world.run();
    assert_eq!(world.done[&first], world.done[&second]);
}

#[test]
fn adopting_when_full_is_refused_and_takes_nothing() {
    let mut world = World::new(
        SchedulerLimits {
            max_running: 2,
            ..limits()
        },
        10,
    );
    world.adopt(Spec::new(0, 60, 5)).unwrap();
    let before = world.scheduler.counts();
    assert_eq!(
        world.adopt(Spec::new(1, 80, 5)),
        // Five for its prompt, and one to grow for each of the two.
        Err(AdoptError::NoBlocks {
            needed_blocks: 7,
            available_blocks: 6
        })
    );
    assert_eq!(world.scheduler.counts(), before);
    world.adopt(Spec::new(1, 60, 5)).unwrap();
    assert_eq!(
        world.adopt(Spec::new(2, 5, 5)),
        Err(AdoptError::Full { max_running: 2 })
    );
}

#[test]
fn what_waits_has_an_older_claim_than_what_is_adopted() {
    let mut world = World::new(limits(), 10);
    world.submit(Spec::new(0, 100, 5)).unwrap();
    assert_eq!(
        world.adopt(Spec::new(1, 60, 5)),
        Err(AdoptError::NoBlocks {
            needed_blocks: 11,
            available_blocks: 10
        })
    );
}

#[test]
fn a_failed_transfer_is_computed_here_with_and_without_its_first_token() {
    for with_token in [false, true] {
        let mut world = World::new(limits(), 16);
        let id = world.adopt(Spec::new(0, 40, 20)).unwrap();
        world.kv_fails(id, with_token, FailedDestination::Quiet);
        world.run();
        assert!(world.done.contains_key(&id));
        world.scheduler.assert_settled();
    }
}

#[test]
fn blocks_that_may_still_be_written_are_nobodys_until_it_is_quiet() {
    let mut world = World::new(limits(), 5);
    let id = world.adopt(Spec::new(0, 40, 20)).unwrap();
    world.kv_fails(id, true, FailedDestination::MayBeWritten);
    let counts = world.scheduler.counts();
    assert_eq!(
        (counts.quarantined_blocks, counts.free_blocks, counts.waiting),
        (3, 2, 1)
    );
    assert!(!world.step(), "two blocks are too few");
    world.end_quarantine(0);
    assert_eq!(world.scheduler.counts().quarantined_blocks, 0);
    world.run();
    assert!(world.done.contains_key(&id));
    world.scheduler.assert_settled();
}

#[test]
fn a_quarantine_can_begin_and_end_around_a_step() {
    let mut world = World::new(limits(), 8);
    for ends_before in [true, false] {
        let id = world.submit(Spec::new(0, 40, 20)).unwrap();
        assert!(world.step());
        let _ = world.plan();
        world.scheduler.finish_quarantined(id).unwrap();
        world.live.remove(&id);
        if ends_before {
            assert!(world.scheduler.end_quarantine(id));
        }
        world.apply();
        assert_eq!(world.scheduler.end_quarantine(id), !ends_before);
        world.scheduler.assert_settled();
    }
}

#[test]
fn kv_with_none_or_several_tokens_is_completed_here() {
    for count in [0, 3] {
        let mut world = World::new(limits(), 16);
        let id = world.adopt(Spec::new(0, 40, 20)).unwrap();
        let expected = world.live[&id].spec.expected();
        let table = world.scheduler.blocks(id).unwrap().to_vec();
        world.engine.fill(&table, &expected[..40], 0);
        world.scheduler.kv_arrived(id, &expected[40..40 + count]).unwrap();
        world.live.get_mut(&id).unwrap().tokens = expected[..40 + count].to_vec();
        world.run();
        assert_eq!(world.done[&id], expected);
        world.scheduler.assert_settled();
    }
}

#[test]
fn news_that_come_late_or_wrong_change_nothing() {
    let mut world = World::new(limits(), 16);
    let unknown = SequenceId(99);
    assert_eq!(
        world.scheduler.kv_arrived(unknown, &[1]),
        Err(CallError::Unknown { id: unknown })
    );
    assert_eq!(
        world.scheduler.resume(unknown),
        Err(CallError::Unknown { id: unknown })
    );
    assert_eq!(world.scheduler.finish(unknown), None);
    assert!(!world.scheduler.end_quarantine(unknown));
    let id = world.submit(Spec::new(0, 5, 5)).unwrap();
    let refused = world.scheduler.kv_arrived(id, &[1]).unwrap_err();
    assert_eq!(
        refused.phase(),
        Some(Phase::Waiting {
            then: AfterFirstToken::Continue
        })
    );
    world.run();
    assert!(world.done.contains_key(&id));
}
