//! How a request ended.

use std::time::Duration;

use tokio::time::Instant;

use crate::answer::{Counted, Fault};
use crate::objectives::Times;

/// One request that ended. All times count from when it was due, not from when it was sent.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// When it should have been sent.
    pub(crate) due: Instant,
    /// How much later it was sent.
    pub(crate) send_lag: Duration,
    /// How.
    pub(crate) result: Result<Success, Failure>,
}

/// A request that was answered as it should.
#[derive(Debug)]
pub(crate) struct Success {
    /// To the first chunk with content; none when the answer was whole or empty.
    pub(crate) ttft: Option<Duration>,
    /// Between one chunk with content and the next.
    pub(crate) gaps_us: Vec<u32>,
    /// To the end of the answer.
    pub(crate) e2e: Duration,
    pub(crate) counted: Counted,
}

/// Why a request was not answered as it should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// There was no connection to be had.
    Connect(String),
    /// Nothing or not all came in time.
    Timeout,
    /// The connection ended before the answer did.
    Disconnected(String),
    /// The server refused or failed.
    Status(u16, String),
    /// The answer came with status 200 and is wrong.
    Answer(Fault),
}

impl Success {
    /// Tokens of the answer: what the server says, else one for each chunk with content.
    pub(crate) fn output_tokens(&self) -> u64 {
        let usage = self.counted.usage.map(|usage| usage.completion_tokens);
        usage
            .or(self.counted.listed_tokens)
            .unwrap_or(self.counted.chunks)
    }

    /// What objectives are held against.
    pub(crate) fn times(&self) -> Times {
        Times {
            ttft: self.ttft,
            longest_gap: self
                .gaps_us
                .iter()
                .max()
                .map(|gap_us| Duration::from_micros(u64::from(*gap_us))),
            tpot: self.tpot(),
            e2e: self.e2e,
        }
    }

    /// Mean time of each token after the first.
    fn tpot(&self) -> Option<Duration> {
        let later_tokens = self.output_tokens().checked_sub(1).filter(|tokens| *tokens > 0)?;
        let after_first = self.e2e.saturating_sub(self.ttft?);
        Some(after_first.div_f64(later_tokens as f64))
    }
}

impl Failure {
    /// A stable word for its kind.
    pub(crate) const fn kind(&self) -> &'static str {
        match self {
            Self::Connect(_) => "connect",
            Self::Timeout => "timeout",
            Self::Disconnected(_) => "disconnected",
            Self::Status(..) => "status",
            Self::Answer(Fault::NoDone) => "no_done",
            Self::Answer(Fault::NoFinishReason) => "no_finish_reason",
            Self::Answer(Fault::ErrorEvent(_)) => "error_event",
            Self::Answer(Fault::Malformed(_)) => "malformed",
        }
    }

    /// The server's status, when it was not 200.
    pub(crate) const fn status(&self) -> Option<u16> {
        match self {
            Self::Status(status, _) => Some(*status),
            Self::Connect(_) | Self::Timeout | Self::Disconnected(_) | Self::Answer(_) => None,
        }
    }

    /// What was said about it, or what it means.
    pub(crate) fn text(&self) -> &str {
        match self {
            Self::Connect(text) | Self::Disconnected(text) | Self::Status(_, text) => text,
            Self::Answer(Fault::ErrorEvent(text) | Fault::Malformed(text)) => text,
            Self::Timeout => "no whole answer in --timeout",
            Self::Answer(Fault::NoDone) => "the stream ended without [DONE]",
            Self::Answer(Fault::NoFinishReason) => "the answer has no finish_reason",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer::Usage;

    #[test]
    fn time_per_token_spreads_over_the_tokens_after_the_first() {
        let mut success = Success {
            ttft: Some(Duration::from_millis(100)),
            gaps_us: vec![10_000, 90_000, 0],
            e2e: Duration::from_millis(200),
            counted: Counted {
                chunks: 4,
                ..Counted::default()
            },
        };
        assert_eq!(success.output_tokens(), 4);
        assert_eq!(success.times().longest_gap, Some(Duration::from_millis(90)));
        success.counted.usage = Some(Usage {
            completion_tokens: 11,
            ..Usage::default()
        });
        assert_eq!(
            success.times().tpot,
            Some(Duration::from_millis(10)),
            "usage knows more"
        );
        success.counted.usage = Some(Usage {
            completion_tokens: 1,
            ..Usage::default()
        });
        assert_eq!(success.times().tpot, None);
    }
}
