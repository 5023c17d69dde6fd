//! The life of one hand-off at its destination.

use crate::frames::ReleaseOutcome;

/// What has been verified so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Chunk expected next.
    pub next_chunk: u32,
    /// Index, in the sequence, of the block expected next.
    pub next_index: u32,
    /// Blocks of the sequence.
    pub total: u32,
}

/// A chunk at work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// What was verified before it.
    pub before: Progress,
    /// Its blocks.
    pub count: u32,
    /// Nothing follows.
    pub last: bool,
}

impl Chunk {
    fn verified(self) -> Progress {
        Progress {
            next_chunk: self.before.next_chunk + 1,
            next_index: self.before.next_index + self.count,
            total: self.before.total,
        }
    }
}

/// Whether the source took note of our RELEASE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// It decided the hand-off.
    Won,
    /// The hand-off had ended before in another way.
    Superseded,
    /// No answer came, or none was waited for.
    Unanswered,
}

impl Settlement {
    const fn of(won: bool) -> Self {
        if won { Self::Won } else { Self::Superseded }
    }
}

/// Where a hand-off stands at its destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DestinationPhase {
    /// The ticket is sent; the source has not answered.
    Opened(Progress),
    /// Waits for the next READY.
    Waiting(Progress),
    /// A chunk's bytes are being read.
    Pulling(Chunk),
    /// A chunk's checksums are being compared.
    Verifying(Chunk),
    /// RELEASE is sent; waits for the answer.
    Releasing(ReleaseOutcome),
    /// Over, but a read may still write into the destination blocks.
    Quarantined(ReleaseOutcome),
    /// Over; the destination blocks belong to the caller.
    Released {
        /// What was said to the source.
        outcome: ReleaseOutcome,
        /// Whether it took note.
        settlement: Settlement,
    },
}

/// What happens to a hand-off at its destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DestinationEvent {
    /// The source answered our HELLO.
    Welcomed,
    /// READY arrived.
    Ready {
        /// Its number.
        chunk: u32,
        /// Index of its first block.
        first_index: u32,
        /// Its blocks.
        count: u32,
        /// Nothing follows.
        last: bool,
    },
    /// The chunk's bytes are here.
    BlocksRead,
    /// The chunk's checksums match.
    Verified,
    /// A checksum does not match.
    Mismatched,
    /// The caller left, the source was silent, withdrew or is gone, or it broke the protocol.
    GaveUp {
        /// A read was begun and may still write.
        reading: bool,
    },
    /// SETTLED arrived.
    Settled {
        /// Our RELEASE was the first word.
        won: bool,
    },
    /// No read writes any more.
    ReadsDrained,
}

/// An event that cannot happen in this phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{event:?} is illegal in {phase:?}")]
pub struct IllegalDestinationStep {
    /// Where it stood.
    pub phase: DestinationPhase,
    /// What came.
    pub event: DestinationEvent,
}

impl DestinationPhase {
    /// A new hand-off of `total` blocks of which those before `first_needed` are not wanted.
    #[must_use]
    pub const fn opened(first_needed: u32, total: u32) -> Self {
        Self::Opened(Progress {
            next_chunk: 0,
            next_index: first_needed,
            total,
        })
    }

    /// The phase after `event`.
    ///
    /// # Errors
    /// [`IllegalDestinationStep`] when the event cannot happen here; from a peer's frame that means that the
    /// peer broke the protocol.
    pub fn after(self, event: DestinationEvent) -> Result<Self, IllegalDestinationStep> {
        use {DestinationEvent as E, DestinationPhase as P};
        let illegal = IllegalDestinationStep { phase: self, event };
        Ok(match (self, event) {
            (P::Opened(progress), E::Welcomed) => P::Waiting(progress),
            (
                P::Waiting(progress),
                E::Ready {
                    chunk,
                    first_index,
                    count,
                    last,
                },
            ) => {
                if chunk < progress.next_chunk {
                    return Ok(self);
                }
                P::Pulling(next_chunk(progress, chunk, first_index, count, last).ok_or(illegal)?)
            }
            (P::Pulling(chunk), E::BlocksRead) => P::Verifying(chunk),
            (P::Verifying(chunk), E::Verified) if chunk.last => P::Releasing(ReleaseOutcome::Ok),
            (P::Verifying(chunk), E::Verified) => P::Waiting(chunk.verified()),
            (P::Verifying(_), E::Mismatched) => P::Releasing(ReleaseOutcome::BadChecksum),
            (P::Pulling(_), E::GaveUp { reading: true }) => P::Quarantined(ReleaseOutcome::Abort),
            (
                P::Opened(_) | P::Waiting(_) | P::Pulling(_) | P::Verifying(_),
                E::GaveUp { reading: false },
            ) => released(ReleaseOutcome::Abort, Settlement::Unanswered),
            (P::Releasing(outcome), E::Settled { won }) => released(outcome, Settlement::of(won)),
            (P::Releasing(outcome), E::GaveUp { reading: false }) => {
                released(outcome, Settlement::Unanswered)
            }
            (P::Quarantined(outcome), E::ReadsDrained) => released(outcome, Settlement::Unanswered),
            // The same READY twice, or one that was on its way when we decided.
            (P::Pulling(at) | P::Verifying(at), E::Ready { chunk, .. }) if chunk <= at.before.next_chunk => {
                self
            }
            (P::Waiting(_) | P::Pulling(_) | P::Verifying(_) | P::Releasing(_), E::Welcomed)
            | (P::Releasing(_), E::Ready { .. })
            | (P::Quarantined(_), E::Welcomed | E::Ready { .. } | E::Settled { .. } | E::GaveUp { .. })
            | (
                P::Released { .. },
                E::Welcomed | E::Ready { .. } | E::Settled { .. } | E::GaveUp { .. } | E::ReadsDrained,
            ) => self,
            (P::Opened(_), E::Ready { .. })
            | (P::Pulling(_) | P::Verifying(_), E::Ready { .. })
            | (P::Opened(_) | P::Waiting(_) | P::Verifying(_), E::BlocksRead)
            | (P::Opened(_) | P::Waiting(_) | P::Pulling(_), E::Verified | E::Mismatched)
            | (
                P::Opened(_) | P::Waiting(_) | P::Verifying(_) | P::Releasing(_),
                E::GaveUp { reading: true },
            )
            | (P::Opened(_) | P::Waiting(_) | P::Pulling(_) | P::Verifying(_), E::Settled { .. })
            | (
                P::Opened(_) | P::Waiting(_) | P::Pulling(_) | P::Verifying(_) | P::Releasing(_),
                E::ReadsDrained,
            )
            | (
                P::Releasing(_) | P::Quarantined(_) | P::Released { .. },
                E::BlocksRead | E::Verified | E::Mismatched,
            ) => return Err(illegal),
        })
    }

    /// Whether the hand-off is over, be it with blocks in quarantine.
    #[must_use]
    pub fn is_over(self) -> bool {
        match self {
            Self::Quarantined(_) | Self::Released { .. } => true,
            Self::Opened(_)
            | Self::Waiting(_)
            | Self::Pulling(_)
            | Self::Verifying(_)
            | Self::Releasing(_) => false,
        }
    }
}

const fn released(outcome: ReleaseOutcome, settlement: Settlement) -> DestinationPhase {
    DestinationPhase::Released { outcome, settlement }
}

/// The announced chunk when it is the one expected.
fn next_chunk(before: Progress, chunk: u32, first_index: u32, count: u32, last: bool) -> Option<Chunk> {
    let end = first_index.checked_add(count)?;
    let follows = chunk == before.next_chunk && first_index == before.next_index && end <= before.total;
    let says_something = count > 0 || last;
    let last_is_last = !last || end == before.total;
    (follows && says_something && last_is_last).then_some(Chunk { before, count, last })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(events: &[DestinationEvent]) -> Result<DestinationPhase, IllegalDestinationStep> {
        let start = DestinationPhase::opened(1, 3);
        events.iter().try_fold(start, |phase, event| phase.after(*event))
    }

    const fn ready(chunk: u32, first_index: u32, count: u32, last: bool) -> DestinationEvent {
        DestinationEvent::Ready {
            chunk,
            first_index,
            count,
            last,
        }
    }

    use DestinationEvent::{BlocksRead, GaveUp, Mismatched, ReadsDrained, Settled, Verified, Welcomed};

    #[test]
    fn chunks_in_order_lead_to_one_release() {
        let events = [
            Welcomed,
            ready(0, 1, 1, false),
            BlocksRead,
            Verified,
            ready(1, 2, 1, true),
            BlocksRead,
            Verified,
        ];
        let releasing = run(&events).unwrap();
        assert_eq!(releasing, DestinationPhase::Releasing(ReleaseOutcome::Ok));
        let released = releasing.after(Settled { won: true }).unwrap();
        let outcome = ReleaseOutcome::Ok;
        assert_eq!(
            released,
            DestinationPhase::Released {
                outcome,
                settlement: Settlement::Won
            }
        );
    }

    #[test]
    fn the_last_state_may_come_without_blocks() {
        let events = [
            Welcomed,
            ready(0, 1, 2, false),
            BlocksRead,
            Verified,
            ready(1, 3, 0, true),
            BlocksRead,
            Verified,
        ];
        assert_eq!(
            run(&events).unwrap(),
            DestinationPhase::Releasing(ReleaseOutcome::Ok)
        );
    }

    #[test]
    fn gaps_overruns_and_empty_chunks_break_the_protocol() {
        for bad in [
            ready(1, 1, 1, false),
            ready(0, 2, 1, true),
            ready(0, 0, 3, true),
            ready(0, 1, 3, true),
            ready(0, 1, 1, true),
            ready(0, 1, 0, false),
            ready(0, 1, u32::MAX, false),
        ] {
            assert!(run(&[Welcomed, bad]).is_err(), "{bad:?}");
        }
        assert!(
            run(&[ready(0, 1, 2, true)]).is_err(),
            "READY before the source accepted"
        );
    }

    #[test]
    fn a_ready_seen_before_changes_nothing() {
        let first = ready(0, 1, 1, false);
        let waiting = run(&[Welcomed, first, BlocksRead, Verified]).unwrap();
        assert_eq!(waiting.after(first), Ok(waiting));
    }

    #[test]
    fn a_late_ready_after_giving_up_changes_nothing() {
        let over = run(&[Welcomed, GaveUp { reading: false }]).unwrap();
        assert_eq!(over.after(ready(0, 1, 2, true)), Ok(over));
    }

    #[test]
    fn a_wrong_checksum_is_released_as_such() {
        let phase = run(&[Welcomed, ready(0, 1, 1, false), BlocksRead, Mismatched]).unwrap();
        assert_eq!(phase, DestinationPhase::Releasing(ReleaseOutcome::BadChecksum));
    }

    #[test]
    fn blocks_of_an_abandoned_read_are_quarantined_until_it_ends() {
        let quarantined = run(&[Welcomed, ready(0, 1, 1, false), GaveUp { reading: true }]).unwrap();
        assert_eq!(quarantined, DestinationPhase::Quarantined(ReleaseOutcome::Abort));
        let released = quarantined.after(ReadsDrained).unwrap();
        assert!(matches!(released, DestinationPhase::Released { .. }));
    }

    #[test]
    fn a_settled_nobody_asked_for_is_illegal() {
        assert!(run(&[Welcomed, Settled { won: true }]).is_err());
    }
}
