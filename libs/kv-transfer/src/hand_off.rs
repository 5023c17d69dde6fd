//! One hand-off at its source, as the engine's thread, the driver and the session share it.

use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use vlinders_types::{BlockId, RequestId, Ticket};

use crate::frames::{Attach, Frame, MAX_LAST_BYTES, ReleaseOutcome};
use crate::source_phase::{Filled, IllegalSourceStep, SourceEnd, SourceEvent, SourcePhase};
use crate::{Gate, Pass, ReadyError, Refusal};

/// What never changes, and the state behind a lock that is held for a few assignments at a time.
pub(crate) struct HandOff {
    pub(crate) ticket: Ticket,
    pub(crate) request: RequestId,
    pub(crate) attempt: u32,
    pub(crate) opened_at: Instant,
    /// Reads of the blocks happen behind it.
    pub(crate) gate: Gate,
    /// Wakes the driver; a permit is kept when it is not waiting.
    pub(crate) changed: Notify,
    lease: Duration,
    limit_at: Instant,
    state: Mutex<State>,
}

struct State {
    phase: SourcePhase,
    /// Announced blocks from the front, at most as many as were offered.
    blocks: Vec<BlockId>,
    last: Option<Bytes>,
    first_needed: u32,
    lease_until: Instant,
    /// To the attached destination; dropped with the last frame, so that it sees the end.
    outbox: Option<mpsc::Sender<Frame>>,
    /// Decided, but not sent because the outbox was full.
    farewell: Option<Frame>,
}

/// The times of a new hand-off.
pub(crate) struct Terms {
    pub(crate) now: Instant,
    pub(crate) lease: Duration,
    pub(crate) limit: Duration,
}

/// What a destination is to be told next.
pub(crate) enum Next {
    /// Announce these blocks; `last` with the final ones.
    Announce {
        first_index: u32,
        blocks: Vec<BlockId>,
        last: Option<Bytes>,
    },
    /// Nothing to say before this moment, unless something changes.
    WaitUntil(Instant),
    /// Decided.
    End(SourceEnd),
}

impl HandOff {
    pub(crate) fn new(ticket: Ticket, request: RequestId, attempt: u32, total: u32, terms: &Terms) -> Self {
        let state = State {
            phase: SourcePhase::Offered(Filled::none_of(total)),
            blocks: Vec::new(),
            last: None,
            first_needed: 0,
            lease_until: terms.now + terms.lease,
            outbox: None,
            farewell: None,
        };
        Self {
            ticket,
            request,
            attempt,
            opened_at: terms.now,
            gate: Gate::open(),
            changed: Notify::new(),
            lease: terms.lease,
            limit_at: terms.now + terms.limit,
            state: Mutex::new(state),
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it is held")
    }

    /// Makes one step; what follows from an end is done here, once.
    fn step(&self, state: &mut State, event: SourceEvent) -> Result<(), IllegalSourceStep> {
        let next = state.phase.after(event)?;
        if let (None, Some(end)) = (state.phase.end(), next.end()) {
            self.gate.close();
            state.farewell = match end {
                SourceEnd::Released(_) => Some(Frame::Settled {
                    request: self.request,
                    attempt: self.attempt,
                    won: true,
                }),
                SourceEnd::Aborted | SourceEnd::Expired => Some(Frame::Abort {
                    number: self.ticket.number,
                }),
                SourceEnd::Lost => None,
            };
            state.say_farewell();
        }
        state.phase = next;
        self.changed.notify_one();
        Ok(())
    }

    /// A step that is legal in every phase.
    fn must_step(&self, event: SourceEvent) {
        let stepped = self.step(&mut self.state(), event);
        debug_assert!(stepped.is_ok(), "{stepped:?}");
    }

    /// Takes note of completed blocks.
    pub(crate) fn record(
        &self,
        first_index: u32,
        blocks: &[BlockId],
        last: Option<Bytes>,
    ) -> Result<(), ReadyError> {
        if let Some(last) = last.as_ref().filter(|last| last.len() > MAX_LAST_BYTES) {
            return Err(ReadyError::LastTooLong {
                bytes: last.len(),
                limit_bytes: MAX_LAST_BYTES,
            });
        }
        let mut state = self.state();
        let is_last = last.is_some();
        let count = u32::try_from(blocks.len()).unwrap_or(u32::MAX);
        let event = SourceEvent::Filled {
            first_index,
            count,
            last: is_last,
        };
        let was_decided = state.phase.end().is_some();
        self.step(&mut state, event)
            .map_err(|illegal| ReadyError::Order {
                first_index,
                count: blocks.len(),
                last: is_last,
                phase: illegal.phase,
            })?;
        if !was_decided {
            state.blocks.extend_from_slice(blocks);
            state.last = last;
        }
        Ok(())
    }

    /// A destination with a genuine ticket.
    pub(crate) fn attach(
        &self,
        attach: &Attach,
        outbox: mpsc::Sender<Frame>,
        now: Instant,
    ) -> Result<(), Refusal> {
        let mut state = self.state();
        self.step(&mut state, SourceEvent::Attached)
            .map_err(|_| Refusal::TicketSpent)?;
        state.first_needed = attach.first_needed_block;
        state.outbox = Some(outbox);
        state.lease_until = now + self.lease;
        Ok(())
    }

    /// A sign of life.
    pub(crate) fn heard(&self, now: Instant) {
        self.state().lease_until = now + self.lease;
    }

    /// RELEASE: a compare-and-set on (request, attempt); the first end stays.
    pub(crate) fn release(&self, request: RequestId, attempt: u32, outcome: ReleaseOutcome) {
        let mut state = self.state();
        let is_ours = (request, attempt) == (self.request, self.attempt);
        let stepped = is_ours && self.step(&mut state, SourceEvent::Released(outcome)).is_ok();
        if !stepped && let Some(outbox) = &state.outbox {
            // Ignored when full: the destination then hears nothing and treats it as not settled, which it is.
            let _ = outbox.try_send(Frame::Settled {
                request,
                attempt,
                won: false,
            });
        }
    }

    /// The caller withdraws.
    pub(crate) fn abort(&self) {
        self.must_step(SourceEvent::Aborted);
    }

    /// The attached destination's link is gone.
    pub(crate) fn link_closed(&self) {
        self.must_step(SourceEvent::LinkClosed);
        self.state().outbox = None;
    }

    /// No read runs any more; only after [`Gate::drained`].
    pub(crate) fn drained(&self) {
        debug_assert!(self.gate.is_drained());
        self.must_step(SourceEvent::ReadsDrained);
    }

    /// The right to read a block that was announced.
    pub(crate) fn admit(&self, index: u32, block: BlockId, now: Instant) -> Option<Pass> {
        let mut state = self.state();
        if index < state.first_needed || state.blocks.get(index as usize) != Some(&block) {
            return None;
        }
        state.lease_until = now + self.lease;
        self.gate.enter()
    }

    /// What is to be done when all before `announced` (and the last state, if `last_announced`) has been said.
    pub(crate) fn next(&self, announced: &Announced, max_blocks: usize, now: Instant) -> Next {
        let mut state = self.state();
        let deadline = state.lease_until.min(self.limit_at);
        if state.phase.end().is_none() && now >= deadline {
            let stepped = self.step(&mut state, SourceEvent::LeaseExpired);
            debug_assert!(stepped.is_ok(), "{stepped:?}");
        }
        match state.phase {
            SourcePhase::Closing(end) | SourcePhase::Ended(end) => Next::End(end),
            SourcePhase::Offered(_) => Next::WaitUntil(deadline),
            SourcePhase::Sending(filled) => {
                let first_index = announced.next_index.max(state.first_needed);
                let ready = state.blocks.get(first_index as usize..).unwrap_or_default();
                let blocks = &ready[..ready.len().min(max_blocks)];
                let is_final = filled.complete && blocks.len() == ready.len() && !announced.last;
                if blocks.is_empty() && !is_final {
                    return Next::WaitUntil(deadline);
                }
                let last = if is_final { state.last.clone() } else { None };
                Next::Announce {
                    first_index,
                    blocks: blocks.to_vec(),
                    last,
                }
            }
        }
    }

    /// The way to the attached destination.
    pub(crate) fn outbox(&self) -> Option<mpsc::Sender<Frame>> {
        self.state().outbox.clone()
    }

    /// The last frame, if it could not be sent at once, and the way to send it. Afterwards the link is closed.
    pub(crate) fn take_farewell(&self) -> Option<(mpsc::Sender<Frame>, Frame)> {
        let mut state = self.state();
        state.outbox.take().zip(state.farewell.take())
    }

    /// Where it stands.
    pub(crate) fn phase(&self) -> SourcePhase {
        self.state().phase
    }
}

/// What a destination has been told.
#[derive(Debug, Default)]
pub(crate) struct Announced {
    /// Chunks so far.
    pub(crate) chunks: u32,
    /// All blocks before it.
    pub(crate) next_index: u32,
    /// The last state too.
    pub(crate) last: bool,
}

impl State {
    /// Sends the last frame and closes the way, unless the outbox is full: then the driver does it.
    fn say_farewell(&mut self) {
        let (Some(outbox), Some(frame)) = (&self.outbox, self.farewell.take()) else {
            self.outbox = None;
            return;
        };
        match outbox.try_send(frame) {
            Err(mpsc::error::TrySendError::Full(frame)) => self.farewell = Some(frame),
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => self.outbox = None,
        }
    }
}
