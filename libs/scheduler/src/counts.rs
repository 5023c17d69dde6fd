//! Numbers for metrics and beacons.

use crate::Scheduler;

/// What a scheduler has and does at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SchedulerCounts {
    /// Sequences without blocks.
    pub waiting: u32,
    /// Sequences that are planned.
    pub running: u32,
    /// Sequences that are being handed off.
    pub holding: u32,
    /// Sequences whose KV is on the way.
    pub awaiting_kv: u32,
    /// Sequences that wait for the caller to finish them.
    pub ended: u32,
    /// Tokens of waiting sequences, and tokens of running ones that are not computed yet, those that were just drawn
    /// excepted.
    pub queued_tokens: u32,
    /// Blocks nobody holds, cached ones included.
    pub free_blocks: u32,
    /// Those of them that hold a cached prefix.
    pub cached_blocks: u32,
    /// Blocks that a transfer may still touch after their sequence is gone.
    pub quarantined_blocks: u32,
    /// All blocks.
    pub total_blocks: u32,
    /// Preemptions since the start.
    pub preemptions: u64,
}

impl SchedulerCounts {
    /// Sequences that hold blocks: what `max_running` limits.
    #[must_use]
    pub const fn active(&self) -> u32 {
        self.running + self.holding + self.awaiting_kv + self.ended
    }
}

impl Scheduler {
    /// Whether a transfer may still touch blocks of a sequence that is gone. Published ones among them are not in
    /// [`SchedulerCounts::quarantined_blocks`]: they can be shared meanwhile.
    #[must_use]
    pub fn has_quarantine(&self) -> bool {
        !self.quarantines.is_empty()
    }

    /// What it has and does now. Takes time linear in the running sequences.
    #[must_use]
    pub fn counts(&self) -> SchedulerCounts {
        let running_tokens: u64 = self
            .running
            .iter()
            .map(|slot| self.sequences[*slot].remaining_tokens())
            .filter(|remaining| *remaining > 1)
            .map(u64::from)
            .sum();
        let blocks = self.pool.counts();
        SchedulerCounts {
            waiting: count(self.waiting.len()),
            running: count(self.running.len()),
            holding: self.holding,
            awaiting_kv: self.awaiting_kv,
            ended: self.ended,
            queued_tokens: u32::try_from(self.waiting.tokens() + running_tokens).unwrap_or(u32::MAX),
            free_blocks: blocks.available(),
            cached_blocks: blocks.cached,
            quarantined_blocks: blocks.quarantined,
            total_blocks: blocks.total,
            preemptions: self.preemptions,
        }
    }
}

fn count(sequences: usize) -> u32 {
    u32::try_from(sequences).expect("limits are 32 bits wide")
}
