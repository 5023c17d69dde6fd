//! One measurement: a load, kept up for a while.

mod alarm;
mod arrivals;
mod phase;
mod runner;

use std::time::Duration;

use crate::recorder::{Recorder, Tally};
use crate::watch::Watch;

pub use self::alarm::Alarm;
pub use self::arrivals::Load;
pub(crate) use self::phase::Phase;
pub use self::runner::StopSignal;
pub(crate) use self::runner::{Session, Snapshot};

/// What is measured, and for how long.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Round {
    /// The load that is offered.
    pub load: Load,
    /// Under load, and not measured.
    pub warm_up: Duration,
    /// When measuring ends: the earlier of both. At least one is given.
    pub duration: Option<Duration>,
    /// Requests measured.
    pub requests: Option<u64>,
    /// Requests sent and not ended at most; in an open loop, more have to wait.
    pub max_in_flight: u32,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct RoundResult {
    pub(crate) load: Load,
    /// How long was measured.
    pub(crate) window: Duration,
    /// Everything that came in that time, also of requests that had begun before it or ended after it.
    pub(crate) in_window: Flow,
    /// The requests that were due in that time, whenever they ended.
    pub(crate) recorder: Recorder,
    /// Requests that were due in that time and had not ended when everything was stopped.
    pub(crate) unfinished: u64,
    /// Requests that were due in that time and had to wait so long that they were never sent.
    pub(crate) never_sent: u64,
    /// Most requests in flight at once in that time.
    pub(crate) most_in_flight: u64,
    pub(crate) watched: Vec<Watch>,
    pub(crate) was_stopped: bool,
}

/// What came in a time.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Flow {
    /// Requests that ended.
    pub(crate) ended: Tally,
    /// Chunks with content that came in streams, ended or not.
    pub(crate) stream_chunks: u64,
    /// What this program itself used.
    pub(crate) own_cpu_s: f64,
}

impl RoundResult {
    /// Output tokens that came in the window. Streams are counted by chunks, at the tokens per chunk of those that ended.
    pub(crate) fn output_tokens_in_window(&self) -> f64 {
        if self.in_window.stream_chunks == 0 {
            return self.in_window.ended.output_tokens as f64;
        }
        self.in_window.stream_chunks as f64 * self.tokens_per_chunk()
    }

    /// Tokens of a chunk on average.
    pub(crate) fn tokens_per_chunk(&self) -> f64 {
        let tally = &self.recorder.tally;
        if tally.chunks == 0 {
            return 1.0;
        }
        tally.output_tokens as f64 / tally.chunks as f64
    }

    /// Requests that were due, whatever became of them.
    pub(crate) fn due(&self) -> u64 {
        let tally = &self.recorder.tally;
        tally.completed + tally.failed + self.unfinished + self.never_sent
    }
}
