//! Decode's side of the hand-off: answer offers at once, then pull the blocks.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use vlinders_bus::{Bus, BusError, Incoming, Subject, Subscription};
use vlinders_kv_transfer::{Endpoint, PullError, PullErrorKind, PullOrder, PullReport};
use vlinders_service_kit::{Stage, Tasks};
use vlinders_types::{Epoch, Hello, Offer, OfferReply, RefuseReason, RequestId, SequenceId};
use vlinders_wire::subjects::{self, WorkerCall};

use crate::core::{Command, Reserved};
use crate::forms::Constraints;
use crate::spans::Spans;
use crate::teeth::bites;

/// What accepting needs.
pub(crate) struct Accepting {
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) tasks: Tasks,
    pub(crate) spans: Spans,
    pub(crate) epoch: Epoch,
    pub(crate) constraints: Arc<Constraints>,
}

impl Accepting {
    /// Where offers for this worker arrive.
    pub(crate) async fn subscribe(&self) -> Result<Box<dyn Subscription>, BusError> {
        let subject = Subject::new(subjects::worker_subject(&self.spans.worker, WorkerCall::Offer));
        self.bus.subscribe(&subject).await
    }

    /// Serves offers until told to stop, and those that are there by then.
    pub(crate) async fn serve(
        self: Arc<Self>,
        mut offers: Box<dyn Subscription>,
        stopping: CancellationToken,
    ) {
        loop {
            let incoming = tokio::select! {
                biased;
                incoming = offers.next() => incoming,
                () = stopping.cancelled() => None,
            };
            let Some(incoming) = incoming else { return };
            // Room is asked for in order; only the pull runs beside the next offer. There are never more pulls than
            // sequences the scheduler adopts.
            if let Some((offer, reserved)) = self.answer(incoming).await {
                let this = Arc::clone(&self);
                self.tasks.spawn(
                    Stage::Work,
                    "pull",
                    async move { this.pull(offer, reserved).await },
                );
            }
        }
    }

    /// Accepts or refuses. Some when room is reserved and the offer was accepted.
    async fn answer(&self, incoming: Incoming) -> Option<(Offer, Reserved)> {
        let offer = match vlinders_wire::decode_offer(&incoming.payload) {
            Ok(offer) => offer,
            Err(error) => {
                tracing::warn!(%error, "unreadable offer");
                reply(
                    incoming,
                    &OfferReply::Refused {
                        reason: RefuseReason::Invalid,
                    },
                )
                .await;
                return None;
            }
        };
        match self.reserve(&offer).await {
            Ok(reserved) => {
                let accepted = OfferReply::Accepted {
                    epoch: self.epoch,
                    first_needed_block: reserved.first_needed_block,
                };
                reply(incoming, &accepted).await;
                Some((offer, reserved))
            }
            Err(reason) => {
                reply(incoming, &OfferReply::Refused { reason }).await;
                None
            }
        }
    }

    async fn reserve(&self, offer: &Offer) -> Result<Reserved, RefuseReason> {
        if !fits(&offer.source, &self.endpoint.hello()) {
            return Err(RefuseReason::LayoutMismatch);
        }
        let (reply, reserved) = oneshot::channel();
        let command = Command::Reserve {
            request: Box::new(offer.request.clone()),
            reply,
        };
        self.commands
            .send(command)
            .await
            .map_err(|_| RefuseReason::Draining)?;
        reserved.await.map_err(|_| RefuseReason::Draining)?
    }

    async fn pull(&self, offer: Offer, reserved: Reserved) {
        let sequence = reserved.sequence;
        let (request, attempt) = (offer.request.request_id, offer.request.attempt);
        let mut span = self.spans.kv_pull(offer.trace_parent.as_deref(), &offer.request);
        span.set("source", offer.source.worker.as_str());
        let order = PullOrder {
            peer: offer.source,
            ticket: offer.ticket,
            request,
            attempt,
            first_needed_block: reserved.first_needed_block,
            destination: reserved.blocks,
        };
        let mut report = PullReport::default();
        // The form is compiled while the blocks come; the sequence waits for both, and nobody else does.
        let form = self.constraints.form(&offer.request);
        let (pulled, form) = tokio::join!(self.endpoint.pull_reported(order, &mut report), form);
        span.set("transport", report.transport.unwrap_or("none"));
        span.set("bytes", report.bytes);
        let (command, quiesced) = match pulled {
            Ok(last) => {
                span.set("outcome", "ok");
                (arrived(sequence, &last, true), true)
            }
            Err(mut error) => {
                span.set("outcome", error.kind.label());
                if !is_no_news(error.kind) {
                    span.fail(error.kind.label());
                }
                error.quiesced |= bites("block-freed-under-a-transfer");
                tell(&error, request);
                (lost(sequence, &error), error.quiesced)
            }
        };
        span.end();
        // The loop is gone only when the process leaves.
        if let Some(form) = form {
            let _loop_gone = self.commands.send(Command::Formed { sequence, form }).await;
        }
        let _loop_gone = self.commands.send(command).await;
        if !quiesced {
            self.endpoint.quiesced(request, attempt).await;
            let _loop_gone = self.commands.send(Command::Quiesced { sequence }).await;
        }
    }
}

/// A client that leaves ends hand-offs too.
fn is_no_news(kind: PullErrorKind) -> bool {
    matches!(kind, PullErrorKind::Aborted | PullErrorKind::Superseded)
}

fn tell(error: &PullError, request: RequestId) {
    let error_chain = error as &dyn std::error::Error;
    if is_no_news(error.kind) {
        tracing::debug!(error = error_chain, %request, "kv transfer ended by its source");
    } else {
        tracing::warn!(error = error_chain, %request, "kv transfer failed");
    }
}

/// Whether blocks of one endpoint make sense in the other. The transfer checks it again.
fn fits(theirs: &Hello, ours: &Hello) -> bool {
    theirs.protocol == ours.protocol
        && theirs.layout_hash == ours.layout_hash
        && theirs.block_bytes == ours.block_bytes
}

/// All blocks are here.
fn arrived(sequence: SequenceId, last: &[u8], quiesced: bool) -> Command {
    match vlinders_wire::decode_resume_state(last) {
        Ok(resume) => Command::KvArrived { sequence, resume },
        Err(error) => {
            tracing::error!(%error, sequence = sequence.0, "unreadable resume state; the sequence is computed again");
            Command::KvLost {
                sequence,
                resume: None,
                ours: true,
                quiesced,
            }
        }
    }
}

/// The transfer failed. The sequence is ours all the same when prefill has settled it on our word, or may have.
fn lost(sequence: SequenceId, error: &PullError) -> Command {
    let quiesced = error.quiesced;
    match (&error.last, error.kind) {
        // Prefill may hand it to somebody else as well: the same tokens twice, of which the frontend drops one.
        (Some(last), PullErrorKind::Unconfirmed) => arrived(sequence, last, quiesced),
        (last, _) => {
            let resume = last
                .as_deref()
                .and_then(|last| vlinders_wire::decode_resume_state(last).ok());
            Command::KvLost {
                sequence,
                resume,
                ours: error.settled,
                quiesced,
            }
        }
    }
}

async fn reply(incoming: Incoming, answer: &OfferReply) {
    let Some(reply) = incoming.reply else { return };
    if let Err(error) = reply.send(vlinders_wire::encode_offer_reply(answer)).await {
        tracing::warn!(%error, "answer to an offer not sent");
    }
}
