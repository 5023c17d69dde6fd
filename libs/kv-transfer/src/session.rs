//! The source's end of one connection: what a transport feeds with the frames that arrive.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::time::Instant;
use vlinders_kernel_api::KvMemory;
use vlinders_types::BlockId;

use crate::endpoint::Core;
use crate::hand_off::HandOff;
use crate::{Frame, LinkClosed, Pass, Refusal, SourceEnd};

/// One connected destination. Synchronous and quick: it only takes note, the hand-off's driver does the work.
/// Dropping it tells the hand-off that the link is gone.
pub struct Session {
    core: Arc<Core>,
    stage: Stage,
}

enum Stage {
    /// Waits for HELLO.
    Greeting(mpsc::Sender<Frame>),
    /// Waits for ATTACH.
    Attaching(mpsc::Sender<Frame>),
    /// Reads the blocks of this hand-off.
    Attached(Arc<HandOff>),
    /// Refused or broken: the link is to be dropped.
    Over,
}

impl Session {
    pub(crate) fn new(core: Arc<Core>, outbox: mpsc::Sender<Frame>) -> Self {
        Self {
            core,
            stage: Stage::Greeting(outbox),
        }
    }

    /// Takes a frame of the destination.
    ///
    /// # Errors
    /// [`LinkClosed`] when the connection is of no more use.
    pub fn receive(&mut self, frame: Frame) -> Result<(), LinkClosed> {
        let stage = std::mem::replace(&mut self.stage, Stage::Over);
        self.stage = match (stage, frame) {
            (Stage::Greeting(outbox), Frame::Hello(hello)) => match self.core.check_hello(&hello) {
                Ok(()) => {
                    let ours = Frame::Hello(self.core.hello_frame(hello.incarnation));
                    outbox.try_send(ours).map_err(|_| LinkClosed)?;
                    Stage::Attaching(outbox)
                }
                Err(refusal) => self.refuse(&outbox, refusal),
            },
            (Stage::Attaching(outbox), Frame::Attach(attach)) => {
                match self.core.attach(&attach, outbox.clone()) {
                    Ok(hand_off) => Stage::Attached(hand_off),
                    Err(refusal) => self.refuse(&outbox, refusal),
                }
            }
            (Stage::Attached(hand_off), Frame::Heartbeat { number }) if number == hand_off.ticket.number => {
                hand_off.heard(Instant::now());
                Stage::Attached(hand_off)
            }
            (
                Stage::Attached(hand_off),
                Frame::Release {
                    request,
                    attempt,
                    outcome,
                },
            ) => {
                hand_off.release(request, attempt, outcome);
                Stage::Attached(hand_off)
            }
            (Stage::Greeting(outbox) | Stage::Attaching(outbox), _) => {
                self.refuse(&outbox, Refusal::Malformed)
            }
            (
                Stage::Attached(hand_off),
                Frame::Hello(_)
                | Frame::Attach(_)
                | Frame::Refuse(_)
                | Frame::Ready(_)
                | Frame::Heartbeat { .. }
                | Frame::Settled { .. }
                | Frame::Abort { .. },
            ) => {
                hand_off.link_closed();
                Stage::Over
            }
            (Stage::Over, _) => return Err(LinkClosed),
        };
        Ok(())
    }

    /// The right to read a block, if it was announced to this destination and the hand-off is not over. Counts as
    /// a sign of life.
    ///
    /// # Errors
    /// [`LinkClosed`] when the block may not be read.
    pub fn admit(&self, index: u32, block: BlockId) -> Result<ReadPass, LinkClosed> {
        match &self.stage {
            Stage::Attached(hand_off) => {
                let pass = hand_off.admit(index, block, Instant::now()).ok_or(LinkClosed)?;
                Ok(ReadPass {
                    memory: Arc::clone(&self.core.memory),
                    block,
                    _pass: pass,
                })
            }
            Stage::Greeting(_) | Stage::Attaching(_) | Stage::Over => Err(LinkClosed),
        }
    }

    /// A ticket was redeemed.
    #[must_use]
    pub fn is_attached(&self) -> bool {
        matches!(self.stage, Stage::Attached(_))
    }

    /// The right to read every announced block, for transports whose destination reads without asking: to be held
    /// until the destination can read no more. `None` before a ticket was redeemed, and when the hand-off is over.
    #[must_use]
    pub fn hold(&self) -> Option<Pass> {
        match &self.stage {
            Stage::Attached(hand_off) => hand_off.gate.enter(),
            Stage::Greeting(_) | Stage::Attaching(_) | Stage::Over => None,
        }
    }

    /// The destination has released the blocks: it reads none any more.
    #[must_use]
    pub fn is_released(&self) -> bool {
        match &self.stage {
            Stage::Attached(hand_off) => matches!(hand_off.phase().end(), Some(SourceEnd::Released(_))),
            Stage::Greeting(_) | Stage::Attaching(_) | Stage::Over => false,
        }
    }

    fn refuse(&self, outbox: &mpsc::Sender<Frame>, refusal: Refusal) -> Stage {
        self.core.count(|counts| counts.refused += 1);
        tracing::warn!(%refusal, "kv transfer refused a destination");
        // A destination that has left does not need to know.
        let _ = outbox.try_send(Frame::Refuse(refusal));
        Stage::Over
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        match &self.stage {
            Stage::Attached(hand_off) => hand_off.link_closed(),
            Stage::Greeting(_) | Stage::Attaching(_) | Stage::Over => {}
        }
    }
}

/// The right to read one block. While one exists, the source does not free the block.
#[must_use = "the block may be freed once this is dropped"]
pub struct ReadPass {
    memory: Arc<dyn KvMemory>,
    block: BlockId,
    _pass: Pass,
}

impl ReadPass {
    /// Shows the block's bytes.
    pub fn with_block(&self, see: &mut dyn FnMut(&[u8])) {
        self.memory.with_block(self.block, see);
    }
}
