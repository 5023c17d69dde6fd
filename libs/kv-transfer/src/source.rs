//! The source's handle on one hand-off, and what drives it.
//!
//! Checksums are computed here, by the driver inside [`Source::outcome`], from the source's own memory before the
//! blocks are announced: `ready` only takes note, so the engine's thread never hashes. The destination hashes its
//! own bytes after the copy. Whatever goes wrong between the two (the copy, the wire, a block that was reused too
//! early at either end) makes the sums differ.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{Mutex, mpsc};
use tokio::time::Instant;
use vlinders_types::{BlockId, Ticket};
use xxhash_rust::xxh3::xxh3_64;

use crate::endpoint::Core;
use crate::frames::{BlockSum, Frame, MAX_FRAME_BLOCKS, Ready, ReleaseOutcome};
use crate::hand_off::{Announced, HandOff, Next};
use crate::{ReadyError, SourceEnd, SourcePhase};

/// How a hand-off ended. In every case the source's blocks may be freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The destination has every block.
    Ok,
    /// The destination has the sequence, but computes the blocks itself.
    BadChecksum,
    /// Withdrawn by either side.
    Aborted,
    /// Nobody attached in time, or the destination fell silent.
    Expired,
    /// The link broke before the destination released.
    Lost,
}

impl Outcome {
    /// The name used in traces and metric labels.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::BadChecksum => "bad_checksum",
            Self::Aborted => "aborted",
            Self::Expired => "expired",
            Self::Lost => "lost",
        }
    }
}

impl From<SourceEnd> for Outcome {
    fn from(end: SourceEnd) -> Self {
        match end {
            SourceEnd::Released(ReleaseOutcome::Ok) => Self::Ok,
            SourceEnd::Released(ReleaseOutcome::BadChecksum) => Self::BadChecksum,
            SourceEnd::Released(ReleaseOutcome::Abort) | SourceEnd::Aborted => Self::Aborted,
            SourceEnd::Expired => Self::Expired,
            SourceEnd::Lost => Self::Lost,
        }
    }
}

/// One sequence on offer. Share it in an `Arc`: one task awaits [`outcome`](Self::outcome), which also does the
/// work; the engine's thread calls [`ready`](Self::ready).
///
/// Dropping it withdraws the hand-off; the blocks may then be freed after
/// [`Endpoint::quiesced`](crate::Endpoint::quiesced).
#[must_use = "the hand-off is withdrawn when this is dropped"]
pub struct Source {
    core: Arc<Core>,
    hand_off: Arc<HandOff>,
    driver: Mutex<Driver>,
}

#[derive(Default)]
struct Driver {
    announced: Announced,
    /// A chunk whose sums are being computed.
    summing: Option<Chunk>,
    /// Made, but not yet in the outbox.
    unsent: Option<Frame>,
    /// When the destination was last told something.
    spoke_at: Option<Instant>,
}

struct Chunk {
    first_index: u32,
    blocks: Vec<BlockId>,
    sums: Vec<BlockSum>,
    last: Option<Bytes>,
}

impl Source {
    pub(crate) fn new(core: Arc<Core>, hand_off: Arc<HandOff>) -> Self {
        Self {
            core,
            hand_off,
            driver: Mutex::default(),
        }
    }

    /// The right to read the blocks, for one destination.
    #[must_use]
    pub fn ticket(&self) -> Ticket {
        self.hand_off.ticket
    }

    /// Announces blocks whose bytes are complete and stay as they are until the hand-off has ended. Quick and
    /// never blocks; may be called from any thread. `last` is given exactly once, with or after the final blocks.
    /// After the hand-off has ended it changes nothing.
    ///
    /// # Errors
    /// A fault of the caller: blocks out of order, unknown, or more than were offered.
    pub fn ready(&self, first_index: u32, blocks: &[BlockId], last: Option<Bytes>) -> Result<(), ReadyError> {
        let pool_blocks = self.core.memory.block_count();
        if let Some(unknown) = blocks.iter().find(|block| block.0 >= pool_blocks) {
            return Err(ReadyError::UnknownBlock { block: unknown.0 });
        }
        self.hand_off.record(first_index, blocks, last)
    }

    /// Withdraws the hand-off, unless it is already decided. The blocks stay taken until
    /// [`outcome`](Self::outcome) says so.
    pub fn abort(&self) {
        self.hand_off.abort();
    }

    /// Where the hand-off stands.
    #[must_use]
    pub fn phase(&self) -> SourcePhase {
        self.hand_off.phase()
    }

    /// Drives the hand-off and tells how it ended; then nobody reads the blocks any more. May be dropped and
    /// called again: nothing is lost, but nothing moves in between.
    pub async fn outcome(&self) -> Outcome {
        let mut driver = self.driver.lock().await;
        loop {
            if driver.unsent.is_some() {
                self.send_unsent(&mut driver).await;
                continue;
            }
            if driver.summing.is_some() && self.phase().end().is_none() {
                driver.sum_next(&self.core, self.hand_off.ticket.number);
                // A block is up to a few MiB: others on this thread get their turn after each.
                tokio::task::yield_now().await;
                continue;
            }
            let max_blocks = self.core.config.chunk_blocks.clamp(1, MAX_FRAME_BLOCKS);
            match self.hand_off.next(&driver.announced, max_blocks, Instant::now()) {
                Next::Announce {
                    first_index,
                    blocks,
                    last,
                } => {
                    let sums = Vec::with_capacity(blocks.len());
                    driver.summing = Some(Chunk {
                        first_index,
                        blocks,
                        sums,
                        last,
                    });
                }
                Next::WaitUntil(deadline) => self.wait(&mut driver, deadline).await,
                Next::End(end) => return self.end(end).await,
            }
        }
    }

    /// Puts the made frame into the outbox, or waits until that may succeed. A decided hand-off drops it.
    async fn send_unsent(&self, driver: &mut Driver) {
        let outbox = self.hand_off.outbox();
        let (Some(outbox), None, Some(frame)) = (outbox, self.phase().end(), driver.unsent.take()) else {
            driver.unsent = None;
            return;
        };
        match outbox.try_send(frame) {
            Ok(()) => driver.spoke_at = Some(Instant::now()),
            Err(mpsc::error::TrySendError::Closed(_)) => self.hand_off.link_closed(),
            Err(mpsc::error::TrySendError::Full(frame)) => {
                driver.unsent = Some(frame);
                let heartbeat = self.core.config.heartbeat();
                tokio::select! {
                    biased;
                    // The permit is given back at once: the next round takes it.
                    _ = outbox.reserve() => {}
                    () = self.hand_off.changed.notified() => {}
                    // The lease may have run out.
                    () = tokio::time::sleep(heartbeat) => {
                        let _ = self.hand_off.next(&driver.announced, 1, Instant::now());
                    }
                }
            }
        }
    }

    /// Waits for a change, the deadline, or the time of the next heartbeat.
    async fn wait(&self, driver: &mut Driver, deadline: Instant) {
        let attached = self.hand_off.outbox().is_some();
        let heartbeat = self.core.config.heartbeat();
        let spoke_at = *driver.spoke_at.get_or_insert_with(Instant::now);
        let heartbeat_at = spoke_at + heartbeat;
        if attached && Instant::now() >= heartbeat_at {
            driver.unsent = Some(Frame::Heartbeat {
                number: self.hand_off.ticket.number,
            });
            return;
        }
        let wake_at = if attached {
            deadline.min(heartbeat_at)
        } else {
            deadline
        };
        tokio::select! {
            biased;
            () = self.hand_off.changed.notified() => {}
            () = tokio::time::sleep_until(wake_at) => {}
        }
    }

    /// Waits for the reads still running, frees the place in the table, and makes sure the destination knows.
    async fn end(&self, end: SourceEnd) -> Outcome {
        self.hand_off.gate.drained().await;
        self.hand_off.drained();
        self.core.retire(&self.hand_off, end);
        if let Some((outbox, farewell)) = self.hand_off.take_farewell() {
            // Bounded: a destination that takes no frames for so long finds out by its own lease.
            let _ = tokio::time::timeout(self.core.config.heartbeat(), outbox.send(farewell)).await;
        }
        end.into()
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.hand_off.abort();
        let end = self
            .hand_off
            .phase()
            .end()
            .expect("an aborted hand-off is decided");
        self.core
            .quarantine
            .hold(self.hand_off.request, self.hand_off.attempt, &self.hand_off.gate);
        self.core.retire(&self.hand_off, end);
        // Nobody will send it later: the end of the link must do.
        drop(self.hand_off.take_farewell());
    }
}

impl Driver {
    /// Computes one more sum of the chunk at work; after the last one the chunk becomes a READY.
    fn sum_next(&mut self, core: &Core, number: u64) {
        let Some(mut chunk) = self.summing.take() else {
            return;
        };
        if let Some(block) = chunk.blocks.get(chunk.sums.len()) {
            chunk.sums.push(BlockSum {
                block: *block,
                xxh3: block_sum(core, *block),
            });
        }
        if chunk.sums.len() < chunk.blocks.len() {
            self.summing = Some(chunk);
            return;
        }
        let count = u32::try_from(chunk.sums.len()).expect("a chunk is no larger than a frame");
        let ready = Ready {
            number,
            chunk: self.announced.chunks,
            first_index: chunk.first_index,
            blocks: chunk.sums,
            last: chunk.last,
        };
        self.announced.chunks += 1;
        self.announced.next_index = ready.first_index + count;
        self.announced.last |= ready.last.is_some();
        self.unsent = Some(Frame::Ready(ready));
    }
}

/// xxh3 of a block's bytes as they are in this endpoint's memory.
pub(crate) fn block_sum(core: &Core, block: BlockId) -> u64 {
    let mut sum = 0;
    core.memory.with_block(block, &mut |bytes| sum = xxh3_64(bytes));
    sum
}
