//! Signs of life, commands to workers, and dead letters.

use bytes::Bytes;
use vlinders_types::{Beacon, Epoch, FrontendId, Heartbeat, ModelName, Pool, PrefixMark, Presence, WorkerId};

use crate::check::{Check, encode};
use crate::limits::{
    MAX_BEACON_FRONTENDS, MAX_BEACON_PREFIXES, MAX_CONTROL_BYTES, MAX_DEAD_LETTER_BYTES, MAX_REASON_BYTES,
    MAX_SUBJECT_BYTES,
};
use crate::{Fault, WireError, generated};

const BEACON: Check = Check { message: "Beacon" };
const HEARTBEAT: Check = Check { message: "Heartbeat" };
const RESEND: Check = Check { message: "Resend" };
const DRAIN: Check = Check { message: "Drain" };
const DEAD_LETTER: Check = Check {
    message: "DeadLetter",
};

/// "I missed batches": asks a worker to publish them again on the frontend's inbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resend {
    /// Who missed them.
    pub frontend: FrontendId,
    /// The life of the worker that numbered them; another life has nothing to send.
    pub epoch: Epoch,
    /// First `batch_seq` missed, at least 1.
    pub from_seq: u64,
}

/// "Take no new work and leave when the running work is done."
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drain {
    /// When running work is given up, milliseconds since 1970.
    pub deadline_ms: u64,
}

/// A message that no worker could bring to an end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// Why, for operators. Cut to [`MAX_REASON_BYTES`] when it is sent: a long reason must not lose the letter.
    pub reason: String,
    /// Who gave up on it.
    pub writer: WorkerId,
    /// How often it was delivered.
    pub delivery_count: u32,
    /// When, milliseconds since 1970.
    pub failed_ms: u64,
    /// Subject it came on.
    pub subject: String,
    /// The message as it came.
    pub payload: Bytes,
}

/// As bytes.
#[must_use]
pub fn encode_beacon(beacon: &Beacon) -> Bytes {
    let pool = match beacon.pool {
        Pool::Prefill => generated::Pool::Prefill,
        Pool::Decode => generated::Pool::Decode,
    };
    let last = |(frontend, batch_seq): &(FrontendId, u64)| generated::FrontendSeq {
        frontend: frontend.as_str().to_owned(),
        batch_seq: *batch_seq,
    };
    encode(&generated::Beacon {
        pool: pool.into(),
        worker: beacon.worker.as_str().to_owned(),
        epoch: beacon.epoch.0,
        model: beacon.model.as_str().to_owned(),
        free_blocks: beacon.free_blocks,
        total_blocks: beacon.total_blocks,
        running: beacon.running,
        max_running: beacon.max_running,
        queued_tokens: beacon.queued_tokens,
        last_batch_seq: beacon.last_batch_seq.iter().map(last).collect(),
        draining: match beacon.presence {
            Presence::Serving => false,
            Presence::Draining | Presence::Left => true,
        },
        left: match beacon.presence {
            Presence::Serving | Presence::Draining => false,
            Presence::Left => true,
        },
        recent_prefixes: beacon.recent_prefixes.iter().map(|mark| mark.0).collect(),
    })
}

/// From bytes.
///
/// # Errors
/// Too large, malformed, or a field that breaks its rule.
pub fn decode_beacon(bytes: &[u8]) -> Result<Beacon, WireError> {
    let wire: generated::Beacon = BEACON.decode(bytes, MAX_CONTROL_BYTES)?;
    let pool = match BEACON.known("pool", wire.pool)? {
        generated::Pool::Unspecified => return Err(BEACON.fault("pool", Fault::Missing)),
        generated::Pool::Prefill => Pool::Prefill,
        generated::Pool::Decode => Pool::Decode,
    };
    BEACON.name("worker", &wire.worker)?;
    BEACON.name("model", &wire.model)?;
    let within = wire.free_blocks <= wire.total_blocks;
    BEACON.require("free_blocks", within, Fault::Disagrees("total_blocks"))?;
    BEACON.length("last_batch_seq", wire.last_batch_seq.len(), MAX_BEACON_FRONTENDS)?;
    BEACON.length("recent_prefixes", wire.recent_prefixes.len(), MAX_BEACON_PREFIXES)?;
    for last in &wire.last_batch_seq {
        BEACON.name("last_batch_seq.frontend", &last.frontend)?;
    }
    Ok(Beacon {
        pool,
        worker: WorkerId::new(&wire.worker),
        epoch: Epoch(wire.epoch),
        model: ModelName::new(&wire.model),
        free_blocks: wire.free_blocks,
        total_blocks: wire.total_blocks,
        running: wire.running,
        max_running: wire.max_running,
        queued_tokens: wire.queued_tokens,
        last_batch_seq: wire
            .last_batch_seq
            .iter()
            .map(|last| (FrontendId::new(&last.frontend), last.batch_seq))
            .collect(),
        presence: match (wire.draining, wire.left) {
            (_, true) => Presence::Left,
            (true, false) => Presence::Draining,
            (false, false) => Presence::Serving,
        },
        recent_prefixes: wire.recent_prefixes.iter().copied().map(PrefixMark).collect(),
    })
}

/// As bytes.
#[must_use]
pub fn encode_heartbeat(heartbeat: &Heartbeat) -> Bytes {
    encode(&generated::Heartbeat {
        frontend: heartbeat.frontend.as_str().to_owned(),
    })
}

/// From bytes.
///
/// # Errors
/// Too large, malformed, or a field that breaks its rule.
pub fn decode_heartbeat(bytes: &[u8]) -> Result<Heartbeat, WireError> {
    let wire: generated::Heartbeat = HEARTBEAT.decode(bytes, MAX_CONTROL_BYTES)?;
    HEARTBEAT.name("frontend", &wire.frontend)?;
    Ok(Heartbeat {
        frontend: FrontendId::new(&wire.frontend),
    })
}

/// As bytes.
#[must_use]
pub fn encode_resend(resend: &Resend) -> Bytes {
    encode(&generated::Resend {
        frontend: resend.frontend.as_str().to_owned(),
        epoch: resend.epoch.0,
        from_seq: resend.from_seq,
    })
}

/// From bytes.
///
/// # Errors
/// Too large, malformed, or a field that breaks its rule.
pub fn decode_resend(bytes: &[u8]) -> Result<Resend, WireError> {
    let wire: generated::Resend = RESEND.decode(bytes, MAX_CONTROL_BYTES)?;
    RESEND.name("frontend", &wire.frontend)?;
    RESEND.require("from_seq", wire.from_seq > 0, Fault::OutOfRange)?;
    Ok(Resend {
        frontend: FrontendId::new(&wire.frontend),
        epoch: Epoch(wire.epoch),
        from_seq: wire.from_seq,
    })
}

/// As bytes.
#[must_use]
pub fn encode_drain(drain: &Drain) -> Bytes {
    encode(&generated::Drain {
        deadline_ms: drain.deadline_ms,
    })
}

/// From bytes.
///
/// # Errors
/// Too large or malformed.
pub fn decode_drain(bytes: &[u8]) -> Result<Drain, WireError> {
    let wire: generated::Drain = DRAIN.decode(bytes, MAX_CONTROL_BYTES)?;
    Ok(Drain {
        deadline_ms: wire.deadline_ms,
    })
}

/// As bytes.
#[must_use]
pub fn encode_dead_letter(letter: &DeadLetter) -> Bytes {
    let end = letter.reason.floor_char_boundary(MAX_REASON_BYTES);
    encode(&generated::DeadLetter {
        reason: letter.reason[..end].to_owned(),
        writer: letter.writer.as_str().to_owned(),
        delivery_count: letter.delivery_count,
        failed_ms: letter.failed_ms,
        subject: letter.subject.clone(),
        payload: letter.payload.to_vec(),
    })
}

/// From bytes.
///
/// # Errors
/// Too large, malformed, or a field that breaks its rule.
pub fn decode_dead_letter(bytes: &[u8]) -> Result<DeadLetter, WireError> {
    let wire: generated::DeadLetter = DEAD_LETTER.decode(bytes, MAX_DEAD_LETTER_BYTES)?;
    DEAD_LETTER.length("reason", wire.reason.len(), MAX_REASON_BYTES)?;
    DEAD_LETTER.name("writer", &wire.writer)?;
    DEAD_LETTER.plain_text("subject", &wire.subject, MAX_SUBJECT_BYTES)?;
    Ok(DeadLetter {
        reason: wire.reason,
        writer: WorkerId::new(&wire.writer),
        delivery_count: wire.delivery_count,
        failed_ms: wire.failed_ms,
        subject: wire.subject,
        payload: wire.payload.into(),
    })
}
