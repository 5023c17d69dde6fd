//! The life of one hand-off at its source.

use crate::frames::ReleaseOutcome;

/// How much of the sequence has been announced by the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filled {
    /// Blocks announced, counted from the front.
    pub ready: u32,
    /// Blocks of the sequence.
    pub total: u32,
    /// The last chunk, with its state, was announced.
    pub complete: bool,
}

impl Filled {
    /// Nothing announced of `total` blocks.
    #[must_use]
    pub const fn none_of(total: u32) -> Self {
        Self {
            ready: 0,
            total,
            complete: false,
        }
    }

    /// The same with `count` more blocks, or `None` when they do not follow, are too many, or are called the
    /// last without being so.
    fn grown(self, first_index: u32, count: u32, last: bool) -> Option<Self> {
        let ready = self.ready.checked_add(count)?;
        let fits = !self.complete && first_index == self.ready && ready <= self.total;
        let last_is_last = !last || ready == self.total;
        (fits && last_is_last).then_some(Self {
            ready,
            total: self.total,
            complete: last,
        })
    }
}

/// How a hand-off ended for its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceEnd {
    /// The destination released it.
    Released(ReleaseOutcome),
    /// Withdrawn here.
    Aborted,
    /// The lease ran out.
    Expired,
    /// The link broke before a RELEASE.
    Lost,
}

/// Where a hand-off stands at its source. The blocks belong to the hand-off until `Ended`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourcePhase {
    /// A ticket is out; nobody has redeemed it.
    Offered(Filled),
    /// A destination is attached and reads.
    Sending(Filled),
    /// Decided; no new read begins, but one may still run.
    Closing(SourceEnd),
    /// Over: nobody can read the blocks any more.
    Ended(SourceEnd),
}

/// What happens to a hand-off at its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceEvent {
    /// A destination redeemed the ticket.
    Attached,
    /// The engine completed blocks.
    Filled {
        /// Index of the first one.
        first_index: u32,
        /// How many.
        count: u32,
        /// Nothing follows.
        last: bool,
    },
    /// RELEASE of this request and attempt arrived.
    Released(ReleaseOutcome),
    /// The caller withdrew.
    Aborted,
    /// No sign of life for a whole lease, or the hand-off took longer than any may.
    LeaseExpired,
    /// The link is gone.
    LinkClosed,
    /// No read runs any more.
    ReadsDrained,
}

/// An event that cannot happen in this phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{event:?} is illegal in {phase:?}")]
pub struct IllegalSourceStep {
    /// Where it stood.
    pub phase: SourcePhase,
    /// What came.
    pub event: SourceEvent,
}

impl SourcePhase {
    /// The phase after `event`. The first end wins: whatever comes later changes nothing.
    ///
    /// # Errors
    /// [`IllegalSourceStep`] when the event cannot happen here.
    pub fn after(self, event: SourceEvent) -> Result<Self, IllegalSourceStep> {
        use {SourceEvent as E, SourcePhase as P};
        let illegal = IllegalSourceStep { phase: self, event };
        Ok(match (self, event) {
            (P::Offered(filled), E::Attached) => P::Sending(filled),
            (
                P::Offered(filled),
                E::Filled {
                    first_index,
                    count,
                    last,
                },
            ) => P::Offered(filled.grown(first_index, count, last).ok_or(illegal)?),
            (
                P::Sending(filled),
                E::Filled {
                    first_index,
                    count,
                    last,
                },
            ) => P::Sending(filled.grown(first_index, count, last).ok_or(illegal)?),
            // "All arrived" before all was announced is a lie.
            (P::Sending(filled), E::Released(ReleaseOutcome::Ok)) if !filled.complete => return Err(illegal),
            (P::Sending(_), E::Released(outcome)) => P::Closing(SourceEnd::Released(outcome)),
            (P::Offered(_) | P::Sending(_), E::Aborted) => P::Closing(SourceEnd::Aborted),
            (P::Offered(_) | P::Sending(_), E::LeaseExpired) => P::Closing(SourceEnd::Expired),
            (P::Sending(_), E::LinkClosed) => P::Closing(SourceEnd::Lost),
            (P::Closing(end), E::ReadsDrained) => P::Ended(end),
            // The engine may not know yet, a RELEASE may come twice, and a link closes after everything.
            (
                P::Closing(_),
                E::Filled { .. } | E::Released(_) | E::Aborted | E::LeaseExpired | E::LinkClosed,
            ) => self,
            (
                P::Ended(_),
                E::Filled { .. }
                | E::Released(_)
                | E::Aborted
                | E::LeaseExpired
                | E::LinkClosed
                | E::ReadsDrained,
            ) => self,
            (P::Offered(_), E::Released(_) | E::LinkClosed | E::ReadsDrained)
            | (P::Sending(_), E::Attached | E::ReadsDrained)
            | (P::Closing(_) | P::Ended(_), E::Attached) => return Err(illegal),
        })
    }

    /// How it ended, once that is decided.
    #[must_use]
    pub fn end(self) -> Option<SourceEnd> {
        match self {
            Self::Offered(_) | Self::Sending(_) => None,
            Self::Closing(end) | Self::Ended(end) => Some(end),
        }
    }

    /// Whether the blocks are free again.
    #[must_use]
    pub fn is_ended(self) -> bool {
        matches!(self, Self::Ended(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(events: &[SourceEvent]) -> Result<SourcePhase, IllegalSourceStep> {
        let start = SourcePhase::Offered(Filled::none_of(3));
        events.iter().try_fold(start, |phase, event| phase.after(*event))
    }

    const ALL: SourceEvent = SourceEvent::Filled {
        first_index: 0,
        count: 3,
        last: true,
    };
    const OK: SourceEvent = SourceEvent::Released(ReleaseOutcome::Ok);

    #[test]
    fn blocks_are_free_only_after_release_and_drained_reads() {
        let closing = run(&[SourceEvent::Attached, ALL, OK]).unwrap();
        assert_eq!(
            closing,
            SourcePhase::Closing(SourceEnd::Released(ReleaseOutcome::Ok))
        );
        assert!(!closing.is_ended());
        assert!(closing.after(SourceEvent::ReadsDrained).unwrap().is_ended());
    }

    #[test]
    fn blocks_announced_before_anybody_attached_are_kept() {
        assert!(run(&[ALL, SourceEvent::Attached, OK]).is_ok());
    }

    #[test]
    fn a_release_before_anybody_attached_is_illegal() {
        assert!(run(&[ALL, OK]).is_err());
    }

    #[test]
    fn an_ok_before_everything_was_announced_is_illegal() {
        let part = SourceEvent::Filled {
            first_index: 0,
            count: 2,
            last: false,
        };
        assert!(run(&[SourceEvent::Attached, part, OK]).is_err());
        let bad = SourceEvent::Released(ReleaseOutcome::BadChecksum);
        assert!(run(&[SourceEvent::Attached, part, bad]).is_ok());
    }

    #[test]
    fn a_ticket_attaches_once() {
        assert!(run(&[SourceEvent::Attached, SourceEvent::Attached]).is_err());
        assert!(run(&[SourceEvent::Aborted, SourceEvent::Attached]).is_err());
    }

    #[test]
    fn the_first_end_wins() {
        let expired = run(&[SourceEvent::Attached, ALL, SourceEvent::LeaseExpired, OK]).unwrap();
        assert_eq!(expired.end(), Some(SourceEnd::Expired));
        let released = run(&[SourceEvent::Attached, ALL, OK, SourceEvent::Aborted]).unwrap();
        assert_eq!(released.end(), Some(SourceEnd::Released(ReleaseOutcome::Ok)));
    }

    #[test]
    fn gaps_overlaps_and_early_lasts_are_illegal() {
        for (first_index, count, last) in [(1, 1, false), (0, 4, false), (0, 2, true), (0, u32::MAX, false)] {
            assert!(
                run(&[SourceEvent::Filled {
                    first_index,
                    count,
                    last
                }])
                .is_err()
            );
        }
        let again = SourceEvent::Filled {
            first_index: 3,
            count: 0,
            last: true,
        };
        assert!(run(&[ALL, again]).is_err());
    }

    #[test]
    fn blocks_announced_late_change_nothing() {
        assert_eq!(
            run(&[SourceEvent::Aborted, ALL]).unwrap().end(),
            Some(SourceEnd::Aborted)
        );
    }
}
