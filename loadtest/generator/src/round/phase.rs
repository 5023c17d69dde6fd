//! From warming up to the end of a round.

use tokio::time::Instant;

/// Where a round is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Under load; nothing counts.
    WarmUp {
        /// When measuring begins.
        until: Instant,
    },
    /// Requests that are due count.
    Measuring {
        /// When the last one is due.
        until: Option<Instant>,
        /// How many more may be sent.
        left: Option<u64>,
    },
    /// Everything is sent; what counts is waited for.
    Draining,
}

/// What happens to a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// The end of the phase's time has come.
    TimeUp,
    /// A request was sent.
    Sent,
}

impl Phase {
    /// The first phase. Without a warm-up, measuring begins at the first time-up all the same.
    pub(crate) const fn begin(until: Instant) -> Self {
        Self::WarmUp { until }
    }

    /// When [`Event::TimeUp`] comes.
    pub(crate) const fn time_up(&self) -> Option<Instant> {
        match self {
            Self::WarmUp { until } => Some(*until),
            Self::Measuring { until, .. } => *until,
            Self::Draining => None,
        }
    }

    /// Whether requests are sent.
    pub(crate) const fn sends(&self) -> bool {
        match self {
            Self::WarmUp { .. } | Self::Measuring { .. } => true,
            Self::Draining => false,
        }
    }

    /// The phase after this event. `measuring` is what follows the warm-up.
    pub(crate) const fn after(self, event: Event, measuring: Self) -> Self {
        match (self, event) {
            (Self::WarmUp { .. }, Event::TimeUp) => measuring,
            (Self::Measuring { .. }, Event::TimeUp) => Self::Draining,
            (Self::Measuring { left: Some(1), .. }, Event::Sent) => Self::Draining,
            (
                Self::Measuring {
                    until,
                    left: Some(left),
                },
                Event::Sent,
            ) => Self::Measuring {
                until,
                left: Some(left - 1),
            },
            (Self::WarmUp { .. } | Self::Measuring { left: None, .. } | Self::Draining, Event::Sent)
            | (Self::Draining, Event::TimeUp) => self,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_round_ends_when_its_time_is_up_or_its_requests_are_sent() {
        let now = Instant::now();
        let until = Some(now + Duration::from_secs(1));
        let measuring = Phase::Measuring { until, left: Some(2) };
        let begin = Phase::begin(now);
        assert_eq!(
            (begin.after(Event::Sent, measuring), begin.sends()),
            (begin, true)
        );
        assert_eq!(begin.after(Event::TimeUp, measuring), measuring);
        assert_eq!(measuring.time_up(), until);
        assert_eq!(measuring.after(Event::TimeUp, measuring), Phase::Draining);
        let one = measuring.after(Event::Sent, measuring);
        assert_eq!(one, Phase::Measuring { until, left: Some(1) });
        assert_eq!(one.after(Event::Sent, measuring), Phase::Draining);
        let endless = Phase::Measuring { until, left: None };
        assert_eq!(endless.after(Event::Sent, measuring), endless);
        assert_eq!(
            (Phase::Draining.sends(), Phase::Draining.time_up()),
            (false, None)
        );
    }
}
