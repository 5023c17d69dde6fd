//! The life of a sequence inside one scheduler.
//!
//! A sequence that is finished has no phase: it is no longer here.

use crate::AfterFirstToken;

/// Where a sequence is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// In the queue, without blocks.
    Waiting {
        /// Once it runs.
        then: AfterFirstToken,
    },
    /// Its blocks are reserved, their contents are on the way from another worker.
    AwaitingKv,
    /// It has blocks and is planned whenever there is room in a step.
    Running {
        /// `Hold` until its first token is drawn, when it is bound for a hand-off.
        then: AfterFirstToken,
    },
    /// Its first token is drawn and its blocks are being handed off.
    Holding,
    /// No token can follow, by its length or because a draw failed. Keeps its blocks until the caller finishes it.
    Ended,
}

/// How a sequence goes on once its KV has arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AfterKv {
    /// One drawn token came along: it is the next to be computed.
    Decode,
    /// None or several came along: what is missing is computed like a prompt.
    Recompute,
    /// What came along fills it to its length.
    LengthReached,
}

/// What can happen to a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PhaseEvent {
    /// It got blocks for all its tokens.
    Admitted,
    /// Its blocks were filled by a transfer.
    KvArrived(AfterKv),
    /// The transfer failed.
    KvFailed {
        /// The drawn tokens that came along fill it to its length.
        length_reached: bool,
    },
    /// Its blocks went to another one.
    Preempted,
    /// A token was drawn.
    TokenDrawn {
        /// Its length is reached.
        is_last: bool,
    },
    /// All its tokens are computed, and none is to be drawn.
    PromptDone,
    /// There was nothing to draw from.
    DrawFailed,
    /// The hand-off did not work out: it goes on here.
    Resumed,
}

/// An event in a phase where it cannot happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{event:?} is illegal in {phase:?}")]
pub struct IllegalStep {
    /// The phase, which stays.
    pub phase: Phase,
    /// The event.
    pub event: PhaseEvent,
}

impl Phase {
    /// The phase after `event`.
    ///
    /// # Errors
    /// When the event cannot happen in this phase.
    pub fn after(self, event: PhaseEvent) -> Result<Self, IllegalStep> {
        use AfterFirstToken::{Continue, Hold};
        use {Phase as P, PhaseEvent as E};
        Ok(match (self, event) {
            (P::Waiting { then }, E::Admitted) => P::Running { then },
            (P::AwaitingKv, E::KvArrived(AfterKv::Decode)) => P::Running { then: Continue },
            (
                P::AwaitingKv,
                E::KvArrived(AfterKv::Recompute)
                | E::KvFailed {
                    length_reached: false,
                },
            ) => P::Waiting { then: Continue },
            (P::AwaitingKv, E::KvArrived(AfterKv::LengthReached) | E::KvFailed { length_reached: true }) => {
                P::Ended
            }
            // Only a sequence that stays here may be preempted: what was sent away cannot be taken back.
            (P::Running { then: Continue }, E::Preempted) => P::Waiting { then: Continue },
            (P::Running { then: Continue }, E::TokenDrawn { is_last: false }) => {
                P::Running { then: Continue }
            }
            (P::Running { then: Hold }, E::TokenDrawn { is_last: false }) => P::Holding,
            (P::Running { then: Continue }, E::PromptDone)
            | (P::Running { .. }, E::TokenDrawn { is_last: true } | E::DrawFailed) => P::Ended,
            (P::Holding, E::Resumed) => P::Running { then: Continue },
            (
                P::Waiting { .. },
                E::KvArrived(_)
                | E::KvFailed { .. }
                | E::Preempted
                | E::TokenDrawn { .. }
                | E::PromptDone
                | E::DrawFailed
                | E::Resumed,
            )
            | (
                P::AwaitingKv,
                E::Admitted
                | E::Preempted
                | E::TokenDrawn { .. }
                | E::PromptDone
                | E::DrawFailed
                | E::Resumed,
            )
            | (P::Running { then: Hold }, E::Preempted | E::PromptDone)
            | (P::Running { .. }, E::Admitted | E::KvArrived(_) | E::KvFailed { .. } | E::Resumed)
            | (
                P::Holding,
                E::Admitted
                | E::KvArrived(_)
                | E::KvFailed { .. }
                | E::Preempted
                | E::TokenDrawn { .. }
                | E::PromptDone
                | E::DrawFailed,
            )
            | (
                P::Ended,
                E::Admitted
                | E::KvArrived(_)
                | E::KvFailed { .. }
                | E::Preempted
                | E::TokenDrawn { .. }
                | E::PromptDone
                | E::DrawFailed
                | E::Resumed,
            ) => {
                return Err(IllegalStep { phase: self, event });
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use AfterFirstToken::{Continue, Hold};

    #[test]
    fn a_sequence_bound_for_hand_off_is_never_preempted() {
        assert!(
            Phase::Running { then: Hold }
                .after(PhaseEvent::Preempted)
                .is_err()
        );
    }

    #[test]
    fn a_first_token_holds_only_what_shall_be_handed_off() {
        let drawn = PhaseEvent::TokenDrawn { is_last: false };
        assert_eq!(Phase::Running { then: Hold }.after(drawn), Ok(Phase::Holding));
        let on = Phase::Running { then: Continue };
        assert_eq!(on.after(drawn), Ok(on));
        assert_eq!(
            Phase::Running { then: Hold }.after(PhaseEvent::TokenDrawn { is_last: true }),
            Ok(Phase::Ended)
        );
    }

    #[test]
    fn a_token_before_its_kv_is_illegal() {
        let drawn = PhaseEvent::TokenDrawn { is_last: false };
        assert_eq!(
            Phase::AwaitingKv.after(drawn),
            Err(IllegalStep {
                phase: Phase::AwaitingKv,
                event: drawn
            })
        );
    }

    #[test]
    fn a_preempted_sequence_is_not_held_again() {
        let waiting = Phase::Running { then: Continue }
            .after(PhaseEvent::Preempted)
            .unwrap();
        assert_eq!(
            waiting.after(PhaseEvent::Admitted),
            Ok(Phase::Running { then: Continue })
        );
    }
}
