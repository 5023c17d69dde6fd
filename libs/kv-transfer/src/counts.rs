//! What an endpoint has done since it began, for metrics.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::{PullErrorKind, SourceEnd, frames::ReleaseOutcome};

/// Totals since the endpoint began.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TransferCounts {
    /// Ended hand-offs as source, by how they ended: `ok`, `bad_checksum`, `aborted`, `expired`, `lost`, ….
    pub hand_offs: BTreeMap<&'static str, u64>,
    /// From opening to the end, summed over [`hand_offs`](Self::hand_offs).
    pub hand_off_time: Duration,
    /// Destinations refused.
    pub refused: u64,
    /// Ended pulls, by how they ended: `ok`, `dropped`, or why they failed.
    pub pulls: BTreeMap<&'static str, u64>,
    /// From the call to the result, summed over [`pulls`](Self::pulls).
    pub pull_time: Duration,
    /// Of that, the time in which block bytes were on their way.
    pub read_time: Duration,
    /// Bytes of blocks that arrived here and were verified.
    pub pulled_bytes: u64,
}

impl TransferCounts {
    pub(crate) fn hand_off_ended(&mut self, end: SourceEnd, took: Duration) {
        *self.hand_offs.entry(end.label()).or_default() += 1;
        self.hand_off_time += took;
    }

    pub(crate) fn pull_ended(&mut self, label: &'static str, took: Duration) {
        *self.pulls.entry(label).or_default() += 1;
        self.pull_time += took;
    }
}

impl SourceEnd {
    /// The name used in logs and metric labels.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Released(ReleaseOutcome::Ok) => "ok",
            Self::Released(ReleaseOutcome::Abort) => "released_abort",
            Self::Released(ReleaseOutcome::BadChecksum) => "bad_checksum",
            Self::Aborted => "aborted",
            Self::Expired => "expired",
            Self::Lost => "lost",
        }
    }
}

impl PullErrorKind {
    /// The name used in logs and metric labels.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::InvalidOrder => "invalid_order",
            Self::Full => "full",
            Self::Unreachable => "unreachable",
            Self::Refused(_) => "refused",
            Self::Aborted => "aborted",
            Self::Stalled => "stalled",
            Self::LinkLost => "link_lost",
            Self::BadChecksum => "bad_checksum",
            Self::Protocol => "protocol",
            Self::Superseded => "superseded",
            Self::Unconfirmed => "unconfirmed",
        }
    }
}
