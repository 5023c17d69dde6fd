//! Prefill's side of the hand-off: find a decode worker with room, then wait for the outcome of the transfer.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use vlinders_bus::{Bus, BusError, Subject};
use vlinders_kv_transfer::{Endpoint, Outcome};
use vlinders_service_kit::{Clock, Fact, Span};
use vlinders_types::{Offer, OfferReply, RefuseReason, WorkerId};
use vlinders_wire::subjects::{self, WorkerCall};

use crate::beacons::BeaconBook;
use crate::core::{Command, NotTaken};
use crate::outbox::OfferOrder;
use crate::spans::Spans;

/// A decode worker answers an offer at once: this long means it is gone or stopped.
const OFFER_TIMEOUT: Duration = Duration::from_secs(2);
/// After a refusal the same worker is left alone for this long; its next beacon tells more.
const AFTER_REFUSAL: Duration = Duration::from_millis(50);
/// After silence, for this long.
const AFTER_SILENCE: Duration = Duration::from_secs(1);
/// When nobody has room, how long until the next look.
const NEXT_LOOK: Duration = Duration::from_millis(20);

/// What offering needs.
pub(crate) struct Offering {
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) beacons: Arc<BeaconBook>,
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) spans: Spans,
}

/// A decode worker accepted.
struct Taken;

impl Offering {
    /// Hands one sequence over, or reports why not.
    pub(crate) async fn hand_over(&self, order: OfferOrder) {
        let ticket = order.source.ticket().number;
        let mut span = self.spans.hand_off(&order.request);
        let found = tokio::select! {
            biased;
            // Resolves early when the loop gives the transfer up.
            outcome = order.source.outcome() => Err(outcome),
            found = self.find_taker(&order, &mut span) => Ok(found),
        };
        let outcome = match found {
            Ok(Ok(Taken)) => order.source.outcome().await,
            Ok(Err(why)) => self.give_up(&order, why).await,
            Err(Outcome::Expired) if self.clock.now_ms() >= order.request.deadline_ms => {
                self.give_up(&order, NotTaken::TooLate).await
            }
            Err(outcome) => outcome,
        };
        span.set("outcome", outcome.label());
        match outcome {
            // A client that leaves ends hand-offs too.
            Outcome::Ok | Outcome::Aborted => {}
            Outcome::BadChecksum | Outcome::Expired | Outcome::Lost => span.fail(outcome.label()),
        }
        span.end();
        let ended = Command::HandOffEnded {
            sequence: order.sequence,
            ticket,
            outcome,
        };
        let _loop_gone = self.commands.send(ended).await;
    }

    /// Withdraws the transfer, tells the loop why, and waits until nobody reads the blocks any more.
    async fn give_up(&self, order: &OfferOrder, why: NotTaken) -> Outcome {
        order.source.abort();
        let sequence = order.sequence;
        // The loop is gone only when the process leaves.
        let _loop_gone = self.commands.send(Command::NotTaken { sequence, why }).await;
        // Somebody may have accepted unheard.
        order.source.outcome().await
    }

    /// Asks decode workers until one accepts, or says that there is no point in asking.
    async fn find_taker(&self, order: &OfferOrder, span: &mut Span) -> Result<Taken, NotTaken> {
        let trace_parent = span.context().map(|context| context.to_string());
        let mut random = seed_of(order);
        loop {
            if self.clock.now_ms() >= order.request.deadline_ms {
                return Err(NotTaken::TooLate);
            }
            random = next_random(random);
            let Some(worker) = self.beacons.choose(order.block_count, &order.prefixes, random) else {
                tokio::time::sleep(NEXT_LOOK).await;
                continue;
            };
            match self.offer(&worker, order, trace_parent.clone()).await {
                Ok(OfferReply::Accepted { .. }) => {
                    span.set("taker", worker.as_str());
                    self.beacons.taken(&worker, &order.prefixes);
                    return Ok(Taken);
                }
                Ok(OfferReply::Refused {
                    reason: RefuseReason::Cancelled,
                }) => return Err(NotTaken::Cancelled),
                Ok(OfferReply::Refused {
                    reason: RefuseReason::Answered,
                }) => return Err(NotTaken::Answered),
                Ok(OfferReply::Refused { reason }) => {
                    tracing::debug!(%worker, ?reason, request = %order.request.request_id, "offer refused");
                    let pause = match reason {
                        RefuseReason::LayoutMismatch | RefuseReason::Draining => AFTER_SILENCE,
                        RefuseReason::NoBlocks
                        | RefuseReason::Full
                        | RefuseReason::Invalid
                        | RefuseReason::Cancelled
                        | RefuseReason::Answered => AFTER_REFUSAL,
                    };
                    span.event("refused", [("by", Fact::Text(worker.as_str()))]);
                    self.beacons.avoid(&worker, pause);
                }
                Err(error) => {
                    tracing::warn!(%worker, %error, request = %order.request.request_id, "offer not answered");
                    span.event("not answered", [("by", Fact::Text(worker.as_str()))]);
                    self.beacons.avoid(&worker, AFTER_SILENCE);
                }
            }
        }
    }

    async fn offer(
        &self,
        worker: &WorkerId,
        order: &OfferOrder,
        trace_parent: Option<String>,
    ) -> Result<OfferReply, BusError> {
        let offer = Offer {
            request: (*order.request).clone(),
            source: self.endpoint.hello(),
            ticket: order.source.ticket(),
            block_count: order.block_count,
            trace_parent,
        };
        let subject = Subject::new(subjects::worker_subject(worker, WorkerCall::Offer));
        let reply = self
            .bus
            .request(&subject, vlinders_wire::encode_offer(&offer), OFFER_TIMEOUT)
            .await?;
        Ok(vlinders_wire::decode_offer_reply(&reply).unwrap_or_else(|error| {
            tracing::warn!(%worker, %error, "unreadable answer to an offer");
            OfferReply::Refused {
                reason: RefuseReason::Invalid,
            }
        }))
    }
}

/// Different requests look at different pairs of workers; the same request always at the same ones.
fn seed_of(order: &OfferOrder) -> u64 {
    let bytes = order.request.request_id.0.to_le_bytes();
    let (low, high) = bytes.split_at(8);
    let read = |half: &[u8]| u64::from_le_bytes(half.try_into().expect("half of sixteen bytes is eight"));
    read(low) ^ read(high).rotate_left(32)
}

/// SplitMix64 (Steele, Lea and Flood, 2014).
fn next_random(state: u64) -> u64 {
    let mut mixed = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}
