//! Drives a [`DestinationPhase`](crate::DestinationPhase) with the frames of one link.

use std::sync::Arc;

use bytes::Bytes;
use tokio::time::{Instant, sleep_until, timeout};

use crate::destination_phase::{DestinationEvent as Event, DestinationPhase as Phase, Settlement};
use crate::endpoint::Core;
use crate::frames::{Attach, Frame, Ready, ReleaseOutcome};
use crate::source::block_sum;
use crate::teeth::bites;
use crate::{BlockRead, DestinationMemory, Gate, Link, PullErrorKind, PullOrder, Refusal};

/// One pull with its link. Dropping it gives up towards the source.
pub(crate) struct Puller<'a> {
    core: &'a Core,
    order: PullOrder,
    block_count: u32,
    link: Box<dyn Link>,
    memory: DestinationMemory,
    gate: Gate,
    phase: Phase,
    heard_at: Instant,
    spoke_at: Instant,
    limit_at: Instant,
    /// The source's last state, once it has come.
    pub(crate) last: Option<Bytes>,
    /// Verified so far.
    pub(crate) pulled_bytes: u64,
}

impl<'a> Puller<'a> {
    pub(crate) fn new(
        core: &'a Core,
        order: PullOrder,
        block_count: u32,
        link: Box<dyn Link>,
        gate: &Gate,
    ) -> Self {
        let now = Instant::now();
        Self {
            core,
            phase: Phase::opened(order.first_needed_block, block_count),
            order,
            block_count,
            link,
            memory: DestinationMemory::new(Arc::clone(&core.memory), gate.clone()),
            gate: gate.clone(),
            heard_at: now,
            spoke_at: now,
            limit_at: now + core.config.limit,
            last: None,
            pulled_bytes: 0,
        }
    }

    pub(crate) async fn run(&mut self) -> Result<Bytes, PullErrorKind> {
        let pulled = self.pull_chunks().await;
        if let Err(kind) = pulled
            && kind != PullErrorKind::BadChecksum
        {
            self.give_up();
            return Err(kind);
        }
        let outcome = if pulled.is_ok() {
            ReleaseOutcome::Ok
        } else {
            ReleaseOutcome::BadChecksum
        };
        let settlement = self.release(outcome).await;
        pulled?;
        match settlement {
            Settlement::Won => Ok(self.last.take().unwrap_or_default()),
            Settlement::Superseded => Err(PullErrorKind::Superseded),
            Settlement::Unanswered => Err(PullErrorKind::Unconfirmed),
        }
    }

    /// Until the last chunk is verified, or something is wrong.
    async fn pull_chunks(&mut self) -> Result<(), PullErrorKind> {
        let hello = self.core.hello_frame(self.order.peer.incarnation);
        self.send(Frame::Hello(hello))?;
        self.send(Frame::Attach(Attach {
            ticket: self.order.ticket,
            request: self.order.request,
            attempt: self.order.attempt,
            block_count: self.block_count,
            first_needed_block: self.order.first_needed_block,
        }))?;
        loop {
            match self.next_frame().await? {
                Frame::Hello(theirs) => {
                    if theirs.incarnation != self.order.peer.incarnation {
                        return Err(PullErrorKind::Refused(Refusal::Incarnation));
                    }
                    self.core.check_hello(&theirs).map_err(PullErrorKind::Refused)?;
                    self.step(Event::Welcomed)?;
                }
                Frame::Refuse(refusal) => return Err(PullErrorKind::Refused(refusal)),
                Frame::Ready(ready) => {
                    if self.take_chunk(ready).await? {
                        return Ok(());
                    }
                }
                Frame::Heartbeat { .. } => {}
                Frame::Abort { .. } => return Err(PullErrorKind::Aborted),
                Frame::Attach(_) | Frame::Release { .. } | Frame::Settled { .. } => {
                    return Err(PullErrorKind::Protocol);
                }
            }
        }
    }

    /// Reads and verifies one chunk; true when it was the last.
    async fn take_chunk(&mut self, ready: Ready) -> Result<bool, PullErrorKind> {
        let before = self.phase;
        self.step(Event::Ready {
            chunk: ready.chunk,
            first_index: ready.first_index,
            count: u32::try_from(ready.blocks.len()).unwrap_or(u32::MAX),
            last: ready.last.is_some(),
        })?;
        if self.phase == before {
            return Ok(false);
        }
        let is_last = ready.last.is_some();
        self.last = ready.last;
        let first = (ready.first_index - self.order.first_needed_block) as usize;
        let destinations = &self.order.destination[first..first + ready.blocks.len()];
        let reads = (ready.first_index..).zip(&ready.blocks).zip(destinations);
        let reads: Vec<BlockRead> = reads
            .map(|((index, sum), destination)| BlockRead {
                index,
                source: sum.block,
                destination: *destination,
            })
            .collect();
        let began_at = Instant::now();
        let read = timeout(
            self.core.config.lease,
            self.link.read_blocks(&reads, &self.memory),
        );
        let read = read.await;
        self.core.count(|counts| counts.read_time += began_at.elapsed());
        match read {
            Ok(Ok(())) => self.step(Event::BlocksRead)?,
            Ok(Err(_)) => return Err(self.why_closed().await),
            Err(_) => return Err(PullErrorKind::Stalled),
        }
        // Served reads are a sign of life.
        self.heard_at = Instant::now();
        for (read, sum) in reads.iter().zip(&ready.blocks) {
            // The sum is of this side's bytes, as the engine will read them.
            if block_sum(self.core, read.destination) != sum.xxh3 && !bites("checksum-ignored") {
                tracing::warn!(request = %self.order.request, index = read.index, "kv block has a bad checksum");
                self.step(Event::Mismatched)?;
                return Err(PullErrorKind::BadChecksum);
            }
            tokio::task::yield_now().await;
        }
        self.step(Event::Verified)?;
        let bytes = reads.len() as u64 * self.core.memory.block_bytes() as u64;
        self.pulled_bytes += bytes;
        self.core.count(|counts| counts.pulled_bytes += bytes);
        Ok(is_last)
    }

    /// Sends RELEASE and waits, for at most a lease, until the source has taken note.
    async fn release(&mut self, outcome: ReleaseOutcome) -> Settlement {
        debug_assert_eq!(self.phase, Phase::Releasing(outcome));
        let (request, attempt) = (self.order.request, self.order.attempt);
        let release = Frame::Release {
            request,
            attempt,
            outcome,
        };
        self.limit_at = Instant::now() + self.core.config.lease;
        let won = match self.send(release) {
            Ok(()) => self.answer().await,
            Err(_) => None,
        };
        let event = won.map_or(Event::GaveUp { reading: false }, |won| Event::Settled { won });
        self.must_step(event);
        match self.phase {
            Phase::Released { settlement, .. } => settlement,
            Phase::Opened(_)
            | Phase::Waiting(_)
            | Phase::Pulling(_)
            | Phase::Verifying(_)
            | Phase::Releasing(_)
            | Phase::Quarantined(_) => Settlement::Unanswered,
        }
    }

    /// Whether our RELEASE won; `None` when the source does not say.
    async fn answer(&mut self) -> Option<bool> {
        loop {
            match self.next_frame().await.ok()? {
                Frame::Settled { won, .. } => return Some(won),
                // It ended in another way while our RELEASE was under way.
                Frame::Abort { .. } => return Some(false),
                // On their way before the source heard of our RELEASE.
                Frame::Ready(_) | Frame::Heartbeat { .. } => {}
                Frame::Hello(_) | Frame::Attach(_) | Frame::Refuse(_) | Frame::Release { .. } => return None,
            }
        }
    }

    /// The next frame. Sends heartbeats meanwhile; a whole lease of silence is a stall.
    async fn next_frame(&mut self) -> Result<Frame, PullErrorKind> {
        let number = self.order.ticket.number;
        loop {
            let deadline = self.limit_at.min(self.heard_at + self.core.config.lease);
            let heartbeat_at = self.spoke_at + self.core.config.heartbeat();
            let now = Instant::now();
            if now >= deadline {
                return Err(PullErrorKind::Stalled);
            }
            if now >= heartbeat_at {
                self.send(Frame::Heartbeat { number })?;
                continue;
            }
            tokio::select! {
                biased;
                frame = self.link.recv() => {
                    self.heard_at = Instant::now();
                    return frame.ok_or(PullErrorKind::LinkLost);
                }
                () = sleep_until(deadline.min(heartbeat_at)) => {}
            }
        }
    }

    /// A read was not let in: either the source has withdrawn, and says so, or the link is gone.
    async fn why_closed(&mut self) -> PullErrorKind {
        // Its farewell, if there is one, follows the frames already queued.
        self.limit_at = self.limit_at.min(Instant::now() + self.core.config.heartbeat());
        while let Ok(frame) = self.next_frame().await {
            if matches!(frame, Frame::Abort { .. }) {
                return PullErrorKind::Aborted;
            }
        }
        PullErrorKind::LinkLost
    }

    fn send(&mut self, frame: Frame) -> Result<(), PullErrorKind> {
        self.spoke_at = Instant::now();
        self.link.send(frame).map_err(|_| PullErrorKind::LinkLost)
    }

    /// A step that a peer's frame asks for; an illegal one is the peer's fault.
    fn step(&mut self, event: Event) -> Result<(), PullErrorKind> {
        self.phase = self.phase.after(event).map_err(|illegal| {
            tracing::warn!(request = %self.order.request, %illegal, "kv transfer peer broke the protocol");
            PullErrorKind::Protocol
        })?;
        Ok(())
    }

    fn must_step(&mut self, event: Event) {
        let stepped = self.phase.after(event);
        debug_assert!(stepped.is_ok(), "{stepped:?}");
        self.phase = stepped.unwrap_or(self.phase);
    }

    /// Tells the source, unless it was told before, and closes the gate.
    fn give_up(&mut self) {
        self.gate.close();
        match self.phase {
            Phase::Opened(_) | Phase::Waiting(_) | Phase::Pulling(_) | Phase::Verifying(_) => {
                let (request, attempt) = (self.order.request, self.order.attempt);
                // A link that is already closed tells the source as well.
                let _ = self.send(Frame::Release {
                    request,
                    attempt,
                    outcome: ReleaseOutcome::Abort,
                });
                let reading = matches!(self.phase, Phase::Pulling(_)) && !self.gate.is_drained();
                self.must_step(Event::GaveUp { reading });
            }
            // RELEASE is sent; that nobody waits for the answer changes nothing.
            Phase::Releasing(_) | Phase::Quarantined(_) | Phase::Released { .. } => {}
        }
    }

    /// The source has ended the hand-off on our word.
    pub(crate) fn is_settled(&self) -> bool {
        matches!(
            self.phase,
            Phase::Released {
                settlement: Settlement::Won,
                ..
            }
        )
    }
}

impl Drop for Puller<'_> {
    fn drop(&mut self) {
        self.give_up();
    }
}
