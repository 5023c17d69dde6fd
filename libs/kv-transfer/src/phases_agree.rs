//! Both state machines against one another, over a link that loses, repeats, delays and reorders.
//!
//! The glue here is the same as in `hand_off` and `puller`, without time, memory and queues: every order of events
//! a real link can make is one of those drawn here.

use proptest::prelude::*;

use crate::destination_phase::{DestinationEvent, DestinationPhase, Settlement};
use crate::frames::ReleaseOutcome;
use crate::source_phase::{Filled, SourceEnd, SourceEvent, SourcePhase};

const TOTAL: u32 = 5;

#[derive(Clone, Copy, Debug)]
enum ToSource {
    Attach,
    Release(ReleaseOutcome),
}

#[derive(Clone, Copy, Debug)]
enum ToDestination {
    Frame(DestinationEvent),
    Abort,
}

/// What happens next; `pick` chooses among the messages on their way.
#[derive(Clone, Copy, Debug)]
enum Happening {
    Fill { count: u32 },
    Announce { count: u32 },
    DeliverToSource { pick: usize, keep: bool },
    DeliverToDestination { pick: usize, keep: bool },
    LoseToSource { pick: usize },
    LoseToDestination { pick: usize },
    BeginRead,
    EndRead,
    Verify { matches: bool },
    SourceAborts,
    LeaseExpires,
    LinkCloses,
    DestinationGivesUp,
    Drain,
}

fn happenings() -> impl Strategy<Value = Happening> {
    use Happening as H;
    let pick = 0..8_usize;
    prop_oneof![
        4 => (0..4_u32).prop_map(|count| H::Fill { count }),
        4 => (1..4_u32).prop_map(|count| H::Announce { count }),
        6 => (pick.clone(), prop::bool::weighted(0.2)).prop_map(|(pick, keep)| H::DeliverToSource { pick, keep }),
        12 => (prop::bool::weighted(0.2)).prop_map(|keep| H::DeliverToDestination { pick: 0, keep }),
        1 => pick.clone().prop_map(|pick| H::DeliverToDestination { pick, keep: true }),
        1 => pick.clone().prop_map(|pick| H::LoseToSource { pick }),
        1 => pick.prop_map(|pick| H::LoseToDestination { pick }),
        6 => Just(H::BeginRead),
        6 => Just(H::EndRead),
        6 => prop::bool::weighted(0.9).prop_map(|matches| H::Verify { matches }),
        1 => prop_oneof![
            Just(H::SourceAborts),
            Just(H::LeaseExpires),
            Just(H::LinkCloses),
            Just(H::DestinationGivesUp),
        ],
        2 => Just(H::Drain),
    ]
}

struct World {
    source: SourcePhase,
    destination: DestinationPhase,
    to_source: Vec<ToSource>,
    to_destination: Vec<ToDestination>,
    chunks: u32,
    next_index: u32,
    last_announced: bool,
    /// A read was let in and has not ended.
    reading: bool,
    verified: u32,
    mismatched: bool,
}

impl World {
    fn new(first_needed: u32) -> Self {
        Self {
            source: SourcePhase::Offered(Filled::none_of(TOTAL)),
            destination: DestinationPhase::opened(first_needed, TOTAL),
            to_source: vec![ToSource::Attach],
            to_destination: vec![ToDestination::Frame(DestinationEvent::Welcomed)],
            chunks: 0,
            next_index: first_needed,
            last_announced: false,
            reading: false,
            verified: first_needed,
            mismatched: false,
        }
    }

    fn filled(&self) -> Option<Filled> {
        match self.source {
            SourcePhase::Offered(filled) | SourcePhase::Sending(filled) => Some(filled),
            SourcePhase::Closing(_) | SourcePhase::Ended(_) => None,
        }
    }

    fn is_sending(&self) -> bool {
        matches!(self.source, SourcePhase::Sending(_))
    }

    fn happen(&mut self, happening: Happening) {
        use Happening as H;
        match happening {
            H::Fill { count } => self.fill(count),
            H::Announce { count } => self.announce(count),
            H::DeliverToSource { pick, keep } => {
                if let Some(message) = take(&mut self.to_source, pick, keep) {
                    self.source_hears(message);
                }
            }
            H::DeliverToDestination { pick, keep } => {
                if let Some(message) = take(&mut self.to_destination, pick, keep) {
                    self.destination_hears(message);
                }
            }
            H::LoseToSource { pick } => drop(take(&mut self.to_source, pick, false)),
            H::LoseToDestination { pick } => drop(take(&mut self.to_destination, pick, false)),
            H::BeginRead => {
                if matches!(self.destination, DestinationPhase::Pulling(_)) && !self.reading {
                    match self.is_sending() {
                        true => self.reading = true,
                        false => self.give_up(),
                    }
                }
            }
            H::EndRead => self.end_read(),
            H::Verify { matches } => self.verify(matches),
            H::SourceAborts => self.source_ends(SourceEvent::Aborted),
            H::LeaseExpires => self.source_ends(SourceEvent::LeaseExpired),
            H::LinkCloses => {
                if !matches!(self.source, SourcePhase::Offered(_)) {
                    self.source_must(SourceEvent::LinkClosed);
                }
            }
            H::DestinationGivesUp => self.give_up(),
            H::Drain => {
                if !self.reading && self.filled().is_none() {
                    self.source_must(SourceEvent::ReadsDrained);
                }
            }
        }
    }

    fn source_must(&mut self, event: SourceEvent) {
        self.source = self
            .source
            .after(event)
            .expect("legal in every phase it is drawn in");
    }

    /// Only an end that decides is told to the destination.
    fn source_ends(&mut self, event: SourceEvent) {
        if self.filled().is_some() {
            self.to_destination.push(ToDestination::Abort);
        }
        self.source_must(event);
    }

    fn fill(&mut self, count: u32) {
        let Some(filled) = self.filled() else { return };
        let count = count.min(TOTAL - filled.ready);
        let last = filled.ready + count == TOTAL && !filled.complete;
        if count > 0 || last {
            self.source_must(SourceEvent::Filled {
                first_index: filled.ready,
                count,
                last,
            });
        }
    }

    fn announce(&mut self, count: u32) {
        let (Some(filled), true) = (self.filled(), self.is_sending()) else {
            return;
        };
        let waiting = filled.ready.saturating_sub(self.next_index);
        let count = count.min(waiting);
        let last = filled.complete && count == waiting && !self.last_announced;
        if count == 0 && !last {
            return;
        }
        let ready = DestinationEvent::Ready {
            chunk: self.chunks,
            first_index: self.next_index,
            count,
            last,
        };
        self.to_destination.push(ToDestination::Frame(ready));
        self.chunks += 1;
        self.next_index += count;
        self.last_announced |= last;
    }

    fn source_hears(&mut self, message: ToSource) {
        match message {
            // A second one is refused.
            ToSource::Attach => self.source = self.source.after(SourceEvent::Attached).unwrap_or(self.source),
            ToSource::Release(outcome) => {
                let stepped = self.source.after(SourceEvent::Released(outcome));
                let won = stepped.is_ok_and(|next| next.end() == Some(SourceEnd::Released(outcome)));
                self.source = stepped.unwrap_or(self.source);
                self.to_destination
                    .push(ToDestination::Frame(DestinationEvent::Settled { won }));
            }
        }
    }

    fn destination_hears(&mut self, message: ToDestination) {
        let releasing = matches!(self.destination, DestinationPhase::Releasing(_));
        let event = match message {
            ToDestination::Frame(event) => event,
            ToDestination::Abort if releasing => DestinationEvent::Settled { won: false },
            ToDestination::Abort => return self.give_up(),
        };
        match self.destination.after(event) {
            Ok(next) => self.destination = next,
            // The peer broke the protocol, as far as this side can see.
            Err(_) => self.give_up(),
        }
    }

    fn give_up(&mut self) {
        let told = self.destination.is_over() || matches!(self.destination, DestinationPhase::Releasing(_));
        let event = DestinationEvent::GaveUp {
            reading: self.reading && !told,
        };
        self.destination = self
            .destination
            .after(event)
            .expect("giving up is legal in every phase");
        if !told {
            self.to_source.push(ToSource::Release(ReleaseOutcome::Abort));
        }
    }

    fn end_read(&mut self) {
        if !std::mem::take(&mut self.reading) {
            return;
        }
        let quarantined = matches!(self.destination, DestinationPhase::Quarantined(_));
        let event = if quarantined {
            DestinationEvent::ReadsDrained
        } else {
            DestinationEvent::BlocksRead
        };
        self.destination = self
            .destination
            .after(event)
            .expect("only a pull under way reads");
    }

    fn verify(&mut self, matches: bool) {
        let DestinationPhase::Verifying(chunk) = self.destination else {
            return;
        };
        let event = if matches {
            DestinationEvent::Verified
        } else {
            DestinationEvent::Mismatched
        };
        self.verified += if matches { chunk.count } else { 0 };
        self.mismatched |= !matches;
        self.destination = self.destination.after(event).expect("a verdict follows a read");
        if let DestinationPhase::Releasing(outcome) = self.destination {
            self.to_source.push(ToSource::Release(outcome));
        }
    }

    fn check(&self) -> Result<(), TestCaseError> {
        if self.source.end() == Some(SourceEnd::Released(ReleaseOutcome::Ok)) {
            prop_assert!(
                self.verified == TOTAL && !self.mismatched,
                "ok means that every block was verified"
            );
        }
        if self.source.is_ended() {
            prop_assert!(!self.reading, "blocks were freed under a read");
        }
        if let DestinationPhase::Released { outcome, settlement } = self.destination {
            prop_assert!(!self.reading, "destination blocks were given back under a read");
            let ours = Some(SourceEnd::Released(outcome));
            match settlement {
                Settlement::Won => prop_assert_eq!(self.source.end(), ours),
                Settlement::Superseded => {
                    prop_assert!(self.source.end().is_some() && self.source.end() != ours);
                }
                Settlement::Unanswered => {}
            }
        }
        Ok(())
    }

    /// Silence on both sides ends everything.
    fn heal(&mut self) {
        self.give_up();
        self.end_read();
        self.happen(Happening::LeaseExpires);
        self.happen(Happening::Drain);
    }
}

/// A message on its way; `keep` leaves it there, so that it comes again.
fn take<Message: Copy>(queue: &mut Vec<Message>, pick: usize, keep: bool) -> Option<Message> {
    let index = pick.checked_rem(queue.len())?;
    Some(if keep { queue[index] } else { queue.remove(index) })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn the_two_sides_never_contradict_one_another(
        first_needed in 0..=TOTAL,
        happenings in prop::collection::vec(happenings(), 1..80),
    ) {
        let mut world = World::new(first_needed);
        for happening in happenings {
            let before = world.source;
            world.happen(happening);
            prop_assert!(before.end().is_none() || before.end() == world.source.end(), "an end changed");
            prop_assert!(!before.is_ended() || world.source.is_ended(), "freed blocks were taken again");
            world.check()?;
        }
        world.heal();
        world.check()?;
        prop_assert!(world.source.is_ended());
        let over = matches!(world.destination, DestinationPhase::Released { .. });
        prop_assert!(over, "{:?}", world.destination);
    }
}

#[test]
fn an_undisturbed_hand_off_ends_ok_on_both_sides() {
    use Happening as H;
    let mut world = World::new(0);
    let deliver = H::DeliverToDestination { pick: 0, keep: false };
    world.happen(H::DeliverToSource { pick: 0, keep: false });
    world.happen(deliver);
    for _ in 0..2 {
        for step in [
            H::Fill { count: 3 },
            H::Announce { count: 3 },
            deliver,
            H::BeginRead,
            H::EndRead,
        ] {
            world.happen(step);
        }
        world.happen(H::Verify { matches: true });
    }
    world.happen(H::DeliverToSource { pick: 0, keep: false });
    world.happen(deliver);
    world.happen(H::Drain);
    assert_eq!(
        world.source,
        SourcePhase::Ended(SourceEnd::Released(ReleaseOutcome::Ok))
    );
    let outcome = ReleaseOutcome::Ok;
    assert_eq!(
        world.destination,
        DestinationPhase::Released {
            outcome,
            settlement: Settlement::Won
        }
    );
}
