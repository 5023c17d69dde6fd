//! Offers, their answers, and the state that travels with the last blocks.

use bytes::Bytes;
use vlinders_types::{Epoch, Hello, Offer, OfferReply, RefuseReason, ResumeState, Ticket, WorkerId};

use crate::check::{Check, encode};
use crate::limits::{
    MAX_ADDRESS_BYTES, MAX_BLOCKS, MAX_CONTROL_BYTES, MAX_MESSAGE_BYTES, MAX_TOKENS, MAX_TRACE_PARENT_BYTES,
    MAX_TRANSPORTS,
};
use crate::{Fault, WireError, generated};

const OFFER: Check = Check { message: "Offer" };
const HELLO: Check = Check { message: "Hello" };
const TRANSPORT: Check = Check { message: "Transport" };
const TICKET: Check = Check { message: "Ticket" };
const REPLY: Check = Check {
    message: "OfferReply",
};
const RESUME: Check = Check {
    message: "ResumeState",
};

/// As bytes.
#[must_use]
pub fn encode_offer(offer: &Offer) -> Bytes {
    encode(&generated::Offer {
        request: Some((&offer.request).into()),
        source: Some((&offer.source).into()),
        ticket: Some(generated::Ticket {
            number: offer.ticket.number,
            expires_ms: offer.ticket.expires_ms,
            mac: offer.ticket.mac.to_vec(),
        }),
        block_count: offer.block_count,
        trace_parent: offer.trace_parent.clone(),
    })
}

/// From bytes.
///
/// # Errors
/// Too large, malformed, or a field that breaks its rule.
pub fn decode_offer(bytes: &[u8]) -> Result<Offer, WireError> {
    let wire: generated::Offer = OFFER.decode(bytes, MAX_MESSAGE_BYTES)?;
    OFFER.whole("block_count", wire.block_count, 1..=MAX_BLOCKS)?;
    let ticket = OFFER.present("ticket", wire.ticket)?;
    if let Some(parent) = &wire.trace_parent {
        OFFER.plain_text("trace_parent", parent, MAX_TRACE_PARENT_BYTES)?;
    }
    Ok(Offer {
        request: OFFER.present("request", wire.request)?.try_into()?,
        source: OFFER.present("source", wire.source)?.try_into()?,
        ticket: Ticket {
            number: ticket.number,
            expires_ms: ticket.expires_ms,
            mac: TICKET.array("mac", &ticket.mac)?,
        },
        block_count: wire.block_count,
        trace_parent: wire.trace_parent,
    })
}

/// As bytes.
#[must_use]
pub fn encode_offer_reply(reply: &OfferReply) -> Bytes {
    use generated::offer_reply::Answer;
    let answer = match *reply {
        OfferReply::Accepted {
            epoch,
            first_needed_block,
        } => Answer::Accepted(generated::OfferAccepted {
            epoch: epoch.0,
            first_needed_block,
        }),
        OfferReply::Refused { reason } => Answer::Refused(generated::OfferRefused {
            reason: generated::RefuseReason::from(reason).into(),
        }),
    };
    encode(&generated::OfferReply { answer: Some(answer) })
}

/// From bytes.
///
/// # Errors
/// Too large, malformed, or a field that breaks its rule.
pub fn decode_offer_reply(bytes: &[u8]) -> Result<OfferReply, WireError> {
    use generated::offer_reply::Answer;
    let wire: generated::OfferReply = REPLY.decode(bytes, MAX_CONTROL_BYTES)?;
    Ok(match REPLY.present("answer", wire.answer)? {
        Answer::Accepted(accepted) => {
            REPLY.whole("first_needed_block", accepted.first_needed_block, 0..=MAX_BLOCKS)?;
            OfferReply::Accepted {
                epoch: Epoch(accepted.epoch),
                first_needed_block: accepted.first_needed_block,
            }
        }
        Answer::Refused(refused) => OfferReply::Refused {
            reason: refuse_reason(refused.reason)?,
        },
    })
}

/// As bytes.
#[must_use]
pub fn encode_resume_state(state: &ResumeState) -> Bytes {
    encode(&generated::ResumeState {
        generated: state.generated.clone(),
        cached_tokens: state.cached_tokens,
        first_token_ms: state.first_token_ms,
    })
}

/// From bytes.
///
/// # Errors
/// Too large, malformed, or a field that breaks its rule.
pub fn decode_resume_state(bytes: &[u8]) -> Result<ResumeState, WireError> {
    let wire: generated::ResumeState = RESUME.decode(bytes, MAX_MESSAGE_BYTES)?;
    RESUME.length("generated", wire.generated.len(), MAX_TOKENS)?;
    Ok(ResumeState {
        generated: wire.generated,
        cached_tokens: wire.cached_tokens,
        first_token_ms: wire.first_token_ms,
    })
}

impl From<&Hello> for generated::Hello {
    fn from(hello: &Hello) -> Self {
        Self {
            protocol: hello.protocol,
            worker: hello.worker.as_str().to_owned(),
            incarnation: hello.incarnation,
            layout_hash: hello.layout_hash,
            block_bytes: hello.block_bytes,
            transports: hello
                .transports
                .iter()
                .map(|(name, address)| generated::Transport {
                    name: name.clone(),
                    address: address.clone(),
                })
                .collect(),
        }
    }
}

impl TryFrom<generated::Hello> for Hello {
    type Error = WireError;

    fn try_from(wire: generated::Hello) -> Result<Self, WireError> {
        HELLO.name("worker", &wire.worker)?;
        HELLO.require("block_bytes", wire.block_bytes > 0, Fault::OutOfRange)?;
        HELLO.length("transports", wire.transports.len(), MAX_TRANSPORTS)?;
        for transport in &wire.transports {
            TRANSPORT.name("name", &transport.name)?;
            TRANSPORT.plain_text("address", &transport.address, MAX_ADDRESS_BYTES)?;
        }
        Ok(Self {
            protocol: wire.protocol,
            worker: WorkerId::new(&wire.worker),
            incarnation: wire.incarnation,
            layout_hash: wire.layout_hash,
            block_bytes: wire.block_bytes,
            transports: wire
                .transports
                .into_iter()
                .map(|transport| (transport.name, transport.address))
                .collect(),
        })
    }
}

impl From<RefuseReason> for generated::RefuseReason {
    fn from(reason: RefuseReason) -> Self {
        match reason {
            RefuseReason::NoBlocks => Self::NoBlocks,
            RefuseReason::Full => Self::Full,
            RefuseReason::Draining => Self::Draining,
            RefuseReason::LayoutMismatch => Self::LayoutMismatch,
            RefuseReason::Cancelled => Self::Cancelled,
            RefuseReason::Answered => Self::Answered,
            RefuseReason::Invalid => Self::Invalid,
        }
    }
}

fn refuse_reason(value: i32) -> Result<RefuseReason, WireError> {
    use generated::RefuseReason as Wire;
    Ok(match REPLY.known("reason", value)? {
        Wire::Unspecified => return Err(REPLY.fault("reason", Fault::Missing)),
        Wire::NoBlocks => RefuseReason::NoBlocks,
        Wire::Full => RefuseReason::Full,
        Wire::Draining => RefuseReason::Draining,
        Wire::LayoutMismatch => RefuseReason::LayoutMismatch,
        Wire::Cancelled => RefuseReason::Cancelled,
        Wire::Answered => RefuseReason::Answered,
        Wire::Invalid => RefuseReason::Invalid,
    })
}
