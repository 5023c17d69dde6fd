//! Step batches: the message sent most often, so decoding moves every list and text and copies none.

use bytes::Bytes;
use vlinders_types::{
    Chunk, Epoch, FaultKind, Finish, FinishReason, RequestFault, StepBatch, TokenLogprob, WorkerId,
};

use crate::check::{Check, encode};
use crate::limits::{
    MAX_CHUNKS, MAX_FAULT_BYTES, MAX_MESSAGE_BYTES, MAX_TOKENS, MAX_TOP_LOGPROBS, MIN_LOGPROB,
};
use crate::scores::check_embedding;
use crate::usage::finish_reason;
use crate::{Fault, WireError, generated};

const BATCH: Check = Check { message: "StepBatch" };
const CHUNK: Check = Check { message: "Chunk" };
const LOGPROB: Check = Check {
    message: "TokenLogprob",
};
const FINISH: Check = Check { message: "Finish" };
const FAULT: Check = Check {
    message: "RequestFault",
};

/// As bytes. Log-probabilities leave as finite numbers: from [`MIN_LOGPROB`] to 0.
#[must_use]
pub fn encode_step_batch(batch: &StepBatch) -> Bytes {
    encode(&generated::StepBatch {
        worker: batch.worker.as_str().to_owned(),
        epoch: batch.epoch.0,
        batch_seq: batch.batch_seq,
        chunks: batch.chunks.iter().map(Into::into).collect(),
    })
}

/// From bytes.
///
/// # Errors
/// Too large, malformed, or a field that breaks its rule.
pub fn decode_step_batch(bytes: &[u8]) -> Result<StepBatch, WireError> {
    let wire: generated::StepBatch = BATCH.decode(bytes, MAX_MESSAGE_BYTES)?;
    BATCH.name("worker", &wire.worker)?;
    BATCH.require("batch_seq", wire.batch_seq > 0, Fault::OutOfRange)?;
    BATCH.length("chunks", wire.chunks.len(), MAX_CHUNKS)?;
    let chunks: Result<Vec<Chunk>, WireError> = wire.chunks.into_iter().map(TryInto::try_into).collect();
    Ok(StepBatch {
        worker: WorkerId::new(&wire.worker),
        epoch: Epoch(wire.epoch),
        batch_seq: wire.batch_seq,
        chunks: chunks?,
    })
}

impl From<&Chunk> for generated::Chunk {
    fn from(chunk: &Chunk) -> Self {
        Self {
            handle: chunk.handle,
            attempt: chunk.attempt,
            position: chunk.position,
            ids: chunk.ids.clone(),
            text: chunk.text.clone(),
            logprobs: chunk.logprobs.iter().map(Into::into).collect(),
            finish: chunk.finish.as_ref().map(Into::into),
            handed_back: chunk.handed_back,
            prompt_scores: chunk.prompt_scores.as_ref().map(Into::into),
            embedding: chunk.embedding.clone(),
        }
    }
}

impl TryFrom<generated::Chunk> for Chunk {
    type Error = WireError;

    fn try_from(wire: generated::Chunk) -> Result<Self, WireError> {
        let check = CHUNK;
        check.length("ids", wire.ids.len(), MAX_TOKENS)?;
        let per_token = wire.logprobs.is_empty() || wire.logprobs.len() == wire.ids.len();
        check.require("logprobs", per_token, Fault::Disagrees("ids"))?;
        let is_over_once = !(wire.handed_back && wire.finish.is_some());
        check.require("handed_back", is_over_once, Fault::Disagrees("finish"))?;
        check_embedding(&wire.embedding)?;
        let logprobs: Result<Vec<TokenLogprob>, WireError> =
            wire.logprobs.into_iter().map(TryInto::try_into).collect();
        Ok(Self {
            handle: wire.handle,
            attempt: wire.attempt,
            position: wire.position,
            ids: wire.ids,
            text: wire.text,
            logprobs: logprobs?,
            finish: wire.finish.map(TryInto::try_into).transpose()?,
            handed_back: wire.handed_back,
            prompt_scores: wire.prompt_scores.map(TryInto::try_into).transpose()?,
            embedding: wire.embedding,
        })
    }
}

/// A token that cannot be drawn has a log-probability of minus infinity: it is sent as the lowest one. NaN, which a
/// sampler never reports, goes the same way rather than spoil the batch for its neighbours.
pub(crate) fn finite(logprob: f32) -> f32 {
    if logprob.is_nan() {
        MIN_LOGPROB
    } else {
        logprob.clamp(MIN_LOGPROB, 0.0)
    }
}

impl From<&TokenLogprob> for generated::TokenLogprob {
    fn from(entry: &TokenLogprob) -> Self {
        Self {
            id: entry.id,
            token_bytes: entry.bytes.clone(),
            logprob: finite(entry.logprob),
            top: entry
                .top
                .iter()
                .map(|(id, bytes, logprob)| generated::TopLogprob {
                    id: *id,
                    token_bytes: bytes.clone(),
                    logprob: finite(*logprob),
                })
                .collect(),
        }
    }
}

impl TryFrom<generated::TokenLogprob> for TokenLogprob {
    type Error = WireError;

    fn try_from(wire: generated::TokenLogprob) -> Result<Self, WireError> {
        let check = LOGPROB;
        check.float("logprob", wire.logprob, MIN_LOGPROB..=0.0)?;
        check.length("top", wire.top.len(), MAX_TOP_LOGPROBS)?;
        for rival in &wire.top {
            check.float("top.logprob", rival.logprob, MIN_LOGPROB..=0.0)?;
        }
        Ok(Self {
            id: wire.id,
            bytes: wire.token_bytes,
            logprob: wire.logprob,
            top: wire
                .top
                .into_iter()
                .map(|rival| (rival.id, rival.token_bytes, rival.logprob))
                .collect(),
        })
    }
}

impl From<&Finish> for generated::Finish {
    fn from(finish: &Finish) -> Self {
        Self {
            reason: generated::FinishReason::from(finish.reason).into(),
            stop_text: finish.stop_text.clone(),
            counts: Some(finish.counts.into()),
            fault: finish.fault.as_ref().map(|fault| generated::RequestFault {
                kind: generated::FaultKind::from(fault.kind).into(),
                message: fault.message.clone(),
            }),
        }
    }
}

impl TryFrom<generated::Finish> for Finish {
    type Error = WireError;

    fn try_from(wire: generated::Finish) -> Result<Self, WireError> {
        let reason = finish_reason(FINISH, "reason", wire.reason)?;
        let agrees = wire.fault.is_some() == (reason == FinishReason::Error);
        FINISH.require("fault", agrees, Fault::Disagrees("reason"))?;
        Ok(Self {
            reason,
            stop_text: wire.stop_text,
            counts: FINISH.present("counts", wire.counts)?.try_into()?,
            fault: wire.fault.map(TryInto::try_into).transpose()?,
        })
    }
}

impl From<FaultKind> for generated::FaultKind {
    fn from(kind: FaultKind) -> Self {
        match kind {
            FaultKind::Invalid => Self::Invalid,
            FaultKind::Overloaded => Self::Overloaded,
            FaultKind::Deadline => Self::Deadline,
            FaultKind::Internal => Self::Internal,
        }
    }
}

impl TryFrom<generated::RequestFault> for RequestFault {
    type Error = WireError;

    fn try_from(wire: generated::RequestFault) -> Result<Self, WireError> {
        use generated::FaultKind as Wire;
        FAULT.length("message", wire.message.len(), MAX_FAULT_BYTES)?;
        let kind = match FAULT.known("kind", wire.kind)? {
            Wire::Unspecified => return Err(FAULT.fault("kind", Fault::Missing)),
            Wire::Invalid => FaultKind::Invalid,
            Wire::Overloaded => FaultKind::Overloaded,
            Wire::Deadline => FaultKind::Deadline,
            Wire::Internal => FaultKind::Internal,
        };
        Ok(Self {
            kind,
            message: wire.message,
        })
    }
}
