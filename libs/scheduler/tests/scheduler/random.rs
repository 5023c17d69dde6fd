//! Anything at any time, with tiny pools: every sequence that is not cancelled gets the tokens of the undisturbed run.

use proptest::prelude::*;
use vlinders_scheduler::{
    AfterFirstToken, FailedDestination, Phase, PlanOutcome, SchedulerLimits, ScoreWish,
};
use vlinders_types::Pooling;

use crate::world::{Spec, World};

#[derive(Clone, Debug)]
enum Action {
    Submit(Spec),
    Adopt(Spec),
    Step,
    /// A step with something else going on between plan and apply.
    StepAround(Vec<Action>),
    StepFails,
    Cancel {
        pick: usize,
        quarantine: bool,
    },
    KvArrives {
        pick: usize,
    },
    KvFails {
        pick: usize,
        with_token: bool,
        quiet: bool,
    },
    EndHold {
        pick: usize,
        resume: bool,
    },
    EndQuarantine {
        pick: usize,
    },
}

fn spec() -> impl Strategy<Value = Spec> {
    let lengths = prop_oneof![1u32..70, Just(16), Just(32), Just(48)];
    (
        0u32..3,
        lengths,
        1u32..50,
        0u32..8,
        -1i32..2,
        prop::option::weighted(0.3, 0u32..39),
        (prop::option::weighted(0.3, 1u32..70), 0u32..6),
    )
        .prop_map(
            |(kind, length, max_new, min_new, priority, tail, (scored, task))| {
                let mut spec = Spec::new(kind, length, max_new);
                spec.min_new = min_new.min(max_new);
                spec.priority = priority;
                spec.emitted = min_new.min(length - 1);
                if let (Some(tail), Some(last)) = (tail, spec.prompt.last_mut()) {
                    *last = tail;
                }
                spec.wish.scores = scored.map(|first| ScoreWish {
                    first: first.min(length),
                    top: 0,
                });
                let pooling = [Some(Pooling::Mean), Some(Pooling::LastToken), None].get(task as usize);
                if let Some(pooling) = pooling {
                    spec.wish.pooling = *pooling;
                    spec.wish.draws_nothing = true;
                    (spec.emitted, spec.min_new, spec.max_new) = (0, 0, 0);
                }
                spec
            },
        )
}

fn action() -> impl Strategy<Value = Action> {
    let simple = prop_oneof![
        4 => spec().prop_map(Action::Submit),
        4 => spec().prop_filter("only what draws is handed off", |spec| !spec.wish.draws_nothing).prop_map(Action::Adopt),
        12 => Just(Action::Step),
        1 => Just(Action::StepFails),
        2 => (any::<usize>(), any::<bool>()).prop_map(|(pick, quarantine)| Action::Cancel { pick, quarantine }),
        4 => any::<usize>().prop_map(|pick| Action::KvArrives { pick }),
        2 => (any::<usize>(), any::<bool>(), any::<bool>())
            .prop_map(|(pick, with_token, quiet)| Action::KvFails { pick, with_token, quiet }),
        3 => (any::<usize>(), any::<bool>()).prop_map(|(pick, resume)| Action::EndHold { pick, resume }),
        2 => any::<usize>().prop_map(|pick| Action::EndQuarantine { pick }),
    ];
    let around = prop::collection::vec(simple.clone(), 1..5).prop_map(Action::StepAround);
    prop_oneof![6 => simple, 2 => around]
}

fn limits() -> impl Strategy<Value = SchedulerLimits> {
    (1u32..7, 1u32..40, 1u32..40, any::<bool>(), any::<bool>()).prop_map(
        |(max_running, max_batch_tokens, prefill_chunk_tokens, enable_prefix_caching, hold)| {
            SchedulerLimits {
                max_running,
                max_waiting: 6,
                max_batch_tokens,
                prefill_chunk_tokens,
                max_context_tokens: 100,
                enable_prefix_caching,
                after_first_token: if hold {
                    AfterFirstToken::Hold
                } else {
                    AfterFirstToken::Continue
                },
            }
        },
    )
}

impl World {
    fn act(&mut self, action: Action) {
        match action {
            Action::Submit(spec) => drop(self.submit(spec)),
            Action::Adopt(spec) => drop(self.adopt(spec)),
            Action::Step => drop(self.step()),
            Action::StepAround(between) => {
                if self.plan() == PlanOutcome::Ready {
                    for action in between {
                        if !matches!(action, Action::Step | Action::StepFails) {
                            self.act(action);
                        }
                    }
                    self.apply();
                }
            }
            Action::StepFails => {
                if self.plan() == PlanOutcome::Ready {
                    self.fail_step();
                }
            }
            Action::Cancel { pick, quarantine } => self.cancel(pick, quarantine),
            Action::KvArrives { pick } => {
                if let Some(id) = one_of(&self.in_phase(|phase| phase == Phase::AwaitingKv), pick) {
                    self.kv_arrives(id);
                }
            }
            Action::KvFails {
                pick,
                with_token,
                quiet,
            } => {
                let destination = if quiet {
                    FailedDestination::Quiet
                } else {
                    FailedDestination::MayBeWritten
                };
                if let Some(id) = one_of(&self.in_phase(|phase| phase == Phase::AwaitingKv), pick) {
                    self.kv_fails(id, with_token, destination);
                }
            }
            Action::EndHold { pick, resume } => {
                if let Some(id) = one_of(&self.in_phase(|phase| phase == Phase::Holding), pick) {
                    self.end_hold(id, resume);
                }
            }
            Action::EndQuarantine { pick } => {
                if !self.quarantined.is_empty() {
                    self.end_quarantine(pick % self.quarantined.len());
                }
            }
        }
    }

    fn cancel(&mut self, pick: usize, quarantine: bool) {
        let Some(id) = one_of(&self.in_phase(|_| true), pick) else {
            return;
        };
        let is_adopted = self.scheduler.phase(id) == Some(Phase::AwaitingKv);
        if is_adopted && quarantine {
            let blocks = self.scheduler.blocks(id).expect("it is here").to_vec();
            let own = self.first_needed_block(id);
            self.scheduler.finish_quarantined(id).expect("it is here");
            self.live.remove(&id);
            self.quarantined.push((id, blocks[own..].to_vec()));
        } else {
            self.finish(id);
        }
    }

    fn end_hold(&mut self, id: vlinders_types::SequenceId, resume: bool) {
        let live = &self.live[&id];
        assert!(live.is_filled, "what holds is filled");
        let prompt = &live.spec.prompt;
        assert_eq!(live.filled.len(), prompt.len().div_ceil(16));
        assert!(
            self.engine.holds(&live.filled, prompt),
            "nobody wrote into what is handed off"
        );
        if resume {
            self.scheduler.resume(id).expect("it holds");
        } else {
            self.finish(id);
        }
    }
}

fn one_of<T: Copy>(all: &[T], pick: usize) -> Option<T> {
    (!all.is_empty()).then(|| all[pick % all.len()])
}

fn check_end(world: &mut World) {
    // Whatever the outside owes is delivered now.
    while let Some((id, _)) = world.quarantined.first() {
        let _ = id;
        world.end_quarantine(0);
    }
    for id in world.in_phase(|phase| phase == Phase::AwaitingKv) {
        world.kv_arrives(id);
    }
    loop {
        world.run();
        let holding = world.in_phase(|phase| phase == Phase::Holding);
        if holding.is_empty() {
            break;
        }
        for id in holding {
            world.end_hold(id, true);
        }
    }
    assert!(
        world.live.is_empty(),
        "everything accepted has ended: {:?}",
        world.scheduler.counts()
    );
    world.scheduler.assert_settled();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1024, ..ProptestConfig::default() })]

    #[test]
    fn nothing_that_happens_changes_the_tokens(
        limits in limits(),
        block_count in 4u32..14,
        actions in prop::collection::vec(action(), 1..100),
    ) {
        let mut world = World::new(limits, block_count);
        for action in actions {
            world.act(action);
            world.scheduler.assert_consistent();
        }
        check_end(&mut world);
    }

    #[test]
    fn many_growing_sequences_all_end_in_a_small_pool(
        specs in prop::collection::vec(spec(), 1..12),
        block_count in 6u32..10,
        max_batch_tokens in 1u32..80,
    ) {
        let mut world = World::new(SchedulerLimits { max_batch_tokens, ..crate::world::limits() }, block_count);
        let accepted = specs.into_iter().filter_map(|spec| world.submit(spec).ok()).count();
        world.run();
        prop_assert_eq!(world.done.len(), accepted);
        world.scheduler.assert_settled();
    }
}
